"""The in-batch teacher (§2.3): a frozen ColBERT, whose token vectors are kept on disk or computed for every batch."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tas_lib import models
from tas_lib.config import Profile
from tas_lib.data import shipped, store
from tas_lib.data.collection import Collection
from tas_lib.data.tokens import open_tokens
from tas_lib.models import ColBert
from tas_lib.records import Batch, IntArray, Ragged
from tas_lib.retrieval import pretrained
from tas_lib.retrieval.encode import device as find_device
from tas_lib.retrieval.encode import token_vectors


class TokenVectors(Ragged):
    """A frozen ColBERT's vectors (all tokens, D) of every text, memory-mapped fp16, end to end like its token ids."""

    def rows(self, rows: IntArray, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Vectors (N, T, D) and mask (N, T) of these texts."""
        vecs, mask = models.pad([self.row(row) for row in rows], device)
        return vecs, mask.bool()


class FreshVectors:
    """The same vectors, made when they are needed: those of 8.8 million passages would fill a terabyte."""

    def __init__(self, model: ColBert, tokens: Ragged, chunk: int = 16) -> None:
        """model: frozen. tokens: of every text. chunk: texts of similar length that are padded and encoded together."""
        self.model, self.tokens, self.chunk = model.eval(), tokens, chunk

    @torch.no_grad()
    def rows(self, rows: IntArray, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Vectors (N, T, D), rounded to fp16 as kept ones are, and mask (N, T) of these texts."""
        ids, mask = models.pad([self.tokens.row(row) for row in rows], device)
        vecs = torch.zeros(*ids.shape, self.model.dim, device=device)
        for some in models.length_chunks(self.tokens.lengths_of(rows), self.chunk):
            longest = self.tokens.lengths_of(rows[some]).max()
            vecs[some, :longest] = self.model(ids[some, :longest], mask[some, :longest]).half().float()
        return vecs, mask.bool()


class PaddedVectors(FreshVectors):
    """Fresh vectors with those of padding, which the public code's teacher reads (D10): once per text, in memory."""

    def __init__(self, model: ColBert, tokens: Ragged) -> None:
        """As `FreshVectors`; all texts are padded to the longest one."""
        super().__init__(model, tokens, chunk=len(tokens.lengths))
        self.vecs = np.zeros((len(tokens.lengths), tokens.lengths.max(), model.dim), np.float16)
        self.made = np.zeros(len(tokens.lengths), bool)

    def rows(self, rows: IntArray, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Vectors (N, T, D) and mask (N, T) of these texts; T is that of the longest of all."""
        new = np.unique(rows[~self.made[rows]])
        if len(new):
            vecs, _ = super().rows(np.append(new, self.tokens.lengths.argmax()), device)
            self.vecs[new], self.made[new] = vecs[:-1].cpu().numpy(), True
        mask = np.arange(self.vecs.shape[1]) < self.tokens.lengths_of(rows)[:, None]
        return torch.from_numpy(self.vecs[rows]).to(device).float(), torch.from_numpy(mask).to(device)


TextVectors = TokenVectors | FreshVectors


class InBatchTeacher(NamedTuple):
    """Scores every query of a batch against every passage of it (Eq. 3)."""

    queries: TextVectors
    passages: TextVectors

    def scores(self, batch: Batch, device: torch.device) -> Tensor:
        """(B, 2B), columns as in losses.py."""
        passages = np.concatenate([batch.pos, batch.neg])
        return models.late_interaction(*self.queries.rows(batch.queries, device), *self.passages.rows(passages, device))


class PublicTeacher(InBatchTeacher):
    """The public code's in-batch teacher: row i masks every passage by the padding of query i's own (D10).

    A passage longer than the query's own is cut; of a shorter one, vectors of padding count, so they must be fresh.
    Only a query's own two passages score as in Eq. 3.
    Source: matchmaker b52c65e, models/colbert.py, forward_inbatch_aggregation, once for positives, once for negatives.
    """

    def scores(self, batch: Batch, device: torch.device) -> Tensor:
        """(B, 2B), columns as in losses.py."""
        vecs, mask = self.passages.rows(np.concatenate([batch.pos, batch.neg]), device)  # (2B, N, D), (2B, N)
        lengths = mask.sum(1).view(2, -1).T.tolist()  # of each query's own two passages
        queries = models.unpadded(*self.queries.rows(batch.queries, device))
        rows = [
            [models.best_scores(half[:, :n], query).sum(1) for half, n in zip(vecs.chunk(2), own, strict=True)]
            for query, own in zip(queries, lengths, strict=True)
        ]
        return torch.stack([torch.cat(row) for row in rows])


def open_in_batch_teacher(profile: Profile, collection: Collection) -> InBatchTeacher:
    """The profile's ColBERT: its vectors are made once if they fit (`kept_vectors_gb`), otherwise for every batch."""
    source = shipped.model(profile, "colbert")
    tokenizer = pretrained.tokenizer_of(profile, source)
    texts = open_tokens(profile, collection, tokenizer)
    queries = texts["train"].with_suffix(tokenizer.mask_token_id, profile.query_masks, before=1)
    tokens = {"train": queries, "passages": texts["passages"]}
    model = pretrained.load_colbert(source).to(find_device())
    size_gb = 2e-9 * model.dim * sum(int(ragged.offsets[-1]) for ragged in tokens.values())
    if profile.training.colbert_mask == "public":
        fits = size_gb <= profile.kept_vectors_gb / 2  # without padding
        fresh = PaddedVectors if fits else partial(FreshVectors, chunk=10**9)  # a batch in one chunk has padding, too
        return PublicTeacher(*(fresh(model, ragged) for ragged in tokens.values()))
    if size_gb > profile.kept_vectors_gb:
        return InBatchTeacher(*(FreshVectors(model, ragged) for ragged in tokens.values()))

    def make(folder: Path) -> None:
        for name, ragged in tokens.items():
            store.save_arrays(folder, **{name: token_vectors(model, ragged)})

    inputs = {"colbert": pretrained.digest(profile, source), "collection": collection.digest}
    parameters = {**profile.tokens.model_dump(), "query_masks": profile.query_masks}
    folder = store.Store(profile.folder).artefact("colbert-vectors", parameters, inputs, make)
    kept = {name: store.load_array(folder / f"{name}.npy") for name in tokens}
    return InBatchTeacher(*(TokenVectors(kept[name], tokens[name].offsets) for name in tokens))
