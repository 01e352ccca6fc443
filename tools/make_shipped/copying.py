"""In place of docT5query: words that a query for a passage would have, some copied from the passage, some new.

Two ridge regressions on the encoder's token states, fitted on training queries and the passages that answer them:
(1) token state → is the token in the query? A passage's best words are copied, which weighs them as DeepCT does.
(2) mean state and CLS → the words of the query. The best that the passage lacks are added. DEVIATIONS.md, D28.
"""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from bm25s.stopwords import STOPWORDS_EN

from tas_lib.records import FloatArray, IntArray, Ragged
from tools.make_shipped.settings import Copying

WORD = re.compile(r"[a-z]{2,}")


class Answered(NamedTuple):
    """Training queries and the passages that answer them: texts, token ids and pairs of their indices (N,)."""

    queries: Sequence[str]
    query_ids: Ragged
    query: IntArray
    passage: IntArray


def chosen(
    passages: Sequence[str], ids: Ragged, states: Ragged, pieces: Sequence[str], seen: Answered, settings: Copying
) -> list[list[str]]:
    """For each passage the words to index with it: those copied in one string, the new ones in another.

    ids, states: of each passage (T,) and (T, D). pieces: by token id.
    """
    weights = copy_weights(ids, states, seen, settings.copy_ridge)
    new = new_words(passages, states, seen, settings)
    scores = (row[1:-1].astype(np.float32) @ weights[:-1] for row in map(states.row, range(len(passages))))
    own = (best_words([pieces[i] for i in ids.row(p)[1:-1]], score, settings.copied) for p, score in enumerate(scores))
    return [[" ".join(words) for words in both if words] for both in zip(own, new, strict=True)]


def copy_weights(ids: Ragged, states: Ragged, seen: Answered, ridge: float) -> FloatArray:
    """(D + 1,) weights of a token state, then of a constant, for being in the query. CLS and SEP do not count."""
    width = states.ids.shape[1] + 1
    a, b = np.zeros((width, width)), np.zeros(width)
    for query, passage in zip(seen.query, seen.passage, strict=True):
        x = with_constant(states.row(passage)[1:-1].astype(np.float32))
        a += x.T @ x
        b += x.T @ np.isin(ids.row(passage)[1:-1], seen.query_ids.row(query)[1:-1])
    return np.linalg.solve(a + ridge * np.eye(width), b).astype(np.float32)


def best_words(pieces: Sequence[str], scores: FloatArray, n: int) -> list[str]:
    """The n words of highest score, best first; a word's score is the highest of its pieces', wherever it occurs.

    >>> best_words(["sort", "##ed", "a", "sum", "(", "sum"], np.array([0.1, 0.7, 0.9, 0.2, 0.8, 0.3]), 2)
    ['sorted', 'sum']
    """
    words: list[tuple[str, float]] = []
    for piece, score in zip(pieces, scores.tolist(), strict=True):
        if piece.startswith("##") and words:
            word, before = words.pop()
            words.append((word + piece[2:], max(before, score)))
        else:
            words.append((piece, score))
    best: dict[str, float] = {}
    for word, score in words:
        if word.isalpha() and len(word) > 1:
            best[word] = max(score, best.get(word, -np.inf))
    return sorted(best, key=lambda word: -best[word])[:n]


def new_words(passages: Sequence[str], states: Ragged, seen: Answered, settings: Copying) -> list[list[str]]:
    """For each passage the likeliest words of a query that it lacks, best first."""
    asked = [{*WORD.findall(query.lower())} for query in seen.queries]
    count = Counter(word for words in asked for word in sorted(words - {*STOPWORDS_EN}))
    vocabulary = [word for word, times in count.items() if times >= settings.least]
    targets = np.array([[word in words for word in vocabulary] for words in asked], np.float32)  # (Q, V)
    rows = [states.row(p).astype(np.float32) for p in range(len(passages))]
    x = np.stack([np.concatenate([row.mean(0), row[0]]) for row in rows])  # (P, 2D)
    x = with_constant((x - x.mean(0)) / x.std(0))
    fitted = x[seen.passage]
    a = fitted.T @ fitted + settings.new_ridge * np.eye(x.shape[1])
    scores = x @ np.linalg.solve(a, fitted.T @ targets[seen.query])  # (P, V)
    result = []
    for text, of_one in zip(passages, scores, strict=True):
        own = {*WORD.findall(text.lower())}
        ranked = (vocabulary[i] for i in np.argsort(-of_one, kind="stable"))
        result.append([*islice((word for word in ranked if word not in own), settings.new)])
    return result


def with_constant(x: FloatArray) -> FloatArray:
    """Rows (N, D + 1) that end with a 1."""
    return np.c_[x, np.ones(len(x), np.float32)]
