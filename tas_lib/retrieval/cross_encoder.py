"""Scores of (query, passage) pairs by a model that reads both together: BERT_CAT, or any published cross-encoder."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tas_lib import models
from tas_lib.config import Tokens
from tas_lib.data.progress import Progress
from tas_lib.data.tokens import tokenise
from tas_lib.models import BertCat, Classifier
from tas_lib.records import FloatArray, IntArray, Ragged

log = logging.getLogger(__name__)
STRETCH, CHUNK = 16_384, 64  # pairs sorted by length together; scored together


def cat_scores(
    model: BertCat | Classifier,
    queries: Ragged,
    passages: Ragged,
    q: IntArray,
    p: IntArray,
    chunk: int,
    progress: Progress | None = None,
) -> Tensor:
    """Scores (N,) of N pairs of a query and a passage, given by their indices q and p (N,), in length-sorted chunks."""
    device = next(model.parameters()).device
    lengths = queries.lengths_of(q) + passages.lengths_of(p)
    chunks = models.length_chunks(lengths, chunk)
    parts = []
    for some in chunks:
        pair = [queries.row(i) for i in q[some]], [passages.row(i) for i in p[some]]
        parts.append(model(*models.cat_inputs(*pair, device)))
        if progress is not None:
            progress.add(lengths[some].sum())
    return models.original_order(parts, chunks)


@torch.inference_mode()
def score_texts(
    model: BertCat | Classifier,
    tokenizer: PreTrainedTokenizerBase,
    texts: tuple[Sequence[str], Sequence[str]],
    pairs: tuple[IntArray, IntArray],
    caps: Tokens,
) -> FloatArray:
    """Scores (N,) of pairs of texts, read with the cross-encoder's own tokenizer; logs its progress.

    texts: queries and passages. pairs: indices (N,) of queries and of passages.
    """
    if not len(pairs[0]):  # no query has candidates
        return np.empty(0, np.float32)
    (queries, q), (passages, p) = (
        _tokens(tokenizer, side, indices, cap)
        for side, indices, cap in zip(texts, pairs, (caps.query, caps.passage), strict=True)
    )
    more_seps = 0 if isinstance(model, BertCat) else separators(tokenizer) - 1
    queries, scores = queries.with_suffix(tokenizer.sep_token_id, more_seps), []
    n_tokens = int(queries.lengths_of(q).sum() + passages.lengths_of(p).sum())  # time goes with these, not with pairs
    progress = Progress(log, f"scoring {len(q):,} pairs", n_tokens)
    for s in range(0, len(q), STRETCH):
        part = cat_scores(model, queries, passages, q[s : s + STRETCH], p[s : s + STRETCH], CHUNK, progress)
        scores.append(part.cpu().numpy())
    return np.concatenate(scores)


def _tokens(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], indices: IntArray, cap: int
) -> tuple[Ragged, IntArray]:
    """Token ids of the distinct texts at these indices (N,), and where each of the N is among them."""
    distinct, inverse = np.unique(indices, return_inverse=True)
    return tokenise(tokenizer, [texts[i] for i in distinct], cap), inverse


def separators(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many SEPs separate two texts that are read together: one in BERT, two in RoBERTa."""
    first, second, both = (tokenizer(*pair)["input_ids"] for pair in (("a",), ("b",), ("a", "b")))
    between = len(both) - len(first) - len(second) + 1
    if both != [*first, *[tokenizer.sep_token_id] * between, *second[1:]]:
        raise ValueError(f"{tokenizer.name_or_path}: pairs are not read as CLS query SEP passage SEP")
    return between + 1
