"""Tables in the paper's shape: our numbers with letters, the paper's on MS MARCO beside; md, csv and tex."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from string import ascii_lowercase
from typing import NamedTuple

import pandas as pd
from ir_measures import Measure

from tas_lib.metrics import PerQuery, better_than, mean, paper_measures, printed_name
from tas_lib.profile import Evaluation
from tas_lib.published import Printed, paper_table
from tas_lib.store import atomic_write


class Column(NamedTuple):
    """A measure on a test set of ours, and the paper's column that stands beside it ("" where it has none)."""

    test_set: str
    label: str
    measure: Measure
    paper: str = ""


class Row(NamedTuple):
    """A system: its names as the paper prints them, one a label column, and what was measured.

    scores: test set → measure → query → value. letter: what its rivals' superscripts call it.
    paper: its row in data/paper. origin: where its run comes from. missing: what a cell without a measurement reads.
    block: rows are tested against rows of their block (in Table 4, of their teacher).
    """

    names: tuple[str, ...]
    letter: str = ""
    scores: Mapping[str, PerQuery] = {}
    paper: str = ""
    origin: str = "trained here"
    missing: str = "not run"
    block: str = ""


class Cell(NamedTuple):
    """Our mean (None: `missing` says why) with its letters, and the paper's cell, if any."""

    value: float | None
    letters: str
    missing: str
    paper: Printed | None


class Table(NamedTuple):
    """A composed table: `cells[i][j]` is row i in column j; `heads` name the label columns."""

    caption: str
    heads: tuple[str, ...]
    rows: list[Row]
    columns: list[Column]
    cells: list[list[Cell]]


# --- Table 4 -------------------------------------------------------------------------------------------------------

TABLE4 = {
    "bm25": Row(("BM25", ""), paper="Low latency / BM25", origin="BM25"),
    "1": Row(("None", "Random"), paper="None / Random"),
    "2": Row(("Pairwise (BERT_CAT)", "Random"), paper="Pairwise (BERT_CAT) / Random"),
    "3": Row(("Pairwise (BERT_CAT)", "TAS"), paper="Pairwise (BERT_CAT) / TAS"),
    "4": Row(("Pairwise (BERT_CAT)", "TAS-Balanced"), paper="Pairwise (BERT_CAT) / TAS-Balanced"),
    "5": Row(("In-Batch Neg. (ColBERT)", "Random"), paper="In-Batch Neg. (ColBERT) / Random"),
    "6": Row(("In-Batch Neg. (ColBERT)", "TAS"), paper="In-Batch Neg. (ColBERT) / TAS"),
    "7": Row(("In-Batch Neg. (ColBERT)", "TAS-Balanced"), paper="In-Batch Neg. (ColBERT) / TAS-Balanced"),
    "8": Row(("Pairwise + In-Batch", "Random"), paper="Pairwise + In-Batch / Random"),
    "9": Row(("Pairwise + In-Batch", "TAS"), paper="Pairwise + In-Batch / TAS"),
    "10": Row(("Pairwise + In-Batch", "TAS-Balanced"), paper="Pairwise + In-Batch / TAS-Balanced"),
}
"""The rows of Table 4 by their number in the list of systems, and BM25, which the paper has in Table 7."""


def table4(scores: Mapping[str, Mapping[str, PerQuery]], evaluation: Evaluation) -> Table:
    """Table 4, the rows that `scores` names (a key of TABLE4 → test set → what `evaluate` gave; {} was not run)."""
    shown = [
        row._replace(scores=scores[key], origin=row.origin if scores[key] else row.missing)
        for key, row in TABLE4.items()
        if key in scores
    ]
    rows = [row._replace(letter=letter) for row, letter in zip(shown, ascii_lowercase, strict=False)]
    printed = paper_table(4) | {key: cell for key, cell in paper_table(7).items() if key[0] == TABLE4["bm25"].paper}
    title = (
        "Table 4: samplings and teachers. BM25 is not in the paper's Table 4; its numbers there are those of Table 7."
    )
    columns = columns_of(evaluation)
    return compose(title, ("Teacher", "Sampling"), rows, columns, printed, evaluation.alpha)


def columns_of(evaluation: Evaluation) -> list[Column]:
    """nDCG@10, MRR@10 and recall on every test set; the paper's sets stand beside ours by position.

    The first graded set is beside TREC-DL'19, the second beside TREC-DL'20, the first other one beside MSMARCO DEV.
    """
    graded, sparse = iter(["TREC-DL'19", "TREC-DL'20"]), iter(["MSMARCO DEV"])
    columns = []
    for test in evaluation.sets:
        theirs = next(graded if test.graded else sparse, "")
        for measure in paper_measures(test.binarise_at, evaluation.depth)[:3]:
            name = "R@1K" if measure.NAME == "R" else printed_name(measure)
            columns.append(Column(test.name, test.label, measure, f"{theirs} {name}" if theirs else ""))
    return columns


# --- composing -----------------------------------------------------------------------------------------------------


def compose(
    title: str,
    heads: tuple[str, ...],
    rows: Sequence[Row],
    columns: Sequence[Column],
    printed: Mapping[tuple[str, str], Printed],
    alpha: float = 0.05,
) -> Table:
    """A table of these rows and columns; the caption says what letters mean and what stands in parentheses.

    printed: (row, column) → the paper's cell.
    """
    absent = {row.paper for row in rows if row.paper} - {row for row, _ in printed}
    if absent:
        raise ValueError(f"the paper's table has no row {min(absent)!r}")
    by_column = [_column(rows, column, printed, alpha) for column in columns]
    threshold = f"{alpha:g}".removeprefix("0")
    caption = [
        title,
        f"A letter: significantly better than the row so marked (paired t-test, p < {threshold}).",
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
    measured = [row.scores.get(column.test_set, {}).get(column.measure) for row in rows]
    letters: dict[tuple[str, str], str] = {}
    for block in {row.block: None for row in rows}:
        rivals: dict[str, Mapping[str, float]] = {}
        for row, values in zip(rows, measured, strict=True):
            if values and row.block == block:
                if not row.letter or row.letter in rivals:
                    raise ValueError(f"{' / '.join(row.names)}: a row needs a letter of its own, not {row.letter!r}")
                rivals[row.letter] = values
        letters |= {(block, letter): better for letter, better in better_than(rivals, alpha).items()}
    return [
        Cell(
            mean(values) if values else None,
            letters[row.block, row.letter] if values else "",
            row.missing,
            printed.get((row.paper, column.paper)),
        )
        for row, values in zip(rows, measured, strict=True)
    ]


# --- writing -------------------------------------------------------------------------------------------------------


def write(table: Table, folder: Path, name: str) -> list[Path]:
    """`name`.md, .csv and .tex in `folder`; returns their paths."""
    texts = {"md": markdown(table), "csv": frame(table).to_csv(index=False, lineterminator="\n"), "tex": latex(table)}
    paths = [folder / f"{name}.{ending}" for ending in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        with atomic_write(path) as f:
            f.write(text)
    return paths


def decimals(value: float, digits: int = 3) -> str:
    """A number as the paper prints it, without the leading zero.

    >>> decimals(0.7123), decimals(1.0), decimals(-0.05)
    ('.712', '1.000', '-.050')
    """
    return f"{value:.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{digits}f}"


def best(table: Table) -> list[str]:
    """The highest of our values in each column as printed; "" where there is none."""
    columns = [[cell.value for cell in cells if cell.value is not None] for cells in zip(*table.cells, strict=True)]
    return [decimals(max(values)) if values else "" for values in columns]


def frame(table: Table) -> pd.DataFrame:
    """One line a cell: row, column, value and markers as in data/paper, the run's origin, and the paper's cell."""
    lines = [
        {
            "row": " / ".join(filter(None, row.names)),
            "column": f"{column.label} {printed_name(column.measure)}",
            "value": cell.missing if cell.value is None else decimals(cell.value, 4),
            "markers": cell.letters,
            "origin": row.origin,
            "paper_column": column.paper,
            "paper_value": cell.paper.value if cell.paper else "",
            "paper_markers": cell.paper.markers if cell.paper else "",
        }
        for row, cells in zip(table.rows, table.cells, strict=True)
        for column, cell in zip(table.columns, cells, strict=True)
    ]
    return pd.DataFrame(lines)


def markdown(table: Table) -> str:
    """A pipe table; the best of a column in bold, the paper's number below ours in parentheses."""
    marks = best(table)

    def shown(cell: Cell, mark: str) -> str:
        if cell.value is None:
            ours = cell.missing
        else:
            text = decimals(cell.value)
            ours = (f"**{text}**" if text == mark else text) + (f"<sup>{cell.letters}</sup>" if cell.letters else "")
        return f"{ours}<br>({cell.paper.value})" if cell.paper else ours

    heads = ["", *table.heads, *(f"{c.label}<br>{printed_name(c.measure)}" for c in table.columns), "Run"]
    lines = [heads, ["---"] * (1 + len(table.heads)) + ["---:"] * len(table.columns) + ["---"]]
    for row, cells in zip(table.rows, table.cells, strict=True):
        lines.append([row.letter, *row.names, *map(shown, cells, marks), row.origin])
    return table.caption + "\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def latex(table: Table) -> str:
    """A booktabs table, a line of ours above a small line of the paper's."""
    marks = best(table)

    def shown(cell: Cell, mark: str) -> str:
        if cell.value is None:
            return cell.missing
        text = decimals(cell.value)
        text = rf"\textbf{{{text}}}" if text == mark else text
        return text + (rf"\textsuperscript{{{cell.letters}}}" if cell.letters else "")

    n_labels = 1 + len(table.heads)
    sets = [(label, len(list(group))) for label, group in groupby(column.label for column in table.columns)]
    lines = [
        [""] * n_labels + [rf"\multicolumn{{{n}}}{{c}}{{{_tex(label)}}}" for label, n in sets] + [""],
        ["", *map(_tex, table.heads), *(printed_name(column.measure) for column in table.columns), "Run"],
    ]
    for row, cells in zip(table.rows, table.cells, strict=True):
        lines.append([row.letter, *map(_tex, row.names), *map(shown, cells, marks), _tex(row.origin)])
        if any(cell.paper for cell in cells):
            theirs = [rf"\scriptsize ({_tex(cell.paper.value)})" if cell.paper else "" for cell in cells]
            lines.append([""] * n_labels + theirs + [""])
    first, second, *rest = (" & ".join(line) + r" \\" for line in lines)
    body = "\n".join(rest)
    return f"""\\begin{{table*}}
\\caption{{{_tex(table.caption)}}}
\\begin{{tabular}}{{{"l" * n_labels}{"r" * len(table.columns)}l}}
\\toprule
{first}
{second}
\\midrule
{body}
\\bottomrule
\\end{{tabular}}
\\end{{table*}}
"""


def _tex(text: str) -> str:
    """`text` with what TeX would read as a command made harmless."""
    for special in "&%#_$":
        text = text.replace(special, "\\" + special)
    return text.replace("–", "--").replace("<", "$<$")
