"""The paper's claims (data/paper/claims.csv) and the rules by which our numbers judge them (docs/claims.md)."""

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise, product
from statistics import fmean
from typing import NamedTuple

import pandas as pd

from tas_lib.config import ROOT, Evaluation
from tas_lib.evaluation.columns import columns_of
from tas_lib.evaluation.comparisons import SEEDS, Comparison, Scores, compare, instances, level, spread
from tas_lib.records import ALONE, Families

VERDICTS = ("holds", "same direction", "undecided", "no difference", "does not hold", "not run")
"""From good to bad: a claim with several comparisons is as good as the weakest of them."""
ENOUGH: dict[str, Callable[[int, int], bool]] = {
    "most": lambda k, n: 2 * k > n,
    "two thirds": lambda k, n: 3 * k >= 2 * n,
    "all but one": lambda k, n: k >= n - 1,
    "all": lambda k, n: k == n,
}


class Claim(NamedTuple):
    """A line of claims.csv; data/paper/README.md explains the fields."""

    key: str
    section: str
    words: str
    kind: str
    subject: str
    group: str = ""
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


def compared(scores: Scores, evaluation: Evaluation, families: Families) -> dict[str, list[Comparison]]:
    """The comparisons of every claim whose systems were all run, by its key; Holm's correction is within groups."""
    found: dict[str, list[Comparison]] = {}
    claims = [claim for claim in paper_claims() if claim.pairs and all(map(scores.get, claim.systems))]
    for group in {claim.group for claim in claims}:
        tests = {
            c.key: [*product(c.pairs, columns_of(c.columns, evaluation, families))] for c in claims if c.group == group
        }
        results = compare(scores, sum(tests.values(), []), evaluation.alpha)
        found |= {key: [results[(*pair, column.heading)] for pair, column in some] for key, some in tests.items()}
    return found


def from_scores(scores: Scores, evaluation: Evaluation) -> dict[str, float]:
    """The numbers that follow from the scores of the systems that were run; both kinds of test set are needed."""
    if len({test.graded for test in evaluation.sets}) < 2:
        return {}

    def means(key: str, columns: str) -> list[float]:
        asked = [[column] for column in columns_of(columns, evaluation)]
        return [fmean(level(scores, run, one) for run in instances(scores, key, one)) for one in asked]

    def gain(columns: str, *systems: str) -> float:
        """The first of the systems over the best of the others."""
        columns = f"{columns}, graded sets"
        ours, *others = (means(key, columns) for key in systems)
        return fmean(value / max(*rivals, 1e-9) - 1 for value, *rivals in zip(ours, *others, strict=True))

    numbers = {}
    for claim in paper_claims():
        if match := re.fullmatch("relative gain in (.+) of (.+) over (.+), graded sets", claim.subject):
            systems = [match[2], *match[3].split(" and ")]
            if all(map(scores.get, systems)):
                numbers[claim.subject] = gain(match[1], *systems)
    if all(map(scores.get, SEEDS)):
        names = ("nDCG and recall, graded sets", "MRR and recall, dev set")
        graded, dev = ([spread(scores, SEEDS, [c]) for c in columns_of(name, evaluation)] for name in names)
        numbers["largest standard deviation of nDCG and recall, graded sets"] = max(graded)
        numbers["standard deviation of MRR, dev set"] = dev[0]
        numbers["mean standard deviation, graded sets less dev"] = fmean(graded) - fmean(dev)
    if all(map(scores.get, (*SEEDS, "dual/random"))):
        random = means("dual/random", name := "the columns of Tables 3 and 5")
        columns = columns_of(name, evaluation)
        above = [level(scores, run, [c]) > b for run in SEEDS for c, b in zip(columns, random, strict=True)]
        numbers["share of seeds and columns in which it is above random batches"] = fmean(above)
    if all(map(scores.get, systems := ["dual/tas_balanced", "pairwise/random", "in_batch/random"])):
        top = max(gain("nDCG", *systems), gain("MRR", *systems))
        numbers["relative gain in recall less that in nDCG or MRR, graded sets"] = gain("recall", *systems) - top
    if all(map(scores.get, pair := ["pairwise/tas_balanced", "pairwise/random"])):
        ours, before = (means(key, "all columns") for key in pair)
        point = [round(a - b, 9) >= 0.01 for a, b in zip(ours, before, strict=True)]
        numbers["share of columns in which pairwise/tas_balanced is a point above pairwise/random"] = fmean(point)
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


def of_difference(strengths: Sequence[int], equal: Sequence[bool], need: str) -> str:
    """The verdict on "A is better than B" from its columns: `strength`, and whether no difference was shown.

    holds: enough columns have strength 2, and none is negative. Else, columns that are positive less those that are
    negative: half of all or more is the same direction, minus half or less does not hold. Between the two there is no
    difference if that is shown in enough columns, and otherwise it is undecided.
    """
    n, net = len(strengths), sum((s > 0) - (s < 0) for s in strengths)
    if ENOUGH[need](strengths.count(2), n) and min(strengths) >= 0:
        return "holds"
    if 2 * abs(net) < n:
        return "no difference" if ENOUGH[need](sum(equal), n) else "undecided"
    return "same direction" if net > 0 else "does not hold"


def of_no_difference(strengths: Sequence[int], equal: Sequence[bool], need: str) -> str:
    """The verdict on "A is as good as B" from its columns: `strength`, and whether no difference was shown.

    holds: the systems were shown to be equal in enough columns. does not hold: too few columns are left without a clear
    difference (strength 2 or -2, and not shown to be negligible). Otherwise it is undecided.
    """
    n, clear = len(strengths), sum(abs(s) == 2 and not e for s, e in zip(strengths, equal, strict=True))
    if ENOUGH[need](sum(equal), n):
        return "holds"
    return "undecided" if ENOUGH[need](n - clear, n) else "does not hold"


def judge(
    scores: Scores, measured: Mapping[str, float], evaluation: Evaluation, families: Families = ALONE
) -> list[Verdict]:
    """The verdict on every claim, in the order of the file.

    measured: the numbers that do not follow from scores, by the claim's `subject`; a missing one was not run.
    """
    whole = {test.name for test in evaluation.sets}  # a system that was run on some sets only is not judged
    scores = {key: sets if whole <= sets.keys() else {} for key, sets in scores.items()}
    numbers = from_scores(scores, evaluation) | dict(measured)
    if unknown := numbers.keys() - {claim.subject for claim in paper_claims() if not claim.pairs}:
        raise ValueError(f"no claim is about {min(unknown)!r}")
    comparisons, verdicts = compared(scores, evaluation, families), []
    for claim in paper_claims():
        number, of_claim = numbers.get(claim.subject, math.nan), comparisons.get(claim.key, [])
        if missing := [key for key in claim.systems if not scores.get(key)]:
            outcome = ("not run", f"without {', '.join(missing)}")
        elif claim.pairs:
            outcome = _weakest(claim, of_claim) if of_claim else ("not run", "no such column")
        elif math.isnan(number):
            outcome = ("not run", "not measured")
        else:
            outcome = ("holds" if claim.low <= number <= claim.high else "does not hold", f"{number:.3g}")
        verdicts.append(Verdict(claim, *outcome, of_claim))
    return verdicts


def _weakest(claim: Claim, comparisons: Sequence[Comparison]) -> tuple[str, str]:
    """The weakest of the verdicts on the claim's pairs, and the evidence for all of them."""
    verdicts, evidence = [], []
    rule = of_no_difference if claim.kind == "same" else of_difference
    for pair in claim.pairs:
        columns = [comparison for comparison in comparisons if comparison[:2] == pair]
        strengths, equal = [column.strength for column in columns], [column.equal for column in columns]
        verdicts.append(rule(strengths, equal, claim.need))
        up, down = ((sum(s > 0 for s in signs), signs.count(2)) for signs in (strengths, [-s for s in strengths]))
        seen = f"up in {up[0]} of {len(columns)}, clearly {up[1]}, down in {down[0]}, clearly {down[1]}"
        evidence.append(f"{pair[0]} and {pair[1]}: {seen}, equal in {sum(equal)}")
    return max(verdicts, key=VERDICTS.index), "; ".join(evidence)
