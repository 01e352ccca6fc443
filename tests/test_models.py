"""The three architectures: loops as oracles, and padded batches against one text at a time."""

from collections.abc import Callable

import numpy as np
import pytest
import tiny
import torch
from transformers import PreTrainedModel

from tas_lib import models
from tas_lib.models import BertCat, BertDot, ColBert

each_encoder = pytest.mark.parametrize("encoder", [tiny.bert, tiny.distilbert], ids=["bert", "distilbert"])


# --- tensors from token ids --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.int64])
def test_padding_by_hand(kind: type[np.integer]):
    ids, mask = models.pad([np.array([2, 40_000, 3], kind), np.array([2, 3], kind)])
    assert ids.tolist() == [[2, 40_000, 3], [2, 3, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert (ids.dtype, mask.dtype) == (torch.int64, torch.int64)


def test_a_pair_is_read_as_cls_query_sep_passage_sep():
    ids, mask, types = models.cat_inputs(
        [np.array([2, 7, 3]), np.array([2, 8, 8, 3])], [np.array([2, 9, 9, 9, 3]), np.array([2, 5, 3])]
    )
    assert ids.tolist() == [[2, 7, 3, 9, 9, 9, 3], [2, 8, 8, 3, 5, 3, 0]]
    assert mask.tolist() == [[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0]]
    assert types.tolist() == [[0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1, 0]]


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_results_of_length_chunks_come_back_in_the_original_order(chunk: int):
    lengths = np.random.default_rng(0).integers(1, 5, 20)
    chunks = models.length_chunks(lengths, chunk)
    assert [len(some) for some in chunks[:-1]] == [chunk] * (len(chunks) - 1)
    assert [i for some in chunks for i in some] == sorted(range(20), key=lambda i: lengths[i])
    assert models.original_order([torch.from_numpy(some) for some in chunks], chunks).tolist() == list(range(20))


@each_encoder
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_many_texts_are_encoded_as_one_by_one(encoder: Callable[..., PreTrainedModel], pooling: str):
    model, texts = BertDot(encoder(), pooling).eval(), tiny.texts(20, 12, seed=0)
    rows = np.array([19, 3, 3, 0, 7, 19, 11])
    done: list[int] = []
    together = models.encode_rows(model, texts, rows, 3, done.append)
    assert sum(done) == texts.lengths_of(np.unique(rows)).sum()
    alone = torch.cat([model(*models.pad([texts.row(row)])) for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_a_repeated_text_is_encoded_once_and_short_texts_are_not_padded_to_the_longest():
    model, texts = BertDot(tiny.bert()).eval(), tiny.ragged([[2, 3], [2, *[7] * 30, 3], [2, 5, 3], [2, 4]])
    shapes = []
    model.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    vecs = models.encode_rows(model, texts, np.array([0, 1, 2, 3, 1, 0]), chunk=2)
    assert shapes == [(2, 2), (2, 32)]
    assert torch.equal(vecs[0], vecs[5]) and torch.equal(vecs[1], vecs[4]) and not torch.equal(vecs[0], vecs[1])


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
    type_ids = {"token_type_ids": types} if encoder is tiny.bert else {}
    states = cat.encoder(input_ids=ids, attention_mask=mask, **type_ids).last_hidden_state
    torch.testing.assert_close(cat(ids, mask, types), states[:, 0] @ cat.head.weight[0])
    assert torch.equal(cat(ids, mask, types), cat(ids, mask, 0 * types)) == (encoder is tiny.distilbert)


PADDED = torch.tensor([[2, 9, 8, 3, 0], [2, 9, 7, 5, 3], [2, 3, 0, 0, 0], [2, 0, 9, 0, 3]])
MASK = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 1, 0, 1]])  # the last one has holes


@each_encoder
def test_states_and_gradients_without_padding_are_those_with_it(encoder: Callable[..., PreTrainedModel]):
    types = torch.tensor([[0, 0, 1, 1, 0], [0, 1, 1, 1, 1], [0, 1, 0, 0, 0], [0, 0, 1, 0, 1]])
    results = []
    for padding in (True, False, True):  # the last once more, by the attention that the second put there
        model = encoder().eval()
        if results:
            models.states_of(model, PADDED, MASK, padding=False)
            model.zero_grad()
        states = models.states_of(model, PADDED, MASK, types, padding)
        (states[MASK.bool()] ** 3).sum().backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        results.append((states[MASK.bool()].detach(), gradients))
        assert padding or not states[~MASK.bool()].any()
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-4, atol=1e-5)


def test_an_attention_that_must_see_padding_gets_it():
    model = tiny.bert().eval()
    expected = models.states_of(model, PADDED, MASK)[MASK.bool()]
    model.set_attn_implementation("eager")
    found = models.states_of(model, PADDED, MASK, padding=False)[MASK.bool()]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_decoder_and_a_traced_model_are_padded_as_ever():
    decoder = tiny.bert().eval()
    decoder.config.is_decoder = True
    models.states_of(decoder, PADDED, MASK, padding=False)
    assert decoder.config._attn_implementation == "sdpa"
    dot = BertDot(tiny.bert()).eval()
    traced = torch.jit.trace(dot, (PADDED, MASK), check_trace=False)
    other = MASK.flip(0)
    torch.testing.assert_close(traced(PADDED, other), dot(PADDED, other), rtol=1e-4, atol=1e-5)


def test_dropout_without_padding_is_as_likely_as_with_it():
    model = tiny.bert(dropout=0.5).train()
    torch.manual_seed(0)
    means = [torch.stack([models.states_of(model, PADDED, MASK, padding=padding)[0, 1] for _ in range(400)]).std(0)
             for padding in (True, False)]  # fmt: skip
    torch.testing.assert_close(*means, rtol=0.25, atol=0.05)


def test_colberts_vectors_of_padding_are_there_for_the_public_mask():
    colbert = ColBert(tiny.bert(), 4).eval()
    assert not torch.equal(colbert(PADDED, MASK)[2, 3], colbert.head(torch.zeros(16)))  # of a state of 0


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


def test_teachers_scores_are_fp32_even_if_their_encoders_are_bf16():
    cat, colbert = BertCat(tiny.bert()).eval(), ColBert(tiny.bert(), 8).eval()
    ids, mask, types = models.cat_inputs(
        [np.array([2, 7, 3])] * 50, [np.array([2, *range(5, 6 + i % 9), 3]) for i in range(50)]
    )
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        scores, vectors = cat(ids, mask, types), colbert(ids, mask)
    for values in (scores, vectors):
        assert values.dtype == torch.float32
        assert not torch.equal(values, values.bfloat16().float())
