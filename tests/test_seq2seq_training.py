"""The small sequence-to-sequence model: its start, its losses against literal loops, and that it learns."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from numpy.random import Generator, Philox
from transformers import BertConfig, BertModel

from tas_lib.config import Expansion, Reranking, System
from tas_lib.data import shipped, store
from tas_lib.experiment import Experiment
from tas_lib.retrieval import pretrained
from tas_lib.retrieval import t5 as seq2seq
from tools.make_shipped import seq2seq_training
from tools.make_shipped.remake import Workshop
from tools.make_shipped.settings import Recipe, Seq2Seq

ASKED = ["true", "false", "Query", "Document", "Document0", "Document1", "Relevant", "Passage", ":", "0", "1"]
TOKENIZER = tiny.tokenizer([*ASKED, *tiny.WORDS])
SETTINGS = Seq2Seq(layers=2, steps=150, mono_steps=20, queries=6, reader_rate=1e-3, writer_rate=3e-3, bf16=False)
SOURCE = tiny.source()
QUERIES, PASSAGES = SOURCE.sets["train"].queries.texts, SOURCE.passages.texts
PAIRS = tiny.pairs(len(QUERIES), len(PASSAGES))
LEARNT = PAIRS._replace(margins=np.full_like(PAIRS.margins, 4))  # what a positive has and a negative lacks


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A larger BERT of three layers and a small one, as `transformers` writes them; answers of such ones differ."""
    place = tmp_path_factory.mktemp("start")
    for name, layers in (("larger", 3), ("small", 1)):
        shape = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 64}
        torch.manual_seed(layers)
        config = BertConfig(vocab_size=len(TOKENIZER), max_position_embeddings=64, initializer_range=0.3, **shape)
        BertModel(config).save_pretrained(place / name)
    return str(place / "larger"), str(place / "small")


@pytest.fixture
def small(folders: tuple[str, str]) -> Callable[[], Any]:
    return lambda: seq2seq_training.small_seq2seq(SETTINGS, *folders, TOKENIZER)


def logit(model, prompt: str) -> float:
    """Of `true` over `false`, one prompt at a time, by transformers' own call."""
    ids = TOKENIZER(prompt, return_tensors="pt")
    with torch.inference_mode():
        logits = model(**ids, decoder_input_ids=torch.tensor([[TOKENIZER.cls_token_id]])).logits[0, 0]
    true, false = logits[TOKENIZER.convert_tokens_to_ids(["true", "false"])].tolist()
    return true - false


def test_it_starts_with_layers_of_the_larger_model_and_all_of_the_small_encoder(small, folders: tuple[str, str]):
    model, larger, encoder = small(), *map(BertModel.from_pretrained, folders)
    kept = [larger.encoder.layer[i] for i in (0, 2)]
    for ours, theirs in [
        *zip(model.encoder.encoder.layer, kept, strict=True),
        (model.encoder.embeddings, larger.embeddings),
        (model.decoder.bert.embeddings, encoder.embeddings),
        (model.decoder.bert.encoder.layer[0].attention, encoder.encoder.layer[0].attention),
    ]:
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert torch.equal(model.decoder.get_output_embeddings().weight, encoder.embeddings.word_embeddings.weight)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), small().parameters(), strict=True))


def test_it_loads_by_its_folder_and_ends_what_it_writes(small, tmp_path: Path):
    made = small().eval()
    made.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    model, tokenizer = pretrained.load_seq2seq(str(tmp_path))
    assert model.config.decoder_start_token_id == tokenizer.cls_token_id
    assert model.generation_config.eos_token_id == tokenizer.sep_token_id
    assert logit(model, "Query: sum Relevant:") == pytest.approx(logit(made, "Query: sum Relevant:"), abs=1e-5)


def test_a_group_is_a_positive_with_its_own_negatives_and_their_margins():
    rng = Generator(Philox(key=[0, 0]))
    for query in range(10):
        passages, scores = seq2seq_training.group(PAIRS, query, 3, rng)
        rows = range(PAIRS.offsets[query], PAIRS.offsets[query + 1])
        margin = {(PAIRS.pos[row], PAIRS.neg[row]): PAIRS.margins[row] for row in rows}
        assert scores[0] == 0 and len(passages) == 4 == len({*passages[1:]}) + 1
        assert [margin[passages[0], p] for p in passages[1:]] == (-scores[1:]).tolist()


def test_logits_are_those_of_transformers_prompt_by_prompt(small):
    model, passages = small().eval(), [PASSAGES[i] for i in (7, 3, 7)]
    for labels, texts, prompt in [
        (seq2seq.MONO, [(QUERIES[4], p) for p in passages], "Query: {} Document: {} Relevant:"),
        (seq2seq.DUO, [(QUERIES[4], p, "sum") for p in passages], "Query: {} Document0: {} Document1: {} Relevant:"),
    ]:
        found = seq2seq_training.logits(model, TOKENIZER, labels, texts)
        wanted = [logit(model, prompt.format(*parts)) for parts in texts]
        np.testing.assert_allclose(found.detach(), wanted, atol=1e-5)
        assert np.std(wanted) > 1e-3


def test_the_mono_loss_equals_a_literal_loop():
    rng = np.random.default_rng(3)
    found, scores = rng.normal(0, 2, (2, 3)), rng.normal(0, 2, (2, 3))
    errors = [
        ((found[q, i] - found[q, j]) - (scores[q, i] - scores[q, j])) ** 2
        for q in range(2)
        for i in range(3)
        for j in range(3)
    ]
    assert seq2seq_training.mono_loss(torch.from_numpy(found), scores).item() == pytest.approx(np.mean(errors))


def test_expansion_loss_is_the_cross_entropy_of_each_next_token(small):
    model, passages, queries = (
        small().eval(),
        ["Passage: the sum of an array", "Passage: plot"],
        ["sum", "graph of the axis"],
    )
    losses = []
    for passage, query in zip(passages, queries, strict=True):
        ids = TOKENIZER(passage, return_tensors="pt")
        wanted = TOKENIZER(query)["input_ids"][1:]  # its words and SEP
        assert wanted[-1] == TOKENIZER.sep_token_id
        before = [TOKENIZER.cls_token_id, *wanted[:-1]]
        with torch.inference_mode():
            logits = model(**ids, decoder_input_ids=torch.tensor([before])).logits[0]
        losses += [-logits[t].log_softmax(0)[token].item() for t, token in enumerate(wanted)]
    loss = seq2seq_training.expansion_loss(model, TOKENIZER, passages, queries)
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-4)


def test_training_learns_all_three_tasks_and_twice_the_same(small):
    def train() -> Any:
        return seq2seq_training.train(small(), TOKENIZER, QUERIES, PASSAGES, LEARNT, SETTINGS, "Passage:").eval()

    def losses(model: Any) -> list[float]:
        """Of pairs of training, mono's and duo's; of expansion."""
        errors: list[list[float]] = [[], []]
        for q in range(20):
            pos, neg, margin = (getattr(LEARNT, part)[4 * q] for part in ("pos", "neg", "margins"))
            texts = QUERIES[q], PASSAGES[pos], PASSAGES[neg]
            one, other = (logit(model, f"Query: {texts[0]} Document: {p} Relevant:") for p in texts[1:])
            for sign, (a, b) in ((1, texts[1:]), (-1, texts[:0:-1])):
                both = logit(model, f"Query: {texts[0]} Document0: {a} Document1: {b} Relevant:")
                errors[0].append((one - other - margin) ** 2)
                errors[1].append((both - sign * margin) ** 2)
        read = [f"Passage: {PASSAGES[LEARNT.pos[4 * q]]}" for q in range(20)]
        with torch.inference_mode():
            written = seq2seq_training.expansion_loss(model, TOKENIZER, read, QUERIES[:20]).item()
        return [*map(float, np.mean(errors, axis=1)), written]

    first, second = train(), train()
    before, after = losses(small().eval()), losses(first)
    assert all(b < a for a, b in zip(before, after, strict=True)), (before, after)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_what_is_remade_serves_mono_duo_and_expansion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "runs"))
    systems = {
        "d2q": System(kind="expanded"),
        "d2q>mono": System(kind="reranked", first="d2q", by="mono"),
        "d2q>mono>duo": System(kind="reranked", first="d2q>mono", by="duo"),
    }
    p = tiny.settings(
        tmp_path,
        systems=systems,
        expansion=Expansion(prompt="the", queries=2, longest=5),
        reranking=Reranking(depth=4, duo_depth=3),
    )
    tiny.put_shipped(p, SOURCE)
    tiny.ship(tiny.save_encoder(p.artefacts_folder / "cat"))  # its head is not read
    tiny.put_collection(p, SOURCE)
    lab = Workshop(p, Recipe(seq2seq=SETTINGS.model_copy(update={"layers": 1, "steps": 12})))
    lab.seq2seq()
    lab.expansions()
    measured = store.provenance(shipped.folder(p, "seq2seq"))["measured"]
    names = ["start", "tune, BM25", "tune, the first 4 by mono", "tune, of those the first 3 by duo"]
    assert [*measured] == names
    with caplog.at_level(logging.INFO):
        scores = Experiment(p).scores(systems)
    assert all(scores.values()) and "no shipped queries" not in caplog.text
    queries = shipped.read_expansions(shipped.folder(p, "expansions") / "queries.parquet")
    assert all(own and len(own) == 2 for own in queries(shipped.text_keys(PASSAGES)))
