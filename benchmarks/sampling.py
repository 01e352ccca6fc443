"""TAS-Balanced batches from 400K queries with 100 pairs each, against plain Python over lists of tuples.

`python -m benchmarks.sampling`. The pair table is made up, in MS MARCO's shape, and lies in a temporary folder: .5 GB.
"""

import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from numpy.random import Generator, Philox

from benchmarks import Figure
from benchmarks.fresh import call
from tas_lib import sampling
from tas_lib.config import Sampling
from tas_lib.data import store
from tas_lib.records import IntArray, Pairs

QUERIES, PAIRS, PASSAGES = 400_000, 100, 8_841_823
OF_A_TOPIC = 200  # 2,000 topics
BATCHES, ROUNDS = 2_000, 5
HELD = 40_000  # queries that plain Python holds: of all of them the tuples alone would take some 6 GB
Pair = tuple[float, int, int]
"""(margin, positive, negative)"""


# --- what is sampled from ------------------------------------------------------------------------------------------


def write_pairs(folder: Path, n_queries: int, n_pairs: int = PAIRS, block: int = 20_000) -> None:
    """A pair table and its topics as training finds them on disk: npy files, margins rising within a query."""
    offsets = np.arange(0, n_queries * n_pairs + 1, n_pairs)
    kinds = {"pos": np.int32, "neg": np.int32, "margins": np.float32}
    files = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, (n_queries * n_pairs,))
        for name, kind in kinds.items()
    }
    for number, first in enumerate(range(0, n_queries, block)):
        rng = Generator(Philox(key=[0, number]))
        size = (min(block, n_queries - first), n_pairs)
        here = slice(offsets[first], offsets[first + size[0]])
        files["pos"][here], files["neg"][here] = rng.integers(PASSAGES, size=(2, size[0] * n_pairs))
        files["margins"][here] = np.sort(rng.normal(4, 3, size).astype(np.float32), axis=1).ravel()
    topics = Generator(Philox(key=[1, 0])).permutation(n_queries) % max(n_queries // OF_A_TOPIC, 1)
    store.save_arrays(folder, offsets=offsets, assignment=topics)


def topics_of(folder: Path) -> list[IntArray]:
    """(K,) arrays of query rows."""
    assignment = store.load_array(folder / "assignment.npy")
    sizes = np.bincount(assignment)
    return np.split(np.argsort(assignment, kind="stable"), np.cumsum(sizes)[:-1])


# --- ours ----------------------------------------------------------------------------------------------------------


def ours(folder: str, seed: int = 1) -> dict[str, float]:
    """Seconds to open, megabytes then and after many batches, microseconds of a batch and its parts.

    For a fresh process.
    """
    place, before = Path(folder), megabytes()
    clock = Clock()
    pairs = Pairs(**{name: store.load_array(place / f"{name}.npy") for name in Pairs._fields})
    topics_read = topics_of(place)
    sampler = sampling.make_sampler("tas_balanced", pairs, topics_read, Sampling(), seed)
    found = {**clock.read(), "open_mb": megabytes() - before, "batch_us": best_us(sampler.batch)}
    rng, queries = Generator(Philox(key=[seed, 0])), sampler.batch(0).queries
    parts = {
        "generator": lambda step: Generator(Philox(key=[seed, step])),
        "order": lambda step: rng.permutation(len(topics_read)),
        "queries": lambda step: sampler.draw_queries(rng),
        "ranges": lambda step: sampling.bin_bounds(sampler.pairs, queries, 10),
        "pairs": lambda step: sampler.draw_pairs(queries, rng),
    }
    found |= {f"{name}_us": best_us(part) for name, part in parts.items()}
    return found | {"later_mb": megabytes() - before}


# --- plain Python --------------------------------------------------------------------------------------------------


class Plain:
    """The same strategy with what the standard library has: ranges of margins prepared at opening, then random.choice.

    Source: our own words for what the public code does (matchmaker 210b9da): pairs as tuples in lists, a list a range,
    the lists in a dict by query. It draws from filled ranges only, as ours does (D8).
    """

    def __init__(self, topics: Sequence[list[int]], pairs: Mapping[int, list[Pair]], b: int = 32, h: int = 10) -> None:
        """pairs: query → its pairs, in any order."""
        self.topics, self.b = topics, b
        self.ranges = {query: _ranges(of_one, h) for query, of_one in pairs.items()}

    def batch(self, step: int) -> list[tuple[int, Pair]]:
        """One batch; `step` is not looked at, since the stream of chance goes on from batch to batch."""
        queries: list[int] = []
        while len(queries) < self.b:
            topic = random.choice(self.topics)
            queries += random.sample(topic, min(self.b - len(queries), len(topic)))
        return [(query, random.choice(random.choice(self.ranges[query]))) for query in queries]


def _ranges(pairs: list[Pair], h: int) -> list[list[Pair]]:
    """The filled ranges of Eq. 12: of one width from the smallest margin to the largest, the last closed."""
    low, high = min(pairs)[0], max(pairs)[0]
    found: list[list[Pair]] = [[] for _ in range(h)]
    for pair in pairs:
        found[min(int((pair[0] - low) / (high - low) * h), h - 1) if high > low else h - 1].append(pair)
    return [of_one for of_one in found if of_one]


def plain(folder: str, queries: int) -> dict[str, float]:
    """The same figures of plain Python that holds so many of the queries. For a fresh process."""
    place = Path(folder)
    table = Pairs(**{name: store.load_array(place / f"{name}.npy") for name in Pairs._fields})
    before, clock = megabytes(), Clock()
    pairs = {}
    for query in range(queries):
        first, last = table.offsets[query : query + 2].tolist()
        columns = (table.margins[first:last], table.pos[first:last], table.neg[first:last])
        pairs[query] = list(zip(*(column.tolist() for column in columns), strict=True))
    topics = [list(range(first, min(first + OF_A_TOPIC, queries))) for first in range(0, queries, OF_A_TOPIC)]
    sampler = Plain(topics, pairs)
    random.seed(1)
    return {**clock.read(), "open_mb": megabytes() - before, "batch_us": best_us(sampler.batch)}


# --- measuring -----------------------------------------------------------------------------------------------------


class Clock:
    """Started where it is made."""

    def __init__(self) -> None:
        """Both clocks start now."""
        self.wall, self.processor = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """Seconds since, on the wall and of the processor: the first count, the second do not hang on other work."""
        return {"open_s": time.perf_counter() - self.wall, "open_cpu_s": time.process_time() - self.processor}


def megabytes() -> float:
    """Resident memory of this process, pages of memory-mapped files included."""
    return float(psutil.Process().memory_info().rss / 1e6)


def best_us(batch: Callable[[int], object], n: int = BATCHES, rounds: int = ROUNDS) -> float:
    """Microseconds a call in the fastest of several rounds, steps going on from round to round.

    Processor time: all of it is computing in one thread, and what else the machine does should not count.
    """
    seconds = []
    for number in range(rounds):
        start = time.process_time()
        for step in range(number * n, (number + 1) * n):
            batch(step)
        seconds.append(time.process_time() - start)
    return 1e6 * min(seconds) / n


def rows(queries: int = QUERIES, held: int = HELD) -> list[Figure]:
    """Opening, memory, batches a second."""
    held = min(held, queries)
    measure = partial(call, "benchmarks.sampling")
    with tempfile.TemporaryDirectory() as folder:
        write_pairs(Path(folder), queries)
        mine, theirs = measure("ours", folder=folder), measure("plain", folder=folder, queries=held)
    times = queries / held
    shape = f"{queries:,} queries × {PAIRS} pairs"
    share = f"Plain Python held {held:,} queries; its seconds and memory are extrapolated." if times > 1 else ""
    ratio = theirs["batch_us"] / mine["batch_us"]
    spent = ", ".join(
        f"{what} {mine[f'{name}_us']:.0f}"
        for name, what in (
            ("generator", "a generator of its own"),
            ("queries", f"a topic and its queries (of which the order of all topics {mine['order_us']:.0f})"),
            ("pairs", f"a pair of each (of which the margin ranges of {Sampling().batch_size} queries "
             f"{mine['ranges_us']:.0f})"),
        )
    )  # fmt: skip
    return [
        Figure(
            f"open a sampler, {shape}",
            f"{mine['open_s']:.2f} s",
            f"plain Python {times * theirs['open_s']:.0f} s",
            f"{times * theirs['open_s'] / mine['open_s']:,.0f} ×",
            "≤ 1 s",
            met(mine["open_s"] <= 1),
            f"Of processor time {mine['open_cpu_s']:.2f} s, plain Python {times * theirs['open_cpu_s']:.0f} s. Files "
            f"are mapped, not read; what is read is the topic of every query. {share}",
        ),
        Figure(
            "its memory beyond the interpreter",
            f"{mine['open_mb']:.0f} MB",
            f"plain Python {times * theirs['open_mb'] / 1e3:.1f} GB",
            f"{times * theirs['open_mb'] / mine['open_mb']:,.0f} ×",
            "≤ 300 MB",
            met(mine["open_mb"] <= 300),
            f"After {BATCHES * ROUNDS:,} batches {mine['later_mb']:.0f} MB are resident: what is more is pages of the "
            f"mapped files, which the system takes back when memory is short. {share}",
        ),
        Figure(
            "TAS-Balanced batches a second",
            f"{1e6 / mine['batch_us']:,.0f}",
            f"plain Python {1e6 / theirs['batch_us']:,.0f}",
            f"{ratio:.2f} ×",
            "≥ 20 ×",
            met(ratio >= 20),
            f"Of processor time. A batch takes us {mine['batch_us']:.0f} µs: {spent}. These are calls of numpy on a "
            "few numbers, and what a call costs in itself is nearly all of it. Plain Python has prepared the ranges at "
            f"opening; what is left, some {2 * Sampling().batch_size} draws, takes {theirs['batch_us']:.0f} µs. Twenty "
            f"times as fast is {theirs['batch_us'] / 20:.1f} µs, less than a generator for the step takes to make. It "
            "holds up no training: a worker composes batches ahead of need.",
        ),
    ]


def met(yes: bool) -> str:
    """The word for the table."""
    return "met" if yes else "missed"


if __name__ == "__main__":
    for figure in rows():
        print(*figure, sep=" | ")
