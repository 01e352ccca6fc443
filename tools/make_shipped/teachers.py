"""How the two teachers of §2.3 are made: BERT_CAT by folds and ColBERT (`./run_all.sh docs teachers`).

A teacher never scores a query that it was trained on: three folds of training queries, each scored by the model of the
other two.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.random import Generator, Philox
from torch import Tensor, nn
from transformers import PreTrainedModel

from tas_lib import losses, models
from tas_lib.config import Teachers
from tas_lib.models import BertCat, ColBert
from tas_lib.records import FloatArray, IntArray, Pairs, Ragged
from tas_lib.retrieval.cross_encoder import cat_scores, score_all

log = logging.getLogger(__name__)


def folds(n_queries: int, n_folds: int, seed: int) -> IntArray:
    """(Q,) the fold of every training query; sizes differ by one at most."""
    return Generator(Philox(key=[seed, 0])).permutation(n_queries) % n_folds


def fit(
    model: nn.Module,
    loss_of: Callable[[int], Tensor],
    steps: int,
    rates: Mapping[str, float],
    bf16: bool,
    name: str,
) -> None:
    """Adam with a linear warm-up over a tenth of the steps and a linear way down.

    rates: how a parameter's name begins → the learning rate of all such; the first that fits counts, "" fits all.
    """
    device = next(model.parameters()).device
    groups: dict[str, list[nn.Parameter]] = {start: [] for start in rates}
    for parameter, weight in model.named_parameters():
        groups[next(start for start in rates if parameter.startswith(start))].append(weight)
    adam = torch.optim.AdamW([{"params": groups[start], "lr": rates[start]} for start in rates], weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda s: min(10 * (s + 1) / steps, (steps - s) / (0.9 * steps), 1)
    )
    model.train()
    start, mean = time.monotonic(), 0.0
    for step in range(steps):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = loss_of(step)
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        schedule.step()
        mean += (loss.item() - mean) / min(step + 1, 50)
        if (step + 1) % 50 == 0:
            log.info("%s, step %d of %d: loss %.4f, %.0f s", name, step + 1, steps, mean, time.monotonic() - start)
    model.eval()


def train_cat(
    encoder: PreTrainedModel,
    queries: Ragged,
    passages: Ragged,
    positives: Sequence[IntArray],
    negatives: Sequence[IntArray],
    rows: IntArray,
    settings: Teachers,
    name: str,
) -> BertCat:
    """A BERT_CAT that picks the relevant passage among BM25's: cross-entropy over one positive and some negatives.

    positives, negatives: passage rows of every query. rows: the queries it may see.
    """
    torch.manual_seed(settings.seed)
    model = BertCat(encoder).to(encoder.device)
    usable = rows[[len(positives[q]) > 0 and len(negatives[q]) > 0 for q in rows]]
    group = 1 + settings.cat_negatives

    def loss_of(step: int) -> Tensor:
        rng = Generator(Philox(key=[settings.seed, step]))
        asked = rng.choice(usable, settings.cat_queries, replace=False)
        shown = [
            p
            for q in asked
            for p in (rng.choice(positives[q]), *rng.choice(negatives[q], settings.cat_negatives, replace=True))
        ]
        scores = cat_scores(model, queries, passages, np.repeat(asked, group), np.array(shown), settings.chunk)
        return nn.functional.cross_entropy(
            scores.view(-1, group), torch.zeros(len(asked), dtype=torch.long, device=scores.device)
        )

    fit(model, loss_of, settings.cat_steps, {"": settings.cat_rate}, settings.bf16, name)
    return model


@torch.inference_mode()
def cat_rerank(
    cats: Sequence[BertCat], queries: Ragged, passages: Ragged, candidates: IntArray, settings: Teachers
) -> FloatArray:
    """Mean score (Q, k) of these models for candidate rows (Q, k); -1 where there is no candidate stays -inf."""
    q, place = np.nonzero(candidates >= 0)
    p = candidates[q, place]
    scores = np.full(candidates.shape, -np.inf, np.float32)
    with torch.autocast(cats[0].encoder.device.type, torch.bfloat16, enabled=settings.bf16):
        found = [score_all(cat, queries, passages, q, p, settings.chunk) for cat in cats]
    scores[q, place] = np.mean(found, axis=0)
    return scores


def train_colbert(
    encoder: PreTrainedModel, queries: Ragged, passages: Ragged, pairs: Pairs, settings: Teachers
) -> ColBert:
    """A ColBERT trained on the pairwise margins (§4.2) by Margin-MSE, its batches drawn as by Eq. 9."""
    torch.manual_seed(settings.seed)
    device = encoder.device
    model = ColBert(encoder, settings.colbert_dim).to(device)
    asked = np.flatnonzero(np.diff(pairs.offsets))

    def loss_of(step: int) -> Tensor:
        rng = Generator(Philox(key=[settings.seed, step]))
        q = rng.choice(asked, settings.colbert_batch, replace=False)
        batch = pairs.take(q, rng.integers(pairs.offsets[q], pairs.offsets[q + 1]))
        ids, q_mask = models.pad([queries.row(i) for i in batch.queries], device)
        q_vecs = model(ids, q_mask)
        ids, mask = models.pad([passages.row(i) for i in np.concatenate([batch.pos, batch.neg])], device)
        p_vecs = model(ids, mask)
        with torch.autocast(device.type, enabled=False):  # scores in fp32 (D12)
            scores = models.late_interaction(q_vecs, q_mask, p_vecs, mask)  # (B, 2B)
            return losses.margin_mse(scores, torch.from_numpy(np.asarray(batch.margins, np.float32)).to(device))

    fit(model, loss_of, settings.colbert_steps, {"": settings.colbert_rate}, settings.bf16, "ColBERT")
    return model
