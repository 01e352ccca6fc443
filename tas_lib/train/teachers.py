"""The in-batch teacher during training: a frozen ColBERT's token vectors, kept or made anew for every batch (§2.3)."""

import logging

import numpy as np
import torch
from torch import Tensor

from tas_lib import models
from tas_lib.models import ColBert
from tas_lib.records import FloatArray, IntArray, Ragged

log = logging.getLogger(__name__)


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


@torch.inference_mode()
def token_vectors(model: ColBert, tokens: Ragged, chunk: int = 64) -> FloatArray:
    """fp16 vectors (tokens in all, D) of every text, encoded in length-sorted chunks."""
    device = next(model.parameters()).device
    out = np.empty((tokens.offsets[-1], model.head.out_features), np.float16)
    for rows in models.length_chunks(tokens.lengths, chunk):
        ids, mask = models.pad([tokens.row(row) for row in rows], device)
        vecs = model(ids, mask)[mask.bool()].half().cpu().numpy()
        out[np.concatenate([np.arange(tokens.offsets[row], tokens.offsets[row + 1]) for row in rows])] = vecs
    return out
