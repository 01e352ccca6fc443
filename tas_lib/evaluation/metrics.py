"""Metrics and significance (§4.1, Tables 3-7): ir_measures computes, we order the ranking and choose the queries."""

from collections.abc import Mapping, Sequence
from statistics import fmean

import ir_measures
import numpy as np
from ir_measures import RR, Judged, Measure, R, nDCG
from scipy.stats import ttest_rel

from tas_lib.records import Qrels, Run

PerQuery = dict[Measure, dict[str, float]]
"""measure → query id → value"""


def paper_measures(binarise_at: int, depth: int) -> list[Measure]:
    """nDCG@10, MRR@10 and recall, as in Table 4, and the share of the first ten that is judged.

    Relevant is a grade from `binarise_at` on: 2 on the TREC sets for MRR and recall (§4.1).
    """
    return [nDCG @ 10, RR(rel=binarise_at) @ 10, R(rel=binarise_at) @ depth, Judged @ 10]


def printed_name(measure: Measure) -> str:
    """What the paper calls it.

    >>> printed_name(RR(rel=2) @ 10), printed_name(R @ 1000), printed_name(R(rel=2) @ 100)
    ('MRR@10', 'R@1K', 'R@100')
    """
    cutoff = measure["cutoff"]
    thousands = f"{cutoff // 1000}K" if cutoff % 1000 == 0 else str(cutoff)
    return f"{'MRR' if measure.NAME == 'RR' else measure.NAME}@{thousands}"


def ranking(passages: Mapping[str, float]) -> list[str]:
    """Passage ids by falling score; equal scores by id.

    >>> ranking({"b": 1.0, "a": 1.0, "c": 2.0})
    ['c', 'a', 'b']
    """
    if any(score != score for score in passages.values()):
        raise ValueError("a score is NaN, and NaN has no rank")
    return sorted(passages, key=lambda passage: (-passages[passage], passage))


def evaluate(run: Run, qrels: Qrels, measures: Sequence[Measure]) -> PerQuery:
    """The value of every measure for every judged query, in the order of the ids.

    A judged query that the run misses counts as 0, so that all systems are averaged over the same queries; a query of
    the run without judgements is ignored. Ties go by `ranking`; since the providers of ir_measures break them each in
    its own way, they are given n, n-1, ... as scores.
    """
    judged = {query: {p: int(grade) for p, grade in qrels[query].items()} for query in sorted(qrels) if qrels[query]}
    if not judged:
        raise ValueError("no query has a judgement")
    ranked: dict[str, dict[str, float]] = {}
    for query in judged:
        if passages := run.get(query):
            ranked[query] = {p: float(len(passages) - rank) for rank, p in enumerate(ranking(passages))}
    values: PerQuery = {measure: dict.fromkeys(judged, 0.0) for measure in measures}
    for query, measure, value in ir_measures.iter_calc(measures, judged, ranked):
        values[measure][query] = float(value)
    return values


def recall_curve(run: Run, qrels: Qrels, cutoffs: Sequence[int], binarise_at: int = 1) -> list[float]:
    """Mean recall at each cutoff (Figure 3).

    >>> recall_curve({"q": {"a": 3.0, "b": 2.0, "c": 1.0}}, {"q": {"a": 1, "c": 1}}, [1, 2, 3])
    [0.5, 0.5, 1.0]
    """
    values = evaluate(run, qrels, measures := [R(rel=binarise_at) @ cutoff for cutoff in cutoffs])
    return [mean(values[measure]) for measure in measures]


def mean(values: Mapping[str, float]) -> float:
    """The average over queries."""
    return fmean(values.values())


def paired_t(ours: Mapping[str, float], theirs: Mapping[str, float]) -> float:
    """p of the two-sided paired t-test over queries; 1 where the two never differ or there is one query only."""
    if ours.keys() != theirs.keys():
        odd = sorted(ours.keys() ^ theirs.keys())
        raise ValueError(f"a paired test needs the same queries; {len(odd)} are in one of the two only: {odd[0]}, ...")
    pairs = np.array([(ours[query], theirs[query]) for query in ours])  # (Q, 2)
    if len(pairs) < 2 or np.array_equal(pairs[:, 0], pairs[:, 1]):
        return 1.0
    return float(ttest_rel(pairs[:, 0], pairs[:, 1]).pvalue)


def better_than(column: Mapping[str, Mapping[str, float]], alpha: float = 0.05) -> dict[str, str]:
    """The superscripts of a column: a system's letter → the letters of those that it is significantly better than.

    column: letter → query → value. Letters in the order of the rows; as in the paper, no correction for many tests.
    """
    means = {letter: mean(values) for letter, values in column.items()}
    return {
        letter: "".join(
            rival for rival in column if means[letter] > means[rival] and paired_t(values, column[rival]) < alpha
        )
        for letter, values in column.items()
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction for many tests: adjusted p values, in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, (len(p_values) - rank) * p_values[i])
        adjusted[i] = min(1.0, highest)
    return adjusted
