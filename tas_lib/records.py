"""Data that modules exchange: named tuples of arrays, and dictionaries for qrels and runs."""

from collections.abc import Collection, Container, Mapping, Sequence
from typing import NamedTuple, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.integer]
FloatArray = NDArray[np.floating]
Qrels = Mapping[str, Mapping[str, int]]
"""query id → passage id → grade"""
Run = Mapping[str, Mapping[str, float]]
"""query id → passage id → score"""
Families = Mapping[str, Mapping[str, int]]
"""test set → query id → family: queries of one family are about the same thing, and not independent"""
ALONE: Families = {}
"""No families: all queries are independent."""
Value = TypeVar("Value")


class NotRun(ValueError):
    """Raised for a result that a profile cannot have; the message says why. Notebooks print it and continue."""


class Named(dict[str, Value]):
    """A dictionary whose missing keys raise NotRun: not every profile has them."""

    def __init__(self, values: Mapping[str, Value], kind: str) -> None:
        """kind: what the values are."""
        super().__init__(values)
        self.kind = kind

    def __missing__(self, key: str) -> NoReturn:
        """Say what is missing."""
        raise NotRun(f"this profile has no {self.kind} {key!r}")


class Texts(NamedTuple):
    """Queries or passages: ids and texts in the same order; a text's index is called its row."""

    ids: Sequence[str]
    texts: Sequence[str]


class QuerySet(NamedTuple):
    """Queries with judgements: a test set, the tune set, the early-stopping set or the training queries.

    families: query id → label; queries with the same label belong together; {}: all are independent.
    """

    name: str
    queries: Texts
    qrels: Qrels
    families: Mapping[str, int] = {}

    def only(self, ids: Collection[str], name: str = "") -> "QuerySet":
        """The queries among these ids, in the same order; under another name if one is given."""
        texts = {query: text for query, text in zip(*self.queries, strict=True) if query in ids}
        qrels = {query: self.qrels[query] for query in texts}
        families = {query: label for query, label in self.families.items() if query in texts}
        return QuerySet(name or self.name, Texts([*texts], [*texts.values()]), qrels, families)


class Source(NamedTuple):
    """A whole collection as a source delivers it; `titles` are for people, never for ranking.

    barred: rows of passages that answer a query of a held-out set, and are kept out of training pairs.
    report: counts for notebook 01 (what was read, dropped, resolved).
    """

    passages: Texts
    titles: Sequence[str]
    sets: dict[str, QuerySet]
    barred: IntArray
    report: dict[str, dict[str, int]]


class Ragged(NamedTuple):
    """Token ids of many texts, concatenated: text i is `ids[offsets[i]:offsets[i + 1]]`."""

    ids: IntArray
    offsets: IntArray

    def row(self, row: int) -> IntArray:
        """The token ids (T,) of one text."""
        return self.ids[self.offsets[row] : self.offsets[row + 1]]

    def lengths_of(self, rows: IntArray) -> IntArray:
        """(N,) number of tokens of these texts."""
        return self.offsets[rows + 1] - self.offsets[rows]

    @property
    def lengths(self) -> IntArray:
        """(N,) number of tokens of every text, special tokens included."""
        return np.diff(self.offsets)

    def with_suffix(self, token: int, n: int, before: int = 0) -> "Ragged":
        """Each text with `token` inserted n times, before its last `before` tokens (ColBERT's [MASK]s, D10).

        >>> Ragged(np.array([2, 7, 3, 2, 3]), np.array([0, 3, 5])).with_suffix(4, 1).ids
        array([2, 7, 3, 4, 2, 3, 4])
        >>> Ragged(np.array([2, 7, 3, 2, 3]), np.array([0, 3, 5])).with_suffix(4, 1, before=1).ids
        array([2, 7, 4, 3, 2, 4, 3])
        """
        ids = np.insert(self.ids, np.repeat(self.offsets[1:] - before, n), token)
        return Ragged(ids, self.offsets + n * np.arange(len(self.offsets)))


class Batch(NamedTuple):
    """One training step, (B,) each: rows of queries, of one positive and one negative passage each, teacher margins."""

    queries: IntArray
    pos: IntArray
    neg: IntArray
    margins: FloatArray


class Pairs(NamedTuple):
    """All training pairs as CSR: those of query q are at `offsets[q]:offsets[q + 1]`, sorted by ascending margin.

    offsets: (Q + 1,). pos, neg: (N,) passage rows. margins: (N,) pairwise teacher margin M_t(q, p+) - M_t(q, p-).
    """

    offsets: IntArray
    pos: IntArray
    neg: IntArray
    margins: FloatArray

    @classmethod
    def sort(cls, n_queries: int, query: IntArray, pos: IntArray, neg: IntArray, margins: FloatArray) -> "Pairs":
        """The table of unsorted pairs (N,); a query without pairs has an empty slice.

        >>> Pairs.sort(2, np.array([1, 0, 1]), np.array([7, 5, 7]), np.array([1, 2, 3]), np.array([4., 0., 3.])).neg
        array([2, 3, 1])
        """
        order = np.lexsort((margins, query))
        offsets = np.zeros(n_queries + 1, np.int64)
        np.cumsum(np.bincount(query, minlength=n_queries), out=offsets[1:])
        return cls(offsets, pos[order], neg[order], margins[order])

    def take(self, queries: IntArray, rows: IntArray) -> Batch:
        """The batch of these queries (B,) and rows of the pair table (B,)."""
        return Batch(queries, self.pos[rows], self.neg[rows], self.margins[rows])


class History(NamedTuple):
    """One evaluation during training (§4.3): nDCG@10 on the early-stopping set after `step` steps, and mean losses."""

    step: int
    ndcg: float
    pairwise: float
    in_batch: float
    seconds: float


def ranking(passages: Mapping[str, float]) -> list[str]:
    """Passage ids as trec_eval ranks them: by descending score in single precision, then by descending id.

    >>> ranking({"a": 1.0, "b": 1.0, "d": 1 + 1e-9, "c": 2.0})
    ['c', 'd', 'b', 'a']
    """
    scores = np.fromiter(passages.values(), np.float32, len(passages))
    if np.isnan(scores).any():
        raise ValueError("a score is NaN, and NaN has no rank")
    return [passage for _, passage in sorted(zip(scores.tolist(), passages, strict=True), reverse=True)]


def only(run: Run, passages: Container[str]) -> Run:
    """A run without all other passages, as if only these had been searched.

    >>> only({"q": {"a": 3.0, "b": 2.0}, "r": {"a": 1.0}}, {"b"})
    {'q': {'b': 2.0}, 'r': {}}
    """
    return {query: {p: score for p, score in of_query.items() if p in passages} for query, of_query in run.items()}


def as_run(query_ids: Sequence[str], passage_ids: Sequence[str], rows: IntArray, scores: FloatArray) -> Run:
    """A run from passage rows and scores, (Q, k) each; -1 means no passage."""
    return {
        query: {passage_ids[row]: float(score) for row, score in zip(r, s, strict=True) if row >= 0}
        for query, r, s in zip(query_ids, rows.tolist(), scores.tolist(), strict=True)
    }
