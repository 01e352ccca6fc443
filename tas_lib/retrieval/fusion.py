"""Two or more runs fused into one (§5.3, Table 7): interpolation as for TAS-B + docT5query, reciprocal rank fusion.

Functions of runs alone, whatever system made them: a query or a passage may be missing from a run, and lists may be
empty or of different depths. Fused lists are in the order of `ranking`.
"""

from collections.abc import Callable, Mapping, Sequence
from math import fsum

from tas_lib.records import Qrels, Run, ranking

Quality = Callable[[Run, Qrels], float]
"""The mean of some measure; higher is better."""


def interpolate(dense: Run, sparse: Run, alpha: float, depth: int | None = None) -> Run:
    """α · sparse + dense; a passage missing from a list has that list's lowest score, 0 if the list is empty.

    depth: passages kept per query, all by default.
    Source: Pyserini 1f074ab, search/hybrid/_searcher.py, without normalisation.

    >>> interpolate({"q": {"a": 70.0, "b": 68.0}}, {"q": {"b": 9.0, "c": 5.0}}, 0.5)
    {'q': {'b': 72.5, 'a': 72.5, 'c': 70.5}}
    """
    return {
        query: _ranked(_sum(dense.get(query, {}), sparse.get(query, {}), alpha), depth) for query in {**dense, **sparse}
    }


def _sum(dense: Mapping[str, float], sparse: Mapping[str, float], alpha: float) -> dict[str, float]:
    lowest_dense, lowest_sparse = min(dense.values(), default=0.0), min(sparse.values(), default=0.0)
    return {p: alpha * sparse.get(p, lowest_sparse) + dense.get(p, lowest_dense) for p in {**dense, **sparse}}


def reciprocal_rank(runs: Sequence[Run], k: int = 60, depth: int | None = None) -> Run:
    """Σ 1 / (k + rank) over the runs; a passage missing from a run gains nothing from it.

    Source: Cormack, Clarke and Büttcher, SIGIR 2009. Only the order of scores counts, so their scales may differ.

    >>> reciprocal_rank([{"q": {"a": 70.0, "b": 68.0}}, {"q": {"b": 9.0}}], k=0)
    {'q': {'b': 1.5, 'a': 1.0}}
    """
    fused: dict[str, dict[str, float]] = {}
    for query in dict.fromkeys(query for run in runs for query in run):
        gains: dict[str, list[float]] = {}
        for run in runs:
            for rank, passage in enumerate(ranking(run.get(query, {})), 1):
                gains.setdefault(passage, []).append(1 / (k + rank))
        fused[query] = _ranked({p: fsum(parts) for p, parts in gains.items()}, depth)  # in any order of the runs
    return fused


def qualities(dense: Run, sparse: Run, qrels: Qrels, alphas: Sequence[float], measure: Quality) -> dict[float, float]:
    """α → the measure of the interpolated runs."""
    return {alpha: measure(interpolate(dense, sparse, alpha), qrels) for alpha in alphas}


def _ranked(passages: Mapping[str, float], depth: int | None) -> dict[str, float]:
    return {passage: passages[passage] for passage in ranking(passages)[:depth]}
