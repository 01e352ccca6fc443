"""Tables in the paper's shape: our numbers with letters, the paper's on MS MARCO beside; md, csv and tex."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import stdev
from string import ascii_lowercase
from typing import NamedTuple

import pandas as pd

from tas_lib import compared
from tas_lib.metrics import PerQuery, better_than, mean, paired_t, printed_name
from tas_lib.profile import Evaluation, Profile, System
from tas_lib.published import Printed, independent_figures, paper_table
from tas_lib.rows import (
    DEVIATIONS,
    LABELS6,
    NOT_RUN,
    SUMMARY5,
    TABLE3,
    TABLE4,
    TABLE5,
    TABLE6,
    Column,
    Row,
    decimals,
    filled,
    listed,
    nine_columns,
    rows6,
    rows7,
    signed,
    six_columns,
    tex,
)
from tas_lib.store import atomic_write

Scores = Mapping[str, Mapping[str, PerQuery]]
"""system's key → test set → what `evaluate` gave; {} where it was not run"""


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


# --- the paper's tables --------------------------------------------------------------------------------------------


def table3(scores: Scores, evaluation: Evaluation, systems: Mapping[str, System] = {}) -> Table:
    """Table 3: losses for the in-batch signal, the pairwise part staying Margin-MSE. systems: the profile's."""
    title = "Table 3: losses for the in-batch negatives; TAS-Balanced batches, both teachers."
    rows, columns = filled(TABLE3, scores, systems), six_columns(evaluation)
    return compose(title, ("Loss",), rows, columns, paper_table(3), evaluation.alpha)


def table4(scores: Scores, evaluation: Evaluation, systems: Mapping[str, System] = {}) -> Table:
    """Table 4: samplings and teachers; letters compare the samplings of one teacher."""
    printed = paper_table(4) | {key: cell for key, cell in paper_table(7).items() if key[0] == TABLE4["bm25"].paper}
    title = (
        "Table 4: samplings and teachers. BM25 is not in the paper's Table 4; its numbers there are those of Table 7."
    )
    rows, columns = filled(listed(TABLE4, systems), scores, systems), nine_columns(evaluation)
    within = " of the same teacher"
    table = compose(title, ("Teacher", "Sampling"), rows, columns, printed, evaluation.alpha, within)
    return with_others(table, printed)


def table5(scores: Scores, evaluation: Evaluation, systems: Mapping[str, System] = {}) -> Table:
    """Table 5: one configuration in several orders; mean and standard deviation of those that were run."""
    rows = filled(TABLE5, scores, systems)
    n = sum(bool(row.scores) for row in rows)
    over = f"over {n} instances" if n > 1 else NOT_RUN
    rows += [row._replace(origin=over) for row in SUMMARY5]
    title = "Table 5: instances that differ in the order of topics, queries and pairs alone."
    return compose(title, ("Inst.",), rows, six_columns(evaluation), paper_table(5), evaluation.alpha)


def table6(
    scores: Scores, evaluation: Evaluation, systems: Mapping[str, System], encoder: str = "DistilBERT", layers: int = 6
) -> Table:
    """Table 6: dense retrieval. The paper's other rows are reported only; further keys of `scores` are rows below.

    encoder, layers: what our systems start from.
    """
    printed = paper_table(6)
    rows = rows6(printed, systems, encoder, layers)
    further = {key: TABLE6.get(key, Row(("Added", key, "", "", ""))) for key in scores if key not in rows}
    rows |= listed(further, systems)
    free = iter(sorted(set(ascii_lowercase) - {row.letter for row in rows.values()}))
    rows = {key: row._replace(letter=row.letter or next(free)) if scores.get(key) else row for key, row in rows.items()}
    batches = [key for key, row in TABLE6.items() if row.names[0] == "Ours" and key in systems]
    sizes = [(systems[key].batch_size, TABLE6[key].paper.rpartition(" ")[2]) for key in batches]
    title = "Table 6: dense retrieval, baselines and TAS-Balanced."
    if moved := [f"{ours} beside {theirs}" for ours, theirs in sizes if str(ours) != theirs]:
        title += f" TAS-Balanced batches stand in the paper's order, under its letters: {', '.join(moved)}."
    heads = ("", "Training Type", *LABELS6)
    table = compose(title, heads, filled(rows, scores, systems), nine_columns(evaluation), printed, evaluation.alpha)
    return with_others(table, printed)


def table7(scores: Scores, settings: Profile, tas: str = "18", latencies: Mapping[str, float] = {}) -> Table:
    """Table 7: pipelines. Letters compare first stages under the same re-ranker; `tas` is the TAS-Balanced system.

    latencies: key → milliseconds a query, as measured.
    Where some rows were measured on a sample of a set's queries, all rows are: on the queries that all of them have.
    Further keys of `scores` are rows below, among the first stages.
    """
    printed, evaluation = paper_table(7), settings.evaluation
    rows = rows7(printed, settings, tas, latencies)
    free = iter(sorted(set(ascii_lowercase) - {row.letter for row in rows.values()}))
    rows |= {
        key: Row(("Added", key, "–", "–", ""), next(free) if scores[key] else "", block="–")
        for key in scores
        if key not in rows
    }
    shared, counts = common(scores)
    sizes = [(test.label, *counts[test.name]) for test in evaluation.sets if test.name in counts]
    title = "Table 7: retrieval, fusion and re-ranking. # is how many candidates are re-ranked; ms, a query's latency."
    if sampled := [f"{label}: {n} of {whole} queries" for label, n, whole in sizes if n < whole]:
        title += f" {', '.join(sampled)}, the same for all rows."
    heads = ("", "First stage", "Re-ranker", "#", "ms")
    columns = nine_columns(evaluation)
    within = " under the same re-ranker"
    return compose(title, heads, filled(rows, shared, settings.systems), columns, printed, evaluation.alpha, within)


def common(scores: Scores) -> tuple[dict[str, dict[str, PerQuery]], dict[str, tuple[int, int]]]:
    """The scores on those queries alone that every measured system has; test set → how many they are, of how many."""
    queries: dict[str, list[set[str]]] = {}
    for sets in scores.values():
        for name, measures in sets.items():
            queries.setdefault(name, []).append(set(next(iter(measures.values()))))
    kept = {name: set.intersection(*found) for name, found in queries.items()}
    shared = {
        key: {
            name: {m: {q: v for q, v in values.items() if q in kept[name]} for m, values in measures.items()}
            for name, measures in sets.items()
        }
        for key, sets in scores.items()
    }
    return shared, {name: (len(kept[name]), len(set.union(*found))) for name, found in queries.items()}


def deviations(scores: Scores, evaluation: Evaluation, systems: Mapping[str, System] = {}) -> Table:
    """What the other choice in some rows of DEVIATIONS.md changes. systems: the profile's."""
    rows = filled(DEVIATIONS, scores, systems)
    columns = [column._replace(paper="") for column in nine_columns(evaluation)]
    title = "The effect of choices that DEVIATIONS.md names; both teachers, one order of the batches."
    return compose(title, ("Row", "Choice"), rows, columns, {}, evaluation.alpha)


# --- composing -----------------------------------------------------------------------------------------------------


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


def with_others(table: Table, printed: Mapping[tuple[str, str], Printed]) -> Table:
    """The table with its companion's lines: none where no test set is the paper's. printed: as in `compose`."""
    means = [[cell.value for cell in cells] for cells in table.cells]
    return table._replace(beside=compared.lines(table.rows, table.columns, means, printed, independent_figures()))


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


# --- reading between the rows --------------------------------------------------------------------------------------


def differences(table: Table, steps: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """A line a step and column: how much higher the second row's mean is than the first's, and p of the paired t-test.

    steps: label → keys of two rows. paper: the same step between the paper's numbers. NaN where one of the two is
    missing.
    """
    place = {row.key: i for i, row in enumerate(table.rows) if row.key}
    lines = []
    for step, (before, after) in steps.items():
        i, k = place[before], place[after]
        for j, column in enumerate(table.columns):
            a, b = values_of(table.rows[i], column), values_of(table.rows[k], column)
            ours = (mean(b) - mean(a), paired_t(b, a)) if a and b else (math.nan, math.nan)
            theirs = _printed(table.cells[k][j]) - _printed(table.cells[i][j])
            lines.append((step, column.heading, *ours, theirs))
    return pd.DataFrame(lines, columns=["step", "column", "difference", "p", "paper"])


def _printed(cell: Cell) -> float:
    number = cell.paper.number if cell.paper else None
    return math.nan if number is None else number


def differences_markdown(found: pd.DataFrame, alpha: float = 0.05) -> str:
    """A pipe table of `differences`, a line a step: bold where p < alpha; the paper's step below in parentheses."""
    columns = list(dict.fromkeys(found["column"]))
    lines = [["Step", *columns], ["---"] + ["---:"] * len(columns)]
    for step, of_step in found.groupby("step", sort=False):
        cells = [str(step)]
        for _, _, difference, p, paper in of_step.itertuples(index=False):
            text = NOT_RUN if math.isnan(p) else f"{signed(difference)}, p {'&lt; .001' if p < 0.001 else decimals(p)}"
            text = f"**{text}**" if p < alpha else text
            cells.append(text if math.isnan(paper) else f"{text}<br>({signed(paper)})")
        lines.append(cells)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def spread(scores: Scores, columns: Iterable[Column]) -> pd.Series:
    """The standard deviation (n - 1) of the means of those systems that were run, by column; NaN for less than two."""
    found = {}
    for column in columns:
        means = [mean(sets[column.test_set][column.measure]) for sets in scores.values() if sets]
        found[column.heading] = stdev(means) if len(means) > 1 else math.nan
    return pd.Series(found, dtype=float)


# --- writing -------------------------------------------------------------------------------------------------------


def write(table: Table, folder: Path, name: str) -> list[Path]:
    """`name`.md, .csv and .tex in `folder`, and of the companion, if there is one; returns their paths."""
    texts = {".md": markdown(table), ".csv": _csv(frame(table)), ".tex": latex(table)}
    if table.beside:
        title = table.caption.partition(":")[0]
        texts["-compared.md"] = compared.markdown(title, table.beside)
        texts["-compared.csv"] = _csv(compared.frame(table.beside))
        texts["-compared.tex"] = compared.latex(title, table.beside)
    paths = [folder / f"{name}{ending}" for ending in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        with atomic_write(path) as f:
            f.write(text)
    return paths


def _csv(lines: pd.DataFrame) -> str:
    return lines.to_csv(index=False, lineterminator="\n")


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
