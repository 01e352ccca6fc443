"""Tables as text: one renderer for Markdown, one for LaTeX, and the three files that a table is written to."""

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from tas_lib.data.store import atomic_write

PAGE = 60
"""A LaTeX table with more rows than this becomes a longtable, which breaks across pages."""


class Grid(NamedTuple):
    """The text of a table, in Markdown: `**bold**`, `<sup>`, and `<br>` between the two lines of a cell.

    align: l or r for each column, as in LaTeX.
    """

    align: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


def markdown(caption: str, *grids: Grid) -> str:
    """The caption, and a pipe table for each grid."""
    return "\n".join([f"{caption}\n", *map(pipe_table, grids)])


def pipe_table(grid: Grid) -> str:
    """A grid as a Markdown table."""
    rule = ["---:" if side == "r" else "---" for side in grid.align]
    return "".join(f"| {' | '.join(line)} |\n" for line in (grid.heads, rule, *grid.rows))


def latex(caption: str, *grids: Grid) -> str:
    """A booktabs tabular for each grid; a longtable where a single grid is longer than a page."""
    title, bodies = rf"\caption{{{tex(caption)}}}", [_booktabs(grid) for grid in grids]
    if len(grids) == 1 and len(grids[0].rows) > PAGE:
        body = bodies[0].replace("\\midrule\n", "\\midrule\n\\endhead\n")
        return f"\\begin{{longtable}}{{{grids[0].align}}}\n{title} \\\\\n{body}\\end{{longtable}}\n"
    tabulars = "\n".join(
        f"\\begin{{tabular}}{{{grid.align}}}\n{body}\\end{{tabular}}\n"
        for grid, body in zip(grids, bodies, strict=True)
    )
    return f"\\begin{{table*}}\n{title}\n{tabulars}\\end{{table*}}\n"


def _booktabs(grid: Grid) -> str:
    """Rules, heads and rows. Where heads have two lines, so do rows, the second one small; else `<br>` is a space."""
    heads, rows = [[tex(head) for head in grid.heads]], [list(map(tex, row)) for row in grid.rows]
    if any("<br>" in head for head in grid.heads):
        upper, lower = zip(*(head.rpartition("<br>")[::2] for head in grid.heads), strict=True)
        spans = [(tex(text), len(list(group))) for text, group in groupby(upper)]
        first = [[rf"\multicolumn{{{n}}}{{c}}{{{text}}}"] if text else [""] * n for text, n in spans]
        heads = [sum(first, []), [tex(head) for head in lower]]
        rows = []
        for row in grid.rows:
            upper, lower = zip(*(cell.partition("<br>")[::2] for cell in row), strict=True)
            rows.append([tex(cell) for cell in upper])
            if any(lower):
                rows.append([rf"\scriptsize {tex(cell)}" if cell else "" for cell in lower])
    lines = [r"\toprule", *map(_line, heads), r"\midrule", *map(_line, rows), r"\bottomrule"]
    return "".join(f"{line}\n" for line in lines)


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


TEX = {
    r"[&%#_$]": r"\\\g<0>",
    r"\*\*(.*?)\*\*": r"\\textbf{\1}",
    r"<sup>(.*?)</sup>": r"\\textsuperscript{\1}",
    "<br>": " ",
    "<": "$<$",
    ">": "$>$",
    "–": "--",
    "×": r"$\\times$",
    "±": r"$\\pm$",
    "✓": r"\\checkmark",
}


def tex(text: str) -> str:
    r"""A Markdown cell, or plain text, as LaTeX.

    >>> tex("**.712**<sup>b</sup>"), tex("p < .05 & 1× BERT_CAT")
    ('\\textbf{.712}\\textsuperscript{b}', 'p $<$ .05 \\& 1$\\times$ BERT\\_CAT')
    """
    for pattern, replacement in TEX.items():
        text = re.sub(pattern, replacement, text)
    return text


def write(folder: Path, name: str, caption: str, grids: Sequence[Grid], tidy: pd.DataFrame) -> list[Path]:
    """`name`.md, .csv and .tex in `folder`; returns their paths. tidy: the table with one line per cell."""
    texts = {
        "md": markdown(caption, *grids),
        "csv": tidy.to_csv(index=False, lineterminator="\n"),
        "tex": latex(caption, *grids),
    }
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


def signed(value: float, digits: int = 3) -> str:
    """A difference as `decimals`, with its sign.

    >>> signed(0.0123), signed(-0.05)
    ('+.012', '-.050')
    """
    return ("+" if value >= 0 else "-") + decimals(abs(value), digits)
