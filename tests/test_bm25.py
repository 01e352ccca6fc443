"""BM25: Lucene's formula by a literal loop, and a full sort as the oracle of the k highest."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tas_lib.config import Bm25
from tas_lib.retrieval.bm25 import Bm25Index, top

DOCUMENTS = [
    ["plot", "line", "colour"],
    ["line", "line", "axis", "graph", "colour", "line"],
    ["matrix", "product"],
    ["graph", "node", "colour", "node"],
    ["matrix"],
]
PASSAGES = [" ".join(words) for words in DOCUMENTS]
QUERIES = ["line", "colour graph", "node matrix line unknown", "line line colour"]


def lucene(query: list[str], words: list[str], k1: float, b: float) -> float:
    """Lucene to the letter: Σ ln(1 + (N - df + ½) / (df + ½)) · tf / (tf + k1 (1 - b + b · length / mean length))."""
    mean = sum(map(len, DOCUMENTS)) / len(DOCUMENTS)
    score = 0.0
    for term in query:
        df = sum(term in other for other in DOCUMENTS)
        tf = words.count(term)
        idf = math.log(1 + (len(DOCUMENTS) - df + 0.5) / (df + 0.5))
        score += idf * tf / (tf + k1 * (1 - b + b * len(words) / mean))
    return score


@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.2, 0.75), (2.0, 0.0), (0.5, 1.0)])
def test_bm25_equals_lucenes_formula(k1: float, b: float):
    for query, *ranked in zip(QUERIES, *Bm25Index(PASSAGES, Bm25(k1=k1, b=b)).search(QUERIES, 5), strict=True):
        expected = {i: lucene(query.split(), words, k1, b) for i, words in enumerate(DOCUMENTS)}
        scores = {i: score for i, score in zip(*ranked, strict=True) if i >= 0}
        assert scores == pytest.approx({i: score for i, score in expected.items() if score > 0}, rel=1e-5)
        assert list(scores.values()) == sorted(scores.values(), reverse=True)


def test_bm25_ignores_case_number_and_stop_words_and_keeps_single_characters():
    index = Bm25Index(["The plots of x", "a PRODUCT"], Bm25())
    found = index.search(["plotting", "products", "X", "the of"], 2)[0]
    assert found.tolist() == [[0, -1], [1, -1], [0, -1], [-1, -1]]


def test_bm25_returns_nothing_for_empty_and_unknown_queries():
    found, scores = Bm25Index(PASSAGES, Bm25()).search(["", "unknown words", "matrix"], 3)
    assert found.tolist() == [[-1, -1, -1], [-1, -1, -1], [4, 2, -1]]
    assert scores[:2].tolist() == [[0, 0, 0], [0, 0, 0]]


def test_bm25_orders_equal_scores_by_passage_and_returns_no_more_than_there_is():
    index = Bm25Index(["one", "two", "one", "one", "two"], Bm25())
    assert index.search(["one"], 2)[0].tolist() == [[0, 2]]
    assert index.search(["one"], 100)[0].tolist() == [[0, 2, 3, -1, -1]]


@settings(deadline=None)  # a busy machine is not a wrong answer
@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(1, 35))
def test_the_k_highest_are_those_of_a_full_sort_with_ties_by_index(values: list[int], k: int):
    best, scores = top(np.array(values, np.float32), k)
    expected = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
    assert best.tolist() == expected
    assert scores.tolist() == [values[i] for i in expected]
