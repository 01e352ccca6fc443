"""k-means of 400K × 768 into 2,000 topics, ten iterations, against scikit-learn on a tenth of the queries.

`python -m benchmarks.kmeans` takes a tenth of both, `--full` the whole, minutes on two cores. scikit-learn's time grows
with the number of queries at the same number of topics, so its tenth is counted ten times.
"""

import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.random import Generator, Philox

from benchmarks import Figure
from tas_lib.clustering import kmeans
from tas_lib.records import FloatArray
from tas_lib.report.latency import roofline

QUERIES, WIDTH, TOPICS, ITERATIONS = 400_000, 768, 2_000, 10
SHARE = 10  # of the queries scikit-learn gets one in so many
MINUTES = 10.0


def made_up(n: int, width: int = WIDTH, topics: int = TOPICS, block: int = 20_000) -> FloatArray:
    """(n, width) vectors of unit length around as many directions as there are topics."""
    middles = Generator(Philox(key=[0, 0])).standard_normal((topics, width), np.float32)
    vecs = np.empty((n, width), np.float32)
    for number, first in enumerate(range(0, n, block), 1):
        rng, here = Generator(Philox(key=[0, number])), vecs[first : first + block]
        here[:] = middles[rng.integers(topics, size=len(here))] + 2 * rng.standard_normal(here.shape, np.float32)
        here /= np.linalg.norm(here, axis=1, keepdims=True)
    return vecs


def seconds(f: Callable[[], object]) -> float:
    """How long a call takes, once."""
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def rows(full: bool = False) -> list[Figure]:
    """Ours on all queries, scikit-learn on a tenth of them. full: at MS MARCO's size."""
    from sklearn.cluster import KMeans

    times = 1 if full else 10
    n, k = QUERIES // times, TOPICS // times
    vecs = made_up(n, topics=k)
    few = vecs[: n // SHARE]

    def fit(init: str) -> tuple[float, int]:
        means = KMeans(k, init=init, n_init=1, max_iter=ITERATIONS, tol=0, algorithm="lloyd", random_state=0)
        return SHARE * seconds(lambda: means.fit(few)), means.n_iter_

    machine = roofline(torch.device("cpu"))
    ours = seconds(lambda: kmeans(vecs, k, iterations=ITERATIONS))
    at_least = 2e-9 * n * k * WIDTH * (ITERATIONS + 1) / machine.gflop_s
    told = "" if full else f" A tenth of both numbers: at full size all times are {times**2} times as long."
    notes = {
        "k-means++": "As it is by itself, it looks for good queries to start from, and that takes most of its time.",
        "random": f"It starts from random queries, as ours does. Ours takes at least {at_least:.1f} s for the products "
        f"of queries and centroids, at the matrix rate measured here ({machine.gflop_s:.0f} GFLOP/s).{told}",
    }
    found = []
    for init, note in notes.items():
        theirs, iterations = fit(init)
        in_time, ratio = ours * times**2 <= 60 * MINUTES, theirs / ours
        found.append(
            Figure(
                f"k-means, {n:,} × {WIDTH} into {k:,}, {ITERATIONS} iterations",
                f"{ours:.1f} s",
                f"scikit-learn, {init}, {theirs:.0f} s",
                f"{ratio:.1f} ×",
                f"≤ {MINUTES:g} minutes at full size; ≥ 3 ×",
                "met" if in_time and ratio >= 3 else "missed",
                f"scikit-learn ran on {len(few):,} queries for {iterations} iterations, counted {SHARE} times. {note}",
            )
        )
    return found


if __name__ == "__main__":
    for figure in rows(full="--full" in sys.argv[1:]):
        print(*figure, sep=" | ")
