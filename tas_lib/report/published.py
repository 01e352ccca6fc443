"""Numbers that others printed: the paper's seven tables, and what was measured independently."""

import csv
from typing import NamedTuple

from tas_lib.config import ROOT


class Printed(NamedTuple):
    """A cell of a table in the paper: the text as printed and the letters of the systems that it is better than."""

    value: str
    markers: str

    @property
    def number(self) -> float | None:
        """The value as a number; None where the cell is a word, a dash or lost.

        >>> Printed(".712", "bt").number, Printed("2,515 ms", "").number, Printed("–", "").number
        (0.712, 2515.0, None)
        """
        try:
            return float(self.value.removesuffix(" ms").replace(",", ""))
        except ValueError:
            return None


def paper_table(number: int) -> dict[tuple[str, str], Printed]:
    """(row, column) → cell of one of the paper's seven tables."""
    path = ROOT / "data" / "paper" / f"table{number}.csv"
    with open(path, newline="", encoding="utf-8") as f:
        return {(cell["row"], cell["column"]): Printed(cell["value"], cell["markers"]) for cell in csv.DictReader(f)}


def independent_figures() -> dict[tuple[str, str, str], str]:
    """(source, row, column) → what others than the paper's authors measured on MS MARCO, as they printed it."""
    with open(ROOT / "data" / "paper" / "independent.csv", newline="", encoding="utf-8") as f:
        return {(cell["source"], cell["row"], cell["column"]): cell["value"] for cell in csv.DictReader(f)}
