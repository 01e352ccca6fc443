"""One small sequence-to-sequence model for mono, duo and doc2query, trained on BERT_CAT's margins.

Its prompts are those of the published models (retrieval/t5.py); doc2query has a prompt of ours, since the three share a
model. A training query's margins come from the BERT_CAT that was not trained on it (teachers.py).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.random import Generator, Philox
from torch import Tensor, nn
from torch.optim import AdamW
from transformers import EncoderDecoderModel, PreTrainedModel, PreTrainedTokenizerBase

from tas_lib import models
from tas_lib.records import FloatArray, IntArray, Pairs
from tas_lib.retrieval import t5
from tools.make_shipped.pretraining import keep_layers
from tools.make_shipped.settings import Seq2Seq
from tools.make_shipped.teachers import fit, up_and_down


def small_seq2seq(settings: Seq2Seq, cat: str, small: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """An encoder-decoder: some layers of a BERT_CAT read, and the small encoder, with cross-attention added, writes.

    cat, small: folders of BERTs with one vocabulary, the tokenizer's. A T5 cannot start from a BERT's layers, and from
    random ones it had learnt nothing after 600 steps (CHANGELOG).
    """
    torch.manual_seed(settings.seed)  # of the cross-attention
    model: Any = EncoderDecoderModel.from_encoder_decoder_pretrained(
        cat,
        small,
        encoder_attn_implementation="eager",  # as in remake.py
        encoder_hidden_dropout_prob=0.0,
        encoder_attention_probs_dropout_prob=0.0,
        dtype=torch.float32,
    )
    keep_layers(model.encoder, settings.layers)
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id = tokenizer.cls_token_id
        config.eos_token_id, config.pad_token_id = tokenizer.sep_token_id, tokenizer.pad_token_id
    return model


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: Sequence[str],
    passages: Sequence[str],
    pairs: Pairs,
    settings: Seq2Seq,
    prompt: str,
) -> PreTrainedModel:
    """Train mono first, then all three tasks at once: started together, none is learnt soon (CHANGELOG).

    mono: the scores of a query's passages differ as the teacher's do. duo: the logit is the teacher's margin.
    doc2query: cross-entropy of a query that the passage answers, after `prompt`.
    """
    usable = np.flatnonzero(np.diff(pairs.offsets))

    def loss_of(step: int) -> Tensor:
        rng = Generator(Philox(key=[settings.seed, step]))
        q = rng.choice(usable, settings.queries, replace=False)
        groups = [group(pairs, query, settings.negatives, rng) for query in q]
        shown, scores = (np.array(part) for part in zip(*groups, strict=True))  # (Q, 1 + negatives)
        mono = [(queries[row], passages[p]) for row, some in zip(q, shown, strict=True) for p in some]
        two = np.array([rng.choice(shown.shape[1], 2, replace=False) for _ in q])  # (Q, 2)
        both, score = (np.take_along_axis(part, two, axis=1) for part in (shown, scores))
        duo = [(queries[row], passages[a], passages[b]) for row, (a, b) in zip(q, both, strict=True)]
        read = [f"{prompt} {passages[p]}" for p in shown[:, 0]]
        loss = mono_loss(logits(model, tokenizer, t5.MONO, mono).view(*shown.shape), scores)
        if step < settings.mono_steps:
            return loss
        margins = torch.from_numpy(score[:, 0] - score[:, 1]).to(loss)
        loss = loss + nn.functional.mse_loss(logits(model, tokenizer, t5.DUO, duo), margins)
        return loss + settings.expansion_weight * expansion_loss(model, tokenizer, read, [queries[row] for row in q])

    reader = [weight for name, weight in model.named_parameters() if name.startswith("encoder.")]
    writer = [weight for name, weight in model.named_parameters() if not name.startswith("encoder.")]
    adam = AdamW([{"params": reader, "lr": settings.reader_rate}, {"params": writer, "lr": settings.writer_rate}])
    fit(model, loss_of, adam, up_and_down(adam, settings.steps), settings.steps, settings.bf16)
    return model


def group(pairs: Pairs, query: int, negatives: int, rng: Generator) -> tuple[IntArray, FloatArray]:
    """A positive of the query, some of its negatives (1 + negatives,), and their scores relative to the first."""
    rows = np.arange(pairs.offsets[query], pairs.offsets[query + 1])
    first = rng.choice(rows)
    of_positive = rows[pairs.pos[rows] == pairs.pos[first]]
    drawn = rng.choice(of_positive, negatives, replace=len(of_positive) < negatives)
    return np.append(pairs.pos[first], pairs.neg[drawn]), np.append(0.0, -pairs.margins[drawn])


def mono_loss(logits: Tensor, scores: FloatArray) -> Tensor:
    """Margin-MSE over all pairs of a query's passages: logits and the teacher's scores, (Q, P)."""
    error = logits - torch.from_numpy(scores).to(logits)
    return error.var(1, unbiased=False).mean() * 2  # the mean of (x_i - x_j)² over i and j is 2 Var x


def logits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    labels: Sequence[str],
    texts: Sequence[tuple[str, ...]],
) -> Tensor:
    """(N,) the logit of `true` over `false` for each prompt."""
    prompts = t5.prompts(tokenizer, labels, texts, cap=512)
    true, false = t5.answers(model, tokenizer, prompts).unbind(1)
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
