"""k-means of 400K × 768 into 2,000 clusters, ten iterations, against scikit-learn on a tenth of the queries.

scikit-learn's time grows with the number of queries at the same number of clusters, so its tenth counts ten times.
"""

from functools import partial

import numpy as np
import torch
from numpy.random import Generator, Philox

from benchmarks import Figure, verdict
from benchmarks.measure import seconds
from tas_lib.clustering import kmeans
from tas_lib.records import FloatArray
from tas_lib.report.latency import roofline

QUERIES, WIDTH, CLUSTERS, ITERATIONS = 400_000, 768, 2_000, 10
SHARE = 10  # scikit-learn gets a tenth of the queries
MINUTES = 10


def figures(full: bool = False) -> list[Figure]:
    """Ours on all queries, scikit-learn on a tenth. full: at MS MARCO's size, otherwise a tenth of both numbers."""
    from sklearn.cluster import KMeans

    times = 1 if full else 10
    n, k = QUERIES // times, CLUSTERS // times
    vecs = synthetic(n, k)
    few, machine = vecs[: n // SHARE], roofline(torch.device("cpu"))
    ours = seconds(partial(kmeans, vecs, k, iterations=ITERATIONS))
    least = 2e-9 * n * k * WIDTH * (ITERATIONS + 1) / machine.gflop_s
    scale = "" if full else f" A tenth of both numbers: at full size all times are {times**2} times as long."
    notes = {
        "k-means++": "By default it searches for good initial queries, which takes most of its time.",
        "random": f"It starts from random queries, as ours does. Ours takes at least {least:.1f} s for the products of "
        f"queries and centroids, at the matrix rate measured here ({machine.gflop_s:.0f} GFLOP/s).{scale}",
    }
    result = []
    for init, note in notes.items():
        means = KMeans(k, init=init, n_init=1, max_iter=ITERATIONS, tol=0, algorithm="lloyd", random_state=0)
        theirs = SHARE * seconds(partial(means.fit, few))
        result.append(
            Figure(
                f"k-means, {n:,} × {WIDTH} into {k:,}, {ITERATIONS} iterations",
                f"{ours:.1f} s",
                f"scikit-learn, {init}, {theirs:.0f} s",
                f"{theirs / ours:.1f} ×",
                f"≤ {MINUTES} minutes at full size; ≥ 3 ×",
                verdict(ours * times**2 <= 60 * MINUTES and theirs >= 3 * ours),
                f"scikit-learn ran on {len(few):,} queries, {means.n_iter_} iterations; counted {SHARE} times. {note}",
            )
        )
    return result


def synthetic(n: int, clusters: int) -> FloatArray:
    """(n, 768) unit vectors around as many directions as there are clusters."""
    rng = Generator(Philox(key=[0, 0]))
    centres, vecs = (rng.standard_normal((size, WIDTH), np.float32) for size in (clusters, n))
    vecs *= 2
    vecs += centres[rng.integers(clusters, size=n)]
    return vecs / np.linalg.norm(vecs, axis=1, keepdims=True)
