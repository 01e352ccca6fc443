"""Training pairs of a text file, with teacher scores or without: read by polars, ids joined to indices."""

import math
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from tas_lib.data import formats
from tas_lib.data.texts import Column
from tas_lib.records import FloatArray, IntArray

FORMATS = {5: "pos_score neg_score query pos neg", 3: "query pos neg"}
IDS = ["query", "pos", "neg"]
SPACE = r"[\s\x1c-\x1f]"  # what `str.split` separates columns at


class FilePairs(NamedTuple):
    """The pairs of a file, in its order, without the `left_out` pairs of unknown queries.

    query, pos, neg: (N,) indices. margins: (N,) score of the positive minus the negative's, None without scores.
    """

    query: IntArray
    pos: IntArray
    neg: IntArray
    margins: FloatArray | None
    left_out: int


def read_pairs(path: Path, queries: Sequence[str], passages: Sequence[str]) -> FilePairs:
    """The pairs of a file (`pair_lines`) as indices into these ids; an unknown passage is an error."""
    next(pair_lines(path))  # refuses a file that is empty or has other columns
    first = next(formats.lines(path))[1]
    n_columns, separator = len(first.split()), "\t" if "\t" in first else " "
    try:
        pairs = _parsed(path, separator, n_columns, queries, passages)
    except (pl.exceptions.PolarsError, OSError):  # read it in Python, which says what is wrong, or accepts more
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "pairs.tsv"
            with open(copy, "w", encoding="utf-8") as f:
                for _, *ids, margin in pair_lines(path):
                    scores = [repr(margin), "0"] if n_columns == 5 else []
                    f.write("\t".join([*scores, *ids]) + "\n")
            pairs = _parsed(copy, "\t", n_columns, queries, passages)
    query, pos, neg = (pairs[name].fill_null(-1).to_numpy() for name in IDS)
    known = query >= 0
    if not known.any():
        raise ValueError(f"{path}: none of its {len(query)} pairs is of one of the {len(queries)} queries")
    for n in np.flatnonzero(known & ((pos < 0) | (neg < 0)))[:1]:
        line, _, *ids, _ = next(islice(pair_lines(path), int(n), None))
        raise ValueError(f"{path}, line {line}: passage {ids[0 if pos[n] < 0 else 1]} is not in the collection")
    margins = pairs["margin"].to_numpy()[known].astype(np.float32) if n_columns == 5 else None
    return FilePairs(query[known], pos[known], neg[known], margins, int((~known).sum()))


def _parsed(
    path: Path, separator: str, n_columns: int, queries: Sequence[str], passages: Sequence[str]
) -> pl.DataFrame:
    """Indices of the pairs, null for unknown ids, and margins; PolarsError where Python may read a line differently."""
    schema = {name: pl.String if name in IDS else pl.Float64 for name in FORMATS[n_columns].split()}
    lines = pl.scan_csv(
        path, has_header=False, separator=separator, quote_char=None, schema=schema, row_index_name="line"
    )
    indices = [
        pl.LazyFrame({"id": pl.Series(Column(ids).packed), f"{side}_index": np.arange(len(ids), dtype=np.int32)})
        for side, ids in (("query", queries), ("pos", passages))
    ]
    indices.append(indices[1].rename({"pos_index": "neg_index"}))
    for name, index in zip(IDS, indices, strict=True):
        lines = lines.join(index, left_on=name, right_on="id", how="left")
    columns = [pl.col(f"{name}_index").alias(name) for name in IDS]
    if n_columns == 5:
        columns.append((pl.col("pos_score") - pl.col("neg_score")).alias("margin"))
    pairs = lines.select("line", *columns).sort("line").collect(engine="streaming")
    unknown = pl.any_horizontal(pl.col(f"{name}_index").is_null() for name in IDS)
    spaced = pl.any_horizontal(pl.col(name).is_null() | pl.col(name).str.contains(SPACE) for name in IDS)
    if any(pairs[name].has_nulls() for name in IDS) and lines.filter(unknown).select(spaced.any()).collect().item():
        raise pl.exceptions.ComputeError("an id is missing or has a space in it")
    if n_columns == 5 and not (pairs["margin"].is_finite() & pairs["margin"].is_not_null()).all():
        raise pl.exceptions.ComputeError("a score is missing or not finite")
    return pairs


def pair_lines(path: Path) -> Iterator[tuple[int, str, str, str, float]]:
    """(line, query, positive, negative, margin) of each pair: five columns with both scores first, or three without.

    The margin is the positive's score minus the negative's, NaN without scores. Columns are separated by spaces.
    """
    for line, columns in formats.columns(path, FORMATS):
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
