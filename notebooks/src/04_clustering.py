# %% [markdown]
# # 04 · Clusters: which queries belong together?
#
# *Paper:* §3, "TAS", Equation (10), Figure 1; the number of clusters in §4.2.
# *Needs:* the baseline (notebook 06 with pairwise teacher and random sampling), whose query vectors are clustered.
# *Takes:* about half a minute on the default profile; most of it is Figure 1.
#
# TAS-Balanced composes a batch from queries of one cluster; the paper calls it a topic. Nobody labelled topics:
# clusters are computed once, before training, from what a baseline already knows about the queries. This notebook looks
# at what comes out.

# %% tags=["parameters"]
PROFILE = "docs"  # a file in profiles/
SEED = 42  # which clusters and queries are shown

# %% [markdown]
# ## What is clustered
#
# The *baseline* is a dense retriever trained with random batches. It turns every training query into one vector, and
# two queries that need similar passages get similar vectors. Clustering uses nothing else about the queries: neither
# their passages nor their words.

# %%
import re
from textwrap import shorten

import numpy as np
from numpy.random import Generator, Philox
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

from lecture.notebook import check, grid, show
from tas_lib import clustering, config
from tas_lib.experiment import Experiment
from tas_lib.report import figures, style

settings = config.load(PROFILE)
experiment = Experiment(settings)

# %% [markdown]
# The profile sets the number of clusters, $k$ of Equation (10). The paper takes 2,000 for 400K queries, about 200 each.
# That ratio, and not $k$, decides how narrow a cluster is and whether it can fill a batch. `docs` keeps the ratio, with
# fewer clusters, and each can fill a batch of 32 ([D33](../DEVIATIONS.md)).

# %%
clusters, vecs = experiment.clusters, experiment.query_vecs
queries = experiment.collection.sets["train"].queries.texts
(n_queries, width), k = vecs.shape, len(clusters.centroids)
grid([[n_queries, width, k, n_queries / k]], ["queries", "width of a vector", "clusters", "queries per cluster"])
assert k <= n_queries

# %% [markdown]
# ## Equation (10)
#
# > "we group all training queries into $k$ clusters with k-means clustering, using their baseline representation
# > vectors and minimize" (§3)
#
# $$\underset{C}{\arg\min} \sum_{i=1}^{k} \sum_{q \in C_i} \lVert q - v_i \rVert^2 \tag{10}$$
#
# where $v_i$ is the centroid of cluster $C_i$. k-means alternates two steps until little changes: every query goes to
# its nearest centroid; every centroid moves to the mean of its queries. The second step is an average. Here is the
# first, as a literal loop.


# %%
def assign(vecs, centroids):
    """For each query the number of the nearest centroid."""
    found = []
    for query in vecs:
        distances = [((query - centroid) ** 2).sum() for centroid in centroids]
        found.append(distances.index(min(distances)))
    return found


# %% [markdown]
# The library leaves both steps to faiss, which does the same with matrices and threads. Ten iterations are enough.
# Centroids are trained on a sample of at most 256 queries each; at the end *all* queries are assigned.

# %%
show(clustering.kmeans)

# %% [markdown]
# *Before you run:* the loop sees only the library's final centroids. Will it put the first 300 queries into the same
# clusters as the library did, into similar ones, or into others?

# %%
same = np.mean(np.array(assign(vecs[:300], clusters.centroids)) == clusters.assignment[:300])
assert same > 0.99  # not 1: two centroids may be equally near, but for rounding
f"{same:.1%} in the same cluster"

# %% [markdown]
# The same ones. The assignment is a function of the centroids; chance enters only where the centroids start.
#
# ## Two readings of "nearest"
#
# Equation (10) is Euclidean. The public code, however, trains a faiss index by *inner product*: centroids are kept at
# unit length, and a query goes where its dot product is largest ([D2](../DEVIATIONS.md)). Only the direction of a
# query's vector matters, not its length. We follow the code, and compare.

# %%
wanted = settings.sampling
ways = {
    name: clustering.kmeans(vecs, k, spherical=name == "spherical", iterations=wanted.iterations)
    for name in ("spherical", "euclidean")
}
lengths = np.linalg.norm(vecs, axis=1)
np.percentile(lengths, [0, 25, 50, 75, 100]).round(2).tolist()

# %% [markdown]
# These are the lengths of the query vectors (smallest, quartiles, largest). For a given query, since $\lVert q - v
# \rVert^2 = \lVert q \rVert^2 + \lVert v \rVert^2 - 2\, q \cdot v$, centroids of *one* length are ranked by the dot
# product alone. But Euclidean centroids are means, and a mean of vectors that disagree is *short*.
#
# *Before you run:* a short centroid lies near the origin. Does that make its cluster larger or smaller?

# %%
histograms = {name: clustering.size_histogram(way.sizes) for name, way in ways.items()}
grid(
    [[name, *histogram.values(), ways[name].sizes.max()] for name, histogram in histograms.items()],
    ["clusters by number of queries", *histograms["spherical"], "largest"],
)
ax = figures.cluster_sizes({name: way.sizes for name, way in ways.items()}, wanted.batch_size)
assert all(sum(histogram.values()) == k for histogram in histograms.values())

# %% [markdown]
# A centroid near the origin is not far from anything, so it can attract the queries that fit nowhere: where vectors
# disagree much, the dashed line starts higher. For batches the other end matters: a cluster below the grey line has
# fewer queries than a batch, so its batches are topped up from other clusters.

# %%
largest = {name: way.sizes.max() / way.sizes.mean() for name, way in ways.items()}
small = {name: int((way.sizes < wanted.batch_size).sum()) for name, way in ways.items()}
for name in ways:
    print(f"{name}: largest cluster {largest[name]:.1f} times the mean; {small[name]} of {k} below one batch")

# %% [markdown]
# Each method should win by its own measure: Euclidean by Equation (10), with the mean of each cluster as its $v_i$;
# spherical by the dot product with its centroid. Both are local searches, so we allow two per cent.

# %%
rows = []
for name, way in ways.items():
    means = np.stack([vecs[topic].mean(axis=0) if len(topic) else vecs[0] for topic in way.members])
    directions = means / np.linalg.norm(means, axis=1, keepdims=True)
    spread = ((vecs - means[way.assignment]) ** 2).sum(axis=1).mean()
    rows.append([name, spread, (vecs * directions[way.assignment]).sum(axis=1).mean()])
grid(rows, ["clusters", "Eq. 10, a query (lower is better)", "dot product (higher is better)"])
assert rows[1][1] < rows[0][1] * 1.02 and rows[0][2] > rows[1][2] * 0.98

# %% [markdown]
# ## What is a cluster about?
#
# The queries closest in direction to the centroid show it best. Here is a random cluster: its five most
# typical queries, and its three least typical ones.

# %%
rng = Generator(Philox(key=[SEED, 0]))
topic = int(rng.choice(np.flatnonzero(clusters.sizes >= 8)))
ranked = clustering.nearest(clusters, vecs, topic, n_queries)
cosines = vecs[ranked] @ clusters.centroids[topic] / lengths[ranked] / np.linalg.norm(clusters.centroids[topic])
shown = [0, 1, 2, 3, 4, -3, -2, -1]
grid([[shorten(queries[ranked[i]], 90), cosines[i]] for i in shown], [f"cluster {topic}", "cosine"])
assert (np.diff(cosines) <= 1e-5).all() and len(ranked) == clusters.sizes[topic]

# %% [markdown]
# The end of such a list is a useful reminder: every query has to go *somewhere*. A cluster has a centre, but no border.
#
# ## Do the clusters only repeat the words?
#
# > "which allows grouping queries without lexical overlap" (§1)
#
# We draw pairs of queries from one cluster and, for comparison, pairs of any two queries, and ask how many share no
# word of four letters or more. *Before you run:* if a cluster were just a word, what would the first number be?

# %%
words = [set(re.findall(r"[a-z]{4,}", query.lower())) for query in queries]
topics = [topic for topic in clusters.members if len(topic) > 1]
mates = np.array([rng.choice(topic, 2, replace=False) for topic in topics for _ in range(100)])
strangers = np.column_stack([mates[:, 0], rng.permutation(mates[:, 1])])
disjoint = {
    name: float(np.mean([words[a].isdisjoint(words[b]) for a, b in found]))
    for name, found in [("of one cluster", mates), ("any two", strangers)]
}
grid(disjoint.items(), ["two queries", "share without a common word"])
assert 0.2 < disjoint["of one cluster"] < disjoint["any two"]

# %% [markdown]
# Words matter (two queries of one cluster share one more often than any two), and yet many pairs inside a cluster have
# none in common. That is the point of clustering vectors: such a pair makes an informative in-batch negative that no
# lexical index would find.
#
# ## Figure 1
#
# t-SNE puts every query on a plane so that near neighbours stay near. It preserves neither distances between clusters
# nor their sizes, so read *who sits with whom*, and nothing else. The axes have no unit. The examples are the queries
# nearest to the centroid among those short enough for one line.

# %%
plane = figures.lay_out(clusters, vecs, queries, Generator(Philox(key=[SEED, 1])))
figure = figures.cluster_map(plane)
style.save(figure, settings.figures, "figure1")
figure

# %% [markdown]
# The same plane to explore: point at a query, or move with the arrow keys, to read it. The lines lead to the five
# queries whose vectors are nearest to its own. *Before you try:* are these always its neighbours on the plane too?

# %%
from lecture import explore

explore.cluster_hover(plane, clusters, vecs, queries)

# %% [markdown]
# A long line is a place where two dimensions were not enough. Most queries sit among their own cluster, although t-SNE
# never saw the clusters. A picture can flatter, so count: how often is a query's nearest neighbour *on the plane* from
# its own cluster, and how often would that happen by chance?

# %%
owner = np.repeat(plane.numbers, [len(points) for points in plane.points])
nearest = NearestNeighbors(n_neighbors=1).fit(np.concatenate(plane.points)).kneighbors(return_distance=False)[:, 0]
together = float(np.mean(owner == owner[nearest]))
by_chance = float(np.sum((np.bincount(owner) / len(owner)) ** 2))
grid([["on the plane", together], ["by chance", by_chance]], ["neighbour of the same cluster", "share"])
assert together > 2 * by_chance

# %% [markdown]
# ## Another seed, other clusters
#
# k-means stops at whichever good clustering is near its start. The adjusted Rand index compares two clusterings by the
# pairs of queries that they put together: 1 for identical clusterings, 0 for chance.
#
# *Before you run:* with another seed, nearer to 1 or to 0?

# %%
other = clustering.kmeans(vecs, k, iterations=wanted.iterations, seed=1)
agreement = adjusted_rand_score(ways["spherical"].assignment, other.assignment)
assert 0.1 < agreement < 0.9
round(agreement, 2)

# %% [markdown]
# Far from chance, and far from the same: clusters are a convenience, not a fact about the queries. The method needs
# only that a batch's queries are *close*, and the paper found its results insensitive to the number of clusters (§4.2).
#
# ## Answer

# %% tags=["answer"]
from lecture import answers

answers.say(
    f"The clusters have {n_queries / k:.0f} queries on average, and "
    f"{np.mean(clusters.sizes < wanted.batch_size):.0%} of them fewer than a batch of {wanted.batch_size}.",
    f"{disjoint['of one cluster']:.0%} of the pairs of queries of one cluster have no word in common, and "
    f"{disjoint['any two']:.0%} of any two queries.",
    f"Figure 1 puts a query next to one of its own cluster in {together:.0%} of all cases; by chance it would be "
    f"{by_chance:.0%}.",
    f"The adjusted Rand index with another seed is {answers.decimals(agreement, 2)}: 1 would be the same clusters, 0 "
    "those of chance.",
)

# %% [markdown]
# Queries belong together when the baseline's vectors for them point the same way. k-means over these vectors, run once,
# gives clusters that a person can make sense of. They depend on the seed, and they need not be right to be useful.
#
# ## Where we differ
#
# - *Spherical* k-means, as in the public code, where Equation (10) is Euclidean: [D2](../DEVIATIONS.md). One setting of
#   the profile, `sampling.spherical`, chooses between them; every count above is shown for both.
# - The baseline, the collection and $k$ are the profile's; `docs` keeps the paper's number of queries per cluster
#   ([D33](../DEVIATIONS.md)).
# - §4.2 calls the results insensitive to $k$. Notebook 13 tests that, with half and with twice as many clusters.
#
# ## Exercises
#
# **1.** The vectors nearest to a centroid by angle, best first; at most `n` of them. Then look at a cluster of your
# choice with it: `my_nearest(vecs[clusters.members[0]], clusters.centroids[0], 5)`.
#
# <details><summary>Hint</summary>
#
# The centroid's length is the same for all and does not change the order; a vector's own length does.
#
# </details>


# %% tags=["exercise"]
def my_nearest(vecs, centroid, n):
    """Indices of the n vectors that point most nearly where the centroid points, best first."""
    # TODO


made = np.array([[1.0, 0.1], [9.0, 9.0], [0.2, 0.0], [0.0, 2.0]])
check(my_nearest, (made, np.array([2.0, 0.0]), 3), (made, np.array([1.0, 2.0]), 1), (made, np.array([0.0, 1.0]), 9))

# %% [markdown]
# **2.** *The topic-aware draw*, which is what clusters are for: `b` different queries of one random cluster. Every
# cluster that has `b` queries is equally likely, however large it is; smaller ones are left out for now (notebook 05
# tops them up). `members` holds an array of queries per cluster. A draw cannot be compared value by value, so the check
# compares how often each query occurs in 2,000 draws.
#
# <details><summary>Hint</summary>
#
# First draw a cluster, then queries in it: `rng.integers(n)` and `rng.choice(queries, b, replace=False)`. Drawing a
# query and taking its cluster would favour large clusters.
#
# </details>


# %% tags=["exercise"]
def my_topic(members, b, rng):
    """b different queries of one cluster; all clusters that have b are equally likely."""
    # TODO


two, three = [np.arange(3), np.arange(3, 9)], [np.arange(1), np.arange(1, 3), np.arange(3, 6)]
check(my_topic, (two, 3), (three, 2), draws=2_000)

# %% [markdown]
# **3. Open.** Copy the profile to `profiles/wide.yaml`, halve `sampling.clusters`, and run `./run_all.sh wide table4`.
# Clusters are then twice as large. Which loss should this affect more, pairwise or in-batch, and does your table
# agree?
#
# ## Next
#
# [05 · Batches](05_sampling.ipynb): what does the student see in one step, given these clusters?
