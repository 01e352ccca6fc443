"""Training pairs of a text file, with teacher scores or without."""

import math
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tas_lib.data import formats
from tas_lib.data.texts import Rows
from tas_lib.records import FloatArray, IntArray

FORMATS = {5: "pos_score neg_score query pos neg", 3: "query pos neg"}


class FilePairs(NamedTuple):
    """The pairs of a file, in its order, without the `left_out` pairs of unknown queries (or passages).

    query, pos, neg: (N,) indices. margins: (N,) score of the positive minus the negative's, None without scores.
    """

    query: IntArray
    pos: IntArray
    neg: IntArray
    margins: FloatArray | None
    left_out: int


def read_pairs(path: Path, queries: Sequence[str], passages: Sequence[str], partial: bool = False) -> FilePairs:
    """The pairs of a file (`pair_lines`) as indices into these ids; an unknown passage is an error.

    partial: whether the passages are a part of the file's; then pairs of others are left out.
    """
    query_index, passage_index = Rows(queries), Rows(passages)
    indices, margins = array("i"), array("f")
    left_out = 0
    for line, (query, pos, neg, margin) in pair_lines(path):
        if query not in query_index or (partial and not (pos in passage_index and neg in passage_index)):
            left_out += 1
            continue
        try:
            indices.extend((query_index[query], passage_index[pos], passage_index[neg]))
        except KeyError as unknown:
            raise ValueError(f"{path}, line {line}: passage {unknown.args[0]} is not in the collection") from None
        margins.append(margin)
    if not margins:
        raise ValueError(f"{path}: none of its {left_out} pairs is of one of the {len(queries)} queries")
    query_indices, pos_indices, neg_indices = np.array(indices).reshape(-1, 3).T.copy()  # (N,) each
    scores = None if math.isnan(margins[0]) else np.array(margins)
    return FilePairs(query_indices, pos_indices, neg_indices, scores, left_out)


def pair_lines(path: Path) -> Iterator[tuple[int, tuple[str, str, str, float]]]:
    """(line, (query, positive, negative, margin)) of each pair: five columns with both scores first, or three without.

    The margin is the positive's score minus the negative's, NaN without scores. Columns are separated by spaces.
    """
    split = formats.splitter(FORMATS)

    def parse(text: str) -> tuple[str, str, str, float]:
        *scores, query, pos, neg = split(text)
        margin = float(scores[0]) - float(scores[1]) if scores else math.nan
        if scores and not math.isfinite(margin):
            raise ValueError(f"the scores are {scores[0]} and {scores[1]}")
        return query, pos, neg, margin

    return formats.parsed(path, parse)
