import csv
import io
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from tas_lib.data import store
from tas_lib.models import BertDot, ColBert
from tas_lib.records import Batch, History
from tas_lib.report import cost_tables, latency, roofline
from tas_lib.report.cost_tables import Cell, Table
from tas_lib.report.latency import ENCODING, RETRIEVAL, TOKENS, TOTAL, Timing
from tas_lib.report.published import paper_table
from tas_lib.report.roofline import Bound, Roofline
from tas_lib.retrieval import dense as search
from tas_lib.train import teachers
from tas_lib.train.loop import InBatchTeacher
from tas_lib.train.teachers import TokenVectors

CPU = torch.device("cpu")


def reading(*seconds: float) -> Callable[[], float]:
    """A clock that shows these times, one a look."""
    return iter(seconds).__next__


# --- the clock -----------------------------------------------------------------------------------------------------


def test_stages_and_their_total_by_hand():
    # started at 10.0; first stage done at 10.5, second at 12.0; again from 20.0: 21.0, 21.25
    clock = reading(10.0, 10.5, 12.0, 20.0, 21.0, 21.25)
    found = latency.time_stages(lambda: iter("ab"), warm_up=0, seconds=100, most=2, clock=clock)
    assert found == {"a": Timing([500, 1000]), "b": Timing([1500, 250]), TOTAL: Timing([2000, 1250])}
    assert (found["a"].mean, found[TOTAL].mean) == (750, 1625)


def test_the_warm_up_is_run_and_not_timed():
    calls: list[int] = []
    timing = latency.time_boxed(lambda: calls.append(0), 3, 100, 2, reading(0.0, 1.0, 1.0, 3.0))
    assert (len(calls), timing.ms) == (5, [1000, 2000])


def test_time_is_up_after_the_repetition_that_passes_the_limit():
    # two seconds: 0 to 0.9, 1.0 to 1.9, 2.0 to 2.5, which is past it
    timing = latency.time_boxed(lambda: None, 0, 2.0, 100, reading(0.0, 0.9, 1.0, 1.9, 2.0, 2.5))
    assert timing.ms == pytest.approx([900, 900, 500])


def test_what_takes_longer_than_the_limit_is_timed_once():
    assert latency.time_boxed(lambda: None, 0, 0.5, 100, reading(0.0, 60.0)).ms == [60_000]


def test_the_shortest_time_of_each_batch_counts():
    asked: list[list[str]] = []

    def answer(texts: list[str]) -> Iterator[str]:
        asked.append(texts)
        yield "done"

    # two batches of two (the fifth query is left over), three rounds; a look at the clock before and after each
    clock = reading(0, 5, 10, 12, 20, 21, 30, 37, 40, 43, 50, 54)  # 5 and 2; 1 and 7; 3 and 4 seconds
    assert latency.least(answer, list("abcde"), 2, 3, clock).ms == [1000, 2000]
    assert asked == [["a", "b"], ["c", "d"]] * 3


@pytest.mark.parametrize(
    ("n", "tail", "name"),
    [
        (1, 1, "longest of 1"),
        (99, 99, "longest of 99"),
        (100, 99, "99th percentile"),  # 99 of 100 are at most 99
        (101, 100, "99th percentile"),  # 99% of 101 are 99.99, so 100 of them
        (1000, 990, "99th percentile"),
    ],
)
def test_the_tail_is_the_99th_percentile_from_a_hundred_on(n: int, tail: float, name: str):
    timing = Timing([float(i) for i in range(n, 0, -1)])
    assert (timing.tail, timing.tail_name) == (tail, name)


# --- a query -------------------------------------------------------------------------------------------------------


def test_a_query_goes_through_three_stages_and_finds_what_a_full_sort_finds():
    tokenizer = tiny.tokenizer()
    model = BertDot(tiny.bert(len(tokenizer)), "mean")
    texts = ["the mean of an array", "plot", "matrix product along an axis"]
    passages = torch.randn(50, 16, generator=torch.Generator().manual_seed(0)).half()
    kept = []

    def find(vecs: torch.Tensor) -> None:
        kept.append((vecs, search.dense(vecs, passages, 7)[0]))

    assert list(latency.answering(model, tokenizer, 8, find, 2, texts)) == [TOKENS, ENCODING, RETRIEVAL]
    vecs, rows = kept[0]
    ids = [tokenizer(text, return_tensors="pt") for text in texts]  # one at a time: no padding, no chunks
    alone = torch.cat([model(one["input_ids"], one["attention_mask"]) for one in ids])
    torch.testing.assert_close(vecs, alone.detach(), atol=1e-5, rtol=0)
    scores = vecs.numpy() @ passages.float().numpy().T
    assert rows.tolist() == np.argsort(-scores, axis=1, kind="stable")[:, :7].tolist()


def test_every_repetition_asks_the_next_queries_at_each_batch_size():
    asked: list[list[str]] = []

    def answer(texts: list[str]) -> Iterator[str]:
        asked.append(texts)
        yield RETRIEVAL

    found = latency.latencies(answer, ["a", "b", "c"], seconds=100, most=2)
    assert {size: len(stages[TOTAL].ms) for size, stages in found.items()} == {1: 2, 10: 2, 2000: 2}
    assert asked[:5] == [["a"], ["b"], ["c"], ["a"], ["b"]]  # three to warm up, two timed
    assert asked[5] == list("abcabcabca") and asked[6] == list("bcabcabcab")
    assert [len(texts) for texts in asked[10:]] == [2000] * 3  # one to warm up


# --- what bounds it ------------------------------------------------------------------------------------------------


def test_the_bound_of_a_search_by_hand():
    # 1,000 × 8 numbers of two bytes: 16,000 bytes at 16 GB/s are 1 µs; 2 · 5 · 8,000 operations at 10 GFLOP/s 8 µs
    work = roofline.retrieval_work(5, torch.zeros(1000, 8, dtype=torch.float16))
    assert work == (16_000, 80_000)
    assert roofline.bound(work, Roofline(16, 10)) == pytest.approx((0.001, 0.008))


def test_the_bound_of_encoding_counts_layers_and_not_the_table_of_words():
    few, many = (BertDot(tiny.bert(vocabulary)) for vocabulary in (40, 4000))
    works = [roofline.encoding_work(model, np.array([3, 4, 5]), 2) for model in (few, many)]
    # width 16, inside 32: query, key, value and output 4 · (16² + 16), then 16 · 32 + 32 and 32 · 16 + 16, and two
    # layer norms of 2 · 16: 2,224 weights of four bytes, read for each of two chunks, used for each of twelve tokens
    assert works == [(2 * 4 * 2224, 2 * 2224 * 12)] * 2


def test_the_larger_of_two_bounds_decides_and_explains_a_half_or_nothing():
    assert Bound(3, 7).ms == 7
    assert [Bound(3, 7).what(ms) for ms in (7, 14, 15)] == ["computing", "computing", "neither"]
    assert Bound(7, 3).what(14) == "reading"


def test_roofline_and_hardware_are_measured_here():
    found = roofline.roofline(CPU, mb=4, n=64, seconds=0.01)
    assert found.gb_s > 0 and found.gflop_s > 0
    assert {"processor", "cores", "memory", "library"} <= {
        name for name, told in roofline.hardware(CPU).items() if told
    }


# --- an index of any size ------------------------------------------------------------------------------------------


def test_synthetic_vectors_have_length_one_and_are_read_from_disk(tmp_path: Path):
    place = store.Store(tmp_path)
    vecs = latency.unit_vectors(place, 100, 32, shard=40)  # shards of 40, 40 and 20
    assert (vecs.shape, vecs.dtype) == ((100, 32), torch.float16)
    torch.testing.assert_close(vecs.float().norm(dim=1), torch.ones(100), atol=2e-3, rtol=0)
    assert len(set(map(tuple, vecs.tolist()))) == 100
    made = tmp_path / "synthetic" / "100x32" / "vectors.npy"
    assert np.array_equal(np.load(made), vecs.numpy())  # a plain npy file
    before = made.stat().st_mtime_ns
    latency.unit_vectors(place, 100, 32, shard=40)
    assert made.stat().st_mtime_ns == before


@pytest.mark.parametrize("left", [0, 50, 128, 128 + 64 * 40, 128 + 64 * 40 + 7, 128 + 64 * 80, 128 + 64 * 99])
def test_a_file_cut_off_anywhere_is_gone_on_with(tmp_path: Path, left: int):
    whole, cut = tmp_path / "whole.npy", tmp_path / "cut.npy"
    latency.write_unit_vectors(whole, 100, 32, seed=1, shard=40)
    assert whole.stat().st_size == 128 + 64 * 100  # npy's head, 64 bytes a vector
    cut.write_bytes(whole.read_bytes()[:left])
    latency.write_unit_vectors(cut, 100, 32, seed=1, shard=40)
    assert cut.read_bytes() == whole.read_bytes()


def test_going_on_leaves_whole_shards_alone(tmp_path: Path):
    path = tmp_path / "vectors.npy"
    latency.write_unit_vectors(path, 100, 32, seed=1, shard=40)
    data = bytearray(path.read_bytes())
    data[128:130] = b"\0\0"  # a mark in the first shard
    path.write_bytes(data[: 128 + 64 * 50])
    latency.write_unit_vectors(path, 100, 32, seed=1, shard=40)
    assert path.read_bytes()[128:130] == b"\0\0" and path.stat().st_size == 128 + 64 * 100


def test_mapped_vectors_are_searched_like_any(tmp_path: Path):
    vecs = latency.unit_vectors(store.Store(tmp_path), 300, 16, shard=64)
    queries = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    rows, _ = search.dense(queries, vecs, 10, block=100)
    every = queries.numpy() @ vecs.float().numpy().T
    assert rows.tolist() == np.argsort(-every, axis=1, kind="stable")[:, :10].tolist()


def test_the_papers_encoder_has_six_layers_of_768():
    config = latency.paper_encoder(100).encoder.config
    assert (config.n_layers, config.dim, config.hidden_dim) == (6, 768, 3072)


# --- a training ----------------------------------------------------------------------------------------------------


def test_the_cost_of_a_training_by_hand():
    # 500 steps in 50 s: .1 s a step, 32 samples in it are 320 a second; 800,000 steps are 80,000 s, 22.2 hours
    history = [History(250, 0.3, 1, 1, 20.0), History(500, 0.2, 1, 1, 50.0)]
    found = latency.cost(history, 32, teacher_ms=2.0, kept_ms=0.5, peak=100.0, clustering_s=None)
    assert found == pytest.approx((32, 0.1, 320, 2.0, 0.5, 100.0, None, 500, 80_000 / 3600))


def test_a_teacher_that_keeps_nothing_scores_as_the_one_that_keeps_its_vectors():
    queries, passages = tiny.texts(6, 6, seed=1), tiny.texts(9, 12, seed=2)
    colbert = ColBert(tiny.bert(), 8).eval()
    batch = Batch(np.array([4, 0, 2]), np.array([1, 8, 3]), np.array([0, 1, 7]), np.zeros(3))
    kept = [TokenVectors(teachers.token_vectors(colbert, texts), texts) for texts in (queries, passages)]
    with torch.inference_mode():
        scores = latency.fresh_scores(colbert, queries, passages, batch)
    assert scores.shape == (3, 6)
    torch.testing.assert_close(scores, InBatchTeacher(*kept).scores(batch, CPU), atol=0.02, rtol=0.01)  # kept in fp16


def test_peak_memory_counts_what_lives_at_one_time():
    def f() -> None:
        first = torch.ones(1_000_000)  # 4 MB
        second = torch.ones(500_000)  # 6 MB
        del first  # 2 MB
        third = torch.ones(1_500_000)  # 8 MB
        del second, third
        torch.ones(250_000)  # 1 MB

    assert latency.peak_mb(f, CPU) == pytest.approx(8.0, abs=0.01)
    assert latency.peak_mb(lambda: None, CPU) == 0


# --- the tables ----------------------------------------------------------------------------------------------------


def stages(n: int) -> dict[str, Timing]:
    return {stage: Timing([float(i) for i in range(1, n + 1)]) for stage in (TOKENS, ENCODING, RETRIEVAL, TOTAL)}


def test_table_1_has_the_papers_cells_beside_ours_and_calls_a_maximum_so():
    table = cost_tables.table1({1: stages(100), 10: stages(3)}, "Caption.")
    cells = {(cell.row, cell.column): cell for cell in table.groups[0]}
    assert cells["1", "Retrieval Avg."] == Cell("1", "Retrieval Avg.", "50.5 ms", "54 ms")
    assert cells["1", "Retrieval 99th Per."].value == "99.0 ms"
    assert cells["10", "Total 99th Per."] == Cell("10", "Total 99th Per.", "3.00 ms (longest of 3)", "176 ms")
    assert len(cells) == 12


def test_every_cell_of_the_papers_table_1_has_its_place():
    table = cost_tables.table1({size: stages(1) for size in latency.SIZES}, "")
    printed = [cell.paper for cell in table.groups[0]]
    assert sorted(printed) == sorted(cell.value for cell in paper_table(1).values())


def costs() -> dict[str, latency.Cost]:
    return {"labels": latency.Cost(32, 0.1, 320.0, 0.0, 0.0, 81.6, None, 1500, 22.2),
            "dual/tas_balanced": latency.Cost(32, 0.12, 267.0, 14.25, 0.5, 120.0, 1.24, 800, 26.7)}  # fmt: skip


def test_table_2_shows_the_papers_rows_and_what_was_measured_or_why_not():
    printed, measured = cost_tables.table2(costs(), "").groups
    assert {cell.row for cell in printed} == {cell.row for cell in measured}
    assert "ANCE [42]" in {cell.row for cell in printed}
    values = {row: [cell.value for cell in measured if cell.row == row] for row in ("Standalone", "TAS-Balanced")}
    assert values["Standalone"] == ["32", "0.100", "320", "–", "–", "82", "–", "1,500", "22.2"]
    assert values["TAS-Balanced"] == ["32", "0.120", "267", "14.2", "0.500", "120", "1.2", "800", "26.7"]
    assert {cell.value for cell in measured if cell.row.startswith("TCT")} == {"not run"}
    assert {cell.value for cell in measured if cell.row.startswith("RocketQA")} == {"reported only"}
    theirs = [cell.value for (_, column), cell in paper_table(2).items() if column != "Reference"]
    assert sorted(cell.paper for cell in printed) == sorted(theirs)


def test_a_table_in_three_forms(tmp_path: Path):
    groups = [
        [Cell("a", "Avg.", "1.00 ms", "8 ms"), Cell("a", "Max", "2.00 ms")],
        [Cell("b_1", "GPU", "", "1× GTX, > 13")],
    ]
    paths = cost_tables.write(Table("What it is.", "Row", groups), tmp_path, "table1")
    md, tidy, tex = (path.read_text() for path in paths)
    assert [path.name for path in paths] == ["table1.md", "table1.csv", "table1.tex"]
    assert md == (
        "What it is.\n\n| Row | Avg. | Max |\n| --- | ---: | ---: |\n| a | 1.00 ms<br>(8 ms) | 2.00 ms |\n"
        "\n| Row | GPU |\n| --- | ---: |\n| b_1 | (1× GTX, > 13) |\n"
    )
    assert list(csv.DictReader(io.StringIO(tidy)))[2] == {
        "row": "b_1", "column": "GPU", "value": "", "paper_value": "1× GTX, > 13"
    }  # fmt: skip
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 2
    assert r"b\_1 & (1$\times$ GTX, $>$ 13) \\" in tex


def test_the_tables_of_the_papers_size_can_be_made_in_small(tmp_path: Path):
    """What target table1-full does, at a tiny size."""
    tokenizer = tiny.tokenizer()
    vecs = latency.unit_vectors(store.Store(tmp_path), 200, 16)
    find = partial(search.dense, passages=vecs, depth=10)
    answer = partial(latency.answering, BertDot(tiny.bert(len(tokenizer))), tokenizer, 8, find, 64)
    found = latency.latencies(answer, tiny.source().sets["dev"].queries.texts, seconds=0.0)
    table = cost_tables.table1(found, "")
    assert len(table.groups[0]) == 18
    assert all(len(timing.ms) == 1 for stages in found.values() for timing in stages.values())
