"""Models on disk: what we save comes back the same, other libraries read it, and damage is one sentence."""

import json
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from torch import Tensor
from transformers import (
    AutoModel,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from tas_lib import models
from tas_lib.config import ROOT
from tas_lib.data.tokens import load_tokenizer, tokenise
from tas_lib.models import BertCat, BertDot, ColBert
from tas_lib.retrieval import pretrained

TEXTS = ["the mean of an array", "plot a graph", "sum", "the sum product of the matrix along an axis"]
VOCABULARY = len(tiny.tokenizer())
PAIR = models.cat_inputs([np.array([2, 7, 3])], [np.array([2, 9, 9, 3])])
each_encoder = pytest.mark.parametrize("encoder", [tiny.bert, tiny.distilbert], ids=["bert", "distilbert"])


def vectors(model: BertDot, folder: Path) -> Tensor:
    tokens = tokenise(load_tokenizer(str(folder)), TEXTS, 30)
    with torch.inference_mode():
        return models.encode_rows(model.eval(), tokens, np.arange(len(TEXTS)))


def refusal(load: Callable[[str], object], name: Path | str) -> str:
    """The message of the ValueError that loading raises: one sentence."""
    with pytest.raises(ValueError) as error:
        load(str(name))
    message = str(error.value)
    assert "\n" not in message and len(message) < 400
    return message


@each_encoder
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_bert_dot_comes_back_the_same_in_every_library(
    tmp_path: Path, encoder: Callable[..., PreTrainedModel], pooling: str
):
    model, other = BertDot(encoder(VOCABULARY), pooling), "mean" if pooling == "cls" else "cls"
    pretrained.save(model, tiny.tokenizer(), tmp_path)
    expected = vectors(model, tmp_path)

    ours = pretrained.load_dot(str(tmp_path), other)  # the folder decides
    assert ours.pooling == pooling
    assert torch.equal(vectors(ours, tmp_path), expected)

    theirs = AutoModel.from_pretrained(tmp_path).eval()
    assert torch.equal(vectors(BertDot(theirs, pooling), tmp_path), expected)

    st = SentenceTransformer(str(tmp_path), device="cpu")
    torch.testing.assert_close(torch.tensor(st.encode(TEXTS)), expected, atol=1e-6, rtol=1e-5)
    assert st.similarity_fn_name == "dot"

    st.save(str(tmp_path / "theirs"))  # we read what sentence-transformers writes
    again = pretrained.load_dot(str(tmp_path / "theirs"), other)
    assert again.pooling == pooling
    assert torch.equal(vectors(again, tmp_path / "theirs"), expected)


def test_an_encoder_without_stated_pooling_gets_the_one_given_and_no_random_pooler(tmp_path: Path):
    tiny.save_encoder(tmp_path)
    assert [pretrained.load_dot(str(tmp_path), pooling).pooling for pooling in ("cls", "mean")] == ["cls", "mean"]
    states = [pretrained.load_encoder(str(tmp_path)).state_dict() for _ in range(2)]
    assert not [name for name in states[0] if "pooler" in name]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_shipped_encoder_is_one_that_sentence_transformers_reads():
    folder = ROOT / "data" / "docs" / "encoder"
    theirs = torch.tensor(SentenceTransformer(str(folder), device="cpu").encode(TEXTS)).float()
    torch.testing.assert_close(vectors(pretrained.load_dot(str(folder)), folder), theirs, atol=1e-5, rtol=1e-4)


@each_encoder
def test_teachers_come_back_the_same(tmp_path: Path, encoder: Callable[..., PreTrainedModel]):
    cat, colbert = BertCat(encoder(VOCABULARY)).eval(), ColBert(encoder(VOCABULARY), 8).eval()
    pretrained.save(cat, tiny.tokenizer(), tmp_path / "cat")
    pretrained.save(colbert, tiny.tokenizer(), tmp_path / "colbert")
    assert torch.equal(pretrained.load_cat(str(tmp_path / "cat"))(*PAIR), cat(*PAIR))
    assert torch.equal(pretrained.load_colbert(str(tmp_path / "colbert"))(*PAIR[:2]), colbert(*PAIR[:2]))


# --- published ones ----------------------------------------------------------------------------------------------


def publish(folder: Path, model: BertCat | ColBert, head: str, old: bool) -> str:
    """A teacher as the public code publishes it: the encoder's name in the config, everything in one file."""
    base = tiny.save_encoder(folder / "base", model.encoder)
    weights = {f"bert_model.{name}": part for name, part in model.encoder.state_dict().items()}
    weights |= {f"{head}.{name}": part for name, part in model.head.state_dict().items()}
    weights["bert_model.embeddings.position_ids"] = torch.arange(64)[None]  # a relic of older versions
    if old:
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file({name: part.contiguous() for name, part in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "BERT_Cat", "bert_model": str(base)}))
    tiny.save_encoder(base, tiny.distilbert(VOCABULARY, seed=9))  # what it was trained from: other weights
    return str(folder)


@pytest.mark.parametrize("old", [True, False], ids=["pytorch_model.bin", "model.safetensors"])
def test_published_teachers_come_with_their_projection_and_bias(tmp_path: Path, old: bool):
    encoder = tiny.distilbert(VOCABULARY)
    cat, colbert = BertCat(encoder, bias=True).eval(), ColBert(encoder, 16).eval()
    theirs = publish(tmp_path / "cat", cat, "_classification_layer", old)
    assert torch.equal(pretrained.load_cat(theirs)(*PAIR), cat(*PAIR))
    assert torch.equal(pretrained.load_cross_encoder(theirs)(*PAIR), cat(*PAIR))
    assert torch.equal(pretrained.load_dot(theirs)(*PAIR[:2]), BertDot(encoder)(*PAIR[:2]))
    assert "another kind of model: it has no compressor" in refusal(pretrained.load_colbert, theirs)
    theirs = publish(tmp_path / "colbert", colbert, "compressor", old)
    assert torch.equal(pretrained.load_colbert(theirs)(*PAIR[:2]), colbert(*PAIR[:2]))


def test_a_published_cross_encoder_over_the_pooled_output_is_refused(tmp_path: Path):
    theirs = publish(tmp_path, BertCat(tiny.bert(VOCABULARY), bias=True), "_classification_layer", False)
    tiny.save_encoder(tmp_path / "base", tiny.bert(VOCABULARY))
    assert "scores the pooled output of its bert" in refusal(pretrained.load_cat, theirs)


def classifier(folder: Path, kind: str = "bert", labels: int = 1) -> PreTrainedModel:
    """A random cross-encoder of `transformers` in a folder."""
    torch.manual_seed(3)
    sizes = dict(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_labels=labels)
    sizes["intermediate_size"] = 32
    if kind == "bert":
        model = BertForSequenceClassification(BertConfig(**sizes)).eval()
    else:
        model = RobertaForSequenceClassification(RobertaConfig(**sizes, type_vocab_size=1)).eval()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_any_classifier_with_one_label_is_a_cross_encoder(tmp_path: Path, kind: str):
    theirs = classifier(tmp_path, kind)
    types = {"token_type_ids": PAIR[2]} if kind == "bert" else {}
    scores = pretrained.load_cross_encoder(str(tmp_path))(*PAIR)
    assert scores.shape == (1,)
    torch.testing.assert_close(scores, theirs(input_ids=PAIR[0], attention_mask=PAIR[1], **types).logits[:, 0])


def test_what_is_no_cross_encoder_is_refused(tmp_path: Path):
    tiny.save_encoder(tmp_path / "encoder")
    assert "it lacks weights, such as bert.pooler" in refusal(pretrained.load_cross_encoder, tmp_path / "encoder")
    classifier(tmp_path / "three", labels=3)
    assert "3 labels where a score is one" in refusal(pretrained.load_cross_encoder, tmp_path / "three")


# --- T5 ----------------------------------------------------------------------------------------------------------


def test_a_t5_from_a_folder_is_the_one_saved_and_one_without_all_of_its_weights_is_refused(tmp_path: Path):
    tiny.t5().save_pretrained(tmp_path)
    tiny.t5_tokenizer().save_pretrained(tmp_path)
    model, tokenizer = pretrained.load_seq2seq(str(tmp_path))
    assert all(torch.equal(part, model.state_dict()[name]) for name, part in tiny.t5().state_dict().items())
    assert tokenizer(TEXTS)["input_ids"] == tiny.t5_tokenizer()(TEXTS)["input_ids"]
    weights = load_file(tmp_path / "model.safetensors")
    gone = next(name for name in weights if name.startswith("decoder.block.0"))
    save_file({k: v for k, v in weights.items() if k != gone}, tmp_path / "model.safetensors", {"format": "pt"})
    assert f"it lacks weights, such as {gone}" in refusal(pretrained.load_seq2seq, tmp_path)


# --- bad input ---------------------------------------------------------------------------------------------------

LOADERS = {
    pretrained.load_encoder: "no encoder",
    pretrained.load_cross_encoder: "no encoder",
    pretrained.load_seq2seq: "no sequence-to-sequence model",
    load_tokenizer: "no tokenizer",
}


@pytest.mark.parametrize(("load", "message"), LOADERS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_hub_name_without_a_network_and_an_empty_folder_are_one_sentence_each(
    load: Callable[[str], object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # read once, at its import
    for name in ("nobody/no-such-model", tmp_path):
        said = refusal(load, name)
        assert said.startswith(message) and f"'{name}'" in said
