"""Eq. 10: k-means clusters of the training queries, by the baseline's query vectors, once before training (§3)."""

from collections.abc import Sequence
from typing import NamedTuple

import faiss
import numpy as np

from tas_lib.records import FloatArray, IntArray


class Clusters(NamedTuple):
    """Q queries in K clusters.

    assignment: (Q,) cluster of each query. centroids: (K, D) v_i of Eq. 10, of unit length if spherical.
    """

    assignment: IntArray
    centroids: FloatArray

    @property
    def members(self) -> list[IntArray]:
        """C of Eq. 10: K ascending arrays of query indices; empty clusters are empty arrays.

        >>> [queries.tolist() for queries in Clusters(np.array([2, 0, 2]), np.zeros((3, 1))).members]
        [[1], [], [0, 2]]
        """
        return np.split(np.argsort(self.assignment, kind="stable"), np.cumsum(self.sizes)[:-1])

    @property
    def sizes(self) -> IntArray:
        """(K,) number of queries of each cluster."""
        return np.bincount(self.assignment, minlength=len(self.centroids))


def kmeans(vecs: FloatArray, k: int, *, spherical: bool = True, iterations: int = 10, seed: int = 0) -> Clusters:
    """k clusters of the queries, Eq. 10; the same seed gives the same clusters on one machine.

    vecs: (Q, D) query vectors of the baseline; centroids are trained on at most 256 k of them.

    Reading: Eq. 10 is Euclidean; `spherical` keeps centroids at unit length and assigns a query to the largest dot
    product (the queries are not normalised). A cluster may end up empty.
    Source: matchmaker 210b9da, which trains a faiss index by inner product, 10 iterations. DEVIATIONS.md, D2.
    """
    if k > len(vecs):
        raise ValueError(f"cannot make {k} clusters of {len(vecs)} queries: ask for fewer clusters")
    vecs = np.ascontiguousarray(vecs, dtype=np.float32)
    few = {"min_points_per_centroid": 1}  # the default warns below 39
    means = faiss.Kmeans(vecs.shape[1], k, niter=iterations, spherical=spherical, seed=seed, **few)
    means.train(vecs)
    centroids = np.array(means.centroids)
    if spherical:
        faiss.normalize_L2(centroids)  # faiss does not if k is the number of queries
    index = faiss.IndexFlatL2(vecs.shape[1])  # the nearest of unit centroids has the largest dot product
    index.add(centroids)
    _, nearest_centroids = index.search(vecs, 1)  # (Q, 1)
    return Clusters(nearest_centroids[:, 0], centroids)


def nearest(clusters: Clusters, vecs: FloatArray, cluster: int, n: int) -> IntArray:
    """Indices of the n queries of a cluster (or fewer) whose directions are closest to its centroid's, closest first.

    vecs: (Q, D) the vectors that were clustered; their lengths do not count.
    """
    members = np.flatnonzero(clusters.assignment == cluster)
    lengths = np.linalg.norm(vecs[members], axis=1).clip(min=np.finfo(np.float32).tiny)
    cosines = vecs[members] @ clusters.centroids[cluster] / lengths
    return members[np.argsort(-cosines, kind="stable")[:n]]


def size_histogram(sizes: IntArray, edges: Sequence[int] = (0, 1, 32, 96, 200, 400, 800)) -> dict[str, int]:
    """Range of sizes → number of clusters of such sizes (D2). edges: where the ranges begin; the last is open.

    sizes: (K,) queries of each cluster. A cluster smaller than its share of a batch makes the batch mixed (D7).

    >>> size_histogram(np.array([0, 31, 32, 95]), edges=(0, 1, 32))
    {'0': 1, '1-31': 1, '32+': 2}
    """
    counts = np.bincount(np.searchsorted(edges, sizes, side="right"), minlength=len(edges) + 1)[1:]
    last = [f"-{end - 1}" if end - begin > 1 else "" for begin, end in zip(edges, edges[1:], strict=False)] + ["+"]
    return {f"{begin}{end}": int(n) for begin, end, n in zip(edges, last, counts, strict=True)}
