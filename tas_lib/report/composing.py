"""Rows and columns → a table: means, letters of the t-tests, the paper's cells beside, and the caption that says so."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tas_lib.evaluation.metrics import better_than, mean, printed_name
from tas_lib.report import compared
from tas_lib.report.published import Printed
from tas_lib.report.rows import Column, Row


class Cell(NamedTuple):
    """Our mean (None: `missing` says why) with its letters, and the paper's cell, if any."""

    value: float | None
    letters: str
    missing: str
    paper: Printed | None


class Table(NamedTuple):
    """A composed table: `cells[i][j]` is row i in column j; `heads` name the label columns.

    beside: the lines of its companion, where others measured the same (compared.py).
    """

    caption: str
    heads: tuple[str, ...]
    rows: list[Row]
    columns: list[Column]
    cells: list[list[Cell]]
    beside: Sequence[compared.Line] = ()


def compose(
    title: str,
    heads: tuple[str, ...],
    rows: Sequence[Row],
    columns: Sequence[Column],
    printed: Mapping[tuple[str, str], Printed],
    alpha: float = 0.05,
    within: str = "",
) -> Table:
    """A table of these rows and columns; the caption says what letters mean and what stands in parentheses.

    printed: (row, column) → the paper's cell. within: whose rows a row is tested against, in words.
    """
    absent = {row.paper for row in rows if row.paper} - {row for row, _ in printed}
    if absent:
        raise ValueError(f"the paper's table has no row {min(absent)!r}")
    by_column = [_column(rows, column, printed, alpha) for column in columns]
    threshold = f"{alpha:g}".removeprefix("0")
    caption = [
        title,
        f"A letter: significantly better than the row so marked{within} (paired t-test, p < {threshold}).",
        beside(columns),
    ]
    cells = [list(row) for row in zip(*by_column, strict=True)]
    return Table(" ".join(filter(None, caption)), heads, list(rows), list(columns), cells)


def beside(columns: Sequence[Column]) -> str:
    """The sentence of the caption that tells the paper's numbers from ours."""
    paired = [(column, *column.paper.rpartition(" ")[::2]) for column in columns if column.paper]
    sets = {f"{their_set} for {column.label}": None for column, their_set, _ in paired}
    measures = {f"{theirs} for {ours}": None for c, _, theirs in paired if theirs != (ours := printed_name(c.measure))}
    return f"In parentheses the paper's numbers, on MS MARCO: {', '.join(sets | measures)}." if paired else ""


def _column(
    rows: Sequence[Row], column: Column, printed: Mapping[tuple[str, str], Printed], alpha: float
) -> list[Cell]:
    """The cells of one column, from top to bottom."""
    measured = [values_of(row, column) for row in rows]
    letters: dict[tuple[str, str], str] = {}
    means: dict[str, list[float]] = {}
    for block in {row.block: None for row in rows}:
        rivals: dict[str, Mapping[str, float]] = {}
        for row, values in zip(rows, measured, strict=True):
            if values and row.block == block:
                if row.letter in rivals or (rivals and "" in (row.letter, *rivals)):
                    raise ValueError(f"{' / '.join(row.names)}: a row needs a letter of its own, not {row.letter!r}")
                rivals[row.letter] = values
        letters |= {(block, letter): better for letter, better in better_than(rivals, alpha).items()}
        means[block] = [mean(values) for values in rivals.values()]
    cells = []
    for row, values in zip(rows, measured, strict=True):
        value = mean(values) if values else None
        if row.summary and len(means[row.block]) > 1:
            value = row.summary(means[row.block])
        better = letters[row.block, row.letter] if values else ""
        cells.append(Cell(value, better, row.missing, printed.get((row.paper, column.paper))))
    return cells


def values_of(row: Row, column: Column) -> Mapping[str, float]:
    """query → value; {} where the row was not run."""
    return row.scores.get(column.test_set, {}).get(column.measure, {})
