"""Two systems in some columns: how large the difference is, and what queries and random seeds can tell of it.

The rules and `MARGIN` were fixed before any test set was searched.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations, product
from statistics import fmean, median, stdev, variance
from typing import NamedTuple

from tas_lib.config import Evaluation
from tas_lib.evaluation import significance
from tas_lib.evaluation.columns import Column, columns_of
from tas_lib.evaluation.metrics import PerQuery
from tas_lib.evaluation.significance import Estimate, holm
from tas_lib.records import Families

Scores = Mapping[str, Mapping[str, PerQuery]]
"""system → test set → measure → query → value; {} for a system that was not run"""
MARGIN = 0.01
"""Smaller differences count as none: what the paper calls "under a single point" (§5.1), its own bound of robustness;
the steps that it calls improvements begin at "1 percentage point"."""
SEEDS = ("dual/tas_balanced", *(f"dual/tas_balanced/seed{n}" for n in range(2, 6)))
"""Instances A-E of Table 5: one system with five random seeds."""
STUDENTS = ("labels", *map("/".join, product(("pairwise", "in_batch", "dual"), ("random", "tas", "tas_balanced"))))
"""The trained systems of Table 4."""
UNTRAINED = {"untrained", "bm25", "d2q", "mono", "duo", "cat"}
"""Parts of systems that have no random seed of ours."""
SEED = re.compile(r"/seed\d+$")


# --- one system, several runs --------------------------------------------------------------------------------------


def repeated(scores: Scores, columns: Collection[Column] = ()) -> dict[str, list[str]]:
    """system → its runs on the sets of these columns: its own, and `<system>/seed2`, ..., with other random seeds.

    >>> repeated({"a": {"dev": {}}, "a/seed2": {"dev": {}}, "a/seed3": {}, "a/b": {"dev": {}}})
    {'a': ['a', 'a/seed2'], 'a/b': ['a/b']}
    """
    sets, runs = {column.test_set for column in columns}, dict[str, list[str]]()
    for key, run in scores.items():
        if run and sets <= run.keys():
            runs.setdefault(SEED.sub("", key), []).append(key)
    return {key: sorted(some) for key, some in runs.items()}


def instances(scores: Scores, key: str, columns: Collection[Column] = ()) -> list[str]:
    """The runs that a system's values are averaged over; none if it was not run.

    Where one system alone was run with several seeds, that of Table 5, all are compared by their own runs.
    """
    runs = repeated(scores, columns)
    if key in runs and sum(len(some) > 1 for some in runs.values()) > 1:
        return runs[key]
    return [run for run in runs.get(SEED.sub("", key), []) if run == key]


def single(scores: Scores) -> Scores:
    """Each system's own run."""
    return {key: sets for key, sets in scores.items() if not SEED.search(key)}


def ran(scores: Scores, keys: Iterable[str], columns: Collection[Column]) -> bool:
    """Whether all of these systems were run on the sets of all these columns."""
    return all(instances(scores, key, columns) for key in keys)


def values(scores: Scores, runs: Sequence[str], column: Column) -> Mapping[str, float]:
    """query → value, averaged over these runs; {} without any."""
    found = [scores[run][column.test_set][column.measure] for run in runs]
    return {query: fmean(one[query] for one in found) for query in found[0]} if len(found) > 1 else dict(*found)


def level(scores: Scores, run: str, columns: Sequence[Column], queries: Sequence[Collection[str]] = ()) -> float:
    """The mean over columns of a run's mean over queries: these of each column, by default all."""
    of_run = [scores[run][column.test_set][column.measure] for column in columns]
    return fmean(fmean(map(one.__getitem__, some)) for one, some in zip(of_run, queries or of_run, strict=True))


def spread(scores: Scores, runs: Collection[str], columns: Sequence[Column]) -> float:
    """The standard deviation (n - 1) of the levels of runs; NaN for fewer than two."""
    levels = [level(scores, run, columns) for run in runs]
    return stdev(levels) if len(levels) > 1 else math.nan


def between_seeds(
    scores: Scores, columns: Sequence[Column], queries: Sequence[Collection[str]] = ()
) -> tuple[float, int]:
    """The variance of a level between random seeds, pooled over the systems with several, and its degrees of freedom.

    (0, 0) where no system was run with two seeds.
    """
    runs = [some for some in repeated(scores, columns).values() if len(some) > 1]
    sums = [(len(some) - 1) * variance(level(scores, run, columns, queries) for run in some) for some in runs]
    freedom = sum(map(len, runs)) - len(runs)
    return (sum(sums) / freedom, freedom) if freedom else (0.0, 0)


# --- two systems ---------------------------------------------------------------------------------------------------


def trained_parts(key: str) -> set[str]:
    """The trained systems that a system is made of: their random seeds are chance.

    >>> sorted(trained_parts("d2q+tas_b>duo")), trained_parts("dual/tas/seed2")
    (['tas_b'], {'dual/tas'})
    """
    return {SEED.sub("", part) for part in re.split("[+>]", key)} - UNTRAINED


class Pair(NamedTuple):
    """Two systems on the queries that both have: query → value, for each column.

    seeds: how many times the variance between seeds is in that of their difference.
    """

    ours: list[Mapping[str, float]]
    theirs: list[Mapping[str, float]]
    seeds: float


def pair(scores: Scores, keys: tuple[str, str], columns: Sequence[Column]) -> Pair:
    """Two systems that were run, each averaged over its instances. A re-ranker may have seen a sample of the queries.

    Each trained part that is in one of the two only counts as a random seed, divided by the number of instances. Where
    both have a trained part, such as a first stage, only their own runs are compared: these have the same seed of it.
    """
    runs, parts = [instances(scores, key, columns) for key in keys], [trained_parts(key) for key in keys]
    if shared := parts[0] & parts[1]:
        runs = [[key] for key in keys]
    both = Pair([], [], sum(len(mine - shared) / len(some) for mine, some in zip(parts, runs, strict=True)))
    for column in columns:
        of_both = [values(scores, some, column) for some in runs]
        fewer = min(of_both, key=len)
        for side, one in zip(both[:2], of_both, strict=True):
            side.append({query: value for query, value in one.items() if query in fewer})
    return both


def estimate(scores: Scores, keys: tuple[str, str], columns: Sequence[Column]) -> Estimate:
    """The first less the second, averaged over columns: with the chance of the queries, by family, and of the seeds.

    The queries' variances add up, as test sets are independent; a seed moves all of them together. Without a system
    that was run with several seeds, only the queries' chance is known.
    """
    ours, theirs, seeds = pair(scores, keys, columns)
    found = [significance.paired(a, b, c.families) for a, b, c in zip(ours, theirs, columns, strict=True)]
    chances = [((one.error / len(found)) ** 2, one.freedom) for one in found]
    if seeds:
        between, freedom = between_seeds(scores, columns, ours)
        chances.append((seeds * between, freedom))
    return significance.combined(fmean(one.difference for one in found), chances)


class Comparison(NamedTuple):
    """Two systems in one column. strength: `strength`; equal: shown to differ by less than `MARGIN`."""

    better: str
    worse: str
    column: str
    difference: float  # of their means
    error: float  # its standard error, by queries and seeds
    freedom: float  # the degrees of freedom of the error
    p: float
    adjusted: float  # p after Holm's correction in the group of claims
    strength: int
    equal: bool


def strength(difference: float, p: float, adjusted: float, alpha: float = 0.05) -> int:
    """2 if the difference is significant after Holm's correction, 1 if only before, 0 if not; negative if it is.

    >>> strength(0.03, 0.001, 0.04), strength(-0.03, 0.01, 0.3), strength(0.02, 0.05, 1.0)
    (2, -1, 0)
    """
    size = 2 if adjusted < alpha else int(p < alpha)
    return size if difference > 0 else -size


def compare(
    scores: Scores, tests: Iterable[tuple[tuple[str, str], Column]], alpha: float
) -> dict[tuple[str, str, str], Comparison]:
    """(better, worse, heading) → the tests of one group of claims; Holm's correction counts each of them once."""
    once = {(*keys, column.heading): (keys, column) for keys, column in tests}
    found = [estimate(scores, keys, [column]) for keys, column in once.values()]
    return {
        test: Comparison(*test, *one, one.p, adjusted, strength(one.difference, one.p, adjusted, alpha),
                         one.within(MARGIN, alpha))
        for test, one, adjusted in zip(once, found, holm([one.p for one in found]), strict=True)
    }  # fmt: skip


class Sight(NamedTuple):
    """What a column can see, half of the time or more: the smallest effect it would find four times in five, and the
    difference below which it would show two systems to be equal (negative: never)."""

    column: str
    rival: str
    smallest: float
    equal_below: float


def sight(scores: Scores, evaluation: Evaluation, families: Families) -> list[Sight]:
    """For each column: among the students of Table 4, and of these against BM25; medians over the pairs.

    Nothing without a system that was run with several seeds.
    """
    run = [key for key in STUDENTS if scores.get(key)]
    against = [(key, "bm25") for key in run if scores.get("bm25")]
    lines = []
    for column in columns_of("all columns", evaluation, families):
        for rival, some in (("students", [*combinations(run, 2)]), ("BM25", against)):
            if some and between_seeds(scores, [column])[1]:
                found = [estimate(scores, keys, [column]) for keys in some]
                smallest = median(one.smallest(alpha=evaluation.alpha) for one in found)
                reach = median(one.reach(1 - 2 * evaluation.alpha) for one in found)
                lines.append(Sight(column.heading, rival, smallest, MARGIN - reach))
    return lines


# --- do the seeds agree? -------------------------------------------------------------------------------------------


class Agreement(NamedTuple):
    """A system's own run beside the shipped ones: levels, and their distance in standard deviations between seeds."""

    system: str
    own: float
    shipped: float
    distance: float


def agreement(scores: Scores, shipped: Scores, columns: Sequence[Column]) -> list[Agreement]:
    """For each system that was run here and shipped with several seeds; the deviation is pooled over those shipped."""
    deviation, lines = math.sqrt(between_seeds(shipped, columns)[0]), []
    for key, runs in repeated(shipped, columns).items():
        if deviation and ran(scores, [key], columns):
            own, theirs = level(scores, key, columns), fmean(level(shipped, run, columns) for run in runs)
            lines.append(Agreement(key, own, theirs, abs(own - theirs) / deviation))
    return lines
