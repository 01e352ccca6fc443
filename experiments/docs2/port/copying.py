"""Expansion words for passages without a decoder: its words that a query would repeat, and those that it lacks.

Two ridge regressions on the frozen token states that students start from, fitted on the training queries in seconds:
(1) token state → is this token in the passage's query? The best words are copied (as DeepCT weighs terms);
(2) CLS and mean state → the words of the query, over words that at least `least` training queries have. The best that
the passage lacks are added. Both are appended to the passage before BM25 indexes it, as docT5query's queries are.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from frozen import States

FloatArray = np.ndarray
IntArray = np.ndarray
WORD = re.compile(r"[a-z]{2,}")


def copy_weights(
    passages: States, ids: IntArray, pos: IntArray, queries: Sequence[IntArray], ridge: float = 10.0
) -> FloatArray:
    """(D + 1,) weights of a token state, the last a constant.

    ids: (tokens in all,) of the passages. pos: (Q,) row of each training query's passage. queries: their token ids.
    """
    width = passages.states.shape[1] + 1
    a, b = np.zeros((width, width)), np.zeros(width)
    for row, query in zip(pos, queries, strict=True):
        inside = slice(passages.offsets[row] + 1, passages.offsets[row + 1] - 1)  # without CLS and SEP
        x = np.asarray(passages.states[inside], np.float32)
        x = np.c_[x, np.ones(len(x), np.float32)]
        a += x.T @ x
        b += x.T @ np.isin(ids[inside], query[1:-1])
    return np.linalg.solve(a + ridge * np.eye(width), b).astype(np.float32)


def copied(passages: States, ids: IntArray, pieces: Sequence[str], weights: FloatArray, n: int = 6) -> list[list[str]]:
    """For each passage its n words of highest score, best first; a word's score is the highest of its pieces'."""
    chosen = []
    for start, stop in zip(passages.offsets[:-1] + 1, passages.offsets[1:] - 1, strict=True):
        scores = np.asarray(passages.states[start:stop], np.float32) @ weights[:-1]
        words: list[str] = []
        values: list[float] = []
        for i, score in zip(ids[start:stop], scores.tolist(), strict=True):
            piece = pieces[i]
            if piece.startswith("##") and words:
                words[-1] += piece[2:]
                values[-1] = max(values[-1], score)
            else:
                words.append(piece)
                values.append(score)
        best: dict[str, float] = {}
        for word, score in zip(words, values, strict=True):
            if word.isalpha() and len(word) > 1:
                best[word] = max(score, best.get(word, -np.inf))
        chosen.append(sorted(best, key=lambda word: -best[word])[:n])
    return chosen


def added(
    passages: States,
    texts: Sequence[str],
    pos: IntArray,
    queries: Sequence[str],
    stop_words: frozenset[str],
    n: int = 2,
    least: int = 8,
    ridge: float = 1000.0,
) -> list[list[str]]:
    """For each passage the n likeliest query words that it lacks. texts, queries: plain text of passages and queries."""
    count = Counter(word for query in queries for word in {*WORD.findall(query.lower())} - stop_words)
    vocabulary = [word for word, times in count.items() if times >= least]
    column = {word: j for j, word in enumerate(vocabulary)}
    wanted = np.zeros((len(pos), len(vocabulary)), np.float32)
    for i, query in enumerate(queries):
        wanted[i, [column[word] for word in {*WORD.findall(query.lower())} if word in column]] = 1
    bounds = list(zip(passages.offsets[:-1], passages.offsets[1:], strict=True))
    mean = np.stack([np.asarray(passages.states[a:b], np.float32).mean(0) for a, b in bounds])
    x = np.c_[mean, np.asarray(passages.states[passages.offsets[:-1]], np.float32)]
    x = (x - x.mean(0)) / x.std(0)
    x = np.c_[x, np.ones(len(x), np.float32)]
    seen = x[pos]
    weights = np.linalg.solve(seen.T @ seen + ridge * np.eye(x.shape[1]), seen.T @ wanted)
    chosen = []
    for text, scores in zip(texts, x @ weights, strict=True):
        own = {*WORD.findall(text.lower())}
        likely = (vocabulary[j] for j in np.argsort(-scores) if vocabulary[j] not in own)
        chosen.append([next(likely) for _ in range(n)])
    return chosen
