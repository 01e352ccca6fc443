"""Early stopping (§4.3): some queries, for each of them passages to re-rank, and nDCG@10 of a student's order."""

from collections.abc import Sequence

import numpy as np
from ir_measures import nDCG

from tas_lib.config import StopSet
from tas_lib.data.collection import Collection
from tas_lib.evaluation import metrics
from tas_lib.models import BertDot
from tas_lib.records import IntArray, Qrels, Ragged, Run, as_run
from tas_lib.retrieval import encode as encoding


class Candidates:
    """The early-stopping set of §4.3: queries with passages to re-rank, and their judgements."""

    def __init__(self, queries: IntArray, rows: IntArray, collection: Collection) -> None:
        """queries: (Q,) rows in the set `stop`. rows: (Q, k) passage rows, -1 for none."""
        self.queries, self.rows, self.collection = queries, rows, collection
        stop = collection.sets["stop"]
        self.ids = [stop.queries.ids[q] for q in queries]
        self.qrels: Qrels = {query: stop.qrels[query] for query in self.ids}

    def ndcg(self, student: BertDot, tokens: dict[str, Ragged]) -> float:
        """nDCG@10 of these candidates in the student's order."""
        distinct = np.unique(self.rows[self.rows >= 0])
        q = encoding.encode(student, tokens["stop"], self.queries)  # (Q, D)
        p = encoding.encode(student, tokens["passages"], distinct)  # (P, D)
        place = np.searchsorted(distinct, self.rows).clip(max=len(distinct) - 1)
        scores = np.einsum("qd,qkd->qk", q, p[place])
        run = as_run(self.ids, self.collection.passages.ids, self.rows, scores)
        return ndcg(run, self.qrels)


def with_relevant(rows: IntArray, relevant: Sequence[IntArray]) -> IntArray:
    """Candidates (Q, k) and behind them the relevant passages (Q of any number) that they lack, -1 for none.

    >>> with_relevant(np.array([[4, 7], [3, 5]]), [np.array([7, 9]), np.array([3])])
    array([[ 4,  7,  9],
           [ 3,  5, -1]])
    """
    missing = [np.setdiff1d(gold, row) for gold, row in zip(relevant, rows, strict=True)]
    width = max(map(len, missing))
    extra = np.array([np.pad(m, (0, width - len(m)), constant_values=-1) for m in missing], np.int64)
    return np.concatenate([rows, extra.reshape(len(rows), width)], axis=1)


def stratified(rows: IntArray, relevant: Sequence[IntArray], order: IntArray, wanted: StopSet) -> IntArray:
    """Sorted numbers of queries, equally many from each range of RR@10 of these rankings (Q, 10) (D6).

    order: (Q,) the queries as they are drawn.
    """
    rr = metrics.reciprocal_ranks(rows, relevant)
    stratum = np.minimum((rr * wanted.strata).astype(int), wanted.strata - 1)
    each = wanted.queries // wanted.strata
    return np.sort(np.concatenate([order[stratum[order] == s][:each] for s in range(wanted.strata)]))


def ndcg(run: Run, qrels: Qrels) -> float:
    """Mean nDCG@10, which decides on the early-stopping set (§4.3)."""
    return metrics.mean(metrics.evaluate(run, qrels, [nDCG @ 10])[nDCG @ 10])
