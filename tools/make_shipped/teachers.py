"""Train the two teachers of §2.3: BERT_CAT by folds, and ColBERT.

A teacher never scores a query that it was trained on: the training queries are split into folds, and each fold is
scored by the model that was trained on the others.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.random import Generator, Philox
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from tqdm import trange
from transformers import PreTrainedModel

from tas_lib import losses, models
from tas_lib.models import BertCat, ColBert
from tas_lib.records import IntArray, Pairs, Ragged
from tas_lib.retrieval.cross_encoder import cat_scores
from tools.make_shipped.settings import Teachers


def folds(n_queries: int, n_folds: int, seed: int) -> IntArray:
    """(Q,) the fold of every training query; sizes differ by one at most."""
    return Generator(Philox(key=[seed, 0])).permutation(n_queries) % n_folds


def up_and_down(adam: Optimizer, steps: int) -> LRScheduler:
    """A linear warm-up over a tenth of the steps, then a linear decay."""
    return LambdaLR(adam, lambda s: min(10 * (s + 1) / steps, (steps - s) / (0.9 * steps), 1))


def fit(
    model: nn.Module, loss_of: Callable[[int], Tensor], adam: Optimizer, schedule: LRScheduler, steps: int, bf16: bool
) -> None:
    """Minimise `loss_of(step)`."""
    device = next(model.parameters()).device
    model.train()
    for step in trange(steps, desc=type(model).__name__):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = loss_of(step)
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        schedule.step()
    model.eval()


def train_cat(
    encoder: PreTrainedModel,
    queries: Ragged,
    passages: Ragged,
    positives: Sequence[IntArray],
    negatives: Sequence[IntArray],
    seen: IntArray,
    settings: Teachers,
) -> BertCat:
    """A BERT_CAT that picks the relevant passage among BM25's: cross-entropy over one positive and some negatives.

    positives, negatives: passages of every query. seen: the queries to train on.
    """
    torch.manual_seed(settings.seed)
    model = BertCat(encoder).to(encoder.device)
    usable = seen[[len(positives[q]) > 0 and len(negatives[q]) > 0 for q in seen]]
    group = 1 + settings.cat_negatives

    def loss_of(step: int) -> Tensor:
        rng = Generator(Philox(key=[settings.seed, step]))
        chosen = rng.choice(usable, settings.cat_queries, replace=False)
        shown = [
            p
            for q in chosen
            for p in (rng.choice(positives[q]), *rng.choice(negatives[q], settings.cat_negatives, replace=True))
        ]
        scores = cat_scores(model, queries, passages, np.repeat(chosen, group), np.array(shown), settings.chunk)
        first = torch.zeros(len(chosen), dtype=torch.long, device=scores.device)
        return nn.functional.cross_entropy(scores.view(-1, group), first)

    adam = AdamW(model.parameters(), settings.cat_rate)
    fit(model, loss_of, adam, up_and_down(adam, settings.cat_steps), settings.cat_steps, settings.bf16)
    return model


def train_colbert(
    encoder: PreTrainedModel, queries: Ragged, passages: Ragged, pairs: Pairs, settings: Teachers
) -> ColBert:
    """A ColBERT trained on the pairwise margins (§4.2) with Margin-MSE, its batches sampled as in Eq. 9."""
    torch.manual_seed(settings.seed)
    device = encoder.device
    model = ColBert(encoder, settings.colbert_dim).to(device)
    usable = np.flatnonzero(np.diff(pairs.offsets))

    def loss_of(step: int) -> Tensor:
        rng = Generator(Philox(key=[settings.seed, step]))
        q = rng.choice(usable, settings.colbert_batch, replace=False)
        batch = pairs.take(q, rng.integers(pairs.offsets[q], pairs.offsets[q + 1]))
        ids, q_mask = models.pad([queries.row(i) for i in batch.queries], device)
        q_vecs = model(ids, q_mask)
        ids, mask = models.pad([passages.row(i) for i in np.concatenate([batch.pos, batch.neg])], device)
        p_vecs = model(ids, mask)
        with torch.autocast(device.type, enabled=False):  # scores in fp32 (D12)
            scores = models.late_interaction(q_vecs, q_mask, p_vecs, mask)  # (B, 2B)
            return losses.margin_mse(scores, torch.from_numpy(np.asarray(batch.margins, np.float32)).to(device))

    adam = AdamW(model.parameters(), settings.colbert_rate)
    fit(model, loss_of, adam, up_and_down(adam, settings.colbert_steps), settings.colbert_steps, settings.bf16)
    return model
