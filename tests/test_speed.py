"""The benchmarks of search and encoding in small: what they print has a meaning, whatever the machine."""

import time
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from benchmarks import Figure, clock, encoding, search
from benchmarks.roofline import Bound, search_bound
from tas_lib import models
from tas_lib.data.store import Store
from tas_lib.data.tokens import tokenise
from tas_lib.report.latency import Roofline, unit_vectors
from tas_lib.retrieval import pretrained


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's limits are not measured."""
    monkeypatch.setattr(search, "roofline", lambda device, seconds=1.0: Roofline(10.0, 100.0))


def test_works_are_measured_in_turn_and_the_least_time_of_each_counts():
    order: list[str] = []

    def work(name: str) -> None:
        order.append(name)
        time.sleep(0.05 if order.count(name) == 1 else 0.01)

    first, second = clock.in_turn([lambda: work("a"), lambda: work("b")], 2)
    assert order == ["a", "b", "a", "b"]
    assert 0.01 <= first < 0.05 and 0.01 <= second < 0.05


def test_the_peak_of_memory_tells_mapped_files_from_what_is_our_own(tmp_path: Path):
    unit_vectors(Store(tmp_path), 50_000, 768)  # 77 MB
    with clock.peak() as before:
        time.sleep(0.2)
    with clock.peak() as most:
        mapped = np.load(tmp_path / "synthetic" / "50000x768" / "vectors.npy", mmap_mode="r")
        mapped[:].sum(dtype=np.float32)
        ours = np.ones(50_000_000)  # 400 MB, beside which it does not count what others free meanwhile
        time.sleep(0.2)
    resident, own = (after - b for after, b in zip(most(), before(), strict=True))
    assert len(ours) and resident > 0.1
    assert resident - own > 0.07  # the file; only the 400 MB are our own


def test_the_bound_of_a_search_by_hand():
    # 1,000 × 8 numbers of two bytes: 16,000 bytes at 16 GB/s are 1 µs; 2 · 5 · 8,000 operations at 10 GFLOP/s 8 µs
    bound = search_bound(5, torch.zeros(1000, 8, dtype=torch.float16), Roofline(16, 10))
    assert bound == pytest.approx((0.001, 0.008)) and bound.ms == pytest.approx(0.008)
    assert [Bound(3, 7).what(ms) for ms in (7, 14, 15)] == ["computing", "computing", "neither"]
    assert Bound(7, 3).what(14) == "reading"


def test_one_query_has_a_ratio_and_a_share_and_finds_what_faiss_finds(tmp_path: Path, quick: None):
    ratio, share = search.one_query(tmp_path, n=3_000, repeats=1)
    assert ratio.what == share.what == "one query, top 1,000, 3,000 × 768 in fp16"
    assert float(ratio.ratio.removesuffix(" ×")) >= 2 or ratio.verdict == "missed"
    assert share.verdict == ("met" if int(share.ratio.removesuffix("%")) >= 70 else "missed")
    assert int(share.note.split("; ")[-1].split()[0].replace(",", "")) > 990  # fp32 sums of another order


def test_the_large_search_says_seconds_and_what_is_resident(tmp_path: Path, quick: None):
    seconds, resident = search.whole(tmp_path, n=3_000, queries=5)
    assert (seconds.aim, resident.aim) == ("≤ 180 s", "≤ 16 GB")
    assert seconds.verdict == resident.verdict == "met"
    written = next(tmp_path.rglob("vectors.npy"))
    assert written.stat().st_size == 128 + 3_000 * 768 * 2
    before = written.read_bytes()
    search.whole(tmp_path, n=3_000, queries=5)
    assert written.read_bytes() == before


def test_encoding_is_compared_with_the_same_vectors_of_the_same_texts(tmp_path: Path):
    tokenizer = tiny.tokenizer()
    pretrained.save(models.BertDot(tiny.bert(len(tokenizer)), "mean"), tokenizer, tmp_path)
    passages = ["the mean of an array", "plot " * 40, "graph"] * 30
    figure = encoding.compared("tiny", tmp_path, passages, repeats=1)
    assert isinstance(figure, Figure) and all(isinstance(value, str) for value in figure)
    assert float(figure.note.split()[-1]) < 1e-5


def test_the_texts_have_the_lengths_that_they_should():
    tokenizer = tiny.tokenizer()
    lengths = tokenise(tokenizer, encoding.texts(tokenizer, 2_000), 512).lengths
    assert 72 < lengths.mean() < 77  # 75, less what is cut at 200
    assert (lengths.min() >= 10, lengths.max()) == (True, 200)
    assert 0.003 < (lengths == 200).mean() < 0.03
