"""A composed table as a frame, as Markdown and as LaTeX."""

from itertools import groupby

import pandas as pd

from tas_lib.evaluation.metrics import printed_name
from tas_lib.report.composing import Cell, Table
from tas_lib.report.rows import decimals, tex


def bold(table: Table) -> list[list[bool]]:
    """Which cells hold the highest value of their column, as printed; a mean or deviation of rows never does."""
    best = []
    for cells in zip(*table.cells, strict=True):
        values = [cell.value for cell in cells if cell.value is not None]
        best.append(decimals(max(values)) if values else "")
    return [
        [not row.summary and cell.value is not None and decimals(cell.value) == top
         for cell, top in zip(cells, best, strict=True)]
        for row, cells in zip(table.rows, table.cells, strict=True)
    ]  # fmt: skip


def frame(table: Table) -> pd.DataFrame:
    """One line a cell: row, column, value and markers as in data/paper, the run's origin, and the paper's cell."""
    lines = [
        {
            "row": " / ".join(filter(None, row.names)),
            "column": column.heading,
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

    def shown(cell: Cell, best: bool) -> str:
        if cell.value is None:
            ours = cell.missing
        else:
            text = decimals(cell.value)
            ours = (f"**{text}**" if best else text) + (f"<sup>{cell.letters}</sup>" if cell.letters else "")
        return f"{ours}<br>({cell.paper.value})" if cell.paper else ours

    heads = ["", *table.heads, *(f"{c.label}<br>{printed_name(c.measure)}" for c in table.columns), "Run"]
    lines = [heads, ["---"] * (1 + len(table.heads)) + ["---:"] * len(table.columns) + ["---"]]
    for row, cells, marks in zip(table.rows, table.cells, bold(table), strict=True):
        lines.append([row.letter, *row.names, *map(shown, cells, marks), row.origin])
    return table.caption + "\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def latex(table: Table) -> str:
    """A booktabs table, a line of ours above a small line of the paper's."""

    def shown(cell: Cell, best: bool) -> str:
        if cell.value is None:
            return cell.missing
        text = decimals(cell.value)
        text = rf"\textbf{{{text}}}" if best else text
        return text + (rf"\textsuperscript{{{cell.letters}}}" if cell.letters else "")

    n_labels = 1 + len(table.heads)
    sets = [(label, len(list(group))) for label, group in groupby(column.label for column in table.columns)]
    lines = [
        [""] * n_labels + [rf"\multicolumn{{{n}}}{{c}}{{{tex(label)}}}" for label, n in sets] + [""],
        ["", *map(tex, table.heads), *(printed_name(column.measure) for column in table.columns), "Run"],
    ]
    for row, cells, marks in zip(table.rows, table.cells, bold(table), strict=True):
        lines.append([row.letter, *map(tex, row.names), *map(shown, cells, marks), tex(row.origin)])
        if any(cell.paper for cell in cells):
            theirs = [rf"\scriptsize ({tex(cell.paper.value)})" if cell.paper else "" for cell in cells]
            lines.append([""] * n_labels + theirs + [""])
    first, second, *rest = (" & ".join(line) + r" \\" for line in lines)
    body = "\n".join(rest)
    return f"""\\begin{{table*}}
\\caption{{{tex(table.caption)}}}
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
