"""Tables 4 and 6 beside what others measured on MS MARCO: the paper, the 2023 study, Pyserini; how far ours is off."""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

import pandas as pd

from tas_lib.report.published import Printed
from tas_lib.report.rows import Column, Row, decimals, signed, tex

PAPER, STUDY, PYSERINI = "paper", "2023 study", "Pyserini"
SOURCES = (PAPER, STUDY, PYSERINI)
TOLERANCE = Decimal(".004")
"""How far ours, with four decimals, may be from a figure as printed."""


class Others(NamedTuple):
    """A system's rows in data/paper/independent.csv ("" where a source has none); `name` where it is a second line."""

    study: str = ""
    pyserini: str = ""
    name: str = ""


OTHERS = {
    "bm25": [Others("BM25", "BM25 default"), Others(pyserini="BM25 tuned", name="BM25, as tuned in Anserini")],
    "labels": [Others("None / Random")],
    "pairwise/random": [Others("Pairwise / Random", "Margin-MSE T2")],
    "pairwise/tas": [Others("Pairwise / TAS")],
    "pairwise/tas_balanced": [Others("Pairwise / TAS-B")],
    "Pairwise / TAS-B-HM": [Others("Pairwise / TAS-B-HM")],
    "in_batch/random": [Others("In-Batch / Random")],
    "in_batch/tas": [Others("In-Batch / TAS")],
    "in_batch/tas_balanced": [Others("In-Batch / TAS-B")],
    "In-Batch / TAS-B-HM": [Others("In-Batch / TAS-B-HM")],
    "dual/random": [Others("Both / Random")],
    "dual/tas": [Others("Both / TAS")],
    "dual/tas_balanced": [Others("Both / TAS-B")],
    "Both / TAS-B-HM": [Others("Both / TAS-B-HM")],
    "tas_b/largest": [Others(pyserini="TAS-B b256")],
    "Margin-MSE, published": [Others(pyserini="Margin-MSE T2")],
}
"""What others call our systems (DESIGN.md): the study's are all of b = 32, Pyserini's the authors' checkpoints."""


class Line(NamedTuple):
    """One row in one column: our mean (None: `missing` says why), and each source's figure as printed ("" for none)."""

    row: str
    column: str
    ours: float | None
    missing: str
    origin: str
    figures: tuple[str, ...]


def lines(
    rows: Sequence[Row],
    columns: Sequence[Column],
    means: Sequence[Sequence[float | None]],
    paper: Mapping[tuple[str, str], Printed],
    independent: Mapping[tuple[str, str, str], str],
) -> list[Line]:
    """A line for every row and column that anybody has a figure for; none where a column is not of the paper's sets.

    means: (rows, columns). paper: (row, column) → the paper's cell. independent: (source, row, column) → a figure.
    A column is known by its own heading: the paper's sets, measures and cutoffs, not what stands beside it by position.
    """
    found = []
    for row, of_row in zip(rows, means, strict=True):
        for others in OTHERS.get(row.key, [Others()]):
            name = others.name or " / ".join(filter(None, row.names))
            for column, mean in zip(columns, of_row, strict=True):
                printed = paper.get((row.paper, column.heading)) if not others.name else None
                figures = (
                    printed.value if printed and printed.number is not None else "",
                    independent.get((STUDY, others.study, column.heading), ""),
                    independent.get((PYSERINI, others.pyserini, column.heading), ""),
                )
                if any(figures):
                    found.append(Line(name, column.heading, mean, row.missing, row.origin, figures))
    return found


def difference(ours: float, figure: str) -> Decimal:
    """Ours, with four decimals, minus a printed figure; decimal, since .351 - .347 is more than .004 to a float.

    >>> difference(0.351, ".347") > TOLERANCE, difference(0.3511, ".347") > TOLERANCE
    (False, True)
    """
    return Decimal(f"{ours:.4f}") - Decimal(figure)


def apart(ours: float | None, figure: str) -> Decimal | None:
    """How far ours is from a figure, where that is more than .004 either way; else None, as where one is missing."""
    if ours is None or not figure:
        return None
    off = difference(ours, figure)
    return off if abs(off) > TOLERANCE else None


# --- writing -------------------------------------------------------------------------------------------------------

HEADS = ("Row", "Column", "Paper", "2023 study", "Pyserini", "Ours", "Run")


def caption(number: str, found: Sequence[Line]) -> str:
    """What the columns are, and from how many figures ours differs. number: "Table 4"."""
    measured = [(line.ours, figure) for line in found if line.ours is not None for figure in line.figures if figure]
    far = sum(apart(ours, figure) is not None for ours, figure in measured)
    return (
        f"{number} beside what others measured on MS MARCO. In parentheses behind a figure: ours minus it, where that "
        f"is more than {decimals(float(TOLERANCE))} either way, which is so for {far} of {len(measured)} figures. For "
        "BM25, Pyserini's are Anserini's, default and tuned; the paper's are not all of one kind (D15, D26)."
    )


def frame(found: Sequence[Line]) -> pd.DataFrame:
    """One line a figure: row, column, source, figure, ours with four decimals, ours minus it, "yes" if too far."""
    told = [
        {
            "row": line.row,
            "column": line.column,
            "source": source,
            "figure": figure,
            "ours": line.missing if line.ours is None else decimals(line.ours, 4),
            "origin": line.origin,
            "difference": "" if line.ours is None else signed(float(difference(line.ours, figure)), 4),
            "apart": "yes" if apart(line.ours, figure) is not None else "",
        }
        for line in found
        for source, figure in zip(SOURCES, line.figures, strict=True)
        if figure
    ]
    return pd.DataFrame(told)


def markdown(number: str, found: Sequence[Line]) -> str:
    """A pipe table, one line a row and column; what is too far in bold."""
    table = [list(HEADS), ["---", "---", "---:", "---:", "---:", "---:", "---"]]
    table += [_cells(line, "**({})**".format) for line in found]
    return caption(number, found) + "\n\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in table)


def latex(number: str, found: Sequence[Line]) -> str:
    """The same as a booktabs longtable, since it is longer than a page."""
    body = "\n".join(" & ".join(map(tex, _cells(line, r"\textbf{{({})}}".format))) + r" \\" for line in found)
    return f"""\\begin{{longtable}}{{llrrrrl}}
\\caption{{{tex(caption(number, found))}}} \\\\
\\toprule
{" & ".join(HEADS)} \\\\
\\midrule
\\endhead
{body}
\\bottomrule
\\end{{longtable}}
"""


def _cells(line: Line, marked: Callable[[str], str]) -> list[str]:
    """The texts of a line: ours with four decimals, so that a reader can take the difference; – for no figure."""
    figures = []
    for figure in line.figures:
        off = apart(line.ours, figure)
        figures.append((figure or "–") + ("" if off is None else " " + marked(signed(float(off), 4))))
    ours = line.missing if line.ours is None else decimals(line.ours, 4)
    return [line.row, line.column, *figures, ours, line.origin]
