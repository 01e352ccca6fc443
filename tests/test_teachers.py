"""The teachers at work: how a cross-encoder reads pairs, and ColBERT's token vectors."""

import numpy as np
import pytest
import tiny
import torch
from transformers import BertConfig, BertForSequenceClassification

from tas_lib import models
from tas_lib.config import Tokens
from tas_lib.models import BertCat, Classifier, ColBert
from tas_lib.retrieval import cross_encoder
from tas_lib.retrieval.encode import token_vectors
from tas_lib.train.teachers import FreshVectors, TokenVectors

QUERIES, PASSAGES = tiny.texts(24, 8, seed=1), tiny.texts(60, 14, seed=2)


# --- cross-encoders ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seps", [1, 2], ids=["as BERT", "as RoBERTa"])
def test_a_cross_encoder_reads_pairs_as_its_own_tokenizer_joins_them(seps: int):
    texts = ["the mean of an array", "plot a graph"], ["sum of a matrix", "graph", "linear linear plot of the axis"]
    tokenizer = tiny.tokenizer(tiny.WORDS[::-1], seps)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_labels=1,
        type_vocab_size=3 - seps,
    )  # fmt: skip
    theirs = BertForSequenceClassification(config).eval()
    pairs = np.array([0, 1, 1, 0]), np.array([2, 0, 2, 1])
    expected = []
    for q, p in zip(*pairs, strict=True):
        inputs = tokenizer(texts[0][q], texts[1][p], return_token_type_ids=seps == 1, return_tensors="pt")
        expected.append(theirs(**inputs).logits.item())
    scores = cross_encoder.score_texts(Classifier(theirs), tokenizer, texts, pairs, Tokens(query=30, passage=30))
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert cross_encoder.separators(tokenizer) == seps


def test_a_tokenizer_that_joins_pairs_in_another_way_is_refused():
    with pytest.raises(ValueError, match="CLS query SEP passage SEP"):
        cross_encoder.separators(tiny.tokenizer(seps=0))


def test_scores_of_many_pairs_are_those_of_each_pair_alone():
    cat = BertCat(tiny.bert()).eval()
    rng = np.random.default_rng(0)
    q, p = rng.integers(24, size=40), rng.integers(60, size=40)
    with torch.inference_mode():
        together = cross_encoder.cat_scores(cat, QUERIES, PASSAGES, q, p, chunk=3)
        alone = [cat(*models.cat_inputs([QUERIES.row(i)], [PASSAGES.row(j)])).item() for i, j in zip(q, p, strict=True)]
    np.testing.assert_allclose(together, alone, atol=1e-5)


# --- ColBERT -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def colbert() -> ColBert:
    return ColBert(tiny.bert(seed=3), 8).eval()


def test_kept_token_vectors_score_as_colbert_itself_does(colbert: ColBert):
    kept = [TokenVectors(token_vectors(colbert, texts, chunk=5), texts.offsets) for texts in (QUERIES, PASSAGES)]
    q, p = np.array([3, 0, 17]), np.array([59, 4, 4, 30, 0])
    scores = models.late_interaction(*kept[0].rows(q), *kept[1].rows(p))
    with torch.inference_mode():
        inputs = models.pad([QUERIES.row(i) for i in q]), models.pad([PASSAGES.row(i) for i in p])
        direct = models.late_interaction(colbert(*inputs[0]), inputs[0][1], colbert(*inputs[1]), inputs[1][1])
    torch.testing.assert_close(scores, direct, atol=0.02, rtol=2e-3)  # kept in fp16
    assert direct.std() > 0.1


def test_fresh_vectors_are_those_that_are_kept(colbert: ColBert):
    rows = np.array([59, 4, 4, 30, 0])
    kept = TokenVectors(token_vectors(colbert, PASSAGES, chunk=5), PASSAGES.offsets).rows(rows)
    fresh = FreshVectors(colbert, PASSAGES).rows(rows)
    assert fresh[0].dtype == torch.float32 and not fresh[0].requires_grad
    assert torch.equal(fresh[1], kept[1])
    torch.testing.assert_close(fresh[0][fresh[1]], kept[0][kept[1]], atol=2e-3, rtol=2e-3)  # other padding, in fp16
    parts = FreshVectors(colbert, PASSAGES, chunk=2).rows(rows)
    assert torch.equal(parts[1], fresh[1])
    torch.testing.assert_close(parts[0][parts[1]], fresh[0][fresh[1]], atol=2e-3, rtol=2e-3)


def test_scores_are_computed_in_fp32_whatever_the_encoders_precision():
    queries, passages = torch.randn(2, 3, 8), torch.randn(4, 5, 8)
    masks = torch.ones(2, 3, dtype=torch.bool), torch.ones(4, 5, dtype=torch.bool)
    expected = models.late_interaction(queries, masks[0], passages, masks[1])
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(models.late_interaction(queries, masks[0], passages, masks[1]), expected)
