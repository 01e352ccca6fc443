"""The benchmarks at small size: both sides compute the same, and the page says what was measured."""

import random
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from sentence_transformers import SentenceTransformer

from benchmarks import (
    Figure,
    __main__,
    afternoon,
    encoding,
    gpu,
    growth,
    measure,
    sampling,
    search,
    texts,
    training_step,
)
from tas_lib import losses
from tas_lib import sampling as ours
from tas_lib.config import load
from tas_lib.data.tokens import load_tokenizer, tokenise
from tas_lib.models import BertDot
from tas_lib.report.latency import Roofline
from tas_lib.retrieval import frozen, pretrained
from tas_lib.train import loop

FIGURE = Figure("a | b", "1 s", "theirs 3 s", "3 ×", "≥ 2 ×", "met", "Reading limits it.")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's limits are not measured."""
    monkeypatch.setattr(search, "roofline", lambda device, seconds=1.0: Roofline(10.0, 100.0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pairs of 800 queries in four clusters."""
    sampling.write_pairs(tmp_path, 800, n_pairs=12)
    return tmp_path


# --- the page ----------------------------------------------------------------------------------------------------


def test_the_page_has_a_line_per_figure_and_says_what_failed():
    text = __main__.page({"cores": "2"}, {"one": [FIGURE]}, {"two": "two.figures: no memory"})
    assert text.splitlines()[4:] == [
        "- cores: 2",
        "",
        "| what | ours | against | ratio | target |  |",
        "| --- | ---: | ---: | ---: | --- | --- |",
        "| a \\| b | 1 s | theirs 3 s | 3 × | ≥ 2 × | met |",
        "| two | failed |  |  |  | – |",
        "",
        "What limits each, and what remains:",
        "",
        "- *a | b*: Reading limits it.",
        "- *two* failed: two.figures: no memory",
    ]


def test_named_benchmarks_are_run_and_only_a_run_of_all_writes_the_results(monkeypatch, tmp_path: Path, capsys):
    calls = []

    def call(module: str, function: str, full: bool) -> list[list[str]]:
        name = module.removeprefix("benchmarks.")
        calls.append((name, full))
        if name == "growth":
            raise RuntimeError("benchmarks.growth: no disk")
        return [list(FIGURE._replace(what=name))]

    monkeypatch.setattr(__main__, "in_new_process", call)
    monkeypatch.setattr(__main__, "description", lambda: {"cores": "2"})
    monkeypatch.setattr(__main__, "RESULTS", tmp_path / "results.md")
    assert __main__.main(["sampling", "--full"]) == 0
    assert calls == [("sampling", True)] and not (tmp_path / "results.md").exists()
    assert "| sampling | 1 s |" in capsys.readouterr().out
    assert __main__.main([]) == 1  # one of them failed, and the others are on the page
    assert calls[1:] == [(name, False) for name in __main__.NAMES]
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| search | 1 s |" in page and "- *growth* failed: benchmarks.growth: no disk" in page
    assert page == capsys.readouterr().out
    assert __main__.main(["sampler"]) == 2
    assert capsys.readouterr().err.startswith("no benchmark 'sampler'; the benchmarks are: start, search, ")


# --- time and memory ---------------------------------------------------------------------------------------------


def test_the_peak_holds_the_result():
    used, result = measure.used(lambda: np.ones(50_000_000))  # 400 MB
    assert len(result) == 50_000_000 and used.peak_gb >= 0.4 and used.seconds > 0


def test_a_failure_in_another_process_is_its_last_line():
    with pytest.raises(RuntimeError, match=r"^benchmarks.sampling.plain: ValueError: .*offsets.npy is missing"):
        measure.in_new_process("benchmarks.sampling", "plain", folder="/nowhere", queries=1)


# --- sampling ----------------------------------------------------------------------------------------------------


def test_plain_python_has_the_same_margin_ranges_and_draws_tas_balanced_batches(folder: Path):
    pairs = sampling.read_pairs(folder)
    held, bounds = sampling.as_lists(pairs, 800), ours.bin_bounds(pairs, np.arange(800), 10)
    for query, of_query in held.items():
        sizes = [n for n in np.diff(bounds[query]).tolist() if n]
        assert [len(of_range) for of_range in sampling.ranges(of_query, 10)] == sizes
    assert [len(of_range) for of_range in sampling.ranges([(2.0, 1, 1), (2.0, 1, 2)], 10)] == [2]  # equal margins
    random.seed(3)
    members = [*(cluster.tolist() for cluster in sampling.read_members(folder)), [5]]  # the last one needs topping up
    sampler = sampling.Plain(members, held)
    for batch in map(sampler.batch, range(60)):
        assert len(batch) == 32 and all(pair in held[query] for query, pair in batch)
        assert sum(bool({query for query, _ in batch} & {*cluster}) for cluster in members[:4]) <= 2


# --- search, k-means, encoding, reading --------------------------------------------------------------------------


def test_one_query_finds_what_faiss_finds(tmp_path: Path, quick: None):
    ratio, share = search.one_query(tmp_path, n=3_000, repeats=1)
    assert ratio.what == share.what == "one query, top 1,000, 3,000 × 768 in fp16"
    assert float(ratio.ratio.removesuffix(" ×")) >= 2 or ratio.verdict == "missed"
    assert share.verdict == ("met" if int(share.ratio.removesuffix("%")) >= 70 else "missed")
    assert int(share.note.split("; ")[-1].split()[0].replace(",", "")) > 990  # fp32 sums in another order


def test_encoding_is_compared_on_the_same_vectors_of_the_same_texts(tmp_path: Path):
    tokenizer = tiny.tokenizer()
    pretrained.save(BertDot(tiny.bert(len(tokenizer)), "mean"), tokenizer, tmp_path)
    figure = encoding.compare("tiny", tmp_path, ["the mean of an array", "plot " * 40, "graph"] * 30, repeats=1)
    assert all(isinstance(value, str) for value in figure)
    assert float(figure.note.split()[-1]) < 1e-5


def test_many_queries_are_set_beside_the_matrix_rate(tmp_path: Path, quick: None):
    figure = search.many_queries(tmp_path, n=3_000, queries=20)
    assert figure.what == "20 queries, top 1,000, 3,000 × 768 in fp16" and figure.ratio.endswith("%")


@pytest.mark.slow
def test_an_afternoons_collection_is_built_from_synthetic_files_of_the_published_formats(monkeypatch):
    for name in ("TAS_RUNS", "IR_DATASETS_HOME", "IR_DATASETS_TMP"):
        monkeypatch.setenv(name, "")  # set by the benchmark
    (row,) = afternoon.figures(share=0.002)
    assert row.verdict == "met" and row.note.startswith("downloads and collection 0.")


@pytest.mark.slow
@pytest.mark.parametrize("part", growth.PARTS)
def test_the_growth_of_every_part_is_measured(part: str, monkeypatch):
    monkeypatch.setenv("TAS_RUNS", "")  # set by the part that reads a collection
    seconds, gb = growth.at(part, 1_000)
    assert 0 < seconds < 600 and 0 < gb < 50


def test_with_frozen_layers_both_sides_train_the_same_parameters():
    settings = load("docs")
    layers = settings.training.frozen_layers
    ours = frozen.trained_part(pretrained.load_dot(settings.encoder_path), layers)
    theirs = SentenceTransformer(settings.encoder_path, device="cpu")
    training_step.freeze(theirs, layers)
    count = sum(weight.numel() for weight in theirs.parameters() if weight.requires_grad)
    assert 0 < count == sum(weight.numel() for weight in ours.parameters())


def test_synthetic_texts_have_the_lengths_of_the_collection():
    tokenizer = load_tokenizer(load("docs").encoder_path)
    for kind, spread in ((texts.DOCS, 10), (texts.MSMARCO, 33)):
        for column, lengths in kind.items():
            tokens = tokenise(tokenizer, texts.synthetic(tokenizer, 1_000, lengths), 512).lengths
            assert tokens.mean() == pytest.approx(lengths.mean, rel=0.08)
            assert tokens.max() <= lengths.cap
            assert column == "queries" or tokens.std() == pytest.approx(spread, rel=0.2)


# --- a training step ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_sentence_transformers_sees_the_same_texts_and_has_the_same_loss():
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MarginMSELoss

    settings = load("docs")
    data = training_step.synthetic(load_tokenizer(settings.encoder_path), texts.MSMARCO)
    batch = training_step.random_sampler(data.pairs).batch(0)
    student, margins = pretrained.load_dot(settings.encoder_path, settings.pooling), torch.from_numpy(batch.margins)
    value = losses.margin_mse(loop.score_batch(student, data.queries, data.passages, batch), margins)
    model = SentenceTransformer(settings.encoder_path, device="cpu")
    features = training_step.their_features(model, data, batch)
    assert features[0]["attention_mask"].sum(1).tolist() == data.queries.lengths_of(batch.queries).tolist()
    torch.testing.assert_close(MarginMSELoss(model)(features, margins), value, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_row_is_empty_and_says_so():
    (row,) = gpu.figures()
    assert (row.ours, row.verdict, row.note) == ("", "–", "no GPU at hand")
