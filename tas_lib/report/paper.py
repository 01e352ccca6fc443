"""What the paper prints: the cells of its seven tables, and the rows of Tables 3 to 7."""

import csv
import math
from collections.abc import Mapping, Sequence
from string import ascii_lowercase
from typing import NamedTuple

from tas_lib.config import ROOT, Profile, System
from tas_lib.evaluation.comparisons import SEED, Scores, instances

FOLDER = ROOT / "data" / "paper"
Systems = Mapping[str, System]  # by key, as a profile lists them
NOT_RUN, REPORTED = "not run", "reported only"
ORIGIN = {"trained": "trained here", "checkpoint": "checkpoint", "run": "run file", "bm25": "BM25"}
ORIGIN |= {"untrained": "untrained", "expanded": "expanded", "fused": "fused", "reranked": "re-ranked"}
ORIGIN |= {"seed": "shipped"}  # a further random seed whose measures are in data/<profile>/seeds
"""The text of the column Run for each kind of system."""


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


class Cell(NamedTuple):
    """A cell of a table of ours: the mean (None where nothing was measured), its text and letters, the paper's cell.

    best: the highest of its column, as printed. deviation: between the random seeds of the row; NaN for one seed.
    """

    value: float | None
    text: str
    letters: str = ""
    paper: Printed | None = None
    best: bool = False
    deviation: float = math.nan


def paper_table(number: int) -> dict[tuple[str, str], Printed]:
    """(row, column) → cell of one of the paper's seven tables."""
    with open(FOLDER / f"table{number}.csv", newline="", encoding="utf-8") as f:
        return {(cell["row"], cell["column"]): Printed(cell["value"], cell["markers"]) for cell in csv.DictReader(f)}


# --- rows ----------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A row: its names as the paper prints them, one for each label column, and what was measured.

    letter: marks it in the superscripts of other rows. paper: its row in data/paper. block: a row is tested against the
    rows of its block. missing: the text of a cell without a measurement. key: the system's name in the profile.
    runs: its runs, one for each random seed. origin: where they come from.
    """

    names: tuple[str, ...]
    letter: str = ""
    paper: str = ""
    block: str = ""
    missing: str = NOT_RUN
    key: str = ""
    runs: Sequence[str] = ()
    origin: str = ""

    @property
    def label(self) -> str:
        """The names in one line."""
        return " / ".join(filter(None, self.names))


def rows(table: str) -> dict[str, Row]:
    """The rows of a table in the paper's order, and ours that it does not have: data/paper/rows.csv.

    By key: our system's, or the paper's name of the row where we have no such system.
    """
    with open(FOLDER / "rows.csv", newline="", encoding="utf-8") as f:
        entries = [entry for entry in csv.DictReader(f) if entry["table"] == table]
    result = {}
    for entry in entries:
        names = tuple(entry["names"].split("|") if entry["names"] else entry["paper"].split(" / ")[:2])
        missing = NOT_RUN if entry["system"] else REPORTED
        result[entry["system"] or entry["paper"]] = Row(names, entry["letter"], entry["paper"], missing=missing)
    return result


TABLE3, TABLE5, TABLE6, DEVIATIONS = (rows(table) for table in ("3", "5", "6", "deviations"))
TABLE4 = {key: row._replace(block=row.names[0]) for key, row in rows("4").items()}
ADDED = {key for key, row in (TABLE4 | TABLE6).items() if not row.paper}
"""Rows that others have and the paper does not: shown where the profile lists such a system."""
LABELS6 = ("Encoder", "L#", "Batch Size")
LABELS7 = ("Re-ranking Model", "Re-ranking #", "Latency (ms)")


def filled(rows: Mapping[str, Row], scores: Scores, systems: Systems) -> list[Row]:
    """The rows with what was measured and where it comes from. Of `ADDED` only those that the profile lists."""
    kinds = {"bm25": "bm25"} | {key: system.kind for key, system in systems.items()}
    result = []
    for key, row in rows.items():
        if key in ADDED and key not in systems:
            continue
        kind, runs = kinds.get(key, "seed" if SEED.search(key) else "trained"), instances(scores, key)
        missing = REPORTED if kind == "reported" else row.missing
        here = len([run for run in runs if run in systems or not SEED.search(run)])
        seeds = f"{len(runs)} seeds, {here} of them " if len(runs) > max(here, 1) else f"{here} seeds " * (here > 1)
        origin = seeds + ORIGIN[kind] if runs else missing
        result.append(row._replace(key=key, runs=runs, origin=origin, missing=missing))
    return result


def lettered(rows: Mapping[str, Row], scores: Scores) -> dict[str, Row]:
    """The rows, where a free letter is given to each that was measured and has none."""
    free = iter(sorted(set(ascii_lowercase) - {row.letter for row in rows.values()}))
    return {
        key: row._replace(letter=next(free)) if scores.get(key) and not row.letter else row for key, row in rows.items()
    }


def beside(ours: str, theirs: str) -> str:
    """Ours, and the paper's in parentheses where it differs.

    >>> beside("5.3", "64"), beside("", "64"), beside("6", "6"), beside("6", "")
    ('5.3 (64)', '(64)', '6', '6')
    """
    return ours if theirs in ("", ours) else f"{ours} ({theirs})".lstrip()


def rows6(systems: Systems, encoder: str, layers: int) -> dict[str, Row]:
    """Table 6, with encoder, layers and batch size.

    Those of a trained system are ours, with the paper's in parentheses where they differ.
    """
    printed, result = paper_table(6), {}
    for key, row in TABLE6.items():
        theirs = [printed[row.paper, label].value if row.paper else "" for label in LABELS6]
        ours = theirs
        if row.paper and key in systems and systems[key].kind == "trained":
            ours = [encoder, str(layers), str(systems[key].batch_size)]
        result[key] = row._replace(names=(*row.names, *map(beside, ours, theirs)))
    return result


def rows7(settings: Profile, tas: str = "tas_b", latencies: Mapping[str, float] = {}) -> dict[str, Row]:
    """Table 7, with re-ranker, number of candidates and latency; the paper's in parentheses where they differ.

    tas: the key of the TAS-Balanced system. latencies: key → measured milliseconds per query.
    """
    printed, result = paper_table(7), {}
    for template, row in rows("7").items():
        key = template.replace("{tas}", tas)
        model, candidates, latency = row.names[-1], "", ""
        if row.paper:
            model, candidates, latency = (printed[row.paper, label].value for label in LABELS7)
        ms = latencies.get(key)
        measured = "" if ms is None else f"{ms:,.0f}" if ms >= 100 else f"{ms:.1f}"
        shown = beside(_candidates(settings, key) or candidates or "–", candidates)
        names = (*row.names[:2], model, shown, beside(measured, latency))
        result[key] = row._replace(names=names, block="reported" if row.missing == REPORTED else model)
    return result


def _candidates(settings: Profile, key: str) -> str:
    """How many candidates the first re-ranker of a system reorders; "" where none does."""
    number = ""
    while key in settings.systems and settings.systems[key].first:
        number, key = str(settings.candidates(settings.systems[key])), settings.systems[key].first
    return number
