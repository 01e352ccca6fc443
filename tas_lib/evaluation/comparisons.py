"""Two systems in one column: how large the difference is, and what the queries and the random seeds can tell of it.

The rules and `MARGIN` were fixed before any test set was searched.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from itertools import combinations, product
from statistics import fmean, median, stdev
from typing import NamedTuple

from ir_measures import Measure

from tas_lib.config import Evaluation, TestSet
from tas_lib.evaluation import significance
from tas_lib.evaluation.metrics import PerQuery, paper_measures, printed_name
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
Column = tuple[TestSet, Measure]
Test = tuple[tuple[str, str], Column]
GRADED, DEV = ([(sets, measure) for measure in ("nDCG", "RR", "R")] for sets in ("graded", "dev"))
COLUMNS = {
    "all columns": GRADED + DEV,
    "the graded sets": GRADED,
    "the dev set": DEV,
    "nDCG and MRR": GRADED[:2] + DEV[:2],
    "nDCG and MRR, graded sets": GRADED[:2],
    "nDCG and MRR, dev set": DEV[:2],
    "recall": GRADED[2:] + DEV[2:],
    "recall, graded sets": GRADED[2:],
    "nDCG, graded sets": GRADED[:1],
    "MRR, graded sets": GRADED[1:2],
    "nDCG and recall, graded sets": GRADED[::2],
    "MRR, dev set": DEV[1:2],
    "MRR and recall, dev set": DEV[1:],
    "the columns of Tables 3 and 5": GRADED[::2] + DEV[1:],
}
"""Where a claim is tested: on all graded sets, or on the first of the others, "dev"."""


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


def columns_of(name: str, evaluation: Evaluation) -> list[Column]:
    """The columns of a key of COLUMNS on a profile's test sets."""
    graded = [test for test in evaluation.sets if test.graded]
    kinds = {"graded": graded, "dev": [test for test in evaluation.sets if not test.graded][:1]}
    return [
        (test, next(m for m in paper_measures(test.binarise_at, evaluation.depth) if measure == m.NAME))
        for kind, measure in COLUMNS[name]
        for test in kinds[kind]
    ]


def spread(scores: Scores, test: TestSet, measure: Measure, queries: Collection[str] = ()) -> float:
    """Table 5's standard deviation in one column, over five seeds (ddof = 1); of some queries, by default of all."""
    seeds = [scores[key][test.name][measure] for key in SEEDS]
    return stdev(fmean(values[query] for query in queries or values) for values in seeds)


def trained_apart(better: str, worse: str) -> int:
    """How many trained systems are a part of one of the two only: their random seeds are chance that does not cancel.

    >>> trained_apart("dual/tas", "dual/random"), trained_apart("d2q+tas_b>duo", "d2q>duo"), trained_apart("a>duo", "a")
    (2, 1, 0)
    """
    parts = [{*re.split("[+>]", key)} - UNTRAINED for key in (better, worse)]
    return len(parts[0] ^ parts[1])


def estimate(scores: Scores, pair: tuple[str, str], column: Column, families: Families) -> Estimate:
    """The first less the second: with the chance of the queries, by family, and of the seeds, by Table 5.

    On the queries of the one with fewer: a re-ranker may have seen a sample.
    """
    test, measure = column
    values = [scores[key][test.name][measure] for key in pair]
    fewer = min(values, key=len)
    ours, theirs = ({query: value for query, value in of_one.items() if query in fewer} for of_one in values)
    found = significance.paired(ours, theirs, families.get(test.name, {}))
    return found.with_seeds(spread(scores, test, measure, fewer), trained_apart(*pair))


def compare(scores: Scores, tests: Iterable[Test], families: Families, alpha: float) -> dict[Test, Comparison]:
    """The tests of one group of claims, with Holm's correction for all of them; one that comes twice counts once."""
    found = {test: estimate(scores, *test, families) for test in tests}
    results = {}
    for (test, one), adjusted in zip(found.items(), holm([one.p for one in found.values()]), strict=True):
        pair, (test_set, measure) = test
        size = strength(one.difference, one.p, adjusted, alpha)
        column = f"{test_set.label} {printed_name(measure)}"
        results[test] = Comparison(*pair, column, *one, one.p, adjusted, size, one.within(MARGIN, alpha))
    return results


class Sight(NamedTuple):
    """What a column can see, half of the time or more: the smallest effect it would find four times in five, and the
    difference below which it would show two systems to be equal (negative: never)."""

    column: str
    rival: str
    smallest: float
    equal_below: float


def sight(scores: Scores, evaluation: Evaluation, families: Families) -> list[Sight]:
    """For each column: among the students of Table 4, and of these against BM25; medians over the pairs."""
    run = [key for key in STUDENTS if scores.get(key)]
    against = [(key, "bm25") for key in run if scores.get("bm25")]
    pairs = {"students": [*combinations(run, 2)], "BM25": against}
    lines = []
    for column in columns_of("all columns", evaluation) if all(map(scores.get, SEEDS)) else []:
        for rival, some in pairs.items():
            if found := [estimate(scores, pair, column, families) for pair in some]:
                smallest = median(one.smallest(alpha=evaluation.alpha) for one in found)
                reach = median(one.reach(1 - 2 * evaluation.alpha) for one in found)
                lines.append(Sight(f"{column[0].label} {printed_name(column[1])}", rival, smallest, MARGIN - reach))
    return lines
