"""The rules by which our numbers judge the paper's claims (paper_claims.py), and the table of verdicts."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

import pandas as pd
from ir_measures import Measure

from tas_lib.config import Evaluation, TestSet
from tas_lib.data.store import atomic_write
from tas_lib.evaluation.metrics import PerQuery, holm, mean, paired_t, paper_measures, printed_name
from tas_lib.evaluation.paper_claims import CLAIMS, COLUMNS, ORDERS, Claim, Compared, Measured

Scores = Mapping[str, Mapping[str, PerQuery]]
"""a system's key → test set → measure → query → value; {} for a system that was not run"""
VERDICTS = ("holds", "same direction", "no difference", "does not hold", "not run")
"""From good to bad: a claim with several comparisons is as good as the weakest of them."""
ENOUGH: dict[str, Callable[[int, int], bool]] = {
    "most": lambda k, n: 2 * k > n,
    "two thirds": lambda k, n: 3 * k >= 2 * n,
    "all but one": lambda k, n: k >= n - 1,
    "all": lambda k, n: k == n,
}

ABOVE = {
    "share of cutoffs at which tas_b is above bm25 and d2q": (["tas_b"], ["bm25", "d2q"]),
    "larger share of cutoffs at which pairwise/random or in_batch/random is above bm25 and d2q": (
        ["pairwise/random", "in_batch/random"],
        ["bm25", "d2q"],
    ),
    "share of cutoffs at which tas_b is above bm25, d2q, pairwise/random and in_batch/random": (
        ["tas_b"],
        ["bm25", "d2q", "pairwise/random", "in_batch/random"],
    ),
    "share of cutoffs at which d2q+tas_b is above d2q and tas_b": (["d2q+tas_b"], ["d2q", "tas_b"]),
}
"""Facts of Figure 3: whose line is above all of whose; of several the one that is so more often."""
RECALL = tuple(dict.fromkeys(key for keys, rivals in ABOVE.values() for key in (*rivals, *keys)))
"""Whose recall at every cutoff they ask for."""


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


def spread(scores: Scores, test: TestSet, measure: Measure, queries: Collection[str] = ()) -> float:
    """Table 5's standard deviation in one column, over five orders (ddof = 1); on some queries, by default on all."""
    orders = [scores[key][test.name][measure] for key in ORDERS]
    return stdev(fmean(values[query] for query in queries or values) for values in orders)


def paired(scores: Scores, pair: tuple[str, str], test: TestSet, measure: Measure) -> list[dict[str, float]]:
    """Two systems' values in one column, on the queries of the one that has fewer: a re-ranked one may have a sample.

    Where it has queries that the other lacks, `paired_t` refuses them.
    """
    values = [scores[key][test.name][measure] for key in pair]
    fewer = min(values, key=len)
    return [{query: value for query, value in of_one.items() if query in fewer} for of_one in values]


def compare(scores: Scores, evaluation: Evaluation) -> dict[str, list[Cell]]:
    """The comparisons of every claim whose systems, and the five of Table 5, were run.

    Holm's correction is for all of them together; one that several claims share counts once.
    """
    asked = {
        claim.key: list(product(claim.pairs, columns_of(claim.columns, evaluation)))
        for claim in CLAIMS
        if isinstance(claim, Compared) and all(map(scores.get, claim.needs))
    }
    tests = {
        (pair, column): paired(scores, pair, *column) for comparisons in asked.values() for pair, column in comparisons
    }
    p_values = [paired_t(better, worse) for better, worse in tests.values()]
    adjusted = holm(p_values)
    cells = {}
    for (pair, (test, measure)), p, p_holm in zip(tests, p_values, adjusted, strict=True):
        better, worse = tests[pair, (test, measure)]
        difference, ruler = mean(better) - mean(worse), spread(scores, test, measure, better)
        found = strength(difference, ruler, p, p_holm, evaluation.alpha)
        column = f"{test.label} {printed_name(measure)}"
        cells[pair, (test, measure)] = Cell(*pair, column, difference, ruler, p, p_holm, found)
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
        rivals = map(max, means("pairwise/random", columns), means("in_batch/random", columns))
        return fmean(
            ours / max(rival, 1e-9) - 1 for ours, rival in zip(means("dual/tas_balanced", columns), rivals, strict=True)
        )

    facts = {}
    if all(map(scores.get, ORDERS)):
        graded, dev = spreads("nDCG and recall, graded sets"), spreads("MRR and recall, dev set")
        facts["largest standard deviation of nDCG and recall, graded sets"] = max(graded)
        facts["standard deviation of MRR, dev set"] = dev[0]
        facts["mean standard deviation, graded sets less dev"] = fmean(graded) - fmean(dev)
    if all(map(scores.get, (*ORDERS, "dual/random"))):
        base, wanted = means("dual/random", columns := "the columns of Tables 3 and 5"), []
        for key in ORDERS:
            wanted += [ours > random for ours, random in zip(means(key, columns), base, strict=True)]
        facts["share of orders and columns in which it is above random batches"] = fmean(wanted)
    if all(map(scores.get, ("pairwise/random", "in_batch/random", "dual/tas_balanced"))):
        top = max(gain("nDCG, graded sets"), gain("MRR, graded sets"))
        facts["relative gain in recall less that in nDCG or MRR, graded sets"] = gain("recall, graded sets") - top
    if all(map(scores.get, pipelines := [f"{first}>mono>duo" for first in ("bm25", "d2q", "tas_b")])):
        bm25, d2q, tas = (fmean(means(key, "nDCG and MRR, graded sets")) for key in pipelines)
        facts["mean nDCG and MRR under mono-duo-T5, bm25 and d2q less tas_b"] = (bm25 + d2q) / 2 - tas
    return facts


def from_recall(recall: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The facts that follow from Figure 3's curves, as far as their systems were run.

    recall: a system's key → its recall at every cutoff on every graded set, one set after the other.
    """

    def share(key: str, rivals: Sequence[str]) -> float:
        lines = (recall[name] for name in (key, *rivals))
        return fmean(ours > max(theirs) for ours, *theirs in zip(*lines, strict=True))

    return {
        fact: max(share(key, rivals) for key in keys)
        for fact, (keys, rivals) in ABOVE.items()
        if all(map(recall.get, [*keys, *rivals]))
    }


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
Four systems (BM25, 1, 2, 10) had been seen before that, with an earlier and smaller encoder. The claims of Tables 1, 2
and 7 and of Figure 3 came later: before any run of docT5query or of a re-ranker, but after the runs of all other
systems and the times of Tables 1 and 2.

Systems: 1 labels alone; 2, 3, 4 the pairwise teacher with random, TAS, TAS-Balanced batches; 5, 6, 7 the in-batch
teacher, 8, 9, 10 both teachers likewise; 11, 12, 13 are 10 with KLDiv, ListNet, LambdaRank in the batch; 14 to 17 are
10 in other orders; 18, 19 are 10 with larger batches; 20, 21 are 10 with half and with double the number of clusters;
bm25 is BM25, d2q docT5query: BM25 over passages with the queries that a model wrote for them. a+b is a fused with b;
a>duo and a>cat are a re-ranked by duo and by BERT_CAT, a>mono>duo by mono and then by duo. Where a profile names no
T5, one small model of ours writes, and answers as mono and duo (DEVIATIONS, D28). A > between spaces is the claim:
18>duo > 18 says that 18 re-ranked by duo is better than 18.

Two rulers, for every column: chance among queries (paired t-test, p < .05) and chance among orders (two standard
deviations of Table 5), both on the queries that the two systems share: of the dev set, a re-ranker may have seen a
sample only. A difference is clear if both see it, p after Holm's correction over all comparisons of this table; it is
up or down if at least one sees it, p as it is; it is unseen if none does.

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
