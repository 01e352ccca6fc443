"""Re-ranking: orders worked by hand, a tiny T5 and a tiny BERT_CAT, and what is remembered."""

from functools import partial
from itertools import permutations

import numpy as np
import pytest
import tiny
import torch
from tiny import t5
from tiny import t5_tokenizer as tokenizer

from tas_lib.config import Teachers
from tas_lib.data.texts import Rows
from tas_lib.evaluation import metrics
from tas_lib.models import BertCat
from tas_lib.retrieval import cross_encoder
from tas_lib.retrieval import rerank as reranking
from tas_lib.retrieval import t5 as seq2seq
from tools.make_shipped import teachers as making

QUERIES, PASSAGES = tiny.QUERIES, tiny.PASSAGES


# --- orders ------------------------------------------------------------------------------------------------------

CANDIDATES = np.array([[4, 2, 5, 0, 1, 3], [3, 1, -1, -1, -1, -1], [-1] * 6])
VALUE = np.array([0.5, 0.1, 0.9, 0.3, 0.5, 0.7])  # of a passage, whatever the query


def by_value(_: np.ndarray, passages: np.ndarray) -> np.ndarray:
    return VALUE[passages]


def test_reranking_by_hand():
    # of 4, 2, 5 (.5, .9, .7) the order is 2, 5, 4; what lies below stays: 0, 1, 3
    assert reranking.rerank(CANDIDATES, by_value, 3)[0].tolist() == [2, 5, 4, 0, 1, 3]
    assert reranking.rerank(CANDIDATES, by_value, 6)[0].tolist() == [2, 5, 4, 0, 3, 1]  # 4 and 0 tie: 4 came first
    for depth in (2, 3, 99):
        found = reranking.rerank(CANDIDATES, by_value, depth)
        assert found[1:].tolist() == [[3, 1, -1, -1, -1, -1], [-1] * 6]
    assert CANDIDATES[0].tolist() == [4, 2, 5, 0, 1, 3]


def test_only_what_lies_above_the_depth_is_asked_for():
    asked = []

    def score(queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
        asked.extend(zip(queries.tolist(), passages.tolist(), strict=True))
        return VALUE[passages]

    reranking.rerank(CANDIDATES, score, 2)
    assert asked == [(0, 4), (0, 2), (1, 3), (1, 1)]


def test_a_score_that_is_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        reranking.rerank(CANDIDATES, lambda q, p: np.where(p == 5, np.nan, 1.0), 3)


def test_sym_sum_equals_the_double_loop():
    wins = np.random.default_rng(0).random((5, 5))
    wanted = [sum(wins[i, j] + (1 - wins[j, i]) for j in range(5) if j != i) for i in range(5)]
    np.testing.assert_allclose(reranking.sym_sum(wins, ~np.eye(5, dtype=bool)), wanted)


def test_pairwise_reranking_by_hand():
    # p(first, second): 4 over 2 .6, 2 over 4 .9, 4 over 5 .2, 5 over 4 .2, 2 over 5 .5, 5 over 2 .8
    table = {(4, 2): 0.6, (2, 4): 0.9, (4, 5): 0.2, (5, 4): 0.2, (2, 5): 0.5, (5, 2): 0.8}
    # 4: .6 + .1 + .2 + .8 = 1.7; 2: .9 + .4 + .5 + .2 = 2.0; 5: .2 + .8 + .8 + .5 = 2.3
    asked = []

    def prefer(queries: np.ndarray, passages: np.ndarray, rivals: np.ndarray) -> np.ndarray:
        triples = list(zip(queries.tolist(), passages.tolist(), rivals.tolist(), strict=True))
        asked.extend(triples)
        return np.array([table.get((p, r), 0.5) for _, p, r in triples])

    found = reranking.rerank_pairwise(CANDIDATES, prefer, 3)
    assert found.tolist() == [[5, 2, 4, 0, 1, 3], [3, 1, -1, -1, -1, -1], [-1] * 6]  # 3 and 1 tie
    assert sorted(asked) == sorted([(0, *pair) for pair in permutations([4, 2, 5], 2)] + [(1, 3, 1), (1, 1, 3)])


def test_one_candidate_has_no_rival():
    def never(queries: np.ndarray, passages: np.ndarray, rivals: np.ndarray) -> np.ndarray:
        assert len(queries) == 0
        return np.empty(0)

    assert reranking.rerank_pairwise(np.array([[7, -1], [-1, -1]]), never, 2).tolist() == [[7, -1], [-1, -1]]
    assert reranking.rerank_pairwise(CANDIDATES, never, 1).tolist() == CANDIDATES.tolist()


def test_duo_after_mono_moves_the_first_few_alone():
    mono = reranking.rerank(CANDIDATES, by_value, 5)
    assert mono[0].tolist() == [2, 5, 4, 0, 1, 3]
    duo = reranking.rerank_pairwise(mono, lambda q, p, r: (p < r).astype(float), 3)
    assert duo[0].tolist() == [2, 4, 5, 0, 1, 3]


def test_t5_reranks_as_a_sort_by_its_scores():
    model, known = t5(), tokenizer()
    found = reranking.rerank(CANDIDATES, partial(seq2seq.mono_scores, model, known, QUERIES, PASSAGES), 6)
    scores = seq2seq.mono_scores(model, known, QUERIES, PASSAGES, np.zeros(6, int), np.arange(6))
    assert found[0].tolist() == sorted(range(6), key=lambda row: -scores[row])
    prefer = partial(seq2seq.duo_scores, model, known, QUERIES, PASSAGES)
    p = {pair: prefer(*(np.array([row]) for row in (0, *pair))).item() for pair in permutations(range(6), 2)}
    sums = [sum(p[i, j] + 1 - p[j, i] for j in range(6) if j != i) for i in range(6)]
    assert reranking.rerank_pairwise(CANDIDATES, prefer, 6)[0].tolist() == sorted(range(6), key=lambda row: -sums[row])


def test_bert_cat_reranks_through_the_same_function():
    cat = BertCat(tiny.bert()).eval()
    queries, passages = tiny.texts(3, 8, seed=1), tiny.texts(6, 14, seed=2)
    with torch.inference_mode():
        found = reranking.rerank(CANDIDATES, partial(cross_encoder.score_all, cat, queries, passages, chunk=4), 4)
    scores = making.cat_rerank([cat], queries, passages, CANDIDATES, Teachers(bf16=False))
    first = CANDIDATES[0, :4][np.argsort(-scores[0, :4], kind="stable")]
    assert found[0].tolist() == [*first, 1, 3]


# --- remembered --------------------------------------------------------------------------------------------------


def test_a_second_first_stage_asks_only_for_what_is_new():
    asked = []

    def score(queries: np.ndarray, *passages: np.ndarray) -> np.ndarray:
        asked.append(list(zip(*(rows.tolist() for rows in (queries, *passages)), strict=True)))
        return 100 * queries + sum(10.0**-i * rows for i, rows in enumerate(passages))

    remembered = reranking.Remembered(score, n_passages=10)
    q, p = np.array([1, 0, 1, 1]), np.array([9, 5, 2, 9])
    assert remembered(q, p).tolist() == [109, 5, 102, 109]
    assert asked == [[(0, 5), (1, 2), (1, 9)]]  # (1, 9) stands twice, and is asked for once
    assert remembered(np.array([0, 1, 0]), np.array([9, 2, 0])).tolist() == [9, 102, 0]
    assert asked[1:] == [[(0, 0), (0, 9)]]
    assert remembered(q, p).tolist() == [109, 5, 102, 109] and len(asked) == 2
    assert remembered(q[:0], p[:0]).tolist() == [] and len(asked) == 2
    triples = reranking.Remembered(score, n_passages=10)
    assert triples(q, p, p[::-1]).tolist() == [109.9, 5.2, 102.5, 109.9]
    assert triples(q, p[::-1], p).tolist()[0] == 109.9 and len(asked) == 4


def test_what_is_remembered_gives_the_same_order():
    score = partial(seq2seq.mono_scores, t5(), tokenizer(), QUERIES, PASSAGES)
    remembered = reranking.Remembered(score, len(PASSAGES))
    for depth in (3, 6):
        found, wanted = reranking.rerank(CANDIDATES, remembered, depth), reranking.rerank(CANDIDATES, score, depth)
        assert found.tolist() == wanted.tolist()


def test_more_triples_than_there_are_numbers_are_refused():
    remembered = reranking.Remembered(lambda *rows: np.zeros(len(rows[0])), n_passages=8_841_823)
    one = np.array([8_841_822])
    assert remembered(np.array([6_979]), one, one).tolist() == [0]  # MS MARCO's dev set fits
    with pytest.raises(ValueError, match="too many queries"):
        remembered(np.array([200_000]), one, one)


# --- runs and rows -----------------------------------------------------------------------------------------------


def test_a_run_becomes_rows_and_rows_a_run():
    run = {"q1": {"b": 1.0, "a": 1.0, "c": 3.0}, "q3": {"c": 1.0}}
    row = Rows(["a", "b", "c"])
    rows = reranking.candidates_of(run, ["q3", "q2", "q1"], row, depth=4)
    assert rows.tolist() == [[2, -1, -1, -1], [-1] * 4, [2, 0, 1, -1]]  # a and b tie: by id
    assert reranking.candidates_of(run, ["q1"], row, depth=2).tolist() == [[2, 0]]
    back = reranking.ranked_run(["q3", "q2", "q1"], ["a", "b", "c"], rows)
    assert back == {"q3": {"c": 4.0}, "q2": {}, "q1": {"c": 4.0, "a": 3.0, "b": 2.0}}
    assert metrics.ranking(back["q1"]) == metrics.ranking(run["q1"])


def test_a_passage_that_the_collection_has_not_cannot_be_reranked():
    with pytest.raises(ValueError, match="query q1: passage x is not in the collection"):
        reranking.candidates_of({"q1": {"a": 2.0, "x": 1.0}}, ["q1"], Rows(["a"]), depth=2)
