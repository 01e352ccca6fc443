"""Exact dense search: a full sort as the oracle of blocks and scans."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tas_lib.retrieval import dense as search


def made_up(q: int, p: int, width: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries (q, width) in fp32 and passages (p, width) in fp16."""
    rng = torch.Generator().manual_seed(0)
    return torch.randn(q, width, generator=rng), torch.randn(p, width, generator=rng).half()


def full_sort(queries: torch.Tensor, passages: torch.Tensor, depth: int) -> tuple[np.ndarray, np.ndarray]:
    every = queries.numpy() @ passages.float().numpy().T
    best = np.argsort(-every, axis=1, kind="stable")[:, :depth]
    return best, np.take_along_axis(every, best, 1)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
@pytest.mark.parametrize(("block", "depth"), [(1, 10), (7, 1), (7, 150), (64, 100), (1000, 10)])
def test_dense_search_equals_a_full_sort(block: int, depth: int, kind: torch.dtype):
    queries, passages = made_up(5, 100)
    found, scores = search.dense(queries, passages.to(kind), depth, block)
    best, expected = full_sort(queries, passages, depth)
    assert found.tolist() == best.tolist()
    np.testing.assert_allclose(scores, expected, atol=1e-5)


@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_scores_in_any_order_equal_a_full_sort(order: str):
    queries, passages = torch.ones(2, 1), torch.arange(1.0, 91.0)[:, None]
    passages = passages if order == "ascending" else passages.flip(0)
    found, scores = search.dense(queries, passages, 4, block=5)
    assert found.tolist() == full_sort(queries, passages, 4)[0].tolist() and scores[1].tolist() == [90, 89, 88, 87]


@pytest.mark.parametrize(("q", "depth"), [(0, 3), (2, 0), (0, 0)])
def test_no_queries_and_no_depth_give_empty_results(q: int, depth: int):
    assert [part.shape for part in search.dense(torch.ones(q, 2), torch.ones(9, 2), depth, block=2)] == [(q, depth)] * 2


@pytest.mark.parametrize("block", [3, 100])
def test_among_ties_the_highest_scores_are_found_and_no_passage_twice(block: int):
    passages = torch.tensor([[0.0], [2.0], [1.0], [2.0], [1.0], [1.0], [0.0], [2.0]])
    found, scores = search.dense(torch.ones(1, 1), passages, 5, block)
    assert scores.tolist() == [[2, 2, 2, 1, 1]]
    assert set(found[0, :3]) == {1, 3, 7} and set(found[0, 3:]) < {2, 4, 5} and len(set(found[0])) == 5


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("cached", "held"), [(1, 150), (100, 1), (100, 2**25), (1000, 150)])
def test_stretches_and_blocks_of_any_size_equal_a_full_sort(
    monkeypatch: pytest.MonkeyPatch, threads: int, cached: int, held: int
):
    monkeypatch.setattr(search, "CACHED", cached)
    monkeypatch.setattr(search, "HELD", held)
    queries, passages = made_up(3, 500)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    found, _ = search.dense(queries, passages, 20)
    torch.set_num_threads(before)
    assert found.tolist() == full_sort(queries, passages, 20)[0].tolist()


def test_many_queries_hold_few_scores_and_a_few_queries_a_whole_block(monkeypatch: pytest.MonkeyPatch):
    shapes: list[tuple[int, int]] = []

    def products(queries: torch.Tensor, passages: torch.Tensor) -> torch.Tensor:
        shapes.append((len(queries), len(passages)))
        return queries @ passages.float().T

    monkeypatch.setattr(search, "dot_products", products)
    monkeypatch.setattr(search, "HELD", 600)
    search.dense(torch.ones(1, 2), torch.ones(300, 2), 10, block=250)
    search.dense(torch.ones(6, 2), torch.ones(300, 2), 10)  # 600 / 6
    search.dense(torch.ones(200, 2), torch.ones(100, 2), 10)  # 600 / 200 is less than four times the depth
    assert shapes == [(1, 250), (1, 50), (6, 100), (6, 100), (6, 100), (200, 40), (200, 40), (200, 20)]


@pytest.mark.parametrize(("cores", "width", "depth"), [(1, 8, 10), (2, 768, 400), (3, 31, 10), (7, 1, 1), (7, 8, 400)])
def test_a_scan_for_one_query_equals_a_full_sort(monkeypatch: pytest.MonkeyPatch, cores: int, width: int, depth: int):
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    monkeypatch.setattr(search, "SCANNED", 0)
    query, passages = made_up(1, 301, width)
    every = passages.double().numpy() @ query[0].double().numpy()
    found, scores = search.dense(query, passages, depth)
    assert sorted(found[0]) == sorted(set(found[0])) and found.shape == scores.shape == (1, min(depth, 301))
    np.testing.assert_allclose(scores[0], np.sort(every)[::-1][:depth], atol=1e-5 * width**0.5)
    np.testing.assert_allclose(scores[0], every[found[0]], atol=1e-5 * width**0.5)


def test_a_scan_takes_a_file_fewer_passages_than_cores_and_vectors_with_gaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    query, passages = made_up(1, 3, 16)
    np.save(tmp_path / "p.npy", passages.numpy())
    mapped = torch.from_numpy(np.lib.format.open_memmap(tmp_path / "p.npy", mode="c"))
    expected = search.dense(query.repeat(2, 1), passages, 3)[0][:1].tolist()
    assert search.scan(query, mapped, 3)[0].tolist() == expected
    assert search.scan(query, torch.cat([passages, passages], dim=1)[:, :16], 3)[0].tolist() == expected
    assert search.scan(query.T.contiguous().T, passages, 3)[0].tolist() == expected


def test_only_one_query_over_many_fp16_passages_is_scanned(monkeypatch: pytest.MonkeyPatch):
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


def test_a_searcher_finds_what_dense_search_finds():
    queries, passages = made_up(5, 100)
    assert search.searcher(passages)(queries, 10)[0].tolist() == search.dense(queries, passages, 10)[0].tolist()
