"""TAS-Balanced for sentence-transformers: batches and the dual-teacher loss for its `SentenceTransformerTrainer`.

A dataset has the columns query, positive, negative, in this order, and `label`: the pairwise teacher's margin, or
[margin, query, positive, negative] with the texts' indices in the tables of an in-batch teacher's vectors. Notebook 15.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, util
from sentence_transformers.base.losses.merged_forward import embed_columns, merge_feature_batches
from sentence_transformers.base.sampler import DefaultBatchSampler
from torch import Tensor, nn
from torch.utils.data import SequentialSampler

from tas_lib import losses
from tas_lib.config import Sampling, Strategy
from tas_lib.records import FloatArray, IntArray, Pairs
from tas_lib.sampling import Sampler, make_sampler

Features = Mapping[str, Tensor]
"""Texts as `input_ids` and `attention_mask`, (N, T) each, and `index` (N,) if the labels hold it."""
InBatchTeacher = Callable[[Features, Features], Tensor]
"""(queries, passages) → scores (N queries, P passages)"""


class TasBatchSampler(DefaultBatchSampler):
    """Rows of a dataset, batch by batch: batch i of epoch e is the stateless sampler's batch(e * steps + i)."""

    def __init__(self, dataset: Dataset, sampler: Sampler, batch_size: int, steps: int) -> None:
        """sampler: of pairs whose `pos` are rows of the dataset. steps: batches per epoch."""
        # with drop_last, accelerate gives every process as many batches; ours are all full
        super().__init__(dataset, batch_size=batch_size, drop_last=True, seed=sampler.seed)
        self.stateless, self.steps = sampler, steps

    def set_epoch(self, epoch: int) -> None:
        """Refuse a second epoch of several processes: resumed, accelerate would not pass it on."""
        if epoch and util.get_world_size() > 1:
            raise ValueError("several processes train for one epoch: `steps` must be those of the whole training")
        super().set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of the current epoch."""
        for step in range(self.epoch * self.steps, (self.epoch + 1) * self.steps):
            yield self.stateless.batch(step).pos.tolist()

    def __len__(self) -> int:
        """Batches per epoch."""
        return self.steps


class TasBatches:
    """The argument `batch_sampler` of the trainer's arguments, which also hold the batch size and the seed.

    Each of several processes takes every N-th batch; with `accelerator_config={"split_batches": True}` its share of
    every batch, and then the loss needs `gather_across_devices=True`.
    """

    def __init__(
        self,
        train: Dataset,
        members: Sequence[IntArray],
        steps: int,
        strategy: Strategy = "tas_balanced",
        sampling: Sampling | None = None,
    ) -> None:
        """train: a triple per row; rows with the same query are that query's pairs.

        members: the clusters, `clustering.kmeans(vecs, k).members` with any vectors of `queries_of(train)`.
        steps: batches per epoch; best those of the whole training. sampling: other settings, such as `margin_bins`.
        """
        self.strategy, self.steps, self.sampling, self.members = strategy, steps, sampling or Sampling(), members
        labels = np.array(train["label"][:], np.float32).reshape(len(train), -1)
        if train.column_names[3:] != ["label"] or labels.shape[1] not in (1, 4):
            raise ValueError("a row must have three texts and `label`: a margin or [margin, query, positive, negative]")
        if not np.isfinite(labels).all():
            raise ValueError(f"row {np.isfinite(labels).all(1).argmin()} of the dataset: its label is not finite")
        self.index = {query: i for i, query in enumerate(queries_of(train))}
        self.query = self._queries(train)
        if strategy != "random" and sorted(np.concatenate([*members, []])) != [*range(len(self.index))]:
            raise ValueError(f"the clusters must hold each of the {len(self.index)} queries of queries_of(train) once")
        rows = np.arange(len(train))
        self.pairs = Pairs.sort(len(self.index), self.query, rows, rows, labels[:, 0])

    def __call__(self, dataset: Dataset, batch_size: int, drop_last: bool, **others: Any) -> DefaultBatchSampler:
        """The trainer's sampler. A dataset without any training query is for evaluation: its rows come in order."""
        query = self._queries(dataset)
        if (query < 0).all():
            return DefaultBatchSampler(SequentialSampler(dataset), batch_size, drop_last, **others)
        if not np.array_equal(query, self.query):
            raise ValueError("the trainer must be given the dataset that TasBatches was given, in the same order")
        settings = self.sampling.model_copy(update={"batch_size": batch_size})
        sampler = make_sampler(self.strategy, self.pairs, self.members, settings, others["seed"])
        return TasBatchSampler(dataset, sampler, batch_size, self.steps)

    def _queries(self, dataset: Dataset) -> IntArray:
        return np.array([self.index.get(query, -1) for query in dataset[dataset.column_names[0]][:]], np.int64)

    def __getstate__(self) -> dict[str, object]:
        """Settings only: the trainer pickles its arguments into every checkpoint."""
        return {"strategy": self.strategy, "steps": self.steps, "sampling": self.sampling}


class DualTeacherLoss(nn.Module):
    """Dual supervision, Eq. 8: L_Pair on the labels, α times L_InB on a teacher's scores; the trainer logs both."""

    def __init__(
        self,
        model: SentenceTransformer,
        teacher: InBatchTeacher,
        alpha: float = 0.75,
        in_batch: losses.InBatch = losses.in_batch_margin_mse,
        gather_across_devices: bool = False,
    ) -> None:
        """teacher: any function of queries and passages, such as a `vector_teacher`."""
        super().__init__()
        self.model, self.gather_across_devices = model, gather_across_devices
        self.alpha, self.in_batch = alpha, in_batch
        # not a child: the trainer would train its weights, and put the student where it has a child named `model`
        self._teacher = (teacher.eval() if isinstance(teacher, nn.Module) else teacher,)

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> dict[str, Tensor]:
        """sentence_features: of query, positive and negative. labels: (B,) or (B, 4)."""
        columns = list(sentence_features)
        vecs, margins = embed_columns(self.model, columns), labels.reshape(len(labels), -1)[:, 0]
        teacher = self._scores(columns, labels)
        if self.gather_across_devices:
            vecs, margins = [util.all_gather_with_grad(each) for each in vecs], util.all_gather(margins)
        with torch.autocast(labels.device.type, enabled=False):  # scores in fp32 (D12)
            queries, pos, neg = (each.float() for each in vecs)
            student = queries @ torch.cat([pos, neg]).T  # (B, 2B)
            value = losses.dual(student, teacher, margins.float(), self.alpha, self.in_batch)
        return {"pairwise": value.pairwise, "in_batch": self.alpha * value.in_batch}

    @torch.no_grad()
    def _scores(self, columns: list[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """The teacher's scores (B, 2B); every process scores its own queries."""
        texts = [{key: column[key] for key in ("input_ids", "attention_mask")} for column in columns]
        if labels.ndim == 2:
            texts = [text | {"index": index.long()} for text, index in zip(texts, labels[:, 1:].T, strict=True)]
        query, *passages = texts
        for text in passages if self.gather_across_devices else []:
            ids, mask = util.all_gather_padded(text["input_ids"][..., None], text["attention_mask"])
            text |= {key: util.all_gather(value) for key, value in text.items() if key == "index"}
            text |= {"input_ids": ids[..., 0], "attention_mask": mask}
        scores = self._teacher[0](query, merge_feature_batches(passages) or {}).float()
        return util.all_gather(scores) if self.gather_across_devices else scores


def queries_of(dataset: Dataset) -> list[str]:
    """The distinct texts of the first column, by first occurrence: what is clustered."""
    return list(dict.fromkeys(dataset[dataset.column_names[0]][:]))


def vector_teacher(queries: FloatArray, passages: FloatArray) -> InBatchTeacher:
    """Dot products of stored vectors, (all queries, D) and (all passages, D), which may be memory-mapped."""
    if max(len(queries), len(passages)) > 2**24:
        raise ValueError("labels are fp32, which holds indices up to 16,777,216 only")

    def score(query: Features, passage: Features) -> Tensor:
        if "index" not in query:
            raise ValueError("stored vectors need labels of the form [margin, query, positive, negative]")
        q, p = (table[text["index"].cpu().numpy()] for table, text in ((queries, query), (passages, passage)))
        return (torch.from_numpy(q).float() @ torch.from_numpy(p).float().T).to(query["index"].device)

    return score
