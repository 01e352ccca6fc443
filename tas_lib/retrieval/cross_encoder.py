"""Scores of (query, passage) pairs by a model that reads both together: BERT_CAT, or any published cross-encoder."""

import logging
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tas_lib import models
from tas_lib.config import Tokens
from tas_lib.data.tokens import tokenise
from tas_lib.models import BertCat, Classifier
from tas_lib.records import FloatArray, IntArray, Ragged

log = logging.getLogger(__name__)


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
    queries = tokens[0].with_suffix(tokenizer.sep_token_id, extra)
    with torch.inference_mode():
        return score_all(cat, queries, tokens[1], places[0], places[1], chunk)


def separators(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many SEPs stand between two texts that are read together: one in BERT, two in RoBERTa."""
    first, second, both = (tokenizer(*pair)["input_ids"] for pair in (("a",), ("b",), ("a", "b")))
    between = len(both) - len(first) - len(second) + 1
    if both != [*first, *[tokenizer.sep_token_id] * between, *second[1:]]:
        raise ValueError(f"{tokenizer.name_or_path}: pairs are not read as CLS query SEP passage SEP")
    return between + 1
