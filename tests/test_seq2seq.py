"""Sequence-to-sequence models: whole sentences and transformers' own logits as the oracle of mono and duo."""

import json
from itertools import permutations
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from tiny import t5
from tiny import t5_tokenizer as tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tas_lib.retrieval import pretrained
from tas_lib.retrieval import t5 as seq2seq

QUERIES, PASSAGES = tiny.QUERIES, tiny.PASSAGES


# --- prompts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [tokenizer(), tiny.tokenizer()], ids=["T5", "BERT"])
def test_prompts_are_tokenised_as_whole_sentences(known: PreTrainedTokenizerBase):
    mono = [(q, p) for q in QUERIES for p in PASSAGES]
    sentences = [f"Query: {q} Document: {p} Relevant:" for q, p in mono]
    found = seq2seq.prompts(known, seq2seq.MONO, mono, cap=64)
    assert [ids.tolist() for ids in found] == known(sentences)["input_ids"]
    duo = [(QUERIES[0], *pair) for pair in permutations(PASSAGES, 2)]
    sentences = [f"Query: {q} Document0: {p} Document1: {r} Relevant:" for q, p, r in duo]
    found = seq2seq.prompts(known, seq2seq.DUO, duo, cap=100)
    assert [ids.tolist() for ids in found] == known(sentences)["input_ids"]


@pytest.mark.parametrize("cap", [24, 25, 40])
def test_a_long_passage_is_cut_and_what_is_asked_of_it_is_not(cap: int):
    known = tokenizer()
    beginning = known("Query: the mean Document: sum sum", add_special_tokens=False)["input_ids"]
    (ids,) = seq2seq.prompts(known, seq2seq.MONO, [("the mean", "sum " * 100)], cap)
    assert len(ids) == cap
    assert ids[: len(beginning)].tolist() == beginning
    assert ids[-3:].tolist() == known("Relevant:")["input_ids"]


def test_of_two_long_passages_each_keeps_half_and_a_short_one_all():
    known = tokenizer()
    mean, matrix = known("mean matrix", add_special_tokens=False)["input_ids"]
    for lengths, kept in [((90, 90), (18, 19)), ((90, 4), (33, 4)), ((4, 90), (4, 33))]:
        texts = ("plot", "mean " * lengths[0], "matrix " * lengths[1])
        (ids,) = seq2seq.prompts(known, seq2seq.DUO, [texts], cap=49)
        assert len(ids) == 49 and ids[-3:].tolist() == known("Relevant:")["input_ids"]
        assert ((ids == mean).sum(), (ids == matrix).sum()) == kept


def test_an_endless_query_leaves_its_passage_room():
    known = tokenizer()
    (ids,) = seq2seq.prompts(known, seq2seq.MONO, [("mean " * 90, "matrix " * 90)], cap=27)
    mean, matrix = known("mean matrix", add_special_tokens=False)["input_ids"]
    assert ((ids == mean).sum(), (ids == matrix).sum()) == (10, 10)


def test_a_cap_below_the_words_of_the_prompt_is_refused():
    assert len(seq2seq.prompts(tokenizer(), seq2seq.MONO, [("plot", "graph")], cap=9)[0]) == 9
    with pytest.raises(ValueError, match="no room"):
        seq2seq.prompts(tokenizer(), seq2seq.MONO, [("plot", "graph")], cap=8)


# --- mono and duo against transformers ---------------------------------------------------------------------------


def generated(model: PreTrainedModel, prompt: str) -> torch.Tensor:
    """What transformers' own generation has as logits of `true` and `false` at its first step."""
    known = tokenizer()
    out = model.generate(
        **known(prompt, return_tensors="pt"),
        max_new_tokens=1,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return out.logits[0][0, known.convert_tokens_to_ids(["▁true", "▁false"])]


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_mono_scores_are_those_of_transformers(chunk: int):
    model, known = t5(), tokenizer()
    q, p = np.divmod(np.arange(18)[::-1], 6)
    found = seq2seq.mono_scores(model, known, QUERIES, PASSAGES, q, p, chunk=chunk)
    wanted = [
        generated(model, f"Query: {QUERIES[i]} Document: {PASSAGES[j]} Relevant:").log_softmax(0)[0].item()
        for i, j in zip(q, p, strict=True)
    ]
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    assert np.std(wanted) > 0.1


def test_duo_scores_are_those_of_transformers():
    model, known = t5(), tokenizer()
    i, j = np.array(list(permutations(range(6), 2))).T
    found = seq2seq.duo_scores(model, known, QUERIES, PASSAGES, np.zeros(30, int), i, j, chunk=7)
    wanted = [
        generated(model, f"Query: {QUERIES[0]} Document0: {PASSAGES[a]} Document1: {PASSAGES[b]} Relevant:")
        .softmax(0)[0]
        .item()
        for a, b in zip(i, j, strict=True)
    ]
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    assert np.std(wanted) > 0.1


def test_stretches_change_nothing(monkeypatch: pytest.MonkeyPatch):
    q, p = np.divmod(np.arange(18), 6)
    whole = seq2seq.mono_scores(t5(), tokenizer(), QUERIES, PASSAGES, q, p)
    monkeypatch.setattr(seq2seq, "STRETCH", 5)
    np.testing.assert_allclose(seq2seq.mono_scores(t5(), tokenizer(), QUERIES, PASSAGES, q, p), whole, atol=1e-5)
    assert seq2seq.mono_scores(t5(), tokenizer(), QUERIES, PASSAGES, q[:0], p[:0]).shape == (0,)


def test_a_model_in_training_is_asked_without_dropout():
    model, rows = t5().train(), np.arange(3)
    scores = [seq2seq.mono_scores(model, tokenizer(), QUERIES, PASSAGES, rows, rows) for _ in range(2)]
    np.testing.assert_array_equal(*scores)


def test_a_tokenizer_that_cannot_answer_is_refused():
    with pytest.raises(ValueError, match="no single token for 'false'"):
        seq2seq.log_p_true(t5(), tokenizer(["true", *tiny.WORDS]), [np.array([3, 1])])


# --- loading -----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    t5().save_pretrained(tmp_path / "t5")
    tokenizer().save_pretrained(tmp_path / "t5")
    return tmp_path / "t5"


def test_a_model_from_a_folder_scores_as_it_did(folder: Path):
    q, p = np.divmod(np.arange(18), 6)
    found, wanted = (
        seq2seq.mono_scores(*pair, QUERIES, PASSAGES, q, p)
        for pair in (pretrained.load_seq2seq(str(folder)), (t5(), tokenizer()))
    )
    np.testing.assert_array_equal(found, wanted)


def test_what_cannot_be_loaded_is_said_in_one_sentence(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # read once, at its import
    with pytest.raises(ValueError, match="no sequence-to-sequence model in 'nobody/such-a-model': "):
        pretrained.load_seq2seq("nobody/such-a-model")
    with pytest.raises(ValueError, match="no sequence-to-sequence model in .*encoder': "):
        pretrained.load_seq2seq(str(tiny.save_encoder(tmp_path / "encoder")))
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text())) + "x")
    with pytest.raises(ValueError, match=r"no sequence-to-sequence model in .*t5': [^\n]+$"):
        pretrained.load_seq2seq(str(folder))


def test_a_model_without_all_of_its_weights_is_refused(folder: Path):
    weights = load_file(folder / "model.safetensors")
    gone = next(name for name in weights if name.startswith("decoder.block.0"))
    save_file({k: v for k, v in weights.items() if k != gone}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=rf"lacks weights, such as {gone}"):
        pretrained.load_seq2seq(str(folder))
