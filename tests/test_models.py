import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file
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
from tas_lib.data.tokens import load_tokenizer, tokenise
from tas_lib.models import BertCat, BertDot, ColBert
from tas_lib.retrieval import pretrained

TEXTS = ["the mean of an array", "plot a graph", "sum", "the sum product of the matrix along an axis"]
VOCABULARY = len(tiny.tokenizer())
ENCODERS = {"bert": tiny.bert, "distilbert": tiny.distilbert}
each_encoder = pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS.keys())
each_pooling = pytest.mark.parametrize("pooling", ["cls", "mean"])


# --- tensors from token ids --------------------------------------------------------------------------------------


def test_padding_by_hand():
    ids, mask = models.pad([np.array([2, 7, 3]), np.array([2, 3])])
    assert ids.tolist() == [[2, 7, 3], [2, 3, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert (ids.dtype, mask.dtype) == (torch.int64, torch.int64)


def test_a_pair_is_read_as_cls_query_sep_passage_sep():
    ids, mask, types = models.cat_inputs(
        [np.array([2, 7, 3]), np.array([2, 8, 8, 3])], [np.array([2, 9, 9, 9, 3]), np.array([2, 5, 3])]
    )
    assert ids.tolist() == [[2, 7, 3, 9, 9, 9, 3], [2, 8, 8, 3, 5, 3, 0]]
    assert mask.tolist() == [[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0]]
    assert types.tolist() == [[0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1, 0]]


@each_encoder
@each_pooling
def test_many_rows_are_encoded_as_one_by_one(encoder: Callable[..., PreTrainedModel], pooling: str):
    model, texts = BertDot(encoder(), pooling).eval(), tiny.texts(20, 12, seed=0)
    rows = np.array([19, 3, 3, 0, 7, 19, 11])
    together = models.encode_rows(model, texts, rows, chunk=3)
    alone = torch.cat([model(*models.pad([texts.row(row)])) for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_a_text_that_stands_twice_is_encoded_once():
    model, texts = BertDot(tiny.bert()).eval(), tiny.texts(5, 12, seed=0)
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    vecs = models.encode_rows(model, texts, np.array([4, 1, 4, 4, 1]), chunk=64)
    assert seen == [2]
    assert torch.equal(vecs[0], vecs[2]) and torch.equal(vecs[1], vecs[4]) and not torch.equal(vecs[0], vecs[1])


def test_short_texts_are_not_padded_to_the_longest_of_all():
    model, texts = BertDot(tiny.bert()).eval(), tiny.ragged([[2, 3], [2, *[7] * 30, 3], [2, 5, 3], [2, 3]])
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    models.encode_rows(model, texts, np.arange(4), chunk=2)
    assert seen == [(2, 2), (2, 32)]


# --- Eqs. 1-5 ----------------------------------------------------------------------------------------------------


def test_pooling_is_the_first_vector_or_the_mean_without_padding():
    encoder = tiny.bert()
    ids, mask = models.pad([np.array([2, 7, 3]), np.array([2, 9, 9, 5, 3])])
    states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    assert torch.equal(BertDot(encoder, "cls")(ids, mask), states[:, 0])
    mean = BertDot(encoder, "mean")(ids, mask)
    torch.testing.assert_close(mean[0], states[0, :3].mean(0))
    torch.testing.assert_close(mean[1], states[1].mean(0))


@each_encoder
def test_bert_cat_scores_the_raw_cls_vector(encoder: Callable[..., PreTrainedModel]):
    cat = BertCat(encoder()).eval()
    ids, mask, types = models.cat_inputs([np.array([2, 7, 3])], [np.array([2, 9, 9, 3])])
    known = {"token_type_ids": types} if encoder is tiny.bert else {}
    states = cat.encoder(input_ids=ids, attention_mask=mask, **known).last_hidden_state
    torch.testing.assert_close(cat(ids, mask, types), states[:, 0] @ cat.head.weight[0])


def test_token_types_tell_query_from_passage():
    cat = BertCat(tiny.bert()).eval()
    ids, mask, types = models.cat_inputs([np.array([2, 7, 3])], [np.array([2, 9, 9, 3])])
    assert not torch.equal(cat(ids, mask, types), cat(ids, mask, 0 * types))


def test_late_interaction_equals_three_loops():
    rng = torch.Generator().manual_seed(0)
    queries, passages = torch.randn(3, 4, 5, generator=rng), torch.randn(6, 7, 5, generator=rng)
    q_len, p_len = [4, 1, 3], [7, 2, 1, 5, 6, 3]
    masks = [torch.arange(t) < torch.tensor(n)[:, None] for t, n in ((4, q_len), (7, p_len))]
    scores = models.late_interaction(queries, masks[0], passages, masks[1])
    assert scores.shape == (3, 6)
    for i in range(3):
        for j in range(6):
            total = 0.0
            for m in range(q_len[i]):
                total += max((queries[i, m] @ passages[j, n]).item() for n in range(p_len[j]))
            assert scores[i, j].item() == pytest.approx(total, abs=1e-5)


def test_what_stands_in_the_padding_changes_no_score():
    queries, passages = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    q_mask, p_mask = torch.tensor([[1, 1, 0], [1, 1, 1]]), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    before = models.late_interaction(queries, q_mask, passages, p_mask)
    queries[0, 2], passages[0, 3:] = 99.0, 99.0
    assert torch.equal(before, models.late_interaction(queries, q_mask, passages, p_mask))


def test_teachers_scores_stay_in_fp32_when_their_encoders_are_in_bf16():
    cat, colbert = BertCat(tiny.bert()).eval(), ColBert(tiny.bert(), 8).eval()
    ids, mask, types = models.cat_inputs(
        [np.array([2, 7, 3])] * 50, [np.array([2, *range(5, 6 + i % 9), 3]) for i in range(50)]
    )
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        scores, vectors = cat(ids, mask, types), colbert(ids, mask)
    for found in (scores, vectors):
        assert found.dtype == torch.float32
        assert not torch.equal(found, found.bfloat16().float())


# --- on disk -----------------------------------------------------------------------------------------------------


def vectors(model: BertDot, folder: Path) -> Tensor:
    tokens = tokenise(load_tokenizer(str(folder)), TEXTS, 30)
    with torch.inference_mode():
        return models.encode_rows(model.eval(), tokens, np.arange(len(TEXTS)))


@each_encoder
@each_pooling
def test_a_bert_dot_comes_back_the_same_in_every_library(
    tmp_path: Path, encoder: Callable[..., PreTrainedModel], pooling: str
):
    model = BertDot(encoder(VOCABULARY), pooling)
    pretrained.save(model, tiny.tokenizer(), tmp_path)
    wanted = vectors(model, tmp_path)

    ours = pretrained.load_dot(str(tmp_path), "mean" if pooling == "cls" else "cls")  # what the folder states wins
    assert ours.pooling == pooling
    assert torch.equal(vectors(ours, tmp_path), wanted)

    theirs = AutoModel.from_pretrained(tmp_path).eval()
    assert torch.equal(vectors(BertDot(theirs, pooling), tmp_path), wanted)

    st = SentenceTransformer(str(tmp_path), device="cpu")
    torch.testing.assert_close(torch.tensor(st.encode(TEXTS)), wanted, atol=1e-6, rtol=1e-5)
    assert st.similarity_fn_name == "dot"

    st.save(str(tmp_path / "theirs"))  # and what sentence-transformers has written, we read
    again = pretrained.load_dot(str(tmp_path / "theirs"), "mean" if pooling == "cls" else "cls")
    assert again.pooling == pooling
    assert torch.equal(vectors(again, tmp_path / "theirs"), wanted)


def test_without_a_word_on_pooling_the_one_asked_for_is_taken(tmp_path: Path):
    tiny.save_encoder(tmp_path)
    assert [pretrained.load_dot(str(tmp_path), pooling).pooling for pooling in ("cls", "mean")] == ["cls", "mean"]


def test_a_pooler_that_nobody_reads_is_not_made_up(tmp_path: Path):
    tiny.save_encoder(tmp_path)
    states = [pretrained.load_encoder(str(tmp_path)).state_dict() for _ in range(2)]
    assert not [name for name in states[0] if "pooler" in name]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@each_encoder
def test_teachers_come_back_the_same(tmp_path: Path, encoder: Callable[..., PreTrainedModel]):
    cat, colbert = BertCat(encoder(VOCABULARY)).eval(), ColBert(encoder(VOCABULARY), 8).eval()
    pretrained.save(cat, tiny.tokenizer(), tmp_path / "cat")
    pretrained.save(colbert, tiny.tokenizer(), tmp_path / "colbert")
    pair = models.cat_inputs([np.array([2, 7, 3])], [np.array([2, 9, 9, 3])])
    assert torch.equal(pretrained.load_cat(str(tmp_path / "cat"))(*pair), cat(*pair))
    assert torch.equal(pretrained.load_colbert(str(tmp_path / "colbert"))(*pair[:2]), colbert(*pair[:2]))


def publish(folder: Path, model: BertCat | ColBert, head: str, old: bool) -> str:
    """A teacher as the public code publishes it: the encoder's name in the config, everything in one file."""
    base = tiny.save_encoder(folder / "base", model.encoder)
    named = {f"bert_model.{name}": part for name, part in model.encoder.state_dict().items()}
    named |= {f"{head}.{name}": part for name, part in model.head.state_dict().items()}
    named["bert_model.embeddings.position_ids"] = torch.arange(64)[None]  # a relic of older versions
    if old:
        torch.save(named, folder / "pytorch_model.bin")
    else:
        save_file({name: part.contiguous() for name, part in named.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "BERT_Cat", "bert_model": str(base)}))
    tiny.save_encoder(base, tiny.distilbert(VOCABULARY, seed=9))  # what it was trained from: other weights
    return str(folder)


@pytest.mark.parametrize("old", [True, False], ids=["pytorch_model.bin", "model.safetensors"])
def test_published_teachers_come_with_their_projection_and_bias(tmp_path: Path, old: bool):
    encoder = tiny.distilbert(VOCABULARY)
    cat, colbert = BertCat(encoder, bias=True).eval(), ColBert(encoder, 16).eval()
    pair = models.cat_inputs([np.array([2, 7, 3])], [np.array([2, 9, 9, 3])])
    for folder in (tmp_path / "cat", tmp_path / "colbert"):
        folder.mkdir()
    theirs = publish(tmp_path / "cat", cat, "_classification_layer", old)
    assert torch.equal(pretrained.load_cat(theirs)(*pair), cat(*pair))
    assert torch.equal(pretrained.load_cross_encoder(theirs)(*pair), cat(*pair))
    assert torch.equal(pretrained.load_dot(theirs)(*pair[:2]), BertDot(encoder)(*pair[:2]))
    assert "another kind of model: it has no compressor" in one_sentence(refusal(pretrained.load_colbert, theirs))
    theirs = publish(tmp_path / "colbert", colbert, "compressor", old)
    assert torch.equal(pretrained.load_colbert(theirs)(*pair[:2]), colbert(*pair[:2]))


def test_a_published_cross_encoder_over_the_pooled_output_is_refused(tmp_path: Path):
    theirs = publish(tmp_path, BertCat(tiny.bert(VOCABULARY), bias=True), "_classification_layer", False)
    tiny.save_encoder(tmp_path / "base", tiny.bert(VOCABULARY))
    assert "scores the pooled output of its bert" in one_sentence(refusal(pretrained.load_cat, theirs))


def refusal(load: Callable[[str], object], name: str) -> pytest.ExceptionInfo[ValueError]:
    with pytest.raises(ValueError) as error:
        load(name)
    return error


def classifier(folder: Path, kind: str = "bert", labels: int = 1) -> PreTrainedModel:
    """A random cross-encoder as `transformers` has it, in a folder."""
    torch.manual_seed(3)
    sizes = dict(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_labels=labels)
    model = {
        "bert": lambda: BertForSequenceClassification(BertConfig(**sizes, intermediate_size=32)),
        "roberta": lambda: RobertaForSequenceClassification(
            RobertaConfig(**sizes, intermediate_size=32, type_vocab_size=1)
        ),
    }[kind]().eval()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_any_classifier_with_one_label_is_a_cross_encoder(tmp_path: Path, kind: str):
    theirs = classifier(tmp_path, kind)
    pair = models.cat_inputs([np.array([2, 7, 3])], [np.array([2, 9, 9, 3])])
    types = {"token_type_ids": pair[2]} if kind == "bert" else {}
    scores = pretrained.load_cross_encoder(str(tmp_path))(*pair)
    assert scores.shape == (1,)
    torch.testing.assert_close(scores, theirs(input_ids=pair[0], attention_mask=pair[1], **types).logits[:, 0])


def test_what_is_no_cross_encoder_is_refused(tmp_path: Path):
    tiny.save_encoder(tmp_path / "encoder")
    assert "it has no trained " in one_sentence(refusal(pretrained.load_cross_encoder, str(tmp_path / "encoder")))
    classifier(tmp_path / "three", labels=3)
    assert "3 labels where a score is one" in one_sentence(
        refusal(pretrained.load_cross_encoder, str(tmp_path / "three"))
    )
    (tmp_path / "empty").mkdir()
    assert "no encoder in the folder" in one_sentence(refusal(pretrained.load_cross_encoder, str(tmp_path / "empty")))


# --- bad input ---------------------------------------------------------------------------------------------------


def one_sentence(error: pytest.ExceptionInfo[ValueError]) -> str:
    told = str(error.value)
    assert "\n" not in told and len(told) < 400
    return told


@pytest.mark.parametrize("load", [pretrained.load_encoder, load_tokenizer])
def test_a_hub_name_without_a_network_is_one_sentence(load: Callable[[str], object], monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # read once, at its import
    with pytest.raises(ValueError) as error:
        load("nobody/no-such-encoder")
    assert "'nobody/no-such-encoder'" in one_sentence(error)


def test_a_folder_without_an_encoder_is_one_sentence(tmp_path: Path):
    with pytest.raises(ValueError) as error:
        pretrained.load_encoder(str(tmp_path))
    assert f"no encoder in the folder '{tmp_path}'" in one_sentence(error)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("left", [None, 0, 100])
def test_an_encoder_that_is_cut_off_is_one_sentence(tmp_path: Path, file: str, left: int | None):
    tiny.save_encoder(tmp_path)
    damage(tmp_path / file, left)
    with pytest.raises(ValueError) as error:
        pretrained.load_encoder(str(tmp_path))
    assert f"no encoder in the folder '{tmp_path}'" in one_sentence(error)


@pytest.mark.parametrize("left", [None, 0, 100])
def test_a_tokenizer_that_is_cut_off_is_one_sentence(tmp_path: Path, left: int | None):
    tiny.save_encoder(tmp_path)
    damage(tmp_path / "tokenizer.json", left)
    with pytest.raises(ValueError) as error:
        load_tokenizer(str(tmp_path))
    assert f"no tokenizer in '{tmp_path}'" in one_sentence(error)


@pytest.mark.parametrize("left", [None, 0, 20])
def test_a_head_that_is_cut_off_is_one_sentence(tmp_path: Path, left: int | None):
    pretrained.save(BertCat(tiny.bert(VOCABULARY)), tiny.tokenizer(), tmp_path)
    damage(tmp_path / "head.safetensors", left)
    for load in (pretrained.load_cat, pretrained.load_colbert):
        with pytest.raises(ValueError) as error:
            load(str(tmp_path))
        assert "head.safetensors is missing or cut off" in one_sentence(error)


def test_a_folder_with_an_encoder_and_no_tokenizer_is_one_sentence(tmp_path: Path):
    tiny.distilbert(VOCABULARY).save_pretrained(tmp_path)
    assert "its vocabulary is empty" in one_sentence(refusal(load_tokenizer, str(tmp_path)))


def damage(path: Path, left: int | None) -> None:
    data = path.read_bytes()
    path.unlink()
    if left is not None:
        path.write_bytes(data[:left])


def test_ids_of_any_width_make_a_batch():
    for kind in (np.uint16, np.int32, np.int64):
        ids, _ = models.pad([np.array([2, 40_000, 3], kind)])
        assert ids.tolist() == [[2, 40_000, 3]]


def test_the_shipped_encoder_is_a_stock_one(tmp_path: Path):
    folder = Path(__file__).resolve().parents[1] / "data" / "docs" / "encoder"
    copy = shutil.copytree(folder, tmp_path / "encoder")
    model = pretrained.load_dot(str(copy))
    tokens = tokenise(load_tokenizer(str(copy)), TEXTS, 64)
    with torch.inference_mode():
        ours = models.encode_rows(model.eval(), tokens, np.arange(len(TEXTS)))
    theirs = torch.tensor(SentenceTransformer(str(copy), device="cpu").encode(TEXTS))
    torch.testing.assert_close(ours, theirs.float(), atol=1e-5, rtol=1e-4)
