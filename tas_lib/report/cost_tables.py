"""Tables 1 and 2 in the paper's shape: what we measured, and what the paper prints; md, csv and tex."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tas_lib.data.store import atomic_write
from tas_lib.report.latency import ENCODING, ENOUGH, RETRIEVAL, TOTAL, Cost, Timing
from tas_lib.report.published import paper_table

PAPERS = {ENCODING: "Query encoding", RETRIEVAL: "Faiss retrieval", TOTAL: "Total"}
"""Our stages → the column groups of the paper's Table 1."""
TRAINED = {
    "Standalone": "labels",
    "Margin-MSE": "pairwise/random",
    "TCT": "in_batch/random",
    "TAS-Balanced": "dual/tas_balanced",
}
"""The rows of the paper's Table 2 that we train → the system's number (DESIGN.md)."""


class Cell(NamedTuple):
    """A cell: what we measured, and what the paper prints ("" where there is neither)."""

    row: str
    column: str
    value: str
    paper: str = ""


class Table(NamedTuple):
    """Cells in reading order, in groups: one below the other on paper, since all beside each other would be too wide.

    head: of the column with the rows' names.
    """

    caption: str
    head: str
    groups: list[list[Cell]]


def table1(found: Mapping[int, Mapping[str, Timing]], caption: str) -> Table:
    """Table 1: mean and tail of the stages. found: batch size → stage → times."""
    paper, cells = paper_table(1), []
    for size, stages in found.items():
        for stage, theirs in PAPERS.items():
            timing, row = stages[stage], f"Batch size {size:,}"
            tail = in_ms(timing.tail) + ("" if len(timing.ms) >= ENOUGH else f" ({timing.tail_name})")
            for ours, name in ((in_ms(timing.mean), "Avg."), (tail, "99th Per.")):
                printed = paper.get((row, f"{theirs} {name}"))
                cells.append(Cell(f"{size:,}", f"{stage} {name}", ours, printed.value if printed else ""))
    return Table(caption, "Batch Size", [cells])


def table2(costs: Mapping[str, Cost], caption: str) -> Table:
    """Table 2: the paper's rows as printed; below, of those that we train, what it costs here.

    costs: system's number → its cost; one that is missing was not run.
    """
    paper = paper_table(2)
    rows, columns = (list(dict.fromkeys(names)) for names in zip(*paper, strict=True))
    names = {row: " ".join([row, *(paper[key].value for key in [(row, "Reference")] if key in paper)]) for row in rows}
    columns = [column for column in columns if column != "Reference"]
    printed = [Cell(names[row], column, "", paper[row, column].value) for row in rows for column in columns]
    measured = []
    for row in rows:
        number = TRAINED.get(row, "")
        missing = "not run" if number else "reported only"
        texts = [*_cost(costs[number])] if number in costs else [missing] * len(COLUMNS)
        measured += [Cell(names[row], column, text) for column, text in zip(COLUMNS, texts, strict=True)]
    return Table(caption, "Training", [printed, measured])


COLUMNS = (
    "Batch size, here",
    "Seconds a step",
    "Samples a second",
    "Teacher inference, ms a sample",
    "The same, with what is kept",
    "Peak memory of a step, MB",
    "Clustering, s",
    "Steps to the stop",
    "Hours for 800K steps",
)


def _cost(found: Cost) -> Iterator[str]:
    """The texts under COLUMNS."""
    yield str(found.batch_size)
    yield f"{found.step_s:.3f}"
    yield f"{found.samples_s:,.0f}"
    yield from (_three(ms) if ms else "–" for ms in (found.teacher_ms, found.kept_ms))
    yield f"{found.peak_mb:,.0f}"
    yield "–" if found.clustering_s is None else f"{found.clustering_s:.1f}"
    yield f"{found.steps:,}"
    yield f"{found.hours:,.1f}"


def in_ms(ms: float) -> str:
    """A time as the paper prints it, with three digits where it has fewer.

    >>> in_ms(0.1234), in_ms(8.5), in_ms(54.32), in_ms(4779.9)
    ('0.123 ms', '8.50 ms', '54.3 ms', '4,780 ms')
    """
    return f"{_three(ms)} ms"


def _three(value: float) -> str:
    digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}"


def write(table: Table, folder: Path, name: str) -> list[Path]:
    """`name`.md, .csv and .tex in `folder`; returns their paths."""
    paths = []
    for ending, form in (("md", markdown), ("csv", tidy), ("tex", latex)):
        paths.append(folder / f"{name}.{ending}")
        with atomic_write(paths[-1]) as f:
            f.write(form(table))
    return paths


def _lines(table: Table, group: Sequence[Cell], line_break: str) -> list[list[str]]:
    """Head and rows of one group; the paper's number below ours in parentheses."""
    columns = list(dict.fromkeys(cell.column for cell in group))
    rows: dict[str, dict[str, str]] = {}
    for cell in group:
        text = line_break.join(filter(None, [cell.value, f"({cell.paper})" if cell.paper else ""]))
        rows.setdefault(cell.row, {})[cell.column] = text
    return [[table.head, *columns], *([row, *(texts[column] for column in columns)] for row, texts in rows.items())]


def markdown(table: Table) -> str:
    """The caption and a pipe table a group."""
    parts = [table.caption + "\n"]
    for group in table.groups:
        head, *body = _lines(table, group, "<br>")
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
        parts.append("".join(f"| {' | '.join(line)} |\n" for line in lines))
    return "\n".join(parts)


def tidy(table: Table) -> str:
    """One line a cell, `row,column,value,paper_value`, as in data/paper."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["row", "column", "value", "paper_value"])
    lines.writerows(cell for group in table.groups for cell in group)
    return text.getvalue()


def latex(table: Table) -> str:
    """A booktabs tabular a group."""
    parts = [r"\begin{table*}", rf"\caption{{{_tex(table.caption)}}}"]
    for group in table.groups:
        head, *body = ([_tex(text) for text in line] for line in _lines(table, group, " "))
        parts += [
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"\toprule",
            " & ".join(head) + r" \\",
            r"\midrule",
        ]
        parts += [" & ".join(line) + r" \\" for line in body]
        parts += [r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join([*parts, r"\end{table*}", ""])


def _tex(text: str) -> str:
    """`text` with what TeX would read as a command made harmless, and its signs in TeX's words."""
    for special in "&%#_$":
        text = text.replace(special, "\\" + special)
    signs = {"–": "--", "×": r"$\times$", "✓": r"\checkmark", "<": "$<$", ">": "$>$"}
    return "".join(signs.get(sign, sign) for sign in text)
