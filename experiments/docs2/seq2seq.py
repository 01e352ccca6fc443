"""One small sequence-to-sequence model for mono and duo, trained on BERT_CAT's margins: `data/docs/seq2seq`.

Its prompts are those of the published models (retrieval/t5.py). A training query's margins come from the BERT_CAT that
was not trained on it. To train it again: python -m experiments.docs2.seq2seq FOLDER
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.random import Generator, Philox
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from tqdm import trange
from transformers import BertConfig, BertLMHeadModel, EncoderDecoderModel, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.bert.modeling_bert import BertPooler

from tas_lib import config
from tas_lib.config import Settings
from tas_lib.data import shipped
from tas_lib.data.collection import open_collection
from tas_lib.data.tokens import load_tokenizer
from tas_lib.records import FloatArray, IntArray, Pairs
from tas_lib.retrieval import pretrained, t5
from tas_lib.retrieval.encode import device
from tas_lib.train.pairs import open_pairs


class Seq2Seq(Settings):
    """What the shipped model was trained with."""

    layers: int = 3  # of BERT_CAT's six
    width: int = 64  # of the writer, which has one layer and says one word
    steps: int = 1_000
    mono_steps: int = 500  # the first steps, which train mono alone
    queries: int = 8  # per step
    negatives: int = 3  # per query in a step
    hardest: int = 16  # they are drawn from those of the smallest margins
    reader_rate: float = 1e-4  # of the encoder, a trained BERT's
    writer_rate: float = 1e-3  # of the decoder, which starts random
    bf16: bool = True
    seed: int = 0


def small_seq2seq(settings: Seq2Seq, cat: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """An encoder-decoder: the first layers of a BERT_CAT read, and one small layer, random at first, answers.

    cat: its folder. A T5 cannot start from a BERT's layers, and from random ones it had learnt nothing after 600 steps
    (CHANGELOG).
    """
    torch.manual_seed(settings.seed)
    reader: Any = pretrained.load_encoder(cat)
    reader.encoder.layer = reader.encoder.layer[: settings.layers]
    reader.config.num_hidden_layers = settings.layers
    for module in reader.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.width,
        num_hidden_layers=1,
        num_attention_heads=max(1, settings.width // 64),
        intermediate_size=4 * settings.width,
        max_position_embeddings=8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
        is_decoder=True,
        add_cross_attention=True,
    )
    model: Any = EncoderDecoderModel(encoder=reader, decoder=BertLMHeadModel(config))
    reader.pooler = BertPooler(reader.config)  # without a use, but `EncoderDecoderModel` does not load without it
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
) -> PreTrainedModel:
    """Train mono first, then both tasks at once: started together, neither is learnt soon (CHANGELOG).

    mono: the scores of a query's passages differ as the teacher's do. duo: the logit is the teacher's margin.
    """
    usable = np.flatnonzero(np.diff(pairs.offsets))

    def loss_of(step: int) -> Tensor:
        rng = Generator(Philox(key=[settings.seed, step]))
        q = rng.choice(usable, settings.queries, replace=False)
        groups = [group(pairs, query, settings, rng) for query in q]
        shown, scores = (np.array(part) for part in zip(*groups, strict=True))  # (Q, 1 + negatives)
        mono = [(queries[row], passages[p]) for row, some in zip(q, shown, strict=True) for p in some]
        two = np.array([rng.choice(shown.shape[1], 2, replace=False) for _ in q])  # (Q, 2)
        both, score = (np.take_along_axis(part, two, axis=1) for part in (shown, scores))
        duo = [(queries[row], passages[a], passages[b]) for row, (a, b) in zip(q, both, strict=True)]
        loss = mono_loss(logits(model, tokenizer, t5.MONO, mono).view(*shown.shape), scores)
        if step < settings.mono_steps:
            return loss
        margins = torch.from_numpy(score[:, 0] - score[:, 1]).to(loss)
        return loss + nn.functional.mse_loss(logits(model, tokenizer, t5.DUO, duo), margins)

    reader = [weight for name, weight in model.named_parameters() if name.startswith("encoder.")]
    writer = [weight for name, weight in model.named_parameters() if not name.startswith("encoder.")]
    adam = AdamW([{"params": reader, "lr": settings.reader_rate}, {"params": writer, "lr": settings.writer_rate}])
    steps = settings.steps  # a linear warm-up over a tenth of them, then a linear decay
    schedule = LambdaLR(adam, lambda s: min(10 * (s + 1) / steps, (steps - s) / (0.9 * steps), 1))
    device = next(model.parameters()).device
    model.train()
    for step in trange(steps, desc="mono and duo"):
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
            loss = loss_of(step)
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        schedule.step()
    return model.eval()


def group(pairs: Pairs, query: int, settings: Seq2Seq, rng: Generator) -> tuple[IntArray, FloatArray]:
    """A positive of the query, some of its hardest negatives (1 + negatives,), and their scores less the first's."""
    rows = np.arange(pairs.offsets[query], pairs.offsets[query + 1])
    first = rng.choice(rows)
    of_positive = rows[pairs.pos[rows] == pairs.pos[first]]
    hard = of_positive[np.argsort(pairs.margins[of_positive], kind="stable")[: settings.hardest]]
    drawn = rng.choice(hard, settings.negatives, replace=len(hard) < settings.negatives)
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


def main(folder: str) -> None:
    """Train it on the pairs of profile docs, whose scores are all shipped."""
    profile, settings = config.load("docs"), Seq2Seq()
    collection, cat = open_collection(profile), str(shipped.folder(profile, "cat"))
    pairs = open_pairs(profile, collection, lambda: sys.exit("training pairs have no shipped score"))
    queries, passages = collection.sets["train"].queries.texts, collection.passages.texts
    tokenizer = load_tokenizer(cat)
    model = small_seq2seq(settings, cat, tokenizer)
    nn.Module.to(model, device())
    train(model, tokenizer, queries, passages, pairs, settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main(sys.argv[1])
