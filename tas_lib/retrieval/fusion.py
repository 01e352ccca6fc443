"""Two or more runs made one (§5.3, Table 7): interpolation as for TAS-B + docT5query, and reciprocal rank fusion.

Functions of runs alone, from wherever they come: a query or a passage may be missing from either, lists may be empty
or of different depths. What comes out is ranked: by falling score, then id.
"""

from collections.abc import Callable, Mapping, Sequence
from math import fsum

from tas_lib.records import Qrels, Run

Quality = Callable[[Run, Qrels], float]
"""A run's mean of some measure: the higher, the better."""


def interpolate(dense: Run, sparse: Run, alpha: float, depth: int | None = None) -> Run:
    """α · sparse + dense; a passage that a list misses has that list's lowest score.

    depth: passages a query that are kept, all by default. The lowest score of an empty list is 0: the other decides.
    Source: Pyserini 1f074ab, search/hybrid/_searcher.py, without normalisation.

    >>> interpolate({"q": {"a": 70.0, "b": 68.0}}, {"q": {"b": 9.0, "c": 5.0}}, 0.5)
    {'q': {'a': 72.5, 'b': 72.5, 'c': 70.5}}
    """
    return {
        query: _ranked(_sum(dense.get(query, {}), sparse.get(query, {}), alpha), depth) for query in {**dense, **sparse}
    }


def _sum(dense: Mapping[str, float], sparse: Mapping[str, float], alpha: float) -> dict[str, float]:
    lowest, floor = min(dense.values(), default=0.0), min(sparse.values(), default=0.0)
    return {p: alpha * sparse.get(p, floor) + dense.get(p, lowest) for p in {**dense, **sparse}}


def reciprocal_rank(runs: Sequence[Run], k: int = 60, depth: int | None = None) -> Run:
    """Σ 1 / (k + rank) over the runs; a passage that a run misses gains nothing from it.

    Source: Cormack, Clarke and Büttcher, SIGIR 2009. Scores count only by their order, so runs may be of any scale.

    >>> reciprocal_rank([{"q": {"a": 70.0, "b": 68.0}}, {"q": {"b": 9.0}}], k=0)
    {'q': {'b': 1.5, 'a': 1.0}}
    """
    fused: dict[str, dict[str, float]] = {}
    for query in dict.fromkeys(query for run in runs for query in run):
        gains: dict[str, list[float]] = {}
        for run in runs:
            for rank, passage in enumerate(_ranked(run.get(query, {})), 1):
                gains.setdefault(passage, []).append(1 / (k + rank))
        fused[query] = _ranked({p: fsum(parts) for p, parts in gains.items()}, depth)  # whatever the runs' order
    return fused


def qualities(dense: Run, sparse: Run, qrels: Qrels, alphas: Sequence[float], measure: Quality) -> dict[float, float]:
    """What each α is worth on these judgements."""
    return {alpha: measure(interpolate(dense, sparse, alpha), qrels) for alpha in alphas}


def choose_alpha(dense: Run, sparse: Run, qrels: Qrels, alphas: Sequence[float], measure: Quality) -> float:
    """The best α, and of equals the first; chosen on the early-stopping set, never on a test set."""
    found = qualities(dense, sparse, qrels, alphas, measure)
    if not found:
        raise ValueError("no α to choose from")
    return max(found, key=found.__getitem__)


def _ranked(passages: Mapping[str, float], depth: int | None = None) -> dict[str, float]:
    """The first `depth` passages by falling score; equal scores by id."""
    if any(score != score for score in passages.values()):
        raise ValueError("a score is NaN, and NaN has no rank")
    return dict(sorted(passages.items(), key=lambda item: (-item[1], item[0]))[:depth])
