"""Published training pairs, with teacher scores or without: lines of scores and ids → rows and margins."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from tas_lib.data import blocks
from tas_lib.data.columns import Rows, pack
from tas_lib.records import FloatArray, IntArray

PAIRS = {5: "pos_score neg_score query pos neg", 3: "query pos neg"}
Result = TypeVar("Result")
PairLine = tuple[int, str, str, str, float]


class Triples(NamedTuple):
    """Published training pairs, in the order of the file; `left_out` are those of queries that were not asked for.

    query, pos, neg: (N,) rows. margins: (N,) score of the positive minus the negative's, None where no scores are.
    """

    query: IntArray
    pos: IntArray
    neg: IntArray
    margins: FloatArray | None
    left_out: int


def read_triples(
    path: Path, queries: Mapping[str, int], passages: Mapping[str, int], size: int = blocks.SIZE
) -> Triples:
    """The pairs of a file (`pair_lines`) as rows; queries, passages: id → row.

    A passage that is not there is an error with file and line; a pair of another query is left out and counted.
    """
    parts = [*triple_blocks(path, queries, passages, size)]
    query, pos, neg = (np.concatenate([part[side] for part in parts]) for side in range(3))
    margins = [part.margins for part in parts if part.margins is not None]
    return Triples(query, pos, neg, np.concatenate(margins) if margins else None, sum(part.left_out for part in parts))


def triple_blocks(
    path: Path, queries: Mapping[str, int], passages: Mapping[str, int], size: int = blocks.SIZE
) -> Iterator[Triples]:
    """`read_triples`, about `size` bytes of the file at a time; what is wrong with all of it is told at its end."""
    asked, known = Rows.over(queries), Rows.over(passages)

    def look_up(block: PairBlock) -> Triples:
        query, pos, neg = block.rows(asked, known)
        mine = query >= 0
        unknown = mine & ((pos < 0) | (neg < 0))
        if unknown.any():
            first = int(unknown.argmax())
            line, _, *ids = block.pair(first)
            lacking = ids[0 if pos[first] < 0 else 1]
            raise ValueError(f"{path}, line {line}: passage {lacking} is not in the collection")
        margins = None if block.margins is None else block.margins[mine]
        return Triples(query[mine], pos[mine], neg[mine], margins, int((~mine).sum()))

    found = left_out = 0
    for part in pair_blocks(path, look_up, size):
        found, left_out = found + len(part.query), left_out + part.left_out
        yield part
    if not found:
        raise ValueError(f"{path}: none of its {left_out} pairs is of one of the {len(queries)} queries asked for")


class PairBlock(NamedTuple):
    """Some consecutive pairs of a file: ids as they stand there, and margins (N,), None without scores.

    lines: the same pairs as `pair_lines` has them.
    """

    query: pa.ChunkedArray
    pos: pa.ChunkedArray
    neg: pa.ChunkedArray
    margins: FloatArray | None
    lines: Callable[[], Iterator[PairLine]]

    def rows(self, queries: Rows, passages: Rows) -> IntArray:
        """(3, N) rows of the queries, positives and negatives, -1 for an id that is not there."""
        both = passages.of(pa.chunked_array([*self.pos.chunks, *self.neg.chunks], pa.string()))
        return np.stack([queries.of(self.query), *np.split(both, 2)])

    def pair(self, number: int) -> tuple[int, str, str, str]:
        """(line, query, positive, negative) of one of them; for a sentence on what is wrong with it."""
        return next(islice(self.lines(), number, None))[:4]


def pair_blocks(path: Path, use: Callable[[PairBlock], Result], size: int = blocks.SIZE) -> Iterator[Result]:
    """What `use` makes of each block of a file of pairs, in order, two at a time; all lines are checked.

    A block of plain lines is parsed by pyarrow; any other is read by `pair_lines`, which says what is wrong.
    """
    width = len(next(blocks.columns(path, blocks.lines(path), PAIRS))[1])

    def parse(block: blocks.Block) -> Result:
        return use(_pair_block(path, width, block))

    return blocks.ahead(parse, blocks.blocks(path, size))


def _pair_block(path: Path, width: int, block: blocks.Block) -> PairBlock:
    def lines() -> Iterator[PairLine]:
        return _pairs(path, blocks.columns(path, blocks.block_lines(path, block), PAIRS, width))

    types = dict.fromkeys(PAIRS[width].split(), pa.string())
    types |= {name: pa.float64() for name in types if name.endswith("score")}
    table = None if block.text is None else blocks.table(block.text, types)
    if table is not None:
        query, pos, neg = (table[name] for name in ("query", "pos", "neg"))
        if width == 3:
            return PairBlock(query, pos, neg, None, lines)
        margins = (table["pos_score"].to_numpy() - table["neg_score"].to_numpy()).astype(np.float32)
        if np.isfinite(margins).all():
            return PairBlock(query, pos, neg, margins, lines)
    found = [*lines()]
    query, pos, neg = (pack(pair[side] for pair in found) for side in (1, 2, 3))
    margins = np.array([pair[4] for pair in found], np.float32)
    return PairBlock(query, pos, neg, margins if width == 5 else None, lines)


def pair_lines(path: Path) -> Iterator[PairLine]:
    """(line, query, positive, negative, margin) of each pair: five columns with both scores first, or three without.

    The margin is the positive's score minus the negative's, NaN without scores. Plain or gz, spaces or tabs.
    """
    return _pairs(path, blocks.columns(path, blocks.lines(path), PAIRS))


def _pairs(path: Path, lines: Iterable[tuple[int, list[str]]]) -> Iterator[PairLine]:
    for line, columns in lines:
        query, pos, neg = columns[-3:]
        margin = math.nan
        if len(columns) == 5:
            try:
                margin = float(columns[0]) - float(columns[1])
            except ValueError as error:
                raise ValueError(f"{path}, line {line}: {error}") from None
            if not math.isfinite(margin):
                raise ValueError(f"{path}, line {line}: the scores are {columns[0]} and {columns[1]}")
        yield line, query, pos, neg, margin
