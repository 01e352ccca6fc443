# %% [markdown]
# # 14 · What would the other choice have changed?
#
# *Paper:* §2.3, §3, §4.2, where its text and the public code differ. *Needs:* `dual/tas_balanced` and the systems under
# `deviations` in the profile (06). *Time on the default profile:* under a minute, once the systems are trained.
#
# Where paper and public code differ, or `docs` departs from both, we had to choose ([DEVIATIONS](../DEVIATIONS.md)).
# Some choices could matter and can be reversed with one setting. Here we reverse these, one at a time, and change
# nothing else.

# %% tags=["parameters"]
PROFILE = "docs"  # a file in profiles/

# %% [markdown]
# This notebook is not part of a default run: `./run_all.sh docs deviations` builds it and its systems.

# %%
from IPython.display import Markdown

from lecture.notebook import check, grid
from tas_lib import config, experiment
from tas_lib.evaluation import comparisons
from tas_lib.report import render, tables
from tas_lib.report.paper import DEVIATIONS, TABLE5

settings = config.load(PROFILE)
lab = experiment.Experiment(settings)
scores = lab.scores(DEVIATIONS)
{key: "run" if scores[key] else "not run" for key in DEVIATIONS}

# %% [markdown]
# ## The table
#
# *Before you look:* Equation (7) as printed is about $|Q| - 1$ times the mean that we take (D1). With the paper's
# $\alpha$ of .75, the in-batch loss then weighs 23 times its mean, and `docs` gives it 10. Adam is insensitive to the
# scale of a loss. What is it sensitive to?

# %%
table = tables.deviations(scores, settings.evaluation, settings.systems | settings.deviations, lab.families)
table = table.noted(lab.notes)
tables.write(table, settings.figures, "deviations")
Markdown(render.markdown(table.caption, table.grid))

# %% [markdown]
# ## How far from the first row?
#
# A difference means little by itself. It is shown with the p of a paired t-test, and with one that also counts the
# seeds of Table 5 (notebook 10).

# %%
steps = {name: ("dual/tas_balanced", name) for name in list(DEVIATIONS)[1:]}
found = tables.differences(table, steps, comparisons.single(scores))
found["p with seeds"] = tables.differences(table, steps, scores | lab.scores(TABLE5)).p
found.drop(columns="paper").dropna().round(4)

# %% [markdown]
# The second p counts both kinds of chance, as everywhere in this suite: other queries, and another random seed.

# %%
far = found[found["p with seeds"] < settings.evaluation.alpha]
grid(
    [(name, int((far.step == name).sum()), len(table.columns)) for name in steps],
    ["choice", "columns in which it matters", "of"],
)
assert len(far) <= len(found)

# %% [markdown]
# ## Which evaluation was best?
#
# The weights kept are those of the best evaluation, or on `docs` the last ([D34](../DEVIATIONS.md)). With a rate that
# falls to zero, the last is usually the best.

# %%
run = {key: (settings.systems | settings.deviations)[key] for key in DEVIATIONS if scores[key]}
rows = []
for key, log in {key: lab.history(system) for key, system in run.items() if system.kind == "trained"}.items():
    best = max(log, key=lambda h: h.ndcg)
    kept = log[-1] if settings.of(run[key]).training.keep == "last" else best
    rows.append((key, kept.step, kept.ndcg, best.step, best.ndcg))
grid(rows, ["row", "step kept", "nDCG@10, early stopping", "best step", "its nDCG@10"])

# %% [markdown]
# ## Answer

# %% tags=["answer"]
from lecture import answers

matter = [name for name in steps if (far.step == name).any()]
known = found.dropna(subset=["p with seeds"])
largest = known.iloc[known.difference.abs().argsort()[-1:]].itertuples()
answers.say(
    f"Of {known.step.nunique()} choices that were run, these matter in some column, beyond the chance of queries and "
    f"of random seeds: {answers.listed(matter)}.",
    f"The largest change of a column: "
    f"{answers.listed(f'{render.signed(one.difference)} on {one.column}, by {one.step}' for one in largest)}.",
)

# %% [markdown]
# Where a choice does not matter beyond both kinds of chance, paper and code could differ without anybody seeing it in a
# table of this size; that does not prove that they would not differ on MS MARCO.
#
# ## Where we differ
#
# The rows are ours: neither the paper nor the public code compares these choices. Each was trained with one seed, so
# each row is a single draw.
#
# ## Exercises
#
# **1.** By how much must two trained systems differ? Write the factor of `deviation`, the standard deviation of five
# seeds, that their difference must exceed if the queries add no chance: the .975 quantile of t with 4 degrees of
# freedom (2.776), and two systems.
#
# <details><summary>Hint</summary>
#
# The variance of a difference of two independent values is the sum of their variances.
#
# </details>


# %% tags=["exercise"]
def my_bound(deviation):
    """The smallest difference that counts."""
    # TODO


check(my_bound, (0.004,), (0.01,))

# %% [markdown]
# **2.** D2 changes the clusters, and so every batch. Compare the sizes of both clusterings (`lab.clusters_of`).
#
# <details><summary>Hint</summary>
#
# `clustering.size_histogram` counts clusters by size, as in notebook 04.
#
# </details>
#
# **3. Open.** D10 adds [MASK]s to ColBERT's query (`query_masks: 8`). Is that another teacher, or the same?
#
# ## Next
#
# 00 has the map; DEVIATIONS.md has the rows that no table can show.
