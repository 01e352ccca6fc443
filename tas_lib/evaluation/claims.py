"""The paper's claims (data/paper/claims.csv) and the rules by which our numbers judge them (docs/claims.md)."""

import functools
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise, product
from statistics import fmean, stdev
from typing import NamedTuple

import pandas as pd
from ir_measures import Measure

from tas_lib.config import ROOT, Evaluation, TestSet
from tas_lib.evaluation.metrics import PerQuery, mean, paper_measures, printed_name
from tas_lib.evaluation.significance import holm, paired_t

Scores = Mapping[str, Mapping[str, PerQuery]]
"""system → test set → measure → query → value; {} for a system that was not run"""
VERDICTS = ("holds", "same direction", "no difference", "does not hold", "not run")
"""From good to bad: a claim with several comparisons is as good as the weakest of them."""
ENOUGH: dict[str, Callable[[int, int], bool]] = {
    "most": lambda k, n: 2 * k > n,
    "two thirds": lambda k, n: 3 * k >= 2 * n,
    "all but one": lambda k, n: k >= n - 1,
    "all": lambda k, n: k == n,
}
SEEDS = ("dual/tas_balanced", *(f"dual/tas_balanced/seed{n}" for n in range(2, 6)))
"""Instances A-E of Table 5: one system with five random seeds."""
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


class Claim(NamedTuple):
    """A line of claims.csv; data/paper/README.md explains the fields."""

    key: str
    section: str
    words: str
    kind: str
    subject: str
    columns: str = ""
    need: str = ""
    low: float = -math.inf
    high: float = math.inf
    why: str = ""

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The comparisons of systems, the better one first; none if the claim is about a number.

        >>> Claim("", "", "", "better", "d2q+tas_b>duo > tas_b>duo > tas_b, tas_b > bm25").pairs
        [('d2q+tas_b>duo', 'tas_b>duo'), ('tas_b>duo', 'tas_b'), ('tas_b', 'bm25')]
        """
        chains = self.subject.split(", ") if self.kind != "number" else []
        return [pair for chain in chains for pair in pairwise(re.split(" [>=] ", chain))]

    @property
    def systems(self) -> list[str]:
        """The systems of the comparisons, and those of Table 5, whose spread every comparison needs."""
        return list(dict.fromkeys([*(system for pair in self.pairs for system in pair), *SEEDS])) if self.pairs else []

    @property
    def rule(self) -> str:
        """What must be measured for the claim to hold."""
        if self.pairs:
            return f"{self.subject}, in {self.need} of: {self.columns}"
        bounds = f"from {self.low:g} to {self.high:g}"
        if math.isinf(self.high):
            bounds = f"at least {self.low:g}"
        elif math.isinf(self.low):
            bounds = f"at most {self.high:g}"
        return f"{self.subject} {bounds} ({self.why})"


@functools.cache
def paper_claims() -> tuple[Claim, ...]:
    """All claims, in the order of the file."""
    frame = pd.read_csv(ROOT / "data" / "paper" / "claims.csv", dtype={"section": str}, float_precision="round_trip")
    frame = frame.fillna({"low": -math.inf, "high": math.inf}).fillna("")
    return tuple(Claim(*line) for line in frame.itertuples(index=False))


class Comparison(NamedTuple):
    """Two systems in one column."""

    better: str
    worse: str
    column: str
    difference: float  # of their means
    spread: float  # Table 5's standard deviation
    p: float
    adjusted: float  # p after Holm's correction
    strength: int


def strength(difference: float, spread: float, p: float, adjusted: float, alpha: float = 0.05) -> int:
    """2 if both rulers see a difference, 1 if one does, 0 if none does; negative if the difference is.

    The ruler for chance among queries is the paired t-test, that for chance among random seeds two standard deviations
    of Table 5. Where both agree, p counts after Holm's correction; where only one does, without it.

    >>> strength(0.03, 0.01, 0.001, 0.04), strength(-0.03, 0.01, 0.01, 0.3), strength(0.02, 0.01, 0.05, 1.0)
    (2, -1, 0)
    """
    beyond = abs(difference) > 2 * spread
    size = 2 if beyond and adjusted < alpha else int(beyond or p < alpha)
    return size if difference > 0 else -size


def columns_of(name: str, evaluation: Evaluation) -> list[tuple[TestSet, Measure]]:
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


def paired(scores: Scores, pair: tuple[str, str], test: TestSet, measure: Measure) -> list[dict[str, float]]:
    """Two systems' values in one column, on the queries of the one with fewer: a re-ranker may have seen a sample."""
    values = [scores[key][test.name][measure] for key in pair]
    fewer = min(values, key=len)
    return [{query: value for query, value in of_one.items() if query in fewer} for of_one in values]


def compare(scores: Scores, evaluation: Evaluation) -> dict[str, list[Comparison]]:
    """The comparisons of every claim whose systems were all run.

    Holm's correction is for all of them together; one that several claims share counts once.
    """
    requested = {
        claim.key: list(product(claim.pairs, columns_of(claim.columns, evaluation)))
        for claim in paper_claims()
        if claim.pairs and all(map(scores.get, claim.systems))
    }
    values = {test: paired(scores, test[0], *test[1]) for tests in requested.values() for test in tests}
    p_values = [paired_t(better, worse) for better, worse in values.values()]
    results = {}
    for test, p, adjusted in zip(values, p_values, holm(p_values), strict=True):
        (pair, (test_set, measure)), (better, worse) = test, values[test]
        difference, deviation = mean(better) - mean(worse), spread(scores, test_set, measure, better)
        size = strength(difference, deviation, p, adjusted, evaluation.alpha)
        column = f"{test_set.label} {printed_name(measure)}"
        results[test] = Comparison(*pair, column, difference, deviation, p, adjusted, size)
    return {key: [results[test] for test in tests] for key, tests in requested.items()}


def from_scores(scores: Scores, evaluation: Evaluation) -> dict[str, float]:
    """The numbers that follow from the scores of the systems that were run; both kinds of test set are needed."""
    if len({test.graded for test in evaluation.sets}) < 2:
        return {}

    def means(key: str, columns: str) -> list[float]:
        return [mean(scores[key][test.name][measure]) for test, measure in columns_of(columns, evaluation)]

    def gain(columns: str) -> float:
        ours, *others = (means(key, columns) for key in ("dual/tas_balanced", "pairwise/random", "in_batch/random"))
        return fmean(value / max(*rivals, 1e-9) - 1 for value, *rivals in zip(ours, *others, strict=True))

    numbers = {}
    if all(map(scores.get, SEEDS)):
        names = ("nDCG and recall, graded sets", "MRR and recall, dev set")
        graded, dev = ([spread(scores, *column) for column in columns_of(name, evaluation)] for name in names)
        numbers["largest standard deviation of nDCG and recall, graded sets"] = max(graded)
        numbers["standard deviation of MRR, dev set"] = dev[0]
        numbers["mean standard deviation, graded sets less dev"] = fmean(graded) - fmean(dev)
    if all(map(scores.get, (*SEEDS, "dual/random"))):
        random = means("dual/random", columns := "the columns of Tables 3 and 5")
        above = [a > b for key in SEEDS for a, b in zip(means(key, columns), random, strict=True)]
        numbers["share of seeds and columns in which it is above random batches"] = fmean(above)
    if all(map(scores.get, ("pairwise/random", "in_batch/random", "dual/tas_balanced"))):
        top = max(gain("nDCG, graded sets"), gain("MRR, graded sets"))
        numbers["relative gain in recall less that in nDCG or MRR, graded sets"] = gain("recall, graded sets") - top
    if all(map(scores.get, pipelines := [f"{first}>mono>duo" for first in ("bm25", "d2q", "tas_b")])):
        bm25, d2q, tas = (fmean(means(key, "nDCG and MRR, graded sets")) for key in pipelines)
        numbers["mean nDCG and MRR under mono-duo-T5, bm25 and d2q less tas_b"] = (bm25 + d2q) / 2 - tas
    return numbers


def from_recall(recall: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The numbers that follow from Figure 3's curves: how often a system is above others, or the better of two is.

    recall: system → its recall at every cutoff on every graded set, one set after the other.
    """
    numbers = {}
    for claim in paper_claims():
        if match := re.search("share of cutoffs at which (.+) is above (.+)", claim.subject):
            systems, rivals = match[1].split(" or "), re.split(", | and ", match[2])
            if all(map(recall.get, [*systems, *rivals])):
                best = [max(values) for values in zip(*map(recall.__getitem__, rivals), strict=True)]
                shares = [fmean(a > b for a, b in zip(recall[key], best, strict=True)) for key in systems]
                numbers[claim.subject] = max(shares)
    return numbers


class Verdict(NamedTuple):
    """The outcome for a claim: one of VERDICTS, the evidence in words, and the comparisons, if any."""

    claim: Claim
    verdict: str
    evidence: str
    comparisons: Sequence[Comparison] = ()


def of_difference(strengths: Sequence[int], need: str) -> str:
    """The verdict on "A is better than B" from the strengths in the columns.

    holds: enough columns have strength 2, and none is negative. Else, columns that are positive less those that are
    negative: half of all or more is the same direction, minus half or less does not hold, between is no difference.
    """
    n, net = len(strengths), sum((s > 0) - (s < 0) for s in strengths)
    if ENOUGH[need](strengths.count(2), n) and min(strengths) >= 0:
        return "holds"
    if 2 * abs(net) < n:
        return "no difference"
    return "same direction" if net > 0 else "does not hold"


def of_no_difference(strengths: Sequence[int], need: str) -> str:
    """The verdict on "A is as good as B" from the strengths in the columns.

    holds: enough columns have strength 0, and none has 2 or -2. If only the second fails, it is the same direction,
    else it does not hold. Not to see a difference is no proof that there is none.
    """
    if not ENOUGH[need](strengths.count(0), len(strengths)):
        return "does not hold"
    return "holds" if max(map(abs, strengths)) < 2 else "same direction"


def judge(scores: Scores, measured: Mapping[str, float], evaluation: Evaluation) -> list[Verdict]:
    """The verdict on every claim, in the order of the file.

    measured: the numbers that do not follow from scores, by the claim's `subject`; a missing one was not run.
    """
    whole = {test.name for test in evaluation.sets}  # a system that was run on some sets only is not judged
    scores = {key: sets if whole <= sets.keys() else {} for key, sets in scores.items()}
    numbers = from_scores(scores, evaluation) | dict(measured)
    if unknown := numbers.keys() - {claim.subject for claim in paper_claims() if not claim.pairs}:
        raise ValueError(f"no claim is about {min(unknown)!r}")
    comparisons, verdicts = compare(scores, evaluation), []
    for claim in paper_claims():
        number, compared = numbers.get(claim.subject, math.nan), comparisons.get(claim.key, [])
        if missing := [key for key in claim.systems if not scores.get(key)]:
            outcome = ("not run", f"without {', '.join(missing)}")
        elif claim.pairs:
            outcome = _weakest(claim, compared) if compared else ("not run", "no such column")
        elif math.isnan(number):
            outcome = ("not run", "not measured")
        else:
            outcome = ("holds" if claim.low <= number <= claim.high else "does not hold", f"{number:.3g}")
        verdicts.append(Verdict(claim, *outcome, compared))
    return verdicts


def _weakest(claim: Claim, comparisons: Sequence[Comparison]) -> tuple[str, str]:
    """The weakest of the verdicts on the claim's pairs, and the evidence for all of them."""
    verdicts, evidence = [], []
    for pair in claim.pairs:
        strengths = [comparison.strength for comparison in comparisons if comparison[:2] == pair]
        n, clear = len(strengths), strengths.count(2)
        if claim.kind == "same":
            verdicts.append(of_no_difference(strengths, claim.need))
            seen = f"unseen in {strengths.count(0)} of {n}, clear in {clear + strengths.count(-2)}"
        else:
            verdicts.append(of_difference(strengths, claim.need))
            up, down = sum(s > 0 for s in strengths), sum(s < 0 for s in strengths)
            seen = f"up in {up} of {n}, clearly in {clear}, down in {down}"
        evidence.append(f"{pair[0]} and {pair[1]}: {seen}")
    return max(verdicts, key=VERDICTS.index), "; ".join(evidence)
