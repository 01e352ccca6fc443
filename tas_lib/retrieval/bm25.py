"""BM25 (Lucene's variant, by bm25s): the lexical first stage, and the source of negatives (§4.2)."""

from array import array
from collections.abc import Sequence

import bm25s
import numpy as np
import Stemmer

from tas_lib.config import Bm25
from tas_lib.records import FloatArray, IntArray

BLOCK = 100_000  # passages that are split into words and stemmed at a time


class Bm25Index:
    """BM25 over passages: lower case, single characters kept, no English stop words, Snowball's stemmer."""

    def __init__(self, passages: Sequence[str], settings: Bm25) -> None:
        """passages: (P,) texts; search returns their indices."""
        self._stemmer = Stemmer.Stemmer("english")
        self._bm25 = bm25s.BM25(method="lucene", k1=settings.k1, b=settings.b)
        self._vocabulary: dict[str, int] = {}
        ids = [  # arrays, since lists of numbers would fill 24 GB with 8.8 million passages
            array("i", [self._vocabulary.setdefault(word, len(self._vocabulary)) for word in words])
            for start in range(0, len(passages), BLOCK)
            for words in self._words(passages[start : start + BLOCK])
        ]
        if self._vocabulary:  # else all passages are empty or stop words, and no query finds anything
            self._bm25.index((ids, self._vocabulary), show_progress=False)
        self.size = len(passages)

    def _words(self, texts: Sequence[str]) -> list[list[str]]:
        return bm25s.tokenize(
            list(texts),
            token_pattern=r"(?u)\b\w+\b",
            stopwords="en",
            stemmer=self._stemmer,
            return_ids=False,
            show_progress=False,
        )

    def search(self, queries: Sequence[str], depth: int) -> tuple[IntArray, FloatArray]:
        """Passage indices and scores (Q, depth) by descending score, then ascending index; -1 after the last match."""
        depth = min(depth, self.size)
        passages = np.full((len(queries), depth), -1, np.int64)
        scores = np.zeros((len(queries), depth), np.float32)
        for i, words in enumerate(self._words(queries)):
            if known := [word for word in words if word in self._vocabulary]:
                passages[i], scores[i] = top(self._bm25.get_scores(known), depth)
                passages[i, scores[i] <= 0] = -1
        return passages, scores


def top(scores: FloatArray, k: int) -> tuple[IntArray, FloatArray]:
    """The k highest of scores (P,) as (indices, scores), ties by ascending index.

    >>> top(np.array([1.0, 3.0, 3.0, 0.0]), 3)[0]
    array([1, 2, 0])
    """
    best = np.arange(len(scores))
    if k < len(scores):  # above the k-th score all, at it the lowest indices
        lowest = np.partition(scores, -k)[-k]
        above, ties = np.flatnonzero(scores > lowest), np.flatnonzero(scores == lowest)
        best = np.concatenate([above, ties[: k - len(above)]])
    order = np.lexsort((best, -scores[best]))
    return best[order], scores[best[order]]
