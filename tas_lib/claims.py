"""The paper's claims, written down before the runs, and the rules by which our numbers judge them.

All that Tables 3-6, the batches and the topics can test. Left out is what a sentence says of one query set in
particular (ours are others) and of methods that are not among our systems.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise, product
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

import pandas as pd
from ir_measures import Measure

from tas_lib.metrics import PerQuery, holm, mean, paired_t, paper_measures, printed_name
from tas_lib.profile import Evaluation, TestSet
from tas_lib.store import atomic_write

Scores = Mapping[str, Mapping[str, PerQuery]]
"""a system's number → test set → measure → query → value; {} for a system that was not run"""
VERDICTS = ("holds", "same direction", "no difference", "does not hold", "not run")
"""From good to bad: a claim with several comparisons is as good as the weakest of them."""
ORDERS = ("10", "14", "15", "16", "17")
"""Instances A-E of Table 5: one system, five orders of its batches."""
GRADED = (("graded", "nDCG"), ("graded", "RR"), ("graded", "R"))
DEV = (("dev", "nDCG"), ("dev", "RR"), ("dev", "R"))
COLUMNS = {
    "all columns": GRADED + DEV,
    "the graded sets": GRADED,
    "the dev set": DEV,
    "nDCG and MRR": GRADED[:2] + DEV[:2],
    "recall": (GRADED[2], DEV[2]),
    "recall, graded sets": GRADED[2:],
    "nDCG, graded sets": GRADED[:1],
    "MRR, graded sets": GRADED[1:2],
    "nDCG and recall, graded sets": GRADED[::2],
    "MRR, dev set": DEV[1:2],
    "MRR and recall, dev set": DEV[1:],
    "the columns of Tables 3 and 5": GRADED[::2] + DEV[1:],
}
"""Where a claim is tested: (kind of set, measure). "graded" is every graded set, "dev" the first of the others."""


class Compared(NamedTuple):
    """A claim about systems, by their numbers: `7 > 6 > 5` is better, `20 = 10, 21 = 10` makes no difference.

    section: of the paper. words: ours. columns: a key of COLUMNS. need: how many of them, a key of ENOUGH.
    """

    key: str
    section: str
    words: str
    systems: str
    columns: str
    need: str = "most"

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The comparisons, the better system first.

        >>> Compared("", "", "", "7 > 6 > 5, 4 > 2", "").pairs
        [('7', '6'), ('6', '5'), ('4', '2')]
        """
        chains = self.systems.replace("=", ">").split(",")
        return [pair for chain in chains for pair in pairwise(map(str.strip, chain.split(">")))]

    @property
    def needs(self) -> list[str]:
        """Its systems, and those of the ruler by which they are compared."""
        return list(dict.fromkeys([*(system for pair in self.pairs for system in pair), *ORDERS]))

    @property
    def rule(self) -> str:
        """What has to come out."""
        return f"{self.systems}, in {self.need} of: {self.columns}"


class Measured(NamedTuple):
    """A claim about one number, `fact`, which should lie from `low` to `high`; `why` says where these come from."""

    key: str
    section: str
    words: str
    fact: str
    low: float
    high: float
    why: str

    @property
    def rule(self) -> str:
        """What has to come out.

        >>> Measured("", "", "", "ratio", 0.5, 2, "twice").rule, Measured("", "", "", "share", -INF, 0.1, "few").rule
        ('ratio from 0.5 to 2 (twice)', 'share at most 0.1 (few)')
        """
        bounds = f"from {self.low:g} to {self.high:g}"
        if math.isinf(self.high):
            bounds = f"at least {self.low:g}"
        elif math.isinf(self.low):
            bounds = f"at most {self.high:g}"
        return f"{self.fact} {bounds} ({self.why})"


Claim = Compared | Measured
INF = math.inf

# fmt: off
CLAIMS: tuple[Claim, ...] = (
    # teachers
    Compared("labels", "2.4", "Labels alone teach less than any teacher",
             "2 > 1, 5 > 1, 8 > 1", "all columns"),
    Compared("pairwise", "5.1", "The pairwise teacher improves every measure over labels",
             "2 > 1", "all columns", "all"),
    Compared("in-batch-random", "5.1", "With random batches, the in-batch teacher is worse than the pairwise one",
             "2 > 5", "all columns"),
    Compared("dual-recall", "5.1", "Two teachers beat the in-batch one on recall, on every set",
             "8 > 5, 9 > 6, 10 > 7", "recall", "all"),
    Compared("dual-top", "5.1", "Two teachers beat the in-batch one on nDCG and MRR, on two sets of three",
             "8 > 5, 9 > 6, 10 > 7", "nDCG and MRR", "two thirds"),
    Compared("dual-pairwise", "1", "Two teachers beat the pairwise one on recall",
             "8 > 2, 9 > 3, 10 > 4", "recall"),
    Compared("best", "1", "Two teachers with TAS-Balanced are better than one with TAS-Balanced",
             "10 > 4, 10 > 7", "all columns"),
    # samplings
    Compared("tas-pairwise", "5.1", "TAS alone does little for the pairwise teacher",
             "3 = 2", "all columns"),
    Compared("order-pairwise", "5.1", "Pairwise teacher: TAS-Balanced beats random and TAS",
             "4 > 2, 4 > 3", "all columns"),
    Compared("order-in-batch", "5.1", "In-batch teacher: TAS-Balanced beats TAS, which beats random",
             "7 > 6 > 5", "all columns"),
    Compared("order-dual", "5.1", "Two teachers: TAS-Balanced beats TAS, which beats random",
             "10 > 9 > 8", "all columns"),
    Compared("tas-in-batch", "5.1", "In-batch teacher: TAS is a strong boost on every set",
             "6 > 5", "all columns", "all"),
    Compared("balanced-in-batch", "5.1", "In-batch teacher: TAS-Balanced improves on TAS on two sets of three",
             "7 > 6", "all columns", "two thirds"),
    Compared("balanced", "1", "TAS-Balanced improves on random with every teacher",
             "4 > 2, 7 > 5, 10 > 8", "all columns"),
    # in-batch losses
    Compared("margin-mse", "5.1", "Margin-MSE is the best in-batch loss in most measures",
             "10 > 11, 10 > 12, 10 > 13", "the columns of Tables 3 and 5"),
    Compared("margin-mse-recall", "5.1", "Margin-MSE is the best in-batch loss above all on graded recall",
             "10 > 11, 10 > 12, 10 > 13", "recall, graded sets", "all"),
    Compared("list-losses", "5.1", "LambdaRank beats ListNet, which beats KLDiv (letters of Table 3)",
             "13 > 12 > 11", "MRR, dev set", "all"),
    # the order of batches
    Measured("steady-graded", "5.1", "Another order changes the graded sets by less than a point",
             "largest standard deviation of nDCG and recall, graded sets", -INF, 0.01, "'under a single point'"),
    Measured("steady-dev", "1", "Another order changes MRR on dev hardly at all",
             "standard deviation of MRR, dev set", -INF, 0.0015, "'< .001'; Table 5: what rounds to .001"),
    Measured("steadier-dev", "5.1", "Another order changes dev less than the graded sets",
             "mean standard deviation, graded sets less dev", 0, INF, "'low variability, especially' on dev"),
    Measured("every-order", "6", "TAS-Balanced works in every order",
             "share of orders and columns in which it is above random batches", 0.9, INF, "'consistently'"),
    # other methods, batch size
    Compared("dense", "1", "Dense retrieval beats BM25, however it was trained",
             "1 > bm25, 2 > bm25, 5 > bm25", "all columns"),
    Compared("balanced-bm25", "5.2", "TAS-Balanced beats BM25 on the graded sets",
             "10 > bm25", "nDCG and recall, graded sets", "all"),
    Compared("balanced-labels", "1", "TAS-Balanced beats training on labels alone",
             "10 > 1", "nDCG, graded sets", "all"),
    Compared("others-graded", "5.2", "TAS-Balanced beats Margin-MSE and TCT on the graded sets",
             "10 > 2, 10 > 5", "the graded sets"),
    Compared("others-dev", "5.2", "TAS-Balanced beats Margin-MSE and TCT on dev",
             "10 > 2, 10 > 5", "the dev set"),
    Measured("others-recall", "5.2", "Over Margin-MSE and TCT, it gains more in recall than in the first ten",
             "relative gain in recall less that in nDCG or MRR, graded sets", 0.01, INF, "'highest', by a point"),
    Compared("batch-dev", "5.2", "Larger batches are better on dev",
             "19 > 18 > 10", "the dev set"),
    Compared("batch-graded", "5.2", "Larger batches make no difference on the graded sets",
             "18 = 10, 19 = 10", "the graded sets"),
    # topics and batches
    Compared("clusters", "4.2", "The number of clusters makes no difference: half and double",
             "20 = 10, 21 = 10", "all columns"),
    Measured("words", "1", "Topics bring together queries without a common word",
             "share of pairs of a topic without a common word", 0.1, INF, "one in ten is no exception"),
    Measured("one-topic", "4.2", "A batch is small enough to come from one topic",
             "share of mixed batches", -INF, 0.05, "one in twenty; Figure 1: 'from a single cluster'"),
    Measured("random-topics", "3", "The queries of a random batch have completely different topics",
             "share of a random batch's pairs with two topics", 0.95, INF, "'completely', up to one in twenty"),
    Measured("harder", "3", "In a batch of one topic, in-batch negatives are harder",
             "teacher's mean in-batch margin, TAS over random", -INF, 0.9, "a tenth less; easy is far away, §3"),
    Measured("flat", "3", "TAS-Balanced draws all margin ranges alike",
             "chance of the most drawn range over that of the least", -INF, 2, "'uniformly', up to twice"),
    Measured("fewer-easy", "3", "TAS-Balanced draws fewer pairs with a high margin",
             "share of pairs from the upper half of the ranges, over TAS", -INF, 0.9, "a tenth less"),
    Measured("never-twice", "3", "No batch is repeated",
             "batches that came twice", -INF, 0, "'do not repeat the same batch'"),
    Measured("sampling-time", "3", "Composing batches does not slow training down",
             "time of composing over that of a step, rounded up to tenths", -INF, 0.1, "little, even if not alongside"),
    # losses, labels, lengths, stopping
    Measured("one-range", "4.2", "α brings both losses into one range",
             "α times the mean in-batch loss over the mean pairwise loss", 0.33, 3, "within three times"),
    Measured("in-batch-higher", "4.2", "The in-batch loss is consistently higher than the pairwise one",
             "share of evaluations with the in-batch loss above", 0.9, INF, "'consistently'"),
    Measured("teacher-labels", "2.3", "The pairwise teacher orders almost all pairs as the labels do",
             "share of training pairs with a margin above 0", 0.9, INF, "'in almost all cases'"),
    Measured("caps", "4.1", "Few queries or passages reach the cap on their length",
             "share of texts at the cap, of queries or of passages", -INF, 0.05, "'generous bounds with few outliers'"),
    Measured("stopping", "4.3", "Early stopping, and not the last step, ends training",
             "share of systems that stopped before the last step", 0.5, INF, "'usually'"),
)
# fmt: on

ENOUGH: dict[str, Callable[[int, int], bool]] = {
    "most": lambda k, n: 2 * k > n,
    "two thirds": lambda k, n: 3 * k >= 2 * n,
    "all": lambda k, n: k == n,
}
SYSTEMS = tuple(dict.fromkeys(s for claim in CLAIMS if isinstance(claim, Compared) for s in claim.needs))
"""All that the claims compare."""


# --- one comparison ------------------------------------------------------------------------------------------------


class Cell(NamedTuple):
    """Two systems in one column: the difference of their means, Table 5's standard deviation there, p by itself and
    after Holm's correction, and the strength of the difference."""

    better: str
    worse: str
    column: str
    difference: float
    spread: float
    p: float
    adjusted: float
    strength: int


def strength(difference: float, spread: float, p: float, adjusted: float, alpha: float = 0.05) -> int:
    """2 where both rulers see a difference, 1 where one does, 0 where none does; with a minus, in the other direction.

    One ruler is chance among queries, the paired t-test; the other chance among orders, two standard deviations of
    Table 5. Both together ask for p after Holm's correction; one alone may be p as it is.

    >>> strength(0.03, 0.01, 0.001, 0.04), strength(-0.03, 0.01, 0.01, 0.3), strength(0.02, 0.01, 0.05, 1.0)
    (2, -1, 0)
    """
    beyond = abs(difference) > 2 * spread
    size = 2 if beyond and adjusted < alpha else int(beyond or p < alpha)
    return size if difference > 0 else -size


def columns_of(name: str, evaluation: Evaluation) -> list[tuple[TestSet, Measure]]:
    """The columns of a key of COLUMNS, on a profile's test sets."""
    graded = [test for test in evaluation.sets if test.graded]
    kinds = {"graded": graded, "dev": [test for test in evaluation.sets if not test.graded][:1]}
    return [
        (test, next(m for m in paper_measures(test.binarise_at, evaluation.depth) if measure == m.NAME))
        for kind, measure in COLUMNS[name]
        for test in kinds[kind]
    ]


def spread(scores: Scores, test: TestSet, measure: Measure) -> float:
    """Table 5's standard deviation in one column, over five orders (ddof = 1)."""
    return stdev(mean(scores[key][test.name][measure]) for key in ORDERS)


def compare(scores: Scores, evaluation: Evaluation) -> dict[str, list[Cell]]:
    """The comparisons of every claim whose systems, and the five of Table 5, were run.

    Holm's correction is for all of them together; one that several claims share counts once.
    """
    asked = {
        claim.key: list(product(claim.pairs, columns_of(claim.columns, evaluation)))
        for claim in CLAIMS
        if isinstance(claim, Compared) and all(map(scores.get, claim.needs))
    }
    tests = {(pair, column): None for comparisons in asked.values() for pair, column in comparisons}
    p_values = [paired_t(*(scores[key][test.name][measure] for key in pair)) for pair, (test, measure) in tests]
    adjusted = holm(p_values)
    cells = {}
    for (pair, (test, measure)), p, p_holm in zip(tests, p_values, adjusted, strict=True):
        better, worse = (mean(scores[key][test.name][measure]) for key in pair)
        ruler = spread(scores, test, measure)
        found = strength(better - worse, ruler, p, p_holm, evaluation.alpha)
        column = f"{test.label} {printed_name(measure)}"
        cells[pair, (test, measure)] = Cell(*pair, column, better - worse, ruler, p, p_holm, found)
    return {key: [cells[comparison] for comparison in comparisons] for key, comparisons in asked.items()}


# --- verdicts ------------------------------------------------------------------------------------------------------


class Verdict(NamedTuple):
    """What became of a claim: one of VERDICTS, what it was found on, and the comparisons behind it, if any."""

    claim: Claim
    verdict: str
    found: str
    cells: Sequence[Cell] = ()


def of_difference(strengths: Sequence[int], need: str) -> str:
    """The verdict on "A is better than B" from the strengths in the columns.

    holds: both rulers see it in enough columns, and in none any ruler sees the opposite. Else the columns in which a
    ruler sees it, less those in which one sees the opposite: from half of all on it is the same direction, from minus
    half on it does not hold, and what lies between is no difference.
    """
    n, net = len(strengths), sum((s > 0) - (s < 0) for s in strengths)
    if ENOUGH[need](strengths.count(2), n) and min(strengths) >= 0:
        return "holds"
    if 2 * abs(net) < n:
        return "no difference"
    return "same direction" if net > 0 else "does not hold"


def of_no_difference(strengths: Sequence[int], need: str) -> str:
    """The verdict on "A is as good as B" from the strengths in the columns.

    holds: in enough columns no ruler sees a difference, and in none do both. If only the second is wanting, it is the
    same direction, else it does not hold. That nothing was seen is no proof that nothing is there.
    """
    if not ENOUGH[need](strengths.count(0), len(strengths)):
        return "does not hold"
    return "holds" if max(map(abs, strengths)) < 2 else "same direction"


def from_scores(scores: Scores, evaluation: Evaluation) -> dict[str, float]:
    """The facts that follow from the scores, as far as their systems were run; both kinds of test set are needed."""
    if len({test.graded for test in evaluation.sets}) < 2:
        return {}

    def spreads(columns: str) -> list[float]:
        return [spread(scores, *column) for column in columns_of(columns, evaluation)]

    def means(key: str, columns: str) -> list[float]:
        return [mean(scores[key][test.name][measure]) for test, measure in columns_of(columns, evaluation)]

    def gain(columns: str) -> float:
        rivals = map(max, means("2", columns), means("5", columns))
        return fmean(ours / max(rival, 1e-9) - 1 for ours, rival in zip(means("10", columns), rivals, strict=True))

    facts = {}
    if all(map(scores.get, ORDERS)):
        graded, dev = spreads("nDCG and recall, graded sets"), spreads("MRR and recall, dev set")
        facts["largest standard deviation of nDCG and recall, graded sets"] = max(graded)
        facts["standard deviation of MRR, dev set"] = dev[0]
        facts["mean standard deviation, graded sets less dev"] = fmean(graded) - fmean(dev)
    if all(map(scores.get, (*ORDERS, "8"))):
        base, wanted = means("8", columns := "the columns of Tables 3 and 5"), []
        for key in ORDERS:
            wanted += [ours > random for ours, random in zip(means(key, columns), base, strict=True)]
        facts["share of orders and columns in which it is above random batches"] = fmean(wanted)
    if all(map(scores.get, ("2", "5", "10"))):
        top = max(gain("nDCG, graded sets"), gain("MRR, graded sets"))
        facts["relative gain in recall less that in nDCG or MRR, graded sets"] = gain("recall, graded sets") - top
    return facts


def judge(scores: Scores, measured: Mapping[str, float], evaluation: Evaluation) -> list[Verdict]:
    """The verdict on every claim, in the order of CLAIMS.

    measured: the numbers of the claims that are not about scores, by their `fact`; one that is absent was not run.
    """
    facts = from_scores(scores, evaluation) | dict(measured)
    unknown = facts.keys() - {claim.fact for claim in CLAIMS if isinstance(claim, Measured)}
    if unknown:
        raise ValueError(f"no claim is about {min(unknown)!r}")
    cells = compare(scores, evaluation)
    return [
        _measured(claim, facts.get(claim.fact))
        if isinstance(claim, Measured)
        else _compared(claim, cells.get(claim.key, []), [key for key in claim.needs if not scores.get(key)])
        for claim in CLAIMS
    ]


def _measured(claim: Measured, number: float | None) -> Verdict:
    if number is None or math.isnan(number):
        return Verdict(claim, "not run", "not measured")
    inside = claim.low <= number <= claim.high
    return Verdict(claim, "holds" if inside else "does not hold", f"{number:.3g}")


def _compared(claim: Compared, cells: Sequence[Cell], lacking: Sequence[str]) -> Verdict:
    """The weakest of the verdicts on the claim's pairs."""
    if not cells:
        return Verdict(claim, "not run", f"without {', '.join(lacking)}" if lacking else "no such column")
    verdicts, found = [], []
    for better, worse in claim.pairs:
        strengths = [cell.strength for cell in cells if (cell.better, cell.worse) == (better, worse)]
        n = len(strengths)
        if "=" in claim.systems:
            verdicts.append(of_no_difference(strengths, claim.need))
            seen = f"unseen in {strengths.count(0)} of {n}, clear in {sum(abs(s) == 2 for s in strengths)}"
        else:
            verdicts.append(of_difference(strengths, claim.need))
            up, down = sum(s > 0 for s in strengths), sum(s < 0 for s in strengths)
            seen = f"up in {up} of {n}, clearly in {strengths.count(2)}, down in {down}"
        found.append(f"{better} and {worse}: {seen}")
    return Verdict(claim, max(verdicts, key=VERDICTS.index), "; ".join(found), cells)


# --- writing -------------------------------------------------------------------------------------------------------

LEGEND = """The paper's claims and their rules, written down before the runs of Tables 3 to 6, and none dropped after.
Four systems (BM25, 1, 2, 10) had been seen before that, with an earlier and smaller encoder.

Systems: 1 labels alone; 2, 3, 4 the pairwise teacher with random, TAS, TAS-Balanced batches; 5, 6, 7 the in-batch
teacher, 8, 9, 10 both teachers likewise; 11, 12, 13 are 10 with KLDiv, ListNet, LambdaRank in the batch; 14 to 17 are
10 in other orders; 18, 19 are 10 with larger batches; 20, 21 are 10 with half and with double the number of clusters.

Two rulers, for every column: chance among queries (paired t-test, p < .05) and chance among orders (two standard
deviations of Table 5). A difference is clear if both see it, p after Holm's correction over all comparisons of this
table; it is up or down if at least one sees it, p as it is; it is unseen if none does.

A > B *holds* if it is clear in enough columns and down in none. Else the columns that are up, less those that are
down, are counted: half of all or more is the *same direction*, minus half or less *does not hold*, and what lies
between is *no difference*. A = B *holds* if the difference is unseen in enough columns and clear in none,
has the *same direction* if it is unseen in enough and clear in some, and else *does not hold*: that nothing was seen is
no proof that nothing is there. Several comparisons are worth as much as the weakest of them. A number *holds* if it
lies within the bounds. *Not run*: a system, or a measurement, is not there.
"""


def markdown(verdicts: Sequence[Verdict]) -> str:
    """The claims by verdict, below a legend of systems and rules."""
    blocks = [LEGEND]
    for verdict in VERDICTS:
        lines = [
            f"| {v.claim.words} | §{v.claim.section} | {v.claim.rule} | {v.found.replace('; ', '<br>')} |\n"
            for v in verdicts
            if v.verdict == verdict
        ]
        head = "| Claim | Paper | Rule | Found |\n| --- | --- | --- | --- |\n" if lines else ""
        blocks.append(f"**{verdict.capitalize()}: {len(lines)} of {len(verdicts)}**\n\n{head}{''.join(lines)}")
    return "\n".join(blocks)


HEADS = ("claim", "section", "words", "rule", "verdict", "found")


def frame(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One line a comparison, and one for a claim without any."""
    lines: list[dict[str, object]] = []
    for verdict, claim in ((v, v.claim) for v in verdicts):
        told = (claim.key, claim.section, claim.words, claim.rule, verdict.verdict, verdict.found)
        common: dict[str, object] = dict(zip(HEADS, told, strict=True))
        lines += [common | cell._asdict() for cell in verdict.cells] or [common]
    return pd.DataFrame(lines, columns=[*HEADS, *Cell._fields])


def write(verdicts: Sequence[Verdict], folder: Path) -> list[Path]:
    """`claims.md` and `claims.csv` in `folder`; returns their paths."""
    texts = {
        "md": markdown(verdicts),
        "csv": frame(verdicts).to_csv(index=False, float_format="%.6g", lineterminator="\n"),
    }
    paths = [folder / f"claims.{ending}" for ending in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        with atomic_write(path) as f:
            f.write(text)
    return paths
