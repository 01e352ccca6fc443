"""Tables as text: a renderer for Markdown, and the two files that a table is written to."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from tas_lib.data.store import atomic_write


class Grid(NamedTuple):
    """The text of a table, in Markdown: `**bold**`, `<sup>`, and `<br>` between the two lines of a cell.

    align: l or r for each column.
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


def write(folder: Path, name: str, caption: str, grids: Sequence[Grid], tidy: pd.DataFrame) -> list[Path]:
    """`name`.md and .csv in `folder`; returns their paths. tidy: the table with one line per cell."""
    texts = {"md": markdown(caption, *grids), "csv": tidy.to_csv(index=False, lineterminator="\n")}
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
