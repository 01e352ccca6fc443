# %% [markdown]
# # 05 · Batches: what does the student see in one step?
#
# *Paper:* §3, Equations (9), (11), (12), (13) and Figure 2.
# *Needs:* the clusters of notebook 04 and the training pairs with their margins.
# *Takes:* a few seconds on the default profile.
#
# What a student learns depends on what shares a batch. Three strategies compose it: **random**; **TAS**, which chooses
# the queries; **TAS-Balanced**, which chooses the pairs too. All three run alongside the training loop, so the only
# question is what they put in front of the student.

# %% tags=["parameters"]
PROFILE = "docs"  # a file in profiles/
SEED = 1  # of the order; 1 is what the systems of the tables are trained with

# %% [markdown]
# The samplers below are those that training uses: same pairs, same clusters, same seed. So we look at the very batches
# that the systems of Table 4 learn from. `hard_margin` exists only in the public code ([D16](../DEVIATIONS.md)); an
# exercise comes back to it.

# %%
import numpy as np

from lecture import explore, pictures
from lecture.notebook import check, grid, show
from tas_lib import config, sampling
from tas_lib.experiment import Experiment
from tas_lib.records import Pairs
from tas_lib.report import figures, style
from tas_lib.report.style import LOOKS, fit

settings = config.load(PROFILE)
experiment = Experiment(settings)
clusters, pairs = experiment.clusters, experiment.pairs
topic_of, queries = clusters.assignment, experiment.collection.sets["train"].queries.texts
b, h, n = settings.sampling.batch_size, settings.sampling.margin_bins, settings.sampling.clusters_per_batch

# %%
strategies, same = ("random", "tas", "tas_balanced", "hard_margin"), {"loss": "margin_mse", "batch_size": b}
systems = [config.system(PROFILE, seed=SEED, teacher="dual", sampling=name, **same)[1] for name in strategies]
samplers = {system.sampling: experiment.sampler(system) for system in systems}

# %% [markdown]
# ## Random: Equation (9)
#
# $$\mathcal{B} = \left\{ (q, p^+, p^-) \mid q \in rand(Q, b),\; p^+, p^- \in rand(P_q) \right\} \tag{9}$$
#
# Draw $b$ queries from all training queries, without replacement; then draw one pair for each from the query's own
# pairs $P_q$. A pair is a relevant and a non-relevant passage, with the pairwise teacher's margin between them.

# %%
show(sampling.random_queries, sampling.any_pairs)

# %% [markdown]
# *Before you run:* here are eight queries of one random batch, each with its cluster. In-batch negatives confront every
# query with the passages of all the others. How hard will it be to tell them apart?

# %%
batch = samplers["random"].batch(0)
ranges = sampling.bin_numbers(pairs, batch.queries, batch.margins, h) + 1
rows = zip(topic_of[batch.queries], [fit(queries[q], 260) for q in batch.queries], batch.margins, ranges, strict=True)
grid(list(rows)[:8], ["cluster", "query", "margin", "range"])

# %% [markdown]
# Easy, wherever the clusters differ: any model that knows roughly what a query is about can do it. Such combinations of
# query and passage teach little.
#
# ## TAS: Equation (11)
#
# > "we randomly select $\lfloor b/n \rfloor$ queries out of $n$ random clusters" (§3)
#
# $$\mathcal{B} = \left\{ (q, p^+, p^-) \mid q \in rand(rand(C, n), \lfloor b/n \rfloor),\; p^+, p^- \in rand(P_q)
# \right\} \tag{11}$$
#
# The paper takes $n = 1$: one cluster fills the batch. Only the choice of queries is new; the pair is drawn as before.

# %%
batch = samplers["tas"].batch(0)
ranges = sampling.bin_numbers(pairs, batch.queries, batch.margins, h) + 1
rows = zip(topic_of[batch.queries], [fit(queries[q], 260) for q in batch.queries], batch.margins, ranges, strict=True)
grid(list(rows)[:8], ["cluster", "query", "margin", "range"])

# %% [markdown]
# Now the other queries' passages are about nearly the same thing. Count over many batches: how many of the other
# queries in a query's batch share its cluster?

# %%
steps = range(300)
fellows = {}
for name in ("random", "tas", "tas_balanced"):
    topics = [topic_of[samplers[name].batch(step).queries] for step in steps]
    fellows[name] = np.mean([(t[:, None] == t).sum() / b - 1 for t in topics])
grid([[LOOKS[name].label, value, b - 1] for name, value in fellows.items()], ["sampling", "of its cluster", "of"])
assert fellows["random"] < fellows["tas"] / 2

# %% [markdown]
# ## When a cluster is too small
#
# A cluster with fewer queries than its share is taken whole, and the batch is topped up from further random clusters
# ([D7](../DEVIATIONS.md)). No query occurs twice in a batch, whatever the sizes. *Before you run:* each cluster is
# equally likely, so what share of the batches should be mixed?

# %%
batches = [samplers["tas"].batch(step) for step in steps]
mixed = sampling.mixed_share(batches, topic_of, n)
has_pairs = np.diff(pairs.offsets) > 0
sizes = np.array([has_pairs[topic].sum() for topic in clusters.members])
expected = np.mean(sizes[sizes > 0] < b) if n == 1 else mixed
assert all(len(np.unique(batch.queries)) == b for batch in batches)
assert abs(mixed - expected) < 0.1
f"{mixed:.0%} of the batches are mixed; {expected:.0%} of the clusters are smaller than a batch"

# %% [markdown]
# The same as the share of small clusters, chance aside. The larger the batch, the more clusters are too small; with
# Table 6's $b = 256$ and the paper's 200 queries per cluster, most batches are mixed, and TAS does less than its
# equation says.

# %%
smaller = {size: float(np.mean(sizes[sizes > 0] < size)) for size in (32, 96, 256)}
grid(smaller.items(), ["batch size", "share of clusters smaller than that"])
assert smaller[256] > 0.5
show(sampling.cluster_queries)

# %% [markdown]
# ## Margin ranges: Equation (12)
#
# A query's pairs differ in difficulty: the larger the teacher's margin, the easier. Equation (12) cuts a query's
# margins, from the smallest $m_{min}$ to the largest, into $h$ ranges of equal width $m$ ($h = 10$ in the paper). Our
# reading, since the first inequality is printed the wrong way round ([D5](../DEVIATIONS.md)):
#
# $$H(P_q, i) = \{ (p^+, p^-) \mid m_{min} + i\, m \le M_t(q, p^+) - M_t(q, p^-) < m_{min} + (i + 1)\, m \} \tag{12}$$
#
# As a literal loop, with the last range closed, so that it includes the largest margin:


# %%
def margin_ranges(margins, h):
    """The range 0..h-1 of each margin of one query."""
    m_min, m = min(margins), (max(margins) - min(margins)) / h
    found = []
    for margin in margins:
        inside = [i for i in range(h) if m_min + i * m <= margin < m_min + (i + 1) * m]
        found.append(inside[0] if inside else h - 1)
    return found


# %% [markdown]
# The library needs no loop: pairs are sorted by margin, so a range is a slice of the table, and bisection finds its
# ends for a whole batch at once. Both give the same result for the queries of our batch:

# %%
agree = []
for q in batch.queries:
    own = pairs.margins[pairs.offsets[q] : pairs.offsets[q + 1]].astype(float)
    agree += (sampling.bin_numbers(pairs, q, own, h) == margin_ranges(own.tolist(), h)).tolist()
assert np.mean(agree) > 0.99  # a margin on an edge may fall to either side by rounding
f"{np.mean(agree):.1%} of {len(agree)} pairs in the same range"

# %% [markdown]
# ## TAS-Balanced: Equation (13)
#
# $$\mathcal{B} = \left\{ (q, p^+, p^-) \mid q \in rand(rand(C, n), b),\; p^+, p^- \in rand(H(P_q, rand(0..h))) \right\}
# \tag{13}$$
#
# First draw a range, then a pair within it. A range without pairs cannot be drawn, so all non-empty ranges are equally
# likely ([D8](../DEVIATIONS.md)); and there are $h$ of them, although $0..h$ names one more ([D18](../DEVIATIONS.md)).

# %%
show(sampling.balanced_pairs)

# %% [markdown]
# *Before you run:* suppose that 15 of a query's 20 pairs have a margin above 9, and the other five lie anywhere from 0
# to 7. How often does TAS draw one of the 15, and how often TAS-Balanced?

# %%
made = np.array([0, 1.2, 2.4, 4.6, 6.3, *np.linspace(9.05, 10, 15)])
one = Pairs(np.array([0, 20]), np.zeros(20, int), np.zeros(20, int), made)
rows = sampling.balanced_pairs(one, h, np.zeros(20_000, int), np.random.default_rng(SEED))
high = [np.mean(made > 9), np.mean(made[rows] > 9)]
assert abs(high[0] - 15 / 20) < 1e-9 and abs(high[1] - 1 / 6) < 0.02
pictures.margin_bins(made, h, np.bincount(rows, minlength=20))

# %% [markdown]
# Three times in four, and one time in six: six ranges have pairs, and each is as likely as the others. Above, a dot is
# a pair; below, a cross is its share of 20,000 draws. So the five rare pairs are drawn often, and the many easy ones
# share what is left. Now for all queries of real batches. *Before you run:* which of the two lines should be flat?

# %%
drawn, due = {}, {}
for name in ("tas", "tas_balanced"):
    many = [samplers[name].batch(step) for step in steps]
    asked, margins = (np.concatenate(parts) for parts in ([one.queries for one in many], [one.margins for one in many]))
    drawn[name] = np.bincount(sampling.bin_numbers(pairs, asked, margins, h), minlength=h) / len(asked)
    share = figures.range_shares(pairs, asked, h)
    share = (share > 0) / (share > 0).sum(axis=1, keepdims=True) if name == "tas_balanced" else share
    due[name] = share.mean(axis=0)
ax = figures.range_frequencies(drawn)
assert all(np.abs(drawn[name] - due[name]).max() < 0.02 for name in drawn)

# %% [markdown]
# Each line is where the equations put it, as the assert confirms: TAS follows the pairs; TAS-Balanced gives each
# *non-empty* range of a query the same chance. Its line is flat only as far as the ranges are filled: the first and the
# last are (they hold the smallest and the largest margin), those in between need not be. Below, how many queries fill
# each range, and the ranges of one real query, the first of the batch above.

# %%
filled = (np.diff(sampling.bin_bounds(pairs, np.flatnonzero(has_pairs), h)) > 0).mean(axis=0)
grid([["share of queries that fill it", *filled]], ["range", *map(str, range(1, h + 1))])
assert filled[-1] == 1 and filled[0] > 0.9
own = pairs.margins[pairs.offsets[batch.queries[0]] : pairs.offsets[batch.queries[0] + 1]]
pictures.margin_bins(own, h)

# %% [markdown]
# ## Figure 2
#
# The paper's Figure 2 is a drawing; ours shows the real batches of one step. Each column is a strategy. Top: how many
# clusters the queries come from. Middle: each line is a query, grey where its pairs lie, with a dot for the pair drawn.
# Bottom: the margins of many batches, which is what the student sees.

# %%
fed = [figures.feed(name, samplers[name], topic_of, h, 0, steps) for name in ("random", "tas", "tas_balanced")]
figure = figures.sampling_strategies(fed)
style.save(figure, settings.figures, "figure2")
figure

# %% [markdown]
# From (a) to (b) the queries move together and the margins hardly change; from (b) to (c) the queries stay and the dots
# spread. What that does to the margins depends on the teacher, so measure it:

# %%
quantiles = [0.05, 0.25, 0.5, 0.75, 0.95]
rows = [[LOOKS[one.strategy].label, *np.quantile(one.margins, quantiles), one.margins.std()] for one in fed]
grid(rows, ["margins", *(f"{q:.0%}" for q in quantiles), "standard deviation"])
shift = (np.median(fed[2].margins) - np.median(fed[1].margins)) / fed[1].margins.std()
print(f"From TAS to TAS-Balanced the median moves by {shift:+.2f} standard deviations.")

# %% [markdown]
# The paper expects a move to the left: balancing "reduces the amount of high-margin (low information) passage pairs"
# (§3). That happens where most of a query's pairs are easy; a median that moves up would mean that most are hard here.
# A negative margin belongs to a pair on which teacher and label disagree.
#
# ## A batch by its number
#
# Training asks for batch 0, 1, 2, ...; a batch is a function of the seed and its number alone. So several workers can
# prepare batches ahead (§3: "concurrently in a sub-process"), and an interrupted run resumes with the batches it would
# have had. *Before you run:* does it matter that we asked for other batches in between?
#
# Below, look at any batch: a line per query, with the margins of its pairs (ranges in grey, the pair drawn in red) and
# its row of ColBERT's scores, each minus that of its own positive. With TAS, do the other queries' passages come
# closer?

# %%
first, *_ = [samplers["tas_balanced"].batch(step) for step in (7, 1000, 8)]
again = samplers["tas_balanced"].batch(7)
assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
show(sampling.Sampler.batch)
explore.batches(experiment, SEED)

# %% [markdown]
# ## Answer

# %% tags=["answer"]
from lecture import answers

easy = {name: shares[h // 2 :].sum() for name, shares in drawn.items()}
answers.say(
    f"Of the {b - 1} other queries of its batch, a query shares its cluster with {fellows['random']:.1f} in random "
    f"batches, {fellows['tas']:.1f} with TAS and {fellows['tas_balanced']:.1f} with TAS-Balanced.",
    f"{mixed:.0%} of the TAS batches were topped up from further clusters, because a cluster was too small.",
    f"The upper half of a query's margin ranges, its easier pairs, gives {easy['tas']:.0%} of the pairs with TAS and "
    f"{easy['tas_balanced']:.0%} with TAS-Balanced; the median margin moves by {shift:+.2f} standard deviations.",
)

# %% [markdown]
# In one step the student sees $b$ different queries and one pair for each. TAS changes which queries meet, TAS-Balanced
# also which pairs. Table 4 (notebook 09) shows what helps.
#
# ## Where we differ
#
# - Small clusters are topped up, and no query occurs twice: [D7](../DEVIATIONS.md).
# - Ranges as in the public code, non-empty ones only; queries with one pair or equal margins are kept:
#   [D5](../DEVIATIONS.md), [D8](../DEVIATIONS.md), [D18](../DEVIATIONS.md).
# - Random sampling draws queries as Equation (9) says, not in proportion to their number of triples:
#   [D9](../DEVIATIONS.md).
# - The paper has about a hundred pairs per query; where the profile has fewer, more ranges are empty.
#
# ## Exercises
#
# **1.** *The balanced draw*, Equations (12) and (13), for one query: given its margins, in any order, return the index
# of the pair that is drawn. Ranges without pairs are not drawn, the others are equally likely. The check compares how
# often each index occurs in 2,000 draws.
#
# <details><summary>Hint</summary>
#
# Number the range of every margin, the last one closed; `np.unique` gives those that occur. Then two draws: a range,
# and a pair in it.
#
# </details>


# %% tags=["exercise"]
def my_balanced_pair(margins, h, rng):
    """The index of the pair that is drawn."""
    # TODO


check(my_balanced_pair, (np.array([9.0, 0.0, 9.5, 10.0, 2.5]), 4), (np.array([0.0, 1.0, 5.0]), 2), draws=2_000)

# %% [markdown]
# **2.** *Find the bug.* A contributor sends this sampler. Its batches look right, and it promises four things: all
# queries of a batch are different; they come from one random cluster, topped up only where that is too small; every
# cluster is equally likely to be the first; within a cluster every query is equally likely. Which promise does it
# break? Do not look for it in the code; count: draw a few thousand batches in a new cell. Then write the draw that
# keeps all four.
#
# <details><summary>Hint</summary>
#
# Draw batches of 2 from `[np.arange(3), np.arange(3, 8)]` and count with `np.bincount` how often each query occurs.
#
# </details>


# %% tags=["exercise"]
def suspect(members, b, rng):
    """b queries: one random cluster, topped up if it is too small."""
    batch = members[rng.integers(len(members))][:b]
    others = np.setdiff1d(np.concatenate(members), batch)
    return np.append(batch, rng.choice(others, b - len(batch), replace=False))


def my_repair(members, b, rng):
    """b queries, as the suspect promises them."""
    # TODO


check(my_repair, ([np.arange(1), np.arange(1, 5)], 2), ([np.arange(2), np.arange(2, 5)], 2), draws=2_000)

# %% [markdown]
# **3. Open.** `samplers["hard_margin"]` never draws some queries: which? Train with it, `papermill
# notebooks/06_training.ipynb out.ipynb -p SAMPLING hard_margin`, and compare nDCG@10 and recall with those of
# TAS-Balanced. The 2023 reproducibility study found that it helps some metrics and hurts others.
#
# ## Next
#
# [06 · Training](06_training.ipynb): from batches to a retriever.
