"""The small sequence-to-sequence model: its start, its losses against literal loops, and that it learns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from numpy.random import Generator, Philox
from transformers import BertConfig, BertModel

from tas_lib.config import Reranking, System
from tas_lib.data import shipped, store
from tas_lib.experiment import Experiment
from tas_lib.retrieval import pretrained
from tas_lib.retrieval import t5 as seq2seq
from tools.make_shipped import seq2seq_training
from tools.make_shipped.remake import Workshop
from tools.make_shipped.settings import Recipe, Seq2Seq

ASKED = ["true", "false", "Query", "Document", "Document0", "Document1", "Relevant", ":", "0", "1"]
TOKENIZER = tiny.tokenizer([*ASKED, *tiny.WORDS])
SETTINGS = Seq2Seq(
    layers=2, width=16, steps=150, mono_steps=20, queries=6, reader_rate=1e-3, writer_rate=3e-3, bf16=False
)
SOURCE = tiny.source()
QUERIES, PASSAGES = SOURCE.sets["train"].queries.texts, SOURCE.passages.texts
PAIRS = tiny.pairs(len(QUERIES), len(PASSAGES))
LEARNT = PAIRS._replace(margins=np.full_like(PAIRS.margins, 4))  # what a positive has and a negative lacks


@pytest.fixture(scope="module")
def cat(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BERT of three layers, as `transformers` writes it; its answers to different texts differ."""
    folder = tmp_path_factory.mktemp("start") / "cat"
    shape = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(3)
    config = BertConfig(vocab_size=len(TOKENIZER), max_position_embeddings=64, initializer_range=0.3, **shape)
    BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def small(cat: str) -> Callable[[], Any]:
    return lambda: seq2seq_training.small_seq2seq(SETTINGS, cat, TOKENIZER)


def logit(model, prompt: str) -> float:
    """Of `true` over `false`, one prompt at a time, by transformers' own call."""
    ids = TOKENIZER(prompt, return_tensors="pt")
    with torch.inference_mode():
        logits = model(**ids, decoder_input_ids=torch.tensor([[TOKENIZER.cls_token_id]])).logits[0, 0]
    true, false = logits[TOKENIZER.convert_tokens_to_ids(["true", "false"])].tolist()
    return true - false


def test_it_starts_with_the_first_layers_of_bert_cat(small, cat: str):
    model, larger = small(), BertModel.from_pretrained(cat)
    for ours, theirs in [
        *zip(model.encoder.encoder.layer, larger.encoder.layer[:2], strict=True),
        (model.encoder.embeddings, larger.embeddings),
    ]:
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), small().parameters(), strict=True))


def test_it_loads_by_its_folder(small, tmp_path: Path):
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
        passages, scores = seq2seq_training.group(PAIRS, query, SETTINGS, rng)
        rows = range(PAIRS.offsets[query], PAIRS.offsets[query + 1])
        margin = {(PAIRS.pos[row], PAIRS.neg[row]): PAIRS.margins[row] for row in rows}
        assert scores[0] == 0 and len(passages) == 4 == len({*passages[1:]}) + 1
        assert [margin[passages[0], p] for p in passages[1:]] == (-scores[1:]).tolist()
        few = SETTINGS.model_copy(update={"hardest": 2, "negatives": 2})
        passages, scores = seq2seq_training.group(PAIRS, query, few, Generator(Philox(key=[0, 0])))
        assert max(-scores[1:]) <= sorted(m for (first, _), m in margin.items() if first == passages[0])[1]


def test_logits_are_those_of_transformers_prompt_by_prompt(small):
    model, passages = small().eval(), [PASSAGES[i] for i in (7, 3, 7)]
    for weight in model.parameters():
        weight.data.mul_(5)  # new layers say nearly the same of all texts
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


def test_training_learns_both_tasks_and_twice_the_same(small):
    def train() -> Any:
        return seq2seq_training.train(small(), TOKENIZER, QUERIES, PASSAGES, LEARNT, SETTINGS)

    def losses(model: Any) -> list[float]:
        """mono's and duo's, of pairs of training."""
        errors: list[list[float]] = [[], []]
        for q in range(20):
            pos, neg, margin = (getattr(LEARNT, part)[4 * q] for part in ("pos", "neg", "margins"))
            texts = QUERIES[q], PASSAGES[pos], PASSAGES[neg]
            one, other = (logit(model, f"Query: {texts[0]} Document: {p} Relevant:") for p in texts[1:])
            for sign, (a, b) in ((1, texts[1:]), (-1, texts[:0:-1])):
                both = logit(model, f"Query: {texts[0]} Document0: {a} Document1: {b} Relevant:")
                errors[0].append((one - other - margin) ** 2)
                errors[1].append((both - sign * margin) ** 2)
        return [*map(float, np.mean(errors, axis=1))]

    first, second = train(), train()
    before, after = losses(small().eval()), losses(first)
    assert all(b < a for a, b in zip(before, after, strict=True)), (before, after)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_what_is_remade_serves_mono_and_duo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "runs"))
    systems = {
        "bm25>mono": System(kind="reranked", first="bm25", by="mono"),
        "bm25>mono>duo": System(kind="reranked", first="bm25>mono", by="duo"),
    }
    p = tiny.settings(tmp_path, systems=systems, reranking=Reranking(depth=4, duo_depth=3))
    tiny.put_shipped(p, SOURCE)
    tiny.ship(tiny.save_encoder(p.artefacts_folder / "cat"))  # its head is not read
    tiny.put_collection(p, SOURCE)
    lab = Workshop(p, Recipe(seq2seq=SETTINGS.model_copy(update={"layers": 1, "steps": 12})))
    lab.seq2seq()
    measured = store.provenance(shipped.folder(p, "seq2seq"))["measured"]
    names = ["start", "tune, BM25", "tune, the first 4 by mono", "tune, of those the first 3 by duo"]
    assert [*measured] == names
    assert all(Experiment(p).scores(systems).values())
