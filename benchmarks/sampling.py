"""TAS-Balanced batches from 400K queries with 100 pairs each, against plain Python over lists of tuples.

The pair table is synthetic, in MS MARCO's shape, in a temporary folder (.5 GB).
"""

import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.random import Generator, Philox

from benchmarks import Figure, verdict
from benchmarks.measure import in_new_process
from tas_lib import sampling
from tas_lib.config import Sampling
from tas_lib.data import store
from tas_lib.records import IntArray, Pairs

QUERIES, PAIRS, PASSAGES = 400_000, 100, 8_841_823
CLUSTER = 200  # queries per cluster
BATCHES, ROUNDS, TOGETHER = 1_920, 5, 32  # together: as the loop composes them
HELD = 40_000  # queries that plain Python holds: the tuples of all would take some 6 GB
Pair = tuple[float, int, int]
"""(margin, positive, negative)"""


def figures(full: bool = False, queries: int = QUERIES, held: int = HELD) -> list[Figure]:
    """Batches per second."""
    with tempfile.TemporaryDirectory() as folder:
        write_pairs(Path(folder), queries)
        mine = in_new_process("benchmarks.sampling", "ours", folder=folder)
        theirs = in_new_process("benchmarks.sampling", "plain", folder=folder, queries=held)
    ratio = theirs / mine
    return [
        Figure(
            "TAS-Balanced batches a second",
            f"{1e6 / mine:,.0f}",
            f"plain Python {1e6 / theirs:,.0f}",
            f"{ratio:.2f} ×",
            "≥ 2 ×",
            verdict(ratio >= 2),
            f"Processor time: ours {mine:.0f} µs, {TOGETHER} at once, of which drawing each step's queries "
            f"is half; plain Python {theirs:.0f} µs, with margin ranges prepared when opening. Training "
            "does not wait for batches: a worker composes them ahead.",
        ),
    ]


def write_pairs(folder: Path, n_queries: int, n_pairs: int = PAIRS) -> None:
    """A pair table and its clusters as training finds them on disk: npy files, margins rising within a query."""
    rng, n = Generator(Philox(key=[0, 0])), n_queries * n_pairs
    pos, neg = (rng.integers(PASSAGES, size=n, dtype=np.int32) for _ in range(2))
    margins = np.sort(4 + 3 * rng.standard_normal((n_queries, n_pairs), np.float32), axis=1).ravel()
    assignment = rng.permutation(n_queries) % max(n_queries // CLUSTER, 1)
    arrays = {"offsets": np.arange(0, n + 1, n_pairs), "assignment": assignment}
    store.save_arrays(folder, pos=pos, neg=neg, margins=margins, **arrays)


def read_pairs(folder: Path) -> Pairs:
    """The pair table, memory-mapped."""
    return Pairs(**{name: store.load_array(folder / f"{name}.npy") for name in Pairs._fields})


def read_members(folder: Path) -> list[IntArray]:
    """(K,) arrays: the queries of each cluster."""
    assignment = store.load_array(folder / "assignment.npy")
    return np.split(np.argsort(assignment, kind="stable"), np.cumsum(np.bincount(assignment))[:-1])


def ours(folder: str, seed: int = 1) -> float:
    """Microseconds of a batch."""
    pairs, members = read_pairs(Path(folder)), read_members(Path(folder))
    return best_us(sampling.make_sampler("tas_balanced", pairs, members, Sampling(), seed).batches)


class Plain:
    """The same strategy with the standard library: margin ranges prepared when opening, then random.choice.

    Source: what the public code does (matchmaker 210b9da), in our words: pairs as tuples in lists, a list per range,
    the lists in a dict by query. It draws from non-empty ranges only, as ours does (D8).
    """

    def __init__(
        self, clusters: Sequence[list[int]], pairs: Mapping[int, list[Pair]], b: int = 32, h: int = 10
    ) -> None:
        """pairs: query → its pairs, in any order."""
        self.clusters, self.b = clusters, b
        self.ranges = {query: ranges(of_query, h) for query, of_query in pairs.items()}

    def batch(self, step: int) -> list[tuple[int, Pair]]:
        """One batch; `step` is ignored, since the random stream continues from batch to batch."""
        queries: list[int] = []
        while len(queries) < self.b:
            cluster = random.choice(self.clusters)
            queries += random.sample(cluster, min(self.b - len(queries), len(cluster)))
        return [(query, random.choice(random.choice(self.ranges[query]))) for query in queries]


def ranges(pairs: list[Pair], h: int) -> list[list[Pair]]:
    """The non-empty ranges of Eq. 12: of equal width from the smallest margin to the largest, the last closed."""
    low, high = min(pairs)[0], max(pairs)[0]
    result: list[list[Pair]] = [[] for _ in range(h)]
    for pair in pairs:
        result[min(int((pair[0] - low) / (high - low) * h), h - 1) if high > low else h - 1].append(pair)
    return [of_range for of_range in result if of_range]


def as_lists(table: Pairs, queries: int) -> dict[int, list[Pair]]:
    """The pairs of the first queries, as plain Python holds them."""
    result = {}
    for query in range(queries):
        first, last = table.offsets[query : query + 2].tolist()
        columns = (table.margins[first:last], table.pos[first:last], table.neg[first:last])
        result[query] = list(zip(*(column.tolist() for column in columns), strict=True))
    return result


def plain(folder: str, queries: int) -> float:
    """The same for plain Python, which holds the first queries."""
    table = read_pairs(Path(folder))
    clusters = [list(range(first, min(first + CLUSTER, queries))) for first in range(0, queries, CLUSTER)]
    sampler = Plain(clusters, as_lists(table, queries))
    random.seed(1)
    return best_us(lambda steps: [sampler.batch(step) for step in steps])


def best_us(compose: Callable[[range], object]) -> float:
    """Microseconds of processor time per batch in the fastest of several rounds; what else runs does not count."""
    times = []
    for number in range(ROUNDS):
        start = time.process_time()
        for n in range(number * BATCHES, (number + 1) * BATCHES, TOGETHER):
            compose(range(n, n + TOGETHER))
        times.append(time.process_time() - start)
    return 1e6 * min(times) / BATCHES
