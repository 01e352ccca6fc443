"""Metrics (§4.1, Tables 3-7): ir_measures computes them; we decide the order of ties and which queries count."""

from collections.abc import Mapping, Sequence
from statistics import fmean

import ir_measures
from ir_measures import RR, Judged, Measure, R, nDCG

from tas_lib.records import Qrels, Run, ranking

PerQuery = dict[Measure, dict[str, float]]
"""measure → query id → value"""


def paper_measures(binarise_at: int, depth: int) -> list[Measure]:
    """nDCG@10, MRR@10 and recall, as in Table 4, and the share of the first ten that is judged.

    binarise_at: the lowest relevant grade; 2 on the TREC sets for MRR and recall (§4.1).
    """
    return [nDCG @ 10, RR(rel=binarise_at) @ 10, R(rel=binarise_at) @ depth, Judged @ 10]


def printed_name(measure: Measure) -> str:
    """The paper's name of a measure.

    >>> printed_name(RR(rel=2) @ 10), printed_name(R @ 1000), printed_name(R(rel=2) @ 100)
    ('MRR@10', 'R@1K', 'R@100')
    """
    cutoff = measure["cutoff"]
    thousands = f"{cutoff // 1000}K" if cutoff % 1000 == 0 else str(cutoff)
    return f"{'MRR' if measure.NAME == 'RR' else measure.NAME}@{thousands}"


def evaluate(run: Run, qrels: Qrels, measures: Sequence[Measure]) -> PerQuery:
    """Each measure of every judged query, ordered by query id.

    A judged query that is missing from the run counts as 0, so that all systems are averaged over the same queries; a
    query without judgements is ignored. `ranking` orders ties, for all providers of ir_measures as for trec_eval: they
    get n, n-1, ... as scores.
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


def mean_ndcg(run: Run, qrels: Qrels) -> float:
    """Mean nDCG@10, the measure of the early-stopping set (§4.3)."""
    return mean(evaluate(run, qrels, [nDCG @ 10])[nDCG @ 10])
