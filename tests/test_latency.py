"""Latency and cost: clocks that tell set times, memory and work by hand, and Tables 1 and 2 made of them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from tas_lib.data import store
from tas_lib.models import BertDot
from tas_lib.report import cost, latency, render
from tas_lib.report.cost import Cost
from tas_lib.report.latency import ENCODING, RETRIEVAL, TOKENS, TOTAL, Timing
from tas_lib.report.paper import paper_table
from tas_lib.retrieval import dense as search

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """Sets the times that the clock shows, one for each look."""
    return lambda *seconds: monkeypatch.setattr(latency, "now", iter(seconds).__next__)


# --- the clock -----------------------------------------------------------------------------------------------------


def test_stages_and_their_total_by_hand(clock):
    # started at 10.0; first stage done at 10.5, second at 12.0; again from 20.0: 21.0, 21.25
    clock(9.0, 10.0, 10.5, 12.0, 20.0, 21.0, 21.25)
    times = latency.time_stages(lambda: iter("ab"), warm_up=0, seconds=100, most=2)
    assert times == {"a": Timing([500, 1000]), "b": Timing([1500, 250]), TOTAL: Timing([2000, 1250])}
    assert (times["a"].mean, times[TOTAL].mean) == (750, 1625)


def test_a_time_box_ends_after_the_repetition_that_passes_the_limit(clock):
    calls: list[int] = []
    clock(0.0, 0.0, 1.0, 1.0, 3.0)
    assert latency.time_boxed(lambda: calls.append(0), 3, 100, 2).ms == [1000, 2000]
    assert len(calls) == 5  # the warm-up is run and not timed
    clock(0.0, 0.0, 0.9, 1.0, 1.9, 2.0, 2.5)  # two seconds: 0 to 0.9, 1.0 to 1.9, 2.0 to 2.5, which is past it
    assert latency.time_boxed(lambda: None, 0, 2.0, 100).ms == pytest.approx([900, 900, 500])
    clock(0.0, 0.0, 60.0)
    assert latency.time_boxed(lambda: None, 0, 0.5, 100).ms == [60_000]  # once at least


def test_the_shortest_time_of_each_batch_counts(clock):
    batches: list[list[str]] = []

    def answer(texts: list[str]) -> Iterator[str]:
        batches.append(texts)
        yield "done"

    # two batches of two (the fifth query is left over), three rounds; a look at the clock before and after each
    clock(0, *(0, 5, 10, 12), *(20, 21, 30, 37), *(40, 43, 50, 54))  # 5 and 2; 1 and 7; 3 and 4 seconds
    assert latency.least(answer, list("abcde"), 2, 3).ms == [1000, 2000]
    assert batches == [["a", "b"], ["c", "d"]] * 3


def test_the_tail_is_the_99th_percentile_from_a_hundred_on():
    # 99 of 100 are at most 99; 99% of 101 are 99.99, so 100
    for n, tail in [(1, 1), (99, 99), (100, 99), (101, 100), (1000, 990)]:
        assert Timing([float(i) for i in range(n, 0, -1)]).tail == tail


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
    batches: list[list[str]] = []

    def answer(texts: list[str]) -> Iterator[str]:
        batches.append(texts)
        yield RETRIEVAL

    times = latency.latencies(answer, ["a", "b", "c"], seconds=100, most=2)
    assert {size: len(stages[TOTAL].ms) for size, stages in times.items()} == {1: 2, 10: 2, 2000: 2}
    assert batches[:5] == [["a"], ["b"], ["c"], ["a"], ["b"]]  # three to warm up, two timed
    assert batches[5] == list("abcabcabca") and batches[6] == list("bcabcabcab")
    assert [len(texts) for texts in batches[10:]] == [2000] * 3  # one to warm up


# --- the machine, and an index of any size ------------------------------------------------------------------------


def test_roofline_and_hardware_are_measured_here():
    machine = latency.roofline(CPU, mb=4, n=64, seconds=0.01)
    assert machine.gb_s > 0 and machine.gflop_s > 0
    assert {"processor", "cores", "memory", "library"} <= {name for name, part in latency.hardware(CPU).items() if part}


def test_synthetic_vectors_have_length_one_and_are_read_from_disk(tmp_path: Path):
    folder = store.Store(tmp_path)
    vecs = latency.unit_vectors(folder, 100, 32, shard=40)  # shards of 40, 40 and 20
    assert (vecs.shape, vecs.dtype) == ((100, 32), torch.float16)
    torch.testing.assert_close(vecs.float().norm(dim=1), torch.ones(100), atol=2e-3, rtol=0)
    assert len(set(map(tuple, vecs.tolist()))) == 100
    made = tmp_path / "synthetic" / "100x32" / "vectors.npy"
    assert np.array_equal(np.load(made), vecs.numpy())  # a plain npy file
    before = made.stat().st_mtime_ns
    latency.unit_vectors(folder, 100, 32, shard=40)
    assert made.stat().st_mtime_ns == before


def test_the_papers_encoder_has_six_layers_of_768():
    config = latency.paper_encoder(100).encoder.config
    assert (config.n_layers, config.dim, config.hidden_dim) == (6, 768, 3072)


# --- a training ----------------------------------------------------------------------------------------------------


def test_peak_memory_counts_what_lives_at_one_time():
    def f() -> None:
        first = torch.ones(1_000_000)  # 4 MB
        second = torch.ones(500_000)  # 6 MB
        del first  # 2 MB
        third = torch.ones(1_500_000)  # 8 MB
        del second, third
        torch.ones(250_000)  # 1 MB

    assert cost.peak_mb(f, CPU) == pytest.approx(8.0, abs=0.01)
    assert cost.peak_mb(lambda: None, CPU) == 0


# --- the tables ----------------------------------------------------------------------------------------------------


def stages(n: int) -> dict[str, Timing]:
    return {stage: Timing([float(i) for i in range(1, n + 1)]) for stage in (TOKENS, ENCODING, RETRIEVAL, TOTAL)}


def cells(tidy):
    return {(row, column): (value, paper) for row, column, value, paper in tidy.itertuples(index=False)}


def test_table_1_has_the_papers_cells_beside_ours_and_calls_a_maximum_so():
    grids, tidy = cost.table1({size: stages(100 if size == 1 else 3) for size in latency.SIZES})
    shown = cells(tidy)
    assert shown["1", "Retrieval Avg."] == ("50.5 ms", "54 ms")
    assert shown["1", "Retrieval 99th Per."] == ("99.0 ms", "55 ms")
    assert shown["10", "Total 99th Per."] == ("3.00 ms (longest of 3)", "176 ms")
    assert sorted(paper for _, paper in shown.values()) == sorted(cell.value for cell in paper_table(1).values())
    assert grids[0].heads[:3] == ["Batch Size", "Query encoding Avg.", "Query encoding 99th Per."]
    assert [row[0] for row in grids[0].rows] == ["1", "10", "2,000"]
    assert grids[0].rows[1][-1] == "3.00 ms (longest of 3)<br>(176 ms)"


def test_table_2_shows_the_papers_rows_and_what_was_measured_or_why_not(tmp_path: Path):
    # .1 s a step: 32 samples in it are 320 a second, and 800,000 steps are 80,000 s, 22.2 hours
    costs = {
        "labels": Cost(32, 0.1, 0.0, 0.0, 81.6, None),
        "dual/tas_balanced": Cost(32, 0.12, 14.25, 0.5, 120, 1.24),
    }
    (printed, measured), tidy = cost.table2(costs)
    assert [row[0] for row in printed.rows] == [row[0] for row in measured.rows]
    ours = {name: texts for name, *texts in measured.rows}
    assert ours["Standalone"] == ["32", "0.100", "320", "–", "–", "82", "–", "22.2"]
    assert ours["TAS-Balanced"] == ["32", "0.120", "267", "14.2", "0.500", "120", "1.2", "26.7"]
    assert set(ours["TCT [24]"]) == {"not run"} and set(ours["RocketQA [11]"]) == {"reported only"}
    theirs = [f"({cell.value})" for (_, column), cell in paper_table(2).items() if column != "Reference"]
    assert sorted(text for row in printed.rows for text in row[1:]) == sorted(theirs)
    paths = render.write(tmp_path, "table2", "Caption.", [printed, measured], tidy)
    assert paths[1].read_text().splitlines()[:2] == ["row,column,value,paper_value", "Standalone,Min. GPU,,1× GTX"]
