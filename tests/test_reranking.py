"""Re-ranking: orders worked by hand, a tiny T5 and a tiny BERT_CAT, and cached scores."""

from itertools import permutations

import numpy as np
import pytest

from tas_lib.retrieval.rerank import ScoreCache, candidates_of, rerank, rerank_pairwise, sym_sum

CANDIDATES = np.array([[4, 2, 5, 0, 1, 3], [3, 1, -1, -1, -1, -1], [-1] * 6])
VALUE = np.array([0.5, 0.1, 0.9, 0.3, 0.5, 0.7])  # of a passage, whatever the query


class Scorer:
    """Scores by a function of passages, and the tuples that it was called with."""

    def __init__(self, score) -> None:
        self.score, self.calls = score, []

    def __call__(self, queries: np.ndarray, *passages: np.ndarray) -> np.ndarray:
        self.calls.append([*zip(*(indices.tolist() for indices in (queries, *passages)), strict=True)])
        return self.score(queries, *passages)


def by_value(_: np.ndarray, passages: np.ndarray) -> np.ndarray:
    return VALUE[passages]


def test_reranking_by_hand():
    # of 4, 2, 5 (.5, .9, .7) the order is 2, 5, 4; below the depth 0, 1, 3 keep their order
    assert rerank(CANDIDATES, by_value, 3)[0].tolist() == [2, 5, 4, 0, 1, 3]
    assert rerank(CANDIDATES, by_value, 6)[0].tolist() == [2, 5, 4, 0, 3, 1]  # 4 and 0 tie: 4 came first
    for depth in (2, 3, 99):
        assert rerank(CANDIDATES, by_value, depth)[1:].tolist() == [[3, 1, -1, -1, -1, -1], [-1] * 6]
    assert CANDIDATES[0].tolist() == [4, 2, 5, 0, 1, 3]


def test_only_candidates_above_the_depth_are_scored():
    scorer = Scorer(by_value)
    rerank(CANDIDATES, scorer, 2)
    assert scorer.calls == [[(0, 4), (0, 2), (1, 3), (1, 1)]]


def test_a_score_that_is_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        rerank(CANDIDATES, lambda q, p: np.where(p == 5, np.nan, 1.0), 3)


def test_sym_sum_equals_the_double_loop():
    wins = np.random.default_rng(0).random((5, 5))
    expected = [sum(wins[i, j] + (1 - wins[j, i]) for j in range(5) if j != i) for i in range(5)]
    np.testing.assert_allclose(sym_sum(wins, ~np.eye(5, dtype=bool)), expected)


def test_pairwise_reranking_by_hand():
    # p(first, second): 4 over 2 .6, 2 over 4 .9, 4 over 5 .2, 5 over 4 .2, 2 over 5 .5, 5 over 2 .8
    table = {(4, 2): 0.6, (2, 4): 0.9, (4, 5): 0.2, (5, 4): 0.2, (2, 5): 0.5, (5, 2): 0.8}
    # 4: .6 + .1 + .2 + .8 = 1.7; 2: .9 + .4 + .5 + .2 = 2.0; 5: .2 + .8 + .8 + .5 = 2.3
    prefer = Scorer(
        lambda q, p, r: np.array([table.get(pair, 0.5) for pair in zip(p.tolist(), r.tolist(), strict=True)])
    )
    ranked = rerank_pairwise(CANDIDATES, prefer, 3)
    assert ranked.tolist() == [[5, 2, 4, 0, 1, 3], [3, 1, -1, -1, -1, -1], [-1] * 6]  # 3 and 1 tie
    expected = [(0, *pair) for pair in permutations([4, 2, 5], 2)] + [(1, 3, 1), (1, 1, 3)]
    assert sorted(prefer.calls[0]) == sorted(expected)
    assert rerank_pairwise(CANDIDATES, prefer, 1).tolist() == CANDIDATES.tolist()  # one candidate has no rival
    assert prefer.calls[1] == []


# --- cached scores -----------------------------------------------------------------------------------------------


def test_a_second_first_stage_pays_only_for_new_candidates():
    scorer = Scorer(lambda queries, *passages: 100 * queries + sum(10.0**-i * p for i, p in enumerate(passages)))
    cached = ScoreCache(scorer)
    q, p = np.array([1, 0, 1, 1]), np.array([9, 5, 2, 9])
    assert cached(q, p).tolist() == [109, 5, 102, 109]
    assert scorer.calls == [[(0, 5), (1, 2), (1, 9)]]  # (1, 9) occurs twice, and is scored once
    assert cached(np.array([0, 1, 0]), np.array([9, 2, 0])).tolist() == [9, 102, 0]
    assert scorer.calls[1:] == [[(0, 0), (0, 9)]]
    assert cached(q, p).tolist() == [109, 5, 102, 109] and len(scorer.calls) == 2
    assert cached(q[:0], p[:0]).tolist() == [] and len(scorer.calls) == 2
    triples = ScoreCache(scorer)
    assert triples(q, p, p[::-1]).tolist() == [109.9, 5.2, 102.5, 109.9]
    assert triples(q, p[::-1], p).tolist()[0] == 109.9 and len(scorer.calls) == 4


# --- candidates of a run -----------------------------------------------------------------------------------------


def indices_of(passages: list[str]) -> np.ndarray:
    return np.array([{"a": 0, "b": 1, "c": 2}.get(passage, -1) for passage in passages], np.int32)


def test_candidates_are_a_runs_first_passages_with_ties_by_falling_id():
    run = {"q1": {"b": 1.0, "a": 1.0, "c": 3.0}, "q3": {"c": 1.0}}
    candidates = candidates_of(run, ["q3", "q2", "q1"], indices_of, depth=4)
    assert candidates.tolist() == [[2, -1, -1, -1], [-1] * 4, [2, 1, 0, -1]]
    assert candidates_of(run, ["q1"], indices_of, depth=2).tolist() == [[2, 1]]


def test_a_passage_outside_the_collection_cannot_be_reranked():
    with pytest.raises(ValueError, match="query q1: passage x is not in the collection"):
        candidates_of({"q1": {"a": 2.0, "x": 1.0}}, ["q1"], indices_of, depth=2)
