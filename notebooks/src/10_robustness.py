# %% [markdown]
# # 10 · How much does another random seed change?
#
# *Paper:* §5.1, Table 5, RQ2. *Needs:* the systems of Table 4 (06); the other seeds of Table 5 are shipped, or rows of
# the profile. *Time on the default profile:* under a minute, once the systems are trained.
#
# > "How robust is TAS-Balanced to different randomization?" (RQ2)
#
# One configuration, trained five times; only the random order of clusters, queries and pairs differs. The result is
# more than another table: it says how far to trust the rest.

# %% tags=["parameters"]
PROFILE = "docs"  # a file in profiles/

# %% [markdown]
# Systems go by their names in the profile. A row whose system is neither listed there nor shipped reads *not run*, in
# every cell and in the column *Run*; the notebook continues with the others.

# %%
from itertools import combinations

import numpy as np
from IPython.display import Markdown
from scipy.stats import chi2, t

from lecture.notebook import check, grid
from tas_lib import config, experiment
from tas_lib.evaluation import comparisons, significance
from tas_lib.evaluation.columns import nine_columns
from tas_lib.report import claims_page, forest, render, style, tables
from tas_lib.report.paper import NOT_RUN, TABLE4, TABLE5

lab = experiment.Experiment(settings := config.load(PROFILE))
alpha, b = settings.evaluation.alpha, settings.sampling.batch_size

# %% [markdown]
# ## What differs between the instances?
#
# > "the only difference is the random ordering of clusters, queries and passage-pairs" (§5.1)
#
# Here too: the model's initialisation has its own seed ([D13](../DEVIATIONS.md)). *Before you run:* how many
# queries do the first batches of two instances share? And the first three hundred?

# %%
drawn = {}
for seed, (key, row) in enumerate(TABLE5.items(), 1):
    sampler = lab.sampler(settings.systems.get(key, config.System(batch_size=b, seed=seed)))
    drawn[row.names[0]] = [set(sampler.batch(step).queries.tolist()) for step in range(300)]
seen = {instance: set().union(*batches) for instance, batches in drawn.items()}
grid(
    [(i, len(drawn["A"][0] & drawn[i][0]), len(seen[i]), len(seen["A"] & seen[i])) for i in drawn],
    ["instance", "shared with A: first batch", "queries in 300 batches", "shared with A: 300 batches"],
)
assert all(drawn["A"][0] != drawn[instance][0] for instance in "BCDE")

# %% [markdown]
# ## Table 5
#
# Each instance, their mean, and the standard deviation (with $n - 1$, which reproduces the paper's own numbers).
# *Before you look:* the paper's sets have 43, 53 and 6,980 queries (§5.1). On which of them should the deviation be
# largest? And on ours?

# %%
scores = lab.scores(TABLE5)
table = tables.table5(scores, settings.evaluation, settings.systems, lab.families).noted(lab.notes)
tables.write(table, settings.figures, "table5")
Markdown(render.markdown(table.caption, table.grid))

# %% [markdown]
# The paper calls its results robust because nDCG@10 and recall have "a standard deviation of the results under a single
# point" (§5.1), that is .01. The same question for ours:

# %%
spread = {column.heading: cell for column, cell in zip(table.columns, table.cells[-1], strict=True)}
paper = {name: cell.paper.number for name, cell in spread.items() if cell.paper}
known = [cell.value for cell in spread.values() if cell.value is not None]
grid([(name, cell.value, paper.get(name)) for name, cell in spread.items()],
     ["column", "standard deviation", "the paper's"])  # fmt: skip
print(f"Under a single point: {sum(s < 0.01 for s in known)} of {len(known)} columns.")
assert all(deviation < 0.01 for deviation in paper.values())

# %% [markdown]
# ## How precise is a deviation of five values?
#
# A deviation computed from five values is itself uncertain. If the values are normally distributed, the true one lies
# in a range around it that the χ² distribution gives. *Before you run:* guess the factor.

# %%
n = len(TABLE5)
low, high = (float(np.sqrt((n - 1) / chi2.ppf(share, n - 1))) for share in (0.975, 0.025))
assert 0.59 < low < 0.61 and 2.8 < high < 2.9
print(f"With 95% chance the true deviation is between {low:.1f} and {high:.1f} times the one of {n} instances.")

# %% [markdown]
# So a deviation of .004 may well be .0024 or .011. It gives the order of magnitude; it does not settle the third digit.
#
# ## Letters between instances
#
# The instances are one method. Yet they are five models, and the t-test compares models. *Before you run:* over all
# columns and the ten pairs of instances, how many differences should be significant if the test compared methods?

# %%
names = {key: row.names[0] for key, row in TABLE5.items()}
pairs = {f"{names[a]} → {names[z]}": (a, z) for a, z in combinations(names, 2)}
between = tables.differences(table, pairs, scores).dropna(subset=["p"])
print(f"{(between.p < alpha).sum()} of {len(between)} pairs are significantly different at p < {alpha:g}.")

# %% [markdown]
# The paper's Table 5 has such letters too (A over B and C in recall, E over B and C in nDCG). A letter says: on queries
# like these, *this* model is better than *that* one. About the next training run it says nothing.

# %%
printed = [cell.paper.markers for cells in table.cells[:n] for cell in cells if cell.paper]
print(f"The paper's five instances have {sum(map(len, printed))} letters among them, "
      f"ours {sum(len(cell.letters) for cells in table.cells for cell in cells)}.")  # fmt: skip
assert sum(map(len, printed)) == 5

# %% [markdown]
# ## How far apart must two systems be?
#
# A difference of two runs varies $\sqrt{2}$ times as much as one run, and the deviation of five seeds is itself
# uncertain: Student's $t$ with four degrees of freedom counts both. *Before you run:* by how many deviations must two
# trained systems differ? And a trained one and BM25, which has no seed? And how often do two runs of the *same* system
# lie more than two deviations apart?

# %%
factors = [significance.combined(0.0, [(trained, n - 1)]).reach(0.95) for trained in (2, 1)]
alarms = 2 * t.sf(2 / np.sqrt(2), n - 1)
print(f"Two trained systems: {factors[0]:.1f} deviations; one and BM25: {factors[1]:.1f}.")
print(f"Two runs of one system are more than two deviations apart in {alarms:.0%} of cases.")
assert (round(factors[0], 1), round(factors[1], 1), round(alarms, 2)) == (3.9, 2.8, 0.23)

# %% [markdown]
# So two deviations are no test. The standard error of a difference therefore has two parts, from the queries (by
# family) and from the seeds: $se^2 = se_q^2 + s^2 \sum_i 1/n_i$, with a term for each trained system (2 or 1) and $n_i$
# the number of its seeds. $s$ is pooled over all systems with several seeds, and the degrees of freedom are
# Satterthwaite's. If only Table 5's system has several, $s$ is its deviation, and one run of each system counts.
#
# ## The steps of Table 4, with both kinds of chance
#
# The steps of notebook 09, random → TAS → TAS-Balanced, from all available seeds. A star marks p below α for one run of
# each system and the chance of the queries alone, as in the paper; a dagger, for all seeds and both kinds of chance.
# *Before you look:* which stars will have no dagger?

# %%
steps = {}
for teacher, name in (("pairwise", "Pairwise"), ("in_batch", "In-batch"), ("dual", "Both")):
    steps[f"{name}: to TAS"] = (f"{teacher}/random", f"{teacher}/tas")
    steps[f"{name}: to TAS-B"] = (f"{teacher}/tas", f"{teacher}/tas_balanced")
scores |= lab.scores(TABLE4)
ablation = tables.table4(scores, settings.evaluation, settings.systems, lab.families)
found = tables.differences(ablation, steps, scores)
found["alone"] = tables.differences(ablation, steps, comparisons.single(scores)).p
shown = found.difference.map(render.signed)
for p, mark in ((found.alone, "*"), (found.p, "†")):
    shown += (p < alpha).map({True: mark, False: ""})
found["text"] = shown.where(found.difference.notna(), NOT_RUN)
wide = found.set_index(["column", "step"])["text"].unstack(sort=False)
wide.rename_axis(index=None, columns=None)

# %%
known = found.dropna(subset=["p"])
print(f"{len(known)} steps: {(known.alone < alpha).sum()} beyond the chance of the queries, "
      f"{(known.p < alpha).sum()} beyond that of queries and seeds.")  # fmt: skip

# %% [markdown]
# ## All steps in one picture
#
# The same, averaged over the test sets: ours with an interval that counts queries (by family) and seeds, beside the
# paper's and the 2023 study's, which retrained the same systems on MS MARCO. An interval that crosses zero does not
# tell which way the step goes.

# %%
figure = forest.forest(forest.effects(scores, settings.evaluation, lab.families))
style.save(figure, settings.figures, "figure-steps")
figure

# %% [markdown]
# In numbers, with 95 % intervals, including the whole step from random to TAS-Balanced batches. *All sets*: averaged
# over the test sets.

# %%
from lecture import answers

ways = {f"{name}: random → TAS-Balanced": f"{teacher}/" for name, teacher in forest.TEACHERS.items()}
pairs = forest.STEPS | {way: (f"{key}random", f"{key}tas_balanced") for way, key in ways.items()}
pairs |= {"BM25 → both, TAS-Balanced": ("bm25", "dual/tas_balanced")}
columns = nine_columns(settings.evaluation, lab.families)
groups = {"nDCG@10, all sets": columns[::3], "Recall, all sets": columns[2::3], columns[-3].heading: columns[-3:-2]}
lines = []
for step, (old, new) in pairs.items():
    if comparisons.ran(scores, (old, new), columns):
        changes = [comparisons.estimate(scores, (new, old), group) for group in groups.values()]
        lines.append([step, *(f"{render.signed(one.difference)} ({answers.interval(one)})" for one in changes)])
grid(lines, ["step", *groups])

# %% [markdown]
# ## Fewer queries, fewer or more training steps
#
# A teacher's scores say more about a query than its one label, and a batch from one cluster finds more neighbours when
# queries are dense. So which step should grow, and which shrink, with fewer training queries? *Before you look:*
# draw the three lines. Training queries are sampled at random, with fewer clusters, so that each holds as many.
#
# With fewer queries and as many training steps, each query is also seen more often. So the second row has the same
# comparisons with all queries, after fewer and more training steps: does an effect follow the number of queries, or how
# often each is seen?

# %%
whole, variants = len(lab.collection.sets["train"].queries.ids), settings.variants.items()
queries = {name: how.sampling["queries"] for name, how in variants if "queries" in how.sampling}
steps = {name: how.training["steps"] for name, how in variants if "steps" in how.training}
sized = {}
for kind, sizes in (("queries", {"": whole} | queries), ("steps", {"": settings.training.steps} | steps)):
    lines = forest.at_sizes(lab.shipped_seeds, sizes, settings.evaluation, lab.families)
    if len({line.size for line in lines}) > 1:
        sized[f"Training {kind}"] = lines
if not sized:
    raise experiment.NotRun("measures of no rows with fewer queries or other steps are shipped")
figure = forest.size_curves(sized)
style.save(figure, settings.figures, "figure-sizes")
figure

# %%
grid([(kind, step, measure, size,
       f"{b * (size / whole if 'steps' in kind else settings.training.steps / size):.3g}",
       f"{render.signed(one.difference)} ({answers.interval(one)})")
      for kind, lines in sized.items() for step, measure, size, one in lines],
     ["varied", "step", "measure", "number", "passes over the queries", "effect, with its 95 % interval"])  # fmt: skip

# %% [markdown]
# ## What can a column see?
#
# A missing dagger may also mean too little power. For each column: the smallest true effect that it would detect four
# times in five, among students and against BM25 (medians over the systems of Table 4); and how close together two
# students must be for it to show that they are equal within one point, the margin of notebook 13.

# %%
sights = comparisons.sight(scores, settings.evaluation, lab.families)
Markdown(render.pipe_table(claims_page.sight_grid(sights)))

# %% [markdown]
# Compare with the steps above, and with the paper's: most of its steps from TAS to TAS-Balanced are below .01.
#
# ## Answer

# %% tags=["answer"]
tell = answers.Teller(scores, settings.evaluation, lab.families)
runs = comparisons.repeated(scores, columns := tell.columns("nDCG"))
ndcg, random = ([comparisons.level(scores, run, columns) for run in runs.get(key, [])]
                for key in ("dual/tas_balanced", "dual/random"))  # fmt: skip
above = [one > np.mean(random) for one in ndcg] if random else []
between = sorted(cell.value for cell in dict(spread).values() if cell.value is not None)
answers.say(
    f"nDCG@10 of the seeds that were run: {answers.listed(map(render.decimals, ndcg))}; above random batches: "
    f"{sum(above)} of {len(above)}.",
    f"The standard deviations between seeds, column by column: {answers.listed(map(render.decimals, between))}; below "
    f"one point: {sum(deviation < 0.01 for deviation in between)} of {len(between)}.",
    tell.step("With TAS-Balanced instead of random batches (both teachers)", "dual/random", "dual/tas_balanced",
              "nDCG", "R"),
    tell.note,
)  # fmt: skip

# %% [markdown]
# Table 5 says how far one configuration moves when only the random seed changes. A step in another table that a new
# seed alone could produce is no finding, whatever its letter. Table 5 does *not* say how much other configurations
# vary, nor what another initialisation of the model would add, since all five share one.
#
# ## Where we differ
#
# - The public code's seed also sets the dropout; ours sets the order alone: [D13](../DEVIATIONS.md).
# - The paper has deviations for six columns; our tests use all nine of Table 4.
# - Collection, encoder and recall cutoff are the profile's: [D19-D22](../DEVIATIONS.md).
#
# ## Exercises
#
# **1.** The standard deviation of a sample: the root of the mean squared deviation, with $n - 1$ in place of $n$.
#
# <details><summary>Hint</summary>
#
# `np.std` has an argument for it, `ddof`; or write the sum.
#
# </details>


# %% tags=["exercise"]
def my_deviation(values):
    """Of a list of two numbers or more."""
    # TODO


check(my_deviation, ([0.845, 0.833, 0.844, 0.838, 0.841],), ([1.0, 2.0],))

# %% [markdown]
# **2.** With $n$ instead of $n - 1$, which column of the paper's Table 5 would be printed differently? (A, ..., E are
# the first five rows.)
#
# <details><summary>Hint</summary>
#
# With five values the two differ by a factor of $\sqrt{5/4}$.
#
# </details>
#
# **3. Open.** Do all systems vary alike, as the pooled deviation assumes? `lab.shipped_seeds` has the seeds of others,
# where they are shipped; otherwise retrain two of the random-sampling systems with another seed.
#
# ## Next
#
# [11 · Dense retrieval compared](11_dense_compared.ipynb): larger batches, and BM25.
