"""Re-ranking (§5.3, Table 7): a first stage's candidates in a new order, by monoT5, BERT_CAT or duoT5.

Candidates are passage rows (Q, k), best first, -1 where there are fewer. What stands below the depth that is re-ranked
stays there, in its order. Equal scores keep the order of the stage before.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tas_lib.data.texts import Rows
from tas_lib.evaluation import metrics
from tas_lib.records import FloatArray, IntArray, Run, as_run

PairScorer = Callable[[IntArray, IntArray], FloatArray]
"""(query rows, passage rows) → scores, all (N,)"""
Preference = Callable[[IntArray, IntArray, IntArray], FloatArray]
"""(query rows, passage rows, rivals' rows) → probability that the passage is the more relevant of the two, all (N,)"""


def rerank(candidates: IntArray, score: PairScorer, depth: int) -> IntArray:
    """Candidates (Q, k) with the first `depth` of each query ordered by `score`: rows (Q, k).

    >>> rerank(np.array([[4, 7, 9, 1]]), lambda queries, passages: passages.astype(float), depth=3)
    array([[9, 7, 4, 1]])
    """
    query, place = np.nonzero(candidates[:, :depth] >= 0)
    return _reordered(candidates, query, place, score(query, candidates[query, place]))


def rerank_pairwise(candidates: IntArray, prefer: Preference, depth: int) -> IntArray:
    """Candidates (Q, k) with the first `depth` of each query ordered by `sym_sum` over all ordered pairs of them."""
    present = candidates[:, :depth] >= 0
    both = present[:, :, None] & present[:, None, :] & ~np.eye(present.shape[1], dtype=bool)  # (Q, depth, depth)
    query, i, j = np.nonzero(both)
    wins = np.zeros(both.shape)
    wins[query, i, j] = prefer(query, candidates[query, i], candidates[query, j])
    query, place = np.nonzero(present)
    return _reordered(candidates, query, place, sym_sum(wins, both)[query, place])


def sym_sum(wins: FloatArray, both: NDArray[np.bool_]) -> FloatArray:
    """duoT5's SYM-SUM: s_i = Σ_j p_ij + (1 - p_ji), over the pairs that `both` marks.

    wins, both: (..., n, n), p_ij the probability that i is more relevant than j. Returns (..., n).
    Source: Pradeep, Nogueira and Lin 2021 [33]; pygaggle 06371f1, rerank/transformer.py.

    >>> sym_sum(np.array([[0.0, 0.75], [0.5, 0.0]]), ~np.eye(2, dtype=bool))
    array([1.25, 0.75])
    """
    return np.where(both, wins + 1 - np.swapaxes(wins, -1, -2), 0.0).sum(-1)


def _reordered(candidates: IntArray, query: IntArray, place: IntArray, scores: FloatArray) -> IntArray:
    """Candidates with those at these places (N,) sorted by falling score among themselves."""
    if np.isnan(scores).any():
        raise ValueError("a re-ranker's score is NaN, and NaN has no rank")
    order = np.lexsort((place, -scores, query))
    reordered = candidates.copy()
    reordered[query, place] = candidates[query[order], place[order]]
    return reordered


class Remembered:
    """A scorer of pairs or triples that remembers: a second first stage asks only for what is new to it."""

    def __init__(self, score: Callable[..., FloatArray], n_passages: int) -> None:
        """score: a PairScorer or a Preference. n_passages: rows lie below it."""
        self.score, self.n_passages = score, n_passages
        self.keys, self.scores = np.empty(0, np.int64), np.empty(0)

    def __call__(self, queries: IntArray, *passages: IntArray) -> FloatArray:
        """Scores (N,) of these rows, each distinct pair or triple asked for once, ever."""
        if (int(queries.max(initial=0)) + 1) * self.n_passages ** len(passages) > np.iinfo(np.int64).max:
            raise ValueError(f"too many queries to number every {1 + len(passages)}-tuple of their rows")
        keys = queries.astype(np.int64)
        for rows in passages:
            keys = keys * self.n_passages + rows
        asked, first = np.unique(keys, return_index=True)
        new = first[np.isin(asked, self.keys, assume_unique=True, invert=True)]
        if len(new):
            found = self.score(queries[new], *(rows[new] for rows in passages))
            known, scores = np.concatenate([self.keys, keys[new]]), np.concatenate([self.scores, found])
            order = np.argsort(known)
            self.keys, self.scores = known[order], scores[order]
        return self.scores[np.searchsorted(self.keys, keys)]


# --- runs and rows -----------------------------------------------------------------------------------------------


def candidates_of(run: Run, query_ids: Sequence[str], row: Rows, depth: int) -> IntArray:
    """A run's first `depth` passages as rows (Q, depth); a query that it misses has none."""
    first = [metrics.ranking(run.get(query, {}))[:depth] for query in query_ids]
    present = np.arange(depth) < np.array([len(passages) for passages in first])[:, None]  # (Q, depth)
    rows = np.full((len(query_ids), depth), -1, np.int64)
    rows[present] = row.of([passage for passages in first for passage in passages])
    for query, place in np.argwhere(present & (rows < 0))[:1]:
        passage = first[query][place]
        raise ValueError(f"query {query_ids[query]}: passage {passage} is not in the collection, and cannot be read")
    return rows


def ranked_run(query_ids: Sequence[str], passage_ids: Sequence[str], ranked: IntArray) -> Run:
    """A run from rows (Q, k), best first. Scores are k, k - 1, ...: those of different stages cannot be compared."""
    return as_run(query_ids, passage_ids, ranked, np.broadcast_to(np.arange(ranked.shape[1], 0, -1.0), ranked.shape))
