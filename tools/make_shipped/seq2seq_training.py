"""One small sequence-to-sequence model for mono, duo and expansion, taught by BERT_CAT; made at remake time only.

Its prompts are those of the published models (retrieval/t5.py); expansion has its own, since the three share a model.
A training query's margins come from the BERT_CAT that never saw it (teachers.py), and so the folds are respected.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.random import Generator, Philox
from torch import Tensor, nn
from transformers import EncoderDecoderModel, PreTrainedModel, PreTrainedTokenizerBase

from tas_lib import models
from tas_lib.config import Seq2Seq
from tas_lib.records import FloatArray, IntArray, Pairs
from tas_lib.retrieval import t5 as seq2seq
from tools.make_shipped import pretraining
from tools.make_shipped import teachers as making


def small_seq2seq(settings: Seq2Seq, cat: str, small: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A stock encoder-decoder: some layers of a BERT_CAT read, the small encoder, given cross-attention, writes.

    cat, small: folders of BERTs with one vocabulary, the tokenizer's. A T5 can start from no BERT's layers, and from
    random ones it had learnt nothing after 600 steps (CHANGELOG).
    """
    torch.manual_seed(settings.seed)  # of the cross-attention
    without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model: Any = EncoderDecoderModel.from_encoder_decoder_pretrained(
        cat,
        small,
        encoder_attn_implementation="eager",  # as in `remake.start`
        **{f"encoder_{name}": value for name, value in without.items()},
        dtype=torch.float32,
    )
    pretraining.keep_layers(model.encoder, settings.layers)
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id = tokenizer.cls_token_id
        config.eos_token_id, config.pad_token_id = tokenizer.sep_token_id, tokenizer.pad_token_id
    found: PreTrainedModel = model
    return found


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: Sequence[str],
    passages: Sequence[str],
    pairs: Pairs,
    settings: Seq2Seq,
    prompt: str,
) -> PreTrainedModel:
    """Teach the model mono, then all three tasks at once: begun together, none is learnt soon (CHANGELOG).

    mono: the scores of a query's passages differ as the teacher's do. duo: the logit is the teacher's margin.
    expansion: cross-entropy of a query that the passage answers, which `prompt` asks for.
    """
    asked = np.flatnonzero(np.diff(pairs.offsets))

    def loss_of(step: int) -> Tensor:
        rng = Generator(Philox(key=[settings.seed, step]))
        q = rng.choice(asked, settings.queries, replace=False)
        groups = [group(pairs, query, settings.negatives, rng) for query in q]
        shown, scores = (np.array(part) for part in zip(*groups, strict=True))  # (Q, 1 + negatives)
        mono = [(queries[row], passages[p]) for row, some in zip(q, shown, strict=True) for p in some]
        two = np.array([rng.choice(shown.shape[1], 2, replace=False) for _ in q])  # (Q, 2)
        both, score = (np.take_along_axis(part, two, axis=1) for part in (shown, scores))
        duo = [(queries[row], passages[a], passages[b]) for row, (a, b) in zip(q, both, strict=True)]
        read = [f"{prompt} {passages[p]}" for p in shown[:, 0]]
        loss = mono_loss(logits(model, tokenizer, seq2seq.MONO, mono).view(*shown.shape), scores)
        if step < settings.mono_steps:
            return loss
        loss = loss + duo_loss(logits(model, tokenizer, seq2seq.DUO, duo), score[:, 0] - score[:, 1])
        return loss + settings.expansion_weight * expansion_loss(model, tokenizer, read, [queries[row] for row in q])

    rates = {"encoder.": settings.reader_rate, "": settings.writer_rate}
    making.fit(model, loss_of, settings.steps, rates, settings.bf16, "seq2seq")
    return model


def group(pairs: Pairs, query: int, negatives: int, rng: Generator) -> tuple[IntArray, FloatArray]:
    """A positive of the query with some of its negatives: rows (1 + negatives,), and scores relative to the first."""
    rows = np.arange(pairs.offsets[query], pairs.offsets[query + 1])
    first = rng.choice(rows)
    of_positive = rows[pairs.pos[rows] == pairs.pos[first]]
    drawn = rng.choice(of_positive, negatives, replace=len(of_positive) < negatives)
    return np.append(pairs.pos[first], pairs.neg[drawn]), np.append(0.0, -pairs.margins[drawn])


def mono_loss(found: Tensor, scores: FloatArray) -> Tensor:
    """Margin-MSE over all pairs of a query's passages: logits and the teacher's scores, (Q, P)."""
    error = found - torch.from_numpy(scores).to(found)
    return error.var(1, unbiased=False).mean() * 2  # the mean of (x_i - x_j)² over i and j is 2 Var x


def duo_loss(found: Tensor, margins: FloatArray) -> Tensor:
    """Mean squared difference of logits and the teacher's margins, (Q,)."""
    return (found - torch.from_numpy(margins).to(found)).square().mean()


def logits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    labels: Sequence[str],
    texts: Sequence[tuple[str, ...]],
) -> Tensor:
    """(N,) the logit of `true` over `false` for each prompt."""
    prompts = seq2seq.prompts(tokenizer, labels, texts, cap=512)
    true, false = seq2seq.answers(model, tokenizer, prompts).unbind(1)
    return true - false


def expansion_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, passages: Sequence[str], queries: Sequence[str]
) -> Tensor:
    """Cross-entropy of the queries' tokens, each given its passage, prompt included, and the tokens before it."""
    device = next(model.parameters()).device
    read = tokenizer(list(passages))["input_ids"]
    written = tokenizer(list(queries))["input_ids"]
    ids, mask = models.pad([np.array(row) for row in read], device)
    before, known = models.pad([np.array(row) for row in written], device)  # CLS, its words, SEP
    after = before[:, 1:].masked_fill(known[:, 1:] == 0, -100)
    logits = model(input_ids=ids, attention_mask=mask, decoder_input_ids=before[:, :-1], use_cache=False).logits
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), after.flatten())
