"""Re-ranking (§5.3, Table 7): the candidates of a first stage in a new order, by BERT_CAT, monoT5 or duoT5.

Candidates are passage indices (Q, k), best first, -1 where there are fewer. Below the depth that is re-ranked they keep
their order, and so do equal scores.
"""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pandas as pd
from numpy.random import Generator, Philox
from numpy.typing import NDArray

from tas_lib.config import Profile, System
from tas_lib.data import shipped
from tas_lib.data.collection import Collection
from tas_lib.records import FloatArray, IntArray, Run, as_run, ranking
from tas_lib.retrieval import cross_encoder, pretrained
from tas_lib.retrieval.encode import device
from tas_lib.retrieval.t5 import T5Scorer, answer_words

PairScorer = Callable[[IntArray, IntArray], FloatArray]
"""(query indices, passage indices) → scores, all (N,)"""
Preference = Callable[[IntArray, IntArray, IntArray], FloatArray]
"""(query indices, passage indices, rivals' indices) → probability that the passage is the more relevant, all (N,)"""


def rerank(candidates: IntArray, score: PairScorer, depth: int) -> IntArray:
    """Candidates (Q, k) with the first `depth` per query ordered by `score`.

    >>> rerank(np.array([[4, 7, 9, 1]]), lambda queries, passages: passages.astype(float), depth=3)
    array([[9, 7, 4, 1]])
    """
    query, rank = np.nonzero(candidates[:, :depth] >= 0)
    return _reordered(candidates, query, rank, score(query, candidates[query, rank]))


def rerank_pairwise(candidates: IntArray, prefer: Preference, depth: int) -> IntArray:
    """Candidates (Q, k) with the first `depth` per query ordered by `sym_sum` over all ordered pairs of them."""
    present = candidates[:, :depth] >= 0
    both = present[:, :, None] & present[:, None, :] & ~np.eye(present.shape[1], dtype=bool)  # (Q, depth, depth)
    query, i, j = np.nonzero(both)
    wins = np.zeros(both.shape)
    wins[query, i, j] = prefer(query, candidates[query, i], candidates[query, j])
    query, rank = np.nonzero(present)
    return _reordered(candidates, query, rank, sym_sum(wins, both)[query, rank])


def sym_sum(wins: FloatArray, both: NDArray[np.bool_]) -> FloatArray:
    """duoT5's SYM-SUM: s_i = Σ_j p_ij + (1 - p_ji), over the pairs that `both` marks.

    wins, both: (..., n, n), p_ij the probability that i is more relevant than j. Returns (..., n).
    Source: Pradeep, Nogueira and Lin 2021 [33]; pygaggle 06371f1, rerank/transformer.py.

    >>> sym_sum(np.array([[0.0, 0.75], [0.5, 0.0]]), ~np.eye(2, dtype=bool))
    array([1.25, 0.75])
    """
    return np.where(both, wins + 1 - np.swapaxes(wins, -1, -2), 0.0).sum(-1)


def _reordered(candidates: IntArray, query: IntArray, rank: IntArray, scores: FloatArray) -> IntArray:
    """Candidates with those at (query, rank), (N,) each, sorted by descending score among themselves."""
    if np.isnan(scores).any():
        raise ValueError("a re-ranker's score is NaN, and NaN has no rank")
    order = np.lexsort((rank, -scores, query))
    reordered = candidates.copy()
    reordered[query, rank] = candidates[query[order], rank[order]]
    return reordered


class ScoreCache:
    """A scorer of pairs or triples that caches its scores across first stages."""

    def __init__(self, score: Callable[..., FloatArray]) -> None:
        """score: a PairScorer or a Preference."""
        self.score = score
        self.known: list[pd.Series] = []  # scores by pair or triple, one series per call with new ones

    def __call__(self, *indices: IntArray) -> FloatArray:
        """Scores (N,); each distinct pair or triple is scored once."""
        keys = pd.MultiIndex.from_arrays(indices)
        new = keys.unique().sort_values()
        for scores in self.known:
            new = new[~new.isin(scores.index)]
        if len(new):
            fresh = self.score(*(new.get_level_values(level).to_numpy() for level in range(new.nlevels)))
            self.known.append(pd.Series(fresh, new, dtype=float))
        return pd.concat(self.known).reindex(keys).to_numpy() if len(keys) else np.empty(0)


# --- runs --------------------------------------------------------------------------------------------------------


class Rerankers:
    """The re-rankers of a profile (`cat`, `mono`, `duo`): each is loaded once, and its scores are cached."""

    def __init__(self, profile: Profile, collection: Collection) -> None:
        """Loads no model yet."""
        self.profile, self.collection = profile, collection
        self.scorer = cache(self._load)
        self._cached = cache(lambda by, name: ScoreCache(self.scorer(by, name)))

    def _load(self, by: str, name: str) -> Callable[..., FloatArray]:
        """Scores of indices of a query set and of passages: a PairScorer, for duo a Preference."""
        source, caps = shipped.model(self.profile, by), self.profile.tokens
        texts = self.collection.sets[name].queries.texts, self.collection.passages.texts
        if by != "cat":
            loaded = pretrained.load_seq2seq(source, device())
            t5 = T5Scorer(*loaded, *texts, words=answer_words(*loaded))
            return t5.mono if by == "mono" else t5.duo
        cat = pretrained.load_cross_encoder(source).to(device())
        tokenizer = pretrained.tokenizer_of(self.profile, source)
        return lambda q, p: cross_encoder.score_texts(cat, tokenizer, texts, (q, p), caps)

    def sample(self, name: str) -> Sequence[str]:
        """The ids of the queries of a set that are re-ranked: all of a graded set, else a sample, always the same."""
        ids, n = self.collection.sets[name].queries.ids, self.profile.reranking.dev_sample
        if not n or any(test.name == name and test.graded for test in self.profile.evaluation.sets):
            return ids
        sampled = Generator(Philox(key=[0, 1])).permutation(len(ids))[:n]
        return [ids[i] for i in np.sort(sampled)]

    def reorder(self, run: Run, system: System, name: str, query_ids: Sequence[str], remember: bool = True) -> Run:
        """A first stage's run with its first candidates in a new order, for these queries of a set.

        remember: whether scores are cached across first stages. Scores of the run returned are k, k - 1, ..., since
        those of different stages cannot be compared.
        """
        index = {query: i for i, query in enumerate(self.collection.sets[name].queries.ids)}
        queries, depth = np.array([index[query] for query in query_ids]), self.profile.evaluation.depth
        score = self._cached(system.by, name) if remember else self.scorer(system.by, name)
        order = rerank_pairwise if system.by == "duo" else rerank
        candidates = candidates_of(run, query_ids, self.collection.row.of, depth)
        ranked = order(candidates, lambda q, *p: score(queries[q], *p), self.profile.candidates(system))
        scores = np.broadcast_to(np.arange(depth, 0, -1.0), ranked.shape)
        return as_run(query_ids, self.collection.passages.ids, ranked, scores)


def candidates_of(
    run: Run, query_ids: Sequence[str], indices_of: Callable[[Sequence[str]], IntArray], depth: int
) -> IntArray:
    """A run's first `depth` passages per query as candidates (Q, depth); a query missing from the run has none.

    indices_of: from passage ids to their indices, -1 for an unknown one.
    """
    first = [ranking(run.get(query, {}))[:depth] for query in query_ids]
    present = np.arange(depth) < np.array([len(passages) for passages in first])[:, None]  # (Q, depth)
    candidates = np.full((len(query_ids), depth), -1, np.int64)
    candidates[present] = indices_of([passage for passages in first for passage in passages])
    for query, rank in np.argwhere(present & (candidates < 0))[:1]:
        raise ValueError(f"query {query_ids[query]}: passage {first[query][rank]} is not in the collection")
    return candidates
