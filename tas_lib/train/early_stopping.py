"""Early stopping (§4.3): a student re-ranks a baseline's candidates for some queries, and is judged by nDCG@10."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.random import Generator, Philox
from torch import nn

from tas_lib.config import StopSet
from tas_lib.data.collection import Collection
from tas_lib.evaluation import metrics
from tas_lib.records import IntArray, Qrels, Ragged, as_run
from tas_lib.retrieval import encode as encoding


class Candidates:
    """The early-stopping set of §4.3: queries with passages to re-rank, and their judgements."""

    def __init__(self, queries: IntArray, rows: IntArray, collection: Collection, precision: str = "fp32") -> None:
        """queries: (Q,) indices in the set `stop`. rows: (Q, k) passage indices, -1 for none."""
        self.queries, self.rows, self.collection, self.precision = queries, rows, collection, precision
        stop = collection.sets["stop"]
        self.ids = [stop.queries.ids[q] for q in queries]
        self.qrels: Qrels = {query: stop.qrels[query] for query in self.ids}

    def ndcg(self, student: nn.Module, texts: Mapping[str, Ragged]) -> float:
        """nDCG@10 of these candidates in the student's order. texts: `encode.open_texts`, which the student reads."""
        distinct = np.unique(self.rows[self.rows >= 0])
        if not len(distinct):
            return 0.0
        q = encoding.encode(student, texts["stop"], self.queries, precision=self.precision)  # (Q, D)
        p = encoding.encode(student, texts["passages"], distinct, precision=self.precision)  # (P, D)
        column = np.searchsorted(distinct, self.rows).clip(max=len(distinct) - 1)
        scores = np.einsum("qd,qkd->qk", q, p[column])
        run = as_run(self.ids, self.collection.passages.ids, self.rows, scores)
        return metrics.mean_ndcg(run, self.qrels)


def candidates(collection: Collection, stop: StopSet, search: encoding.TextSearch, precision: str) -> Candidates:
    """The early-stopping set: queries sampled from the set `stop`, and the passages that `search` finds for them."""
    texts, relevant = collection.sets["stop"].queries.texts, collection.relevant("stop")
    queries = np.sort(Generator(Philox(key=[0, 0])).permutation(len(texts))[: stop.queries])  # uniform, D6
    rows, _ = search([texts[q] for q in queries], stop.depth)
    return Candidates(queries, with_relevant(rows, [relevant[q] for q in queries]), collection, precision)


def with_relevant(rows: IntArray, relevant: Sequence[IntArray]) -> IntArray:
    """Candidates (Q, k), followed by the relevant passages that they lack, -1 for none; relevant: Q arrays.

    >>> with_relevant(np.array([[4, 7], [3, 5]]), [np.array([7, 9]), np.array([3])])
    array([[ 4,  7,  9],
           [ 3,  5, -1]])
    """
    missing = [np.setdiff1d(gold, row) for gold, row in zip(relevant, rows, strict=True)]
    width = max(map(len, missing), default=0)
    extra = np.array([np.pad(m, (0, width - len(m)), constant_values=-1) for m in missing], np.int64)
    return np.concatenate([rows, extra.reshape(len(rows), width)], axis=1)
