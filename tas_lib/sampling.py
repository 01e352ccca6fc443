"""Eqs. 9-13: how a batch is composed. A strategy is two rules: which queries, and which pair of each query.

| strategy | queries | pairs |
|---|---|---|
| random | any, Eq. 9 | any |
| tas | of n clusters, Eq. 11 | any |
| tas_balanced | of n clusters | a margin range first, Eqs. 12-13 |
| hard_margin | of n clusters | any with a margin of at most the cap (public code only, D16) |
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from typing import NamedTuple, cast

import numpy as np
from numpy.random import Generator, Philox

from tas_lib.config import Sampling, Strategy
from tas_lib.records import Batch, FloatArray, IntArray, Pairs

QueryRule = Callable[[Generator], IntArray]
"""rng → (B,) indices of different queries."""
PairRule = Callable[[IntArray, Generator], IntArray]
"""(B,) queries, rng → (B,) rows of the pair table, one per query."""


class Sampler(NamedTuple):
    """A strategy over a pair table; stateless, so workers, processes and resumed runs need no coordination."""

    pairs: Pairs
    draw_queries: QueryRule
    draw_pairs: PairRule
    seed: int

    def batch(self, step: int) -> Batch:
        """The batch of one step: a function of (seed, step) alone."""
        # one key per step: steps as counters of a single key would overlap
        rng = Generator(Philox(key=[self.seed, step]))
        queries = self.draw_queries(rng)
        return self.pairs.take(queries, self.draw_pairs(queries, rng))

    def batches(self, steps: Sequence[int]) -> list[Batch]:
        """The same batches, faster: the pairs of all these steps are drawn together, with each step's own numbers."""
        rngs = [Generator(Philox(key=[self.seed, step])) for step in steps]
        queries = np.concatenate([self.draw_queries(rng) for rng in rngs])
        drawn = self.pairs.take(queries, self.draw_pairs(queries, cast(Generator, Together(rngs))))
        return [Batch(*of_step) for of_step in zip(*(column.reshape(len(rngs), -1) for column in drawn), strict=True)]


class Together(NamedTuple):
    """The random numbers of several steps: an array's equal parts are drawn by one generator each."""

    rngs: Sequence[Generator]

    def integers(self, *bounds: IntArray) -> IntArray:
        """As `Generator.integers`, of arrays (n * B,)."""
        parts = zip(self.rngs, *(bound.reshape(len(self.rngs), -1) for bound in bounds), strict=True)
        return np.concatenate([rng.integers(*of_step) for rng, *of_step in parts])


def make_sampler(
    strategy: Strategy, pairs: Pairs, members: Sequence[IntArray], sampling: Sampling, seed: int
) -> Sampler:
    """The sampler of a strategy. The pair table may be memory-mapped, and stays on disk.

    members: K arrays of query indices, the clusters of Eq. 10; random sampling ignores them. A query without a pair
    that the strategy allows is never drawn. Raises ValueError if a batch needs more queries or clusters than there are.
    """
    pairs = Pairs._make(map(np.asarray, pairs))  # plain views: indexing a memmap is slow
    start, stop = pairs.offsets[:-1], pairs.offsets[1:]
    if strategy == "hard_margin":  # a query's pairs are sorted by margin
        slices, cap = zip(start.tolist(), stop.tolist(), strict=True), np.float64(sampling.margin_cap)
        allowed = [pairs.margins[first:last].searchsorted(cap, "right") for first, last in slices]
        stop = start + np.array(allowed, np.int64)
    drawable = stop > start  # (Q,)
    if sampling.queries:  # smaller samples are parts of larger ones
        drawable[Generator(Philox(key=[0, 0])).permutation(len(drawable))[sampling.queries :]] = False
    b, n = sampling.batch_size, sampling.clusters_per_batch

    draw_queries: QueryRule
    if strategy == "random":
        pool = np.flatnonzero(drawable)
        n_queries, draw_queries = len(pool), partial(random_queries, pool, b)
    else:
        members = [rest for queries in members if len(rest := queries[drawable[queries]])]
        n_queries = sum(map(len, members))
        if not n <= min(b, len(members)):
            raise ValueError(
                f"{n} clusters per batch, but a batch has {b} queries, and {len(members)} clusters have pairs"
            )
        draw_queries = partial(cluster_queries, members, shares(b, n))
    if n_queries < b:
        raise ValueError(f"a batch has {b} different queries, but {strategy} sampling has {n_queries} to draw from")

    draw_pairs: PairRule = partial(any_pairs, start, stop)
    if strategy == "tas_balanced":
        draw_pairs = partial(balanced_pairs, pairs, sampling.margin_bins)
    return Sampler(pairs, draw_queries, draw_pairs, seed)


# Which queries


def random_queries(pool: IntArray, b: int, rng: Generator) -> IntArray:
    """b different queries, rand(Q, b) of Eq. 9."""
    return rng.choice(pool, b, replace=False)


def shares(b: int, n: int) -> list[int]:
    """How many queries each of n clusters gives to a batch: ⌊b/n⌋ (Eq. 11), the last also the remainder (D18).

    >>> shares(32, 3)
    [10, 10, 12]
    """
    return [b // n] * (n - 1) + [b // n + b % n]


def cluster_queries(members: Sequence[IntArray], share: Sequence[int], rng: Generator) -> IntArray:
    """Different queries of random clusters, rand(rand(C, n), ⌊b/n⌋) of Eq. 11.

    members: the queries of each cluster, none empty. share: (n,) queries to take from each of the first n clusters.

    Reading: a cluster smaller than its share is taken whole; the rest of the batch comes from further random clusters
    and then from queries left in the first. Source: the public code tops up too, D7.
    """
    order = rng.permutation(len(members))
    batch = np.empty(0, np.int64)
    for i, cluster in enumerate(chain(order, order)):
        n = share[i] if i < len(share) else sum(share) - len(batch)
        if n == 0:
            break
        free = np.setdiff1d(members[cluster], batch, assume_unique=True) if len(batch) else members[cluster]
        batch = np.append(batch, rng.choice(free, min(n, len(free)), replace=False))
    return batch


# Which pair of each


def any_pairs(start: IntArray, stop: IntArray, queries: IntArray, rng: Generator) -> IntArray:
    """One pair per query, all equally likely: rand(P_q) of Eqs. 9 and 11.

    start, stop: (Q,) bounds of each query's pairs in the pair table.
    """
    return rng.integers(start[queries], stop[queries])


def balanced_pairs(pairs: Pairs, n_bins: int, queries: IntArray, rng: Generator) -> IntArray:
    """One pair per query, from a random margin range: rand(H(P_q, rand(0..h))) of Eq. 13.

    Reading: there are h ranges (D18); those without pairs are not drawn, the others are equally likely (D8).
    """
    bounds = bin_bounds(pairs, queries, n_bins)  # (B, h + 1)
    filled = np.diff(bounds) > 0  # (B, h)
    nth = rng.integers(filled.sum(axis=1))  # (B,) which of the filled ranges
    bins = (filled.cumsum(axis=1) > nth[:, None]).argmax(axis=1)
    rows = np.arange(len(queries))
    return rng.integers(bounds[rows, bins], bounds[rows, bins + 1])


# Margin ranges


def inner_edges(pairs: Pairs, queries: IntArray, n_bins: int) -> FloatArray:
    """m_min + i × m for i = 1..h-1: the inner bounds of the margin ranges (Eq. 12), (..., h - 1) for (...) queries."""
    low = pairs.margins[pairs.offsets[queries]].astype(np.float64)[..., None]
    high = pairs.margins[pairs.offsets[np.add(queries, 1)] - 1].astype(np.float64)[..., None]
    return low + (high - low) * np.arange(1, n_bins) / n_bins


def bin_bounds(pairs: Pairs, queries: IntArray, n_bins: int) -> IntArray:
    """H of Eq. 12 as slices: range i of a query's pairs is rows `bounds[i]:bounds[i + 1]` of the pair table.

    queries: (B,), each with pairs. Returns (B, h + 1).

    Reading: ranges of equal width from the query's smallest margin to its largest, closed below and open above, the
    last closed. The first inequality is printed the wrong way round (D5). Equal margins all fall into the last range.
    """
    start, stop = pairs.offsets[queries], pairs.offsets[queries + 1]
    edges, last = inner_edges(pairs, queries, n_bins), stop[:, None] - 1  # (B, h - 1), (B, 1)
    below = np.broadcast_to(last, edges.shape) - (stop - start)[:, None]  # the last pair known to be below an edge
    for power in reversed(range(int((stop - start).max(initial=0)).bit_length())):  # bisection, for all edges at once
        ahead = below + (1 << power)
        below = np.where((ahead <= last) & (pairs.margins.take(ahead, mode="clip") < edges), ahead, below)
    return np.column_stack([start, below + 1, stop])


def bin_numbers(pairs: Pairs, queries: IntArray, margins: FloatArray, n_bins: int) -> IntArray:
    """The range 0..h-1 of Eq. 12 of each margin: (B,) margins of as many queries, or of one query.

    >>> pairs = Pairs(np.array([0, 4]), np.zeros(4, int), np.arange(4), np.array([0.0, 1.0, 5.0, 10.0]))
    >>> bin_numbers(pairs, 0, pairs.margins, n_bins=10)
    array([0, 1, 5, 9])
    """
    return (np.asarray(margins)[..., None] >= inner_edges(pairs, queries, n_bins)).sum(axis=-1)


# Statistics


def mixed_share(batches: Iterable[Batch], assignment: IntArray, clusters_per_batch: int = 1) -> float:
    """The share of batches that had to be topped up: their queries come from more than n clusters (D7).

    assignment: (Q,) cluster of each query.
    """
    return float(np.mean([len(np.unique(assignment[batch.queries])) > clusters_per_batch for batch in batches]))
