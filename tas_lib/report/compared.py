"""Tables 4 and 6 beside what others measured on MS MARCO: the paper, the 2023 study, Pyserini."""

from collections.abc import Sequence

import pandas as pd

from tas_lib.evaluation.columns import Column
from tas_lib.report.paper import FOLDER, Cell, Row
from tas_lib.report.render import Grid, decimals, signed

SOURCES = ("paper", "2023 study", "Pyserini")
TOLERANCE = 0.004
"""How far ours, with four decimals, may be from a figure as printed."""
HEADS = ("Row", "Column", "Paper", "2023 study", "Pyserini", "Ours", "Run")
FIELDS = ("row", "column", "source", "figure", "ours", "origin", "difference", "apart")


def others() -> dict[tuple[str, str, str, str], str]:
    """(our system, line, source, column) → figure as printed. The line is "" for the system's own, or has a name."""
    names = ("others", "independent")
    rows, printed = (pd.read_csv(FOLDER / f"{name}.csv", dtype=str, na_filter=False) for name in names)
    entries = rows.merge(printed, on=["source", "row"]).to_dict("records")
    return {(entry["system"], entry["line"], entry["source"], entry["column"]): entry["value"] for entry in entries}


def distance(cell: Cell, figure: str) -> tuple[str, str, str]:
    """Our mean with four decimals, its difference from a printed figure, "yes" where that is more than .004 either way.

    Rounded to the digits that are printed, since .351 - .347 is more than .004 to a float.

    >>> distance(Cell(0.351, ".351"), ".347"), distance(Cell(0.3511, ".351"), ".347")
    (('.3510', '+.0040', ''), ('.3511', '+.0041', 'yes'))
    """
    if cell.value is None:
        return cell.text, "", ""
    off = round(round(cell.value, 4) - float(figure), 4)
    return decimals(cell.value, 4), signed(off, 4), "yes" if abs(off) > TOLERANCE else ""


def figures(rows: Sequence[Row], columns: Sequence[Column], cells: Sequence[Sequence[Cell]]) -> pd.DataFrame:
    """One line for each figure that anybody has for a row and column of ours: the paper's sets and cutoffs only."""
    printed, lines = others(), []
    for row, of_row in zip(rows, cells, strict=True):
        for line in dict.fromkeys(["", *(line for key, line, *_ in printed if key == row.key)]):
            for column, cell in zip(columns, of_row, strict=True):
                found = {source: printed.get((row.key, line, source, column.heading)) for source in SOURCES}
                if not line and column.paper == column.heading and cell.paper and cell.paper.number is not None:
                    found["paper"] = cell.paper.value
                for source, figure in found.items():
                    if figure:
                        ours, off, apart = distance(cell, figure)
                        lines.append((line or row.label, column.heading, source, figure, ours, row.origin, off, apart))
    return pd.DataFrame(lines, columns=FIELDS)


def caption(number: str, figures: pd.DataFrame) -> str:
    """What the columns are, and from how many figures ours differs. number: "Table 4"."""
    measured, far = (figures.difference != "").sum(), (figures.apart != "").sum()
    return (
        f"{number} beside what others measured on MS MARCO. In parentheses after a figure: ours minus it, where they "
        f"differ by more than {decimals(TOLERANCE)}, as {far} of {measured} figures do. For "
        "BM25, Pyserini's are Anserini's, default and tuned; the paper's are not all of one kind (D15, D26)."
    )


def grid(figures: pd.DataFrame) -> Grid:
    """A line for each row and column; a figure that is too far from ours has the difference behind it, in bold."""
    lines = []
    for (row, column), part in figures.groupby(["row", "column"], sort=False):
        shown = {
            line.source: f"{line.figure} **({line.difference})**" if line.apart else line.figure
            for line in part.itertuples()
        }
        ours, origin = part[["ours", "origin"]].iloc[0]
        lines.append([row, column, *(shown.get(source, "–") for source in SOURCES), ours, origin])
    return Grid("llrrrrl", HEADS, lines)
