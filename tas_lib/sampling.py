"""Eqs. 9-13: how a batch is composed. A strategy is two rules: which queries, and which pair of each.

| strategy | queries | pairs |
|---|---|---|
| random | any, Eq. 9 | any |
| tas | of n topics, Eq. 11 | any |
| tas_balanced | of n topics | one margin range first, Eqs. 12-13 |
| hard_margin | of n topics | any with a margin of at most the cap (public code only, D16) |
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.random import Generator, Philox

from tas_lib.config import Sampling, Strategy
from tas_lib.records import Batch, FloatArray, IntArray, Pairs

QueryRule = Callable[[Generator], IntArray]
"""rng → (B,) different rows of queries."""
PairRule = Callable[[IntArray, Generator], IntArray]
"""(B,) queries, rng → (B,) rows of the pair table, one of each query."""


class Sampler(NamedTuple):
    """A strategy over a pair table; stateless, so workers, ranks and resumed runs need not talk to each other."""

    pairs: Pairs
    draw_queries: QueryRule
    draw_pairs: PairRule
    seed: int

    def batch(self, step: int) -> Batch:
        """The batch of one step: a function of (seed, step) alone."""
        # a key of its own for every step: steps that were counters of one key would run into each other's numbers
        rng = Generator(Philox(key=[self.seed, step]))
        queries = self.draw_queries(rng)
        return self.pairs.take(queries, self.draw_pairs(queries, rng))


def make_sampler(
    strategy: Strategy, pairs: Pairs, topics: Sequence[IntArray], sampling: Sampling, seed: int
) -> Sampler:
    """The sampler of a strategy, ready at once: the pair table may be memory-mapped, and stays on disk.

    topics: (K,) arrays of query rows, no query in two; random sampling looks at none. A query without a pair that the
    strategy could draw is never drawn. Raises ValueError where a batch asks for more than there is.
    """
    pairs = Pairs._make(map(np.asarray, pairs))  # plain views: a memmap's own indexing is slow
    start, stop = pairs.offsets[:-1], pairs.offsets[1:]
    if strategy == "hard_margin":  # pairs are sorted by margin: the hard ones come first
        stop = start + count_below(pairs.margins, start, stop, np.nextafter(sampling.margin_cap, np.inf))
    drawable = stop > start  # (Q,)
    b, n = sampling.batch_size, sampling.clusters_per_batch

    draw_queries: QueryRule
    if strategy == "random":
        pool = np.flatnonzero(drawable)
        n_queries, draw_queries = len(pool), partial(random_queries, pool, b)
    else:
        topics = [rest for topic in topics if len(rest := topic[drawable[topic]])]
        n_queries = sum(map(len, topics))
        if not n <= min(b, len(topics)):
            raise ValueError(
                f"{n} clusters a batch asked, but a batch has {b} queries, and {len(topics)} clusters have any pairs"
            )
        draw_queries = partial(topic_queries, topics, shares(b, n))
    if n_queries < b:
        raise ValueError(f"{b} different queries a batch asked, but {strategy} sampling has {n_queries} to draw from")

    draw_pairs: PairRule = partial(any_pairs, start, stop)
    if strategy == "tas_balanced":
        draw_pairs = partial(balanced_pairs, pairs, sampling.margin_bins)
    return Sampler(pairs, draw_queries, draw_pairs, seed)


# Which queries


def random_queries(pool: IntArray, b: int, rng: Generator) -> IntArray:
    """b different queries of all of them, rand(Q, b) of Eq. 9."""
    return rng.choice(pool, b, replace=False)


def shares(b: int, n: int) -> list[int]:
    """How many queries each of n clusters gives to a batch: ⌊b/n⌋ (Eq. 11), the last the remainder too (D18).

    >>> shares(32, 3)
    [10, 10, 12]
    """
    return [b // n] * (n - 1) + [b // n + b % n]


def topic_queries(topics: Sequence[IntArray], share: Sequence[int], rng: Generator) -> IntArray:
    """Different queries out of random clusters, rand(rand(C, n), ⌊b/n⌋) of Eq. 11.

    topics: no empty ones. share: (n,) queries to take from each of the first n clusters.

    Reading: a cluster smaller than its share is taken whole; what is missing then comes from further random clusters
    and, where these run out, from what is left in the first. Source: the public code tops up too, D7.
    """
    order = rng.permutation(len(topics))
    batch = np.empty(0, np.int64)
    for place, topic in enumerate(chain(order, order)):
        wanted = share[place] if place < len(share) else sum(share) - len(batch)
        if wanted == 0:
            break
        free = np.setdiff1d(topics[topic], batch, assume_unique=True)
        batch = np.append(batch, rng.choice(free, min(wanted, len(free)), replace=False))
    return batch


# Which pair of each


def any_pairs(start: IntArray, stop: IntArray, queries: IntArray, rng: Generator) -> IntArray:
    """One pair a query, all equally likely: rand(P_q) of Eqs. 9 and 11.

    start, stop: (Q,) where each query's pairs lie in the pair table.
    """
    return rng.integers(start[queries], stop[queries])


def balanced_pairs(pairs: Pairs, n_bins: int, queries: IntArray, rng: Generator) -> IntArray:
    """One pair a query, by a margin range first: rand(H(P_q, rand(0..h))) of Eq. 13.

    Reading: a range without pairs is not drawn; the others are equally likely (D8), and there are h of them (D18).
    """
    bounds = bin_bounds(pairs, queries, n_bins)  # (B, h + 1)
    filled = np.diff(bounds) > 0  # (B, h)
    nth = rng.integers(filled.sum(axis=1))  # (B,) the range to take, counted among the filled ones
    bins = (filled.cumsum(axis=1) > nth[:, None]).argmax(axis=1)
    rows = np.arange(len(queries))
    return rng.integers(bounds[rows, bins], bounds[rows, bins + 1])


# Margin ranges


def inner_edges(pairs: Pairs, queries: IntArray, n_bins: int) -> FloatArray:
    """m_min + i × m for i = 1..h-1: the margins at which ranges meet (Eq. 12), (..., h - 1) for (...) queries."""
    low = pairs.margins[pairs.offsets[queries]].astype(np.float64)[..., None]
    high = pairs.margins[pairs.offsets[np.add(queries, 1)] - 1].astype(np.float64)[..., None]
    return low + (high - low) * np.arange(1, n_bins) / n_bins


def bin_bounds(pairs: Pairs, queries: IntArray, n_bins: int) -> IntArray:
    """H of Eq. 12 as slices: range i of a query's pairs is `bounds[i]:bounds[i + 1]` of the pair table.

    queries: (B,), each with pairs. Returns (B, h + 1).

    Reading: ranges of one width from the query's smallest margin to its largest, closed below and open above, the last
    closed. The first inequality is printed the wrong way round (D5). Equal margins, or one alone, fill the last range.
    """
    start, stop = pairs.offsets[queries], pairs.offsets[queries + 1]
    slices = zip(start.tolist(), stop.tolist(), inner_edges(pairs, queries, n_bins), strict=True)
    below = np.array([pairs.margins[first:last].searchsorted(edges) for first, last, edges in slices])  # (B, h - 1)
    return np.column_stack([start, start[:, None] + below.reshape(len(queries), n_bins - 1), stop])


def bin_numbers(pairs: Pairs, queries: IntArray, margins: FloatArray, n_bins: int) -> IntArray:
    """The range 0..h-1 of Eq. 12 in which each query's margin lies: (B,) queries and margins, or one query's margins.

    >>> pairs = Pairs(np.array([0, 4]), np.zeros(4, int), np.arange(4), np.array([0.0, 1.0, 5.0, 10.0]))
    >>> bin_numbers(pairs, 0, pairs.margins, n_bins=10)
    array([0, 1, 5, 9])
    """
    return (np.asarray(margins)[..., None] >= inner_edges(pairs, queries, n_bins)).sum(axis=-1)


def count_below(margins: FloatArray, start: IntArray, stop: IntArray, edges: FloatArray) -> IntArray:
    """How many of `margins[start:stop]`, sorted, lie below an edge: `np.searchsorted` for the slices of all queries.

    start, stop, edges: shapes that broadcast. Halves all slices together, so the table is touched at a few places only;
    for the few slices of a batch, one after the other is faster (`bin_bounds`).
    """
    first, last = np.broadcast_arrays(start, stop, edges)[:2]
    while (open_ := first < last).any():
        middle = (first + last) // 2
        below = open_ & (margins[np.where(open_, middle, 0)] < edges)
        first, last = np.where(below, middle + 1, first), np.where(below, last, middle)
    return first - start


# What came out


def mixed_share(batches: Iterable[Batch], assignment: IntArray, clusters_per_batch: int = 1) -> float:
    """The share of batches that had to be topped up: their queries come from more than n clusters (D7).

    assignment: (Q,) topic of each query.
    """
    return float(np.mean([len(np.unique(assignment[batch.queries])) > clusters_per_batch for batch in batches]))
