"""The benchmarks' own arithmetic: what they compare is the same on both sides, and the page says what was measured."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import Figure, __main__, fresh, gpu, kmeans, sampling, training_step
from benchmarks.fresh import ROOT
from tas_lib import sampling as ours
from tas_lib.config import Sampling, load
from tas_lib.data import store
from tas_lib.data.tokens import load_tokenizer
from tas_lib.records import Pairs
from tas_lib.report.latency import Roofline
from tas_lib.retrieval import pretrained


def read(folder: Path) -> Pairs:
    return Pairs(**{name: store.load_array(folder / f"{name}.npy") for name in Pairs._fields})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sampling.write_pairs(tmp_path, 800, n_pairs=12, block=300)
    return tmp_path


def as_lists(pairs: Pairs) -> dict[int, list[sampling.Pair]]:
    return {
        query: [(float(pairs.margins[i]), int(pairs.pos[i]), int(pairs.neg[i])) for i in range(first, last)]
        for query, (first, last) in enumerate(zip(pairs.offsets[:-1], pairs.offsets[1:], strict=True))
    }


def test_made_up_pairs_are_a_table_that_a_sampler_takes(folder: Path):
    pairs, topics = read(folder), sampling.topics_of(folder)
    assert pairs.offsets.tolist() == list(range(0, 9_601, 12)) and len(topics) == 4
    assert (np.diff(pairs.margins.reshape(800, 12), axis=1) >= 0).all()
    assert sorted(np.concatenate(topics).tolist()) == list(range(800))
    batch = ours.make_sampler("tas_balanced", pairs, topics, Sampling(), 1).batch(0)
    assert len({sampling_topic(topics, query) for query in batch.queries}) == 1


def sampling_topic(topics: list[np.ndarray], query: int) -> int:
    return next(number for number, topic in enumerate(topics) if query in topic)


def test_plain_python_has_the_same_margin_ranges_as_ours(folder: Path):
    pairs = read(folder)
    held = as_lists(pairs)
    bounds = ours.bin_bounds(pairs, np.arange(800), 10)
    for query, of_one in held.items():
        filled = [row for row in np.diff(bounds[query]).tolist() if row]
        assert [len(found) for found in sampling._ranges(of_one, 10)] == filled
    assert [len(found) for found in sampling._ranges([(2.0, 1, 1), (2.0, 1, 2)], 10)] == [2]  # equal margins: one range


def test_plain_python_draws_tas_balanced_batches(folder: Path):
    held, topics = as_lists(read(folder)), [topic.tolist() for topic in sampling.topics_of(folder)]
    random.seed(3)
    sampler = sampling.Plain([*topics, [5]], held)  # one topic is smaller than a batch, and is topped up
    for step in range(60):
        batch = sampler.batch(step)
        assert len(batch) == 32
        assert all(pair in held[query] for query, pair in batch)
        assert len({sampling_topic(topics, query) for query, _ in batch}) <= 2


def test_plain_python_is_measured_in_a_process_of_its_own(folder: Path):
    found = fresh.call("benchmarks.sampling", "plain", folder=str(folder), queries=400)
    assert set(found) == {"open_s", "open_cpu_s", "open_mb", "batch_us"}
    assert all(value >= 0 for value in found.values()) and found["batch_us"] > 0


def test_what_fails_in_another_process_is_its_last_line():
    with pytest.raises(RuntimeError, match=r"^benchmarks.sampling.plain: ValueError: .*offsets.npy is missing"):
        fresh.call("benchmarks.sampling", "plain", folder="/nowhere", queries=1)


FIGURE = Figure("a | b", "1 s", "theirs 3 s", "3 ×", "≥ 2 ×", "met", "Reading bounds it.")


def test_the_page_has_a_line_a_figure_and_says_what_failed():
    text = __main__.page({"cores": "2"}, {"one": [FIGURE]}, {"two": "two.rows: no memory"})
    assert text.splitlines() == [
        "# Benchmarks",
        "",
        "Ratios of one run on one machine: `./run_all.sh benchmarks`.",
        "",
        "- cores: 2",
        "",
        "| what | ours | against | ratio | aim |  |",
        "| --- | ---: | ---: | ---: | --- | --- |",
        "| a \\| b | 1 s | theirs 3 s | 3 × | ≥ 2 × | met |",
        "| two | failed |  |  |  | – |",
        "",
        "What bounds each, and what remains:",
        "",
        "- *a | b*: Reading bounds it.",
        "- *two* failed: two.rows: no memory",
    ]


def test_named_ones_are_run_and_only_a_run_of_all_writes_the_results(monkeypatch, tmp_path: Path, capsys):
    asked = []

    def call(module: str, function: str, name: str, full: bool) -> list[list[str]]:
        asked.append((name, full))
        if name == "ingest":
            raise RuntimeError("benchmarks.ingest: not there")
        return [list(FIGURE._replace(what=name))]

    monkeypatch.setattr(__main__, "call", call)
    monkeypatch.setattr(__main__, "described", lambda: {"cores": "2"})
    monkeypatch.setattr(__main__, "RESULTS", tmp_path / "results.md")
    assert __main__.main(["kmeans", "--full"]) == 0
    assert asked == [("kmeans", True)] and not (tmp_path / "results.md").exists()
    assert "| kmeans | 1 s |" in capsys.readouterr().out
    assert __main__.main([]) == 1  # one of them failed, and the others are on the page
    assert [name for name, _ in asked[1:]] == list(__main__.NAMES) and {full for _, full in asked[1:]} == {False}
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| search | 1 s |" in page and "- *ingest* failed: benchmarks.ingest: not there" in page
    assert page == capsys.readouterr().out


def test_an_unknown_benchmark_is_one_sentence(capsys):
    assert __main__.main(["sampler"]) == 2
    names = "search, sampling, kmeans, ingest, encoding, training_step, gpu"
    assert capsys.readouterr().err == f"there is no benchmark 'sampler'; there are: {names}\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_benchmark_says_so_and_ends_well(capsys):
    assert gpu.rows() == []
    assert capsys.readouterr().out == "no GPU here\n"


def test_rows_for_the_gpu_are_as_long_as_the_papers_caps():
    rows = gpu.longest()
    assert set(rows.queries.lengths) == {30} and set(rows.passages.lengths) == {200}
    assert rows.pairs.pos.max() < len(rows.passages.lengths) and len(rows.pairs.offsets) - 1 == gpu.QUERIES


def test_made_up_texts_are_as_many_tokens_as_they_should_be():
    tokenizer = load_tokenizer(load("docs").encoder_path)
    for kind, spread in ((training_step.DOCS, 10), (training_step.MSMARCO, 33)):
        rows = training_step.made_up(tokenizer, kind)
        means = rows.queries.lengths.mean(), rows.passages.lengths.mean()
        assert means == pytest.approx(kind.means, rel=0.08)
        assert rows.passages.lengths.std() == pytest.approx(spread, rel=0.2)
        assert rows.passages.lengths.max() <= kind.caps[1] and rows.queries.lengths.max() <= kind.caps[0]
        ours, theirs = (training_step.padded(rows, by_length) for by_length in (True, False))
        assert 64 * means[1] < ours < theirs < 64 * kind.caps[1] + 1


@pytest.mark.slow
def test_sentence_transformers_sees_the_same_texts_and_has_the_same_loss():
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MarginMSELoss

    from tas_lib import losses
    from tas_lib.train import loop as training

    settings = load("docs")
    rows = training_step.made_up(load_tokenizer(settings.encoder_path), training_step.MSMARCO)
    batch = ours.make_sampler("random", rows.pairs, [], Sampling(), 1).batch(0)
    student = pretrained.load_dot(settings.encoder_path, settings.pooling)
    margins = torch.from_numpy(batch.margins)
    value = losses.margin_mse(training.score_batch(student, rows.queries, rows.passages, batch), margins)
    model = SentenceTransformer(str(ROOT / settings.encoder), device="cpu")
    columns = [(rows.query_texts, batch.queries), (rows.passage_texts, batch.pos), (rows.passage_texts, batch.neg)]
    features = [model.preprocess([texts[row] for row in wanted]) for texts, wanted in columns]
    assert features[0]["attention_mask"].sum(1).tolist() == rows.queries.lengths_of(batch.queries).tolist()
    torch.testing.assert_close(MarginMSELoss(model)(features, margins), value, rtol=1e-4, atol=1e-4)


def test_a_tenth_of_k_means_says_what_it_would_be_at_full_size(monkeypatch):
    monkeypatch.setattr(kmeans, "QUERIES", 8_000)
    monkeypatch.setattr(kmeans, "TOPICS", 100)
    monkeypatch.setattr(kmeans, "roofline", lambda _: Roofline(10.0, 100.0))
    default, random_start = kmeans.rows()
    assert default.what == random_start.what == "k-means, 800 × 768 into 10, 10 iterations"
    assert "k-means++" in default.against and "random" in random_start.against
    assert "ran on 80 queries" in default.note and "all times are 100 times as long" in random_start.note
