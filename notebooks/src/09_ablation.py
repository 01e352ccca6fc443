# %% [markdown]
# # 09 · Where does the effectiveness come from?
#
# *Paper:* §5.1, Table 4, RQ1. *Needs:* the trained systems (06). *Time on the default profile:* under a minute, once
# they are trained.
#
# > "How effective are TAS and TAS-Balanced batch sampling techniques with single and dual-teacher supervision?" (RQ1)

# %% tags=["parameters"]
PROFILE = "docs"  # a file in profiles/

# %% [markdown]
# The rows of this notebook are the profile's systems; a row whose system is not among them reads *not run*.

# %%
import pandas as pd
from IPython.display import Markdown

from tas_lib import metrics, profile, systems, tables
from tas_lib.teaching import check

settings = profile.load(PROFILE)
lab = systems.Experiment(settings)
shown = {"bm25": systems.BM25} | {key: s for key, s in settings.systems.items() if key in tables.TABLE4}
{key: system.name for key, system in shown.items()}

# %% [markdown]
# ## Every system on every set
#
# For each row we read its run, and judge it query by query: tests and letters need the queries, not the means.

# %%
scores = {
    key: {test.name: lab.evaluate(system, test.name) for test in settings.evaluation.sets}
    for key, system in shown.items()
}
len(scores)

# %% [markdown]
# *Before you look:* the paper's dual teacher beats its BM25 on all nine columns. On which of ours would you expect BM25
# to hold its ground?

# %%
table = tables.table4(scores, settings.evaluation)
tables.write(table, settings.figures, "table4")
Markdown(tables.markdown(table))

# %% [markdown]
# In parentheses stand the paper's values on MS MARCO, another collection with other judgements: what can be compared is
# the order of the rows and the size of the steps between them, not the values.
#
# ## How much of it is chance?
#
# A paired t-test over the queries of a set, here for the last row against BM25. (Notebook 10 has
# the spread over seeds.)

# %%
last = list(scores)[-1]
tested = {
    (test.label, metrics.printed_name(m)): {
        "difference": metrics.mean(values) - metrics.mean(scores["bm25"][test.name][m]),
        "p": metrics.paired_t(values, scores["bm25"][test.name][m]),
    }
    for test in settings.evaluation.sets
    for m, values in list(scores[last][test.name].items())[:3]
}
tested = pd.DataFrame(tested).T
tested.round(4)

# %% [markdown]
# The table's letters follow from these numbers and from nothing else.

# %%
better = int(((tested.difference > 0) & (tested.p < settings.evaluation.alpha)).sum())
worse = int(((tested.difference < 0) & (tested.p < settings.evaluation.alpha)).sum())
f"{last} against BM25, of {len(tested)} columns: {better} significantly better, {worse} significantly worse"

# %% [markdown]
# ## What is judged at all?
#
# Link-derived judgements are sparser than NIST's: most of what a system ranks in its first ten, nobody has looked at.
# An unjudged passage counts as wrong, for every system alike.

# %%
pd.DataFrame(
    {
        test.label: {key: metrics.mean(list(scores[key][test.name].values())[3]) for key in scores}
        for test in settings.evaluation.sets
    }
).round(3)

# %% [markdown]
# A system that finds good passages without a link pays for it here. *judged@10* tells how much room there is for that.

# %%
judged = [metrics.mean(list(scores[last][test.name].values())[3]) for test in settings.evaluation.sets]
assert all(0 < share <= 1 for share in judged)

# %% [markdown]
# ## Answer
#
# The cells above say, for this collection and these systems, how far the dual teacher with TAS-Balanced batches stands
# from BM25, from labels alone and from one pairwise teacher. They do not yet say what the sampling contributes: that
# needs the rows between.
#
# ## Where we differ
#
# The collection is another, recall is cut at the profile's depth, and the judgements of the graded sets come from links
# ([DEVIATIONS](../DEVIATIONS.md), D19-D22). The paper compares rows within a teacher; as long as a teacher has one row,
# we compare all.
#
# ## Exercises
#
# 1. The mean of a column hides its queries. Write the share of queries on which `a` beats `b`; both are query → value.


# %% tags=["exercise"]
def my_wins(a, b):
    """The share of queries whose value in `a` is larger than in `b`."""
    # TODO


check(my_wins, lambda a, b: sum(a[q] > b[q] for q in a) / len(a), ({"x": 1.0, "y": 0.0}, {"x": 0.5, "y": 0.5}))

# %% [markdown]
# 2. Find the query on which the last row loses most against BM25, and read it. What does BM25 see in it?
# 3. *Open:* add a system to `profiles/docs.yaml` (say, `{teacher: dual, sampling: random}`) and run `./run_all.sh`.
#    Which column moves?
#
# ## Next
#
# 10 asks how much another order of the same batches changes; 13 gathers what held and what did not.
