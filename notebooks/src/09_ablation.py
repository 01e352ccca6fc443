# %% [markdown]
# # 09 · Where does the effectiveness come from?
#
# *Paper:* §5.1, Table 4, RQ1. *Needs:* `labels` and the nine systems from `pairwise/random` to `dual/tas_balanced`
# (06). *Time on the default profile:* under a minute, once the systems are trained.
#
# > "How effective are TAS and TAS-Balanced batch sampling techniques with single and dual-teacher supervision?" (RQ1)
#
# Three teachers times three samplings, and a student without a teacher.

# %% tags=["parameters"]
PROFILE = "docs"  # a file in profiles/

# %% [markdown]
# The rows of this notebook are the profile's systems; a row whose system is not among them reads *not run*. We score
# each run query by query: tests and letters need a value per query, not the means.

# %%
import pandas as pd
from IPython.display import Markdown
from ir_measures import Judged

from lecture.notebook import check, grid
from tas_lib import config, experiment
from tas_lib.evaluation import columns, comparisons, metrics
from tas_lib.report import render, tables
from tas_lib.report.paper import TABLE4

settings = config.load(PROFILE)
lab = experiment.Experiment(settings)
scores = lab.scores(TABLE4)
ran = {key: sets for key, sets in comparisons.single(scores).items() if sets}
{key: TABLE4[key].label for key in ran}

# %% [markdown]
# ## Table 4
#
# Letters compare the samplings of one teacher, as in the paper: *r* random, *t* TAS, *b* TAS-Balanced.
#
# *Before you look:* TAS fills a batch from one cluster. The pairwise teacher alone never looks at the other queries of
# a batch. For which teachers should TAS matter, and for which not?

# %%
table = tables.table4(scores, settings.evaluation, settings.systems, lab.families).noted(lab.notes)
tables.write(table, settings.figures, "table4")
Markdown(render.markdown(table.caption, table.grid))

# %% [markdown]
# The paper's values on MS MARCO, another collection with other judgements, are in parentheses: compare the order of the
# rows and the size of the steps, not the values.
#
# ## Do the seeds agree?
#
# Each row is run once here. More random seeds would take too long, so the measures of five are shipped for some rows
# (`./run_all.sh docs seeds` makes them again). Does our run look like theirs? We compare nDCG@10, averaged over the
# test sets; a run *agrees* within three standard deviations of the shipped mean.

# %%
ndcg = [column for column in columns.nine_columns(settings.evaluation) if column.measure.NAME == "nDCG"]
agreed = comparisons.agreement(scores, lab.shipped_seeds, ndcg)
grid([(TABLE4[one.system].label, *one[1:], "yes" if one.distance <= 3 else "no") for one in agreed],
     ["nDCG@10", "here", "shipped, mean", "apart, in standard deviations", "agrees"])  # fmt: skip
print(f"{sum(one.distance <= 3 for one in agreed)} of {len(agreed)} rows agree with their shipped seeds.")

# %% [markdown]
# ## The steps: random → TAS → TAS-Balanced
#
# The paper expects little of TAS for pairwise teaching ("geared towards in-batch negative training"), "a strong boost"
# for the in-batch teacher, and the same pattern again for both. Each step comes with its p; significant ones are bold,
# and the paper's step is below.

# %%
steps = {}
samplings = {
    "Pairwise": ("pairwise/random", "pairwise/tas", "pairwise/tas_balanced"),
    "In-batch": ("in_batch/random", "in_batch/tas", "in_batch/tas_balanced"),
    "Both": ("dual/random", "dual/tas", "dual/tas_balanced"),
}
for teacher, (first, second, third) in samplings.items():
    steps |= {f"{teacher}: Random → TAS": (first, second), f"{teacher}: TAS → TAS-Balanced": (second, third)}
sampled = tables.differences(table, steps, scores)
Markdown(render.pipe_table(tables.step_grid(sampled, settings.evaluation.alpha)))

# %% [markdown]
# Ask two questions of each line: does it exceed what chance explains (bold), and does it point where the paper's does?
# *Before you run:* if nothing at all differed, how many of the steps would be bold, and how many would point the
# paper's way?

# %%
known = sampled.dropna(subset=["p"])
bold = known.p < settings.evaluation.alpha
print(f"{len(known)} of {len(sampled)} steps were run; {(bold & (known.difference > 0)).sum()} significantly up, "
      f"{(bold & (known.difference < 0)).sum()} significantly down.")  # fmt: skip
print(f"By chance alone: about {settings.evaluation.alpha * len(known):.1f} either way.")
printed = known[known.paper.notna() & (known.paper != 0)]
print(f"{(printed.difference * printed.paper > 0).sum()} of {len(printed)} point the way they point in the paper.")

# %% [markdown]
# The same by step, averaged over all columns, with the paper's mean alongside. A mean over columns hides which measure
# changed; it only guides the eye, and no test supports it.

# %%
means = sampled.groupby("step", sort=False)[["difference", "paper"]].mean()
grid(
    [[step, None if pd.isna(ours) else ours, paper] for step, ours, paper in means.itertuples()],
    ["step", "ours", "the paper's"],
)

# %% [markdown]
# ## The other axis: teachers
#
# > "we see that, especially on the recall metrics, the dual-teacher outperforms the single teacher by a large margin on
# > all three query sets" (§5.1)
#
# The same kind of differences along the other axis: from labels alone to the pairwise teacher, and from each single
# teacher to both, with TAS-Balanced batches. The letters of the table do not cover these.

# %%
steps = {
    "None → Pairwise, Random": ("labels", "pairwise/random"),
    "Pairwise → Both, TAS-Balanced": ("pairwise/tas_balanced", "dual/tas_balanced"),
    "In-batch → Both, TAS-Balanced": ("in_batch/tas_balanced", "dual/tas_balanced"),
    "BM25 → Both, TAS-Balanced": ("bm25", "dual/tas_balanced"),
}
taught = tables.differences(table, steps, scores)
Markdown(render.pipe_table(tables.step_grid(taught, settings.evaluation.alpha)))

# %% [markdown]
# Recall is counted separately from the top-ten measures, since the paper's claim is about recall. Each cell counts
# columns: significantly up, significantly down, and the total.

# %%
alpha, rows = settings.evaluation.alpha, []
for step, of_step in taught.dropna(subset=["p"]).groupby("step", sort=False):
    for kind, is_recall in (("nDCG, MRR", False), ("recall", True)):
        part = of_step[of_step["column"].str.contains(" R@") == is_recall]
        up, down = ((part.p < alpha) & (sign * part.difference > 0) for sign in (1, -1))
        rows.append([step, kind, int(up.sum()), int(down.sum()), len(part)])
grid(rows, ["step", "measures", "up", "down", "of"])

# %% [markdown]
# ## What is judged at all?
#
# Link-derived judgements are sparser than NIST's: nobody has looked at most of what a system ranks in its first ten. An
# unjudged passage counts as wrong, for every system alike, so a system that finds good passages without a link pays for
# it here; *judged@10* shows how much room there is for that.

# %%
judged = {
    key: [metrics.mean(sets[t.name][Judged @ 10]) if t.name in sets else None for t in settings.evaluation.sets]
    for key, sets in ran.items()
}
grid(
    [[TABLE4[key].label, *values] for key, values in judged.items()],
    ["judged@10", *(test.label for test in settings.evaluation.sets)],
)
assert all(0 < share <= 1 for values in judged.values() for share in values if share is not None)

# %% [markdown]
# ## Answer

# %% tags=["answer"]
from lecture import answers

tell, last = answers.Teller(scores, settings.evaluation, lab.families), "dual/tas_balanced"
answers.say(
    tell.step("With the pairwise teacher instead of labels (random batches)", "labels", "pairwise/random", "nDCG", "R"),
    tell.step("With both teachers instead of the pairwise one (TAS-Balanced batches)",
              "pairwise/tas_balanced", last, "nDCG", "R"),
    tell.step("With both instead of the in-batch one (TAS-Balanced batches)",
              "in_batch/tas_balanced", last, "nDCG", "R"),
    tell.step("With TAS-Balanced instead of random batches (both teachers)", "dual/random", last, "nDCG", "R"),
    tell.step("With both teachers and TAS-Balanced batches instead of BM25", "bm25", last, "nDCG", "R"),
    tell.note,
)  # fmt: skip

# %% [markdown]
# A step whose interval excludes zero exceeds what chance in the *queries* can explain and, if the last line says so,
# chance in the *random seed* too. Where a row is a single training run, the step may still be due to its seed: notebook
# 10 measures how much a seed changes and shows all steps with both kinds of chance; in 13 a claim of the paper *holds*
# only if it goes beyond both.
#
# ## Where we differ
#
# - Collection, encoder, recall cutoff and judgements are the profile's: [D19-D22](../DEVIATIONS.md). On `docs` only the
#   last layer is trained; the frozen ones saw sentence pairs ([D20](../DEVIATIONS.md)).
# - BM25 and, on `docs`, the untrained encoder are added for scale.
# - Random sampling draws queries as Equation (9) says, not by their number of pairs: [D9](../DEVIATIONS.md).
#
# ## Exercises
#
# **1.** The mean of a column hides its queries. Compute the share of queries where `a` beats `b`; both map query →
# value.
#
# <details><summary>Hint</summary>
#
# A tie is not a win. `True` counts as 1 in a sum.
#
# </details>


# %% tags=["exercise"]
def my_wins(a, b):
    """The share of queries whose value in `a` is larger than in `b`."""
    # TODO


half = {"x": 0.5, "y": 0.5, "z": 0.5}
check(my_wins, ({"x": 1.0, "y": 0.0}, half), ({"x": 1.0, "y": 0.5, "z": 0.1}, half))

# %% [markdown]
# **2.** Find the query on which the last row loses most to BM25, and read it. What does BM25 see in it?
#
# <details><summary>Hint</summary>
#
# `lab.evaluate(row, name)` has a value per query for each measure; take `min` of the differences.
#
# </details>
#
# **3. Open.** In a copy of `profiles/docs.yaml`, give `in_batch/random` another seed (`seed: 2`) and build `table4`.
# Does every step of the table survive the change?
#
# ## Next
#
# [10 · Robustness](10_robustness.ipynb) asks how much another random seed changes; 13 gathers what held and what did
# not.
