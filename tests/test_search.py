import math
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tas_lib.config import Bm25
from tas_lib.retrieval import bm25
from tas_lib.retrieval import dense as search

DOCUMENTS = [
    ["plot", "line", "colour"],
    ["line", "line", "axis", "graph", "colour", "line"],
    ["matrix", "product"],
    ["graph", "node", "colour", "node"],
    ["matrix"],
]
PASSAGES = [" ".join(words) for words in DOCUMENTS]


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
@pytest.mark.parametrize("query", ["line", "colour graph", "node matrix line unheard", "line line colour"])
def test_bm25_equals_lucenes_formula(k1: float, b: float, query: str):
    rows, scores = bm25.Bm25Index(PASSAGES, Bm25(k1=k1, b=b)).search([query], 5)
    wanted = [lucene(query.split(), words, k1, b) for words in DOCUMENTS]
    found = {row: score for row, score in zip(rows[0], scores[0], strict=True) if row >= 0}
    assert found == pytest.approx({row: score for row, score in enumerate(wanted) if score > 0}, rel=1e-5)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_bm25_reads_words_without_case_number_or_stop_words():
    index = bm25.Bm25Index(["The plots of x", "a PRODUCT"], Bm25())
    assert index.search(["plotting"], 2)[0].tolist() == [[0, -1]]
    assert index.search(["products"], 2)[0].tolist() == [[1, -1]]
    assert index.search(["X"], 2)[0].tolist() == [[0, -1]]  # single characters count
    assert index.search(["the of"], 2)[0].tolist() == [[-1, -1]]  # stop words do not


def test_bm25_finds_nothing_for_empty_and_unheard_queries_among_others():
    index = bm25.Bm25Index(PASSAGES, Bm25())
    rows, scores = index.search(["", "unheard of", "matrix"], 3)
    assert rows.tolist() == [[-1, -1, -1], [-1, -1, -1], [4, 2, -1]]
    assert scores[:2].tolist() == [[0, 0, 0], [0, 0, 0]]


def test_bm25_puts_equal_scores_in_the_order_of_the_passages():
    index = bm25.Bm25Index(["one", "two", "one", "one", "two"], Bm25())
    assert index.search(["one"], 2)[0].tolist() == [[0, 2]]


def test_bm25_gives_no_more_than_there_is():
    rows, scores = bm25.Bm25Index(PASSAGES, Bm25()).search(["colour"], 100)
    assert rows.shape == scores.shape == (1, 5)


# --- the k highest -----------------------------------------------------------------------------------------------


@settings(deadline=None)  # a busy machine is not a wrong answer
@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(1, 35))
def test_the_highest_are_those_of_a_full_sort_with_ties_by_row(values: list[int], k: int):
    scores = np.array(values, np.float32)
    rows, found = bm25.top(scores, k)
    wanted = sorted(range(len(values)), key=lambda row: (-values[row], row))[:k]
    assert rows.tolist() == wanted
    assert found.tolist() == [values[row] for row in wanted]


# --- dense -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
@pytest.mark.parametrize("depth", [1, 10, 100, 150])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_dense_search_equals_a_full_sort(block: int, depth: int, kind: torch.dtype):
    rng = torch.Generator().manual_seed(0)
    queries, passages = torch.randn(5, 8, generator=rng), torch.randn(100, 8, generator=rng).to(kind)
    rows, scores = search.dense(queries, passages, depth, block)
    every = queries.numpy() @ passages.float().numpy().T
    wanted = np.argsort(-every, axis=1, kind="stable")[:, :depth]
    assert rows.tolist() == wanted.tolist()
    np.testing.assert_allclose(scores, np.take_along_axis(every, wanted, 1), atol=1e-5)


@pytest.mark.parametrize("block", [3, 100])
def test_among_ties_dense_search_finds_the_highest_scores_and_no_row_twice(block: int):
    passages = torch.tensor([[0.0], [2.0], [1.0], [2.0], [1.0], [1.0], [0.0], [2.0]])
    rows, scores = search.dense(torch.ones(1, 1), passages, 5, block)
    assert scores.tolist() == [[2, 2, 2, 1, 1]]
    assert set(rows[0, :3]) == {1, 3, 7} and set(rows[0, 3:]) < {2, 4, 5} and len(set(rows[0])) == 5


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("cached", [1, 100, 1000])
@pytest.mark.parametrize("held", [1, 150, 2**25])
def test_stretches_and_blocks_of_any_size_find_what_a_full_sort_finds(
    monkeypatch: pytest.MonkeyPatch, threads: int, cached: int, held: int
):
    monkeypatch.setattr(search, "CACHED", cached)
    monkeypatch.setattr(search, "HELD", held)
    rng = torch.Generator().manual_seed(0)
    queries, passages = torch.randn(3, 8, generator=rng), torch.randn(500, 8, generator=rng).half()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    rows, _ = search.dense(queries, passages, 20)
    torch.set_num_threads(before)
    every = queries.numpy() @ passages.float().numpy().T
    assert rows.tolist() == np.argsort(-every, axis=1, kind="stable")[:, :20].tolist()


def test_many_queries_hold_few_scores_and_one_query_a_whole_block(monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[int, int]] = []

    def seen(queries: torch.Tensor, passages: torch.Tensor) -> torch.Tensor:
        asked.append((len(queries), len(passages)))
        return queries @ passages.float().T

    monkeypatch.setattr(search, "dot_products", seen)
    monkeypatch.setattr(search, "HELD", 600)
    search.dense(torch.ones(1, 2), torch.ones(300, 2), 10, block=250)
    search.dense(torch.ones(6, 2), torch.ones(300, 2), 10)  # 600 / 6
    search.dense(torch.ones(200, 2), torch.ones(100, 2), 10)  # 600 / 200 is less than four times the depth
    assert asked == [(1, 250), (1, 50), (6, 100), (6, 100), (6, 100), (200, 40), (200, 40), (200, 20)]


@pytest.mark.parametrize("cores", [1, 2, 3, 7])
@pytest.mark.parametrize("width", [1, 8, 31, 768])
@pytest.mark.parametrize("depth", [1, 10, 400])
def test_a_scan_for_one_query_finds_what_a_full_sort_finds(
    monkeypatch: pytest.MonkeyPatch, cores: int, width: int, depth: int
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    monkeypatch.setattr(search, "SCANNED", 0)
    rng = torch.Generator().manual_seed(0)
    query, passages = torch.randn(1, width, generator=rng), torch.randn(301, width, generator=rng).half()
    every = passages.double().numpy() @ query[0].double().numpy()
    rows, scores = search.dense(query, passages, depth)
    assert sorted(rows[0]) == sorted(set(rows[0])) and rows.shape == scores.shape == (1, min(depth, 301))
    np.testing.assert_allclose(scores[0], np.sort(every)[::-1][:depth], atol=1e-5 * width**0.5)
    np.testing.assert_allclose(scores[0], every[rows[0]], atol=1e-5 * width**0.5)


def test_a_scan_takes_a_file_fewer_passages_than_cores_and_vectors_with_gaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    rng = torch.Generator().manual_seed(0)
    query, passages = torch.randn(1, 16, generator=rng), torch.randn(3, 16, generator=rng).half()
    np.save(tmp_path / "p.npy", passages.numpy())
    mapped = torch.from_numpy(np.lib.format.open_memmap(tmp_path / "p.npy", mode="c"))
    wanted = search.dense(query.repeat(2, 1), passages, 3)[0][:1].tolist()
    assert search.scan(query, mapped, 3)[0].tolist() == wanted
    assert search.scan(query, torch.cat([passages, passages], dim=1)[:, :16], 3)[0].tolist() == wanted
    assert search.scan(query.T.contiguous().T, passages, 3)[0].tolist() == wanted


def test_only_one_query_over_many_passages_in_fp16_is_scanned(monkeypatch: pytest.MonkeyPatch):
    multiplied: list[tuple[int, int]] = []
    monkeypatch.setattr(search, "dot_products", lambda q, p: multiplied.append((len(q), len(p))) or q @ p.float().T)
    monkeypatch.setattr(search, "SCANNED", 20)  # bytes: five vectors of two
    passages = torch.ones(6, 2)
    for n, some in [(1, passages.half()), (1, passages[:5].half()), (1, passages[:4].half()), (2, passages.half())]:
        search.dense(torch.ones(n, 2), some, 3)
    search.dense(torch.ones(1, 2), passages, 3)
    assert multiplied == [(1, 4), (2, 6), (1, 6)]
    assert search.dense(torch.ones(1, 2), passages[:0].half(), 3)[0].shape == (1, 0)


def test_scores_of_half_precision_vectors_are_summed_in_full():
    # 1 + 2048 × 2^-12: in fp16 each small step would be lost against 1 (spacing 2^-10)
    passages = torch.full((1, 2049), 2.0**-12, dtype=torch.float16)
    passages[0, 0] = 1
    assert search.dense(torch.ones(1, 2049), passages, 1)[1].tolist() == [[1.5]]


# --- with what the machine has -----------------------------------------------------------------------------------


def test_a_searcher_finds_what_dense_search_finds():
    rng = torch.Generator().manual_seed(0)
    queries, passages = torch.randn(5, 8, generator=rng), torch.randn(100, 8, generator=rng).half()
    found = search.searcher(passages)(queries, 10)
    assert found[0].tolist() == search.dense(queries, passages, 10)[0].tolist()


@pytest.mark.parametrize("cards", [1, 3, 7])
@pytest.mark.parametrize("depth", [1, 10, 150])
def test_parts_of_the_passages_in_several_indexes_are_searched_as_one(
    monkeypatch: pytest.MonkeyPatch, cards: int, depth: int
):
    monkeypatch.setattr(search, "COPIED", 6)
    rng = torch.Generator().manual_seed(0)
    queries, passages = torch.randn(5, 8, generator=rng), torch.randn(100, 8, generator=rng).half()
    parts = [faiss.IndexFlatIP(8) for _ in range(cards)]  # on a GPU: flat_on_gpu
    index = search.sharded(passages, parts)
    assert [part.ntotal for part in parts] == [len(part) for part in passages.tensor_split(cards)]
    rows, scores = search.faiss_search(index, queries, depth)
    wanted, theirs = search.dense(queries, passages, depth)
    assert rows.tolist() == wanted.tolist()
    np.testing.assert_allclose(scores, theirs, atol=1e-5)


def test_an_index_in_parts_of_fp16_finds_what_dense_search_finds():
    rng = torch.Generator().manual_seed(0)
    queries, passages = torch.randn(5, 8, generator=rng), torch.randn(100, 8, generator=rng).half()
    kind = faiss.ScalarQuantizer.QT_fp16  # flat, in fp16, on a CPU
    parts = [faiss.IndexScalarQuantizer(8, kind, faiss.METRIC_INNER_PRODUCT) for _ in range(2)]
    rows, _ = search.faiss_search(search.sharded(passages, parts), queries, 10)
    assert rows.tolist() == search.dense(queries, passages, 10)[0].tolist()


def test_faiss_on_a_gpu_has_a_deepest_depth():
    index = search.sharded(torch.zeros(4, 8), [faiss.IndexFlatIP(8)])
    assert search.faiss_search(index, torch.zeros(1, 8), 2048)[0].shape == (1, 4)
    with pytest.raises(ValueError, match="FAISS on a GPU finds 2,048 passages a query at most, not 2,049"):
        search.faiss_search(index, torch.zeros(1, 8), 2049)


@pytest.mark.skipif(not hasattr(faiss, "GpuIndexFlatIP"), reason="faiss-cpu, where there is no wheel for GPUs")
def test_the_installed_faiss_knows_all_that_a_gpu_is_asked_for():
    config = faiss.GpuIndexFlatConfig()
    assert (config.device, config.useFloat16) == (0, False)  # names that there are: others can be set as well
    if faiss.get_num_gpus():
        assert search.flat_on_gpu(0, 8).d == 8
    else:
        with pytest.raises(RuntimeError, match="Invalid GPU device 0"):  # not before all arguments were right
            search.flat_on_gpu(0, 8)
