"""The two teachers of §2.3: BERT_CAT by folds, whose margins are shipped, and ColBERT, which scores batches.

Making them (`./run_all.sh docs teachers`) is long and rare; a run reads `data/docs/`. A teacher never scores a query
that it was trained on: three folds of training queries, each scored by the model of the other two.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.random import Generator, Philox
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tas_lib import losses, models
from tas_lib.collection import tokenise
from tas_lib.models import BertCat, Classifier, ColBert
from tas_lib.records import FloatArray, IntArray, Pairs, Ragged
from tas_lib.settings import Teachers, Tokens

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


def cat_scores(
    model: BertCat | Classifier, queries: Ragged, passages: Ragged, q: IntArray, p: IntArray, chunk: int
) -> Tensor:
    """Scores (N,) of N (query row, passage row) pairs, in length-sorted chunks."""
    order = np.argsort(queries.lengths_of(q) + passages.lengths_of(p), kind="stable")
    device = next(model.parameters()).device
    parts = [
        model(
            *models.cat_inputs(
                [queries.row(i) for i in q[order[s : s + chunk]]],
                [passages.row(i) for i in p[order[s : s + chunk]]],
                device,
            )
        )
        for s in range(0, len(order), chunk)
    ]
    return torch.cat(parts)[torch.from_numpy(np.argsort(order)).to(device)]


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


def score_all(
    cat: BertCat | Classifier, queries: Ragged, passages: Ragged, q: IntArray, p: IntArray, chunk: int
) -> FloatArray:
    """Scores (N,) of many pairs, with a word on the progress every 16,384."""
    parts, start, stretch = [], time.monotonic(), 16_384
    for s in range(0, len(q), stretch):
        parts.append(
            cat_scores(cat, queries, passages, q[s : s + stretch], p[s : s + stretch], 2 * chunk).cpu().numpy()
        )
        done = min(s + stretch, len(q))
        log.info("pairs scored: %d of %d, %.0f s", done, len(q), time.monotonic() - start)
    return np.concatenate(parts)


def score_texts(
    cat: BertCat | Classifier,
    tokenizer: PreTrainedTokenizerBase,
    texts: tuple[Sequence[str], Sequence[str]],
    rows: tuple[IntArray, IntArray],
    caps: Tokens,
    chunk: int = 32,
) -> FloatArray:
    """Scores (N,) of pairs of texts by a cross-encoder with its own tokenizer.

    texts: of queries and of passages. rows: (N,) of the one and of the other.
    """
    if not len(rows[0]):  # a query without candidates
        return np.empty(0, np.float32)
    extra = 0 if isinstance(cat, BertCat) else separators(tokenizer) - 1
    tokens, places = [], []
    for side, wanted, cap in zip(texts, rows, (caps.query, caps.passage), strict=True):
        distinct, place = np.unique(wanted, return_inverse=True)
        tokens.append(tokenise(tokenizer, [side[row] for row in distinct], cap))
        places.append(place)
    queries = with_masks(tokens[0], tokenizer.sep_token_id, extra)
    with torch.inference_mode():
        return score_all(cat, queries, tokens[1], places[0], places[1], chunk)


def separators(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many SEPs stand between two texts that are read together: one in BERT, two in RoBERTa."""
    first, second, both = (tokenizer(*pair)["input_ids"] for pair in (("a",), ("b",), ("a", "b")))
    between = len(both) - len(first) - len(second) + 1
    if both != [*first, *[tokenizer.sep_token_id] * between, *second[1:]]:
        raise ValueError(f"{tokenizer.name_or_path}: pairs are not read as CLS query SEP passage SEP")
    return between + 1


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


# --- the in-batch teacher during training ------------------------------------------------------------------------


class TokenVectors:
    """A frozen ColBERT's vectors of every text, end to end like the token ids they belong to."""

    def __init__(self, vectors: FloatArray, tokens: Ragged) -> None:
        """vectors: (tokens in all, D), memory-mapped fp16. tokens: says which belong to which text."""
        self.vectors, self.tokens = vectors, tokens

    def rows(self, rows: IntArray, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Vectors (N, T, D) and mask (N, T) of these texts."""
        lengths = self.tokens.lengths_of(rows)
        mask = np.arange(lengths.max()) < lengths[:, None]  # (N, T)
        where = self.tokens.offsets[rows][:, None] + np.arange(lengths.max())
        vecs = self.vectors[np.where(mask, where, self.tokens.offsets[rows][:, None])]  # (N, T, D)
        return torch.from_numpy(np.asarray(vecs)).to(device).float(), torch.from_numpy(mask).to(device)


class FreshVectors:
    """The same vectors, made when they are asked for: those of 8.8 million passages would fill a terabyte."""

    def __init__(self, model: ColBert, tokens: Ragged) -> None:
        """model: frozen. tokens: of every text."""
        self.model, self.tokens = model.eval(), tokens

    @torch.no_grad()
    def rows(self, rows: IntArray, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Vectors (N, T, D), rounded to fp16 as kept ones are, and mask (N, T) of these texts."""
        ids, mask = models.pad([self.tokens.row(row) for row in rows], device)
        return self.model(ids, mask).half().float(), mask.bool()


TextVectors = TokenVectors | FreshVectors


def with_masks(queries: Ragged, mask: int, n: int) -> Ragged:
    """Queries with n [MASK] tokens behind each, as the published ColBERT was trained (D10).

    >>> with_masks(Ragged(np.array([2, 7, 3, 2, 3]), np.array([0, 3, 5])), mask=4, n=1).ids
    array([2, 7, 3, 4, 2, 3, 4])
    """
    ids = np.insert(queries.ids, np.repeat(queries.offsets[1:], n), mask)
    return Ragged(ids, queries.offsets + n * np.arange(len(queries.offsets)))


@torch.inference_mode()
def token_vectors(model: ColBert, tokens: Ragged, chunk: int = 64) -> FloatArray:
    """fp16 vectors (tokens in all, D) of every text, encoded in length-sorted chunks."""
    device = next(model.parameters()).device
    out = np.empty((tokens.offsets[-1], model.head.out_features), np.float16)
    order = np.argsort(tokens.lengths, kind="stable")
    for start in range(0, len(order), chunk):
        rows = order[start : start + chunk]
        ids, mask = models.pad([tokens.row(row) for row in rows], device)
        vecs = model(ids, mask)[mask.bool()].half().cpu().numpy()
        out[np.concatenate([np.arange(tokens.offsets[row], tokens.offsets[row + 1]) for row in rows])] = vecs
    return out
