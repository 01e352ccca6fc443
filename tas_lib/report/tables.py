"""Tables 3 to 7 in the paper's shape: our means with letters of the t-tests, and the paper's cells beside them."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

import pandas as pd

from tas_lib.config import Evaluation, Profile
from tas_lib.evaluation.columns import Column, nine_columns, six_columns
from tas_lib.evaluation.comparisons import SEED, Scores, estimate, level, ran, single, spread
from tas_lib.evaluation.metrics import printed_name
from tas_lib.records import ALONE, Families
from tas_lib.report import compared, paper, render
from tas_lib.report.paper import NOT_RUN, Cell, Printed, Row, Systems
from tas_lib.report.render import Grid, decimals, signed

FIELDS = ("row", "column", "value", "deviation", "markers", "origin", "paper_column", "paper_value", "paper_markers")


class Table(NamedTuple):
    """`cells[i][j]` is row i in column j; `heads` name the label columns. beside: `compared.figures`, if any."""

    caption: str
    heads: tuple[str, ...]
    rows: list[Row]
    columns: list[Column]
    cells: list[list[Cell]]
    beside: pd.DataFrame = pd.DataFrame()

    @property
    def grid(self) -> Grid:
        """The text: the best of a column in bold, letters as superscripts; below it deviation and paper's number."""
        lines = []
        for row, cells in zip(self.rows, self.cells, strict=True):
            texts = []
            for cell in cells:
                text = f"**{cell.text}**" if cell.best else cell.text
                text += f"<sup>{cell.letters}</sup>" if cell.letters else ""
                text += "" if math.isnan(cell.deviation) else f"<br>±{decimals(cell.deviation)}"
                texts.append(text + (f"<br>({cell.paper.value})" if cell.paper else ""))
            lines.append([row.letter, *row.names, *texts, row.origin])
        heads = ["", *self.heads, *(f"{c.label}<br>{printed_name(c.measure)}" for c in self.columns), "Run"]
        return Grid("l" * (1 + len(self.heads)) + "r" * len(self.columns) + "l", heads, lines)

    @property
    def tidy(self) -> pd.DataFrame:
        """One line per cell: row, column, value and markers as in data/paper, where it comes from, the paper's cell."""
        lines = [
            (row.label, column.heading, cell.text if cell.value is None else decimals(cell.value, 4))
            + ("" if math.isnan(cell.deviation) else decimals(cell.deviation, 4), cell.letters)
            + (row.origin, column.paper, *(cell.paper or ("", "")))
            for row, cells in zip(self.rows, self.cells, strict=True)
            for column, cell in zip(self.columns, cells, strict=True)
        ]
        return pd.DataFrame(lines, columns=FIELDS)

    def noted(self, notes: Mapping[str, str]) -> "Table":
        """The table with `Experiment.notes` in the column Run: why a row was not run, how deep its run file is."""
        rows = [r._replace(origin=f"{r.origin}: {notes[r.key]}") if r.key in notes else r for r in self.rows]
        return self._replace(rows=rows)

    def with_others(self) -> "Table":
        """The table with others' figures beside it: none where no test set is the paper's."""
        return self._replace(beside=compared.figures(self.rows, self.columns, self.cells))


def write(table: Table, folder: Path, name: str) -> list[Path]:
    """`name`.md and .csv in `folder`, and `name`-compared likewise if others measured the same."""
    paths = render.write(folder, name, table.caption, [table.grid], table.tidy)
    if len(table.beside):
        caption = compared.caption(table.caption.partition(":")[0], table.beside)
        paths += render.write(folder, f"{name}-compared", caption, [compared.grid(table.beside)], table.beside)
    return paths


def compose(
    title: str,
    heads: tuple[str, ...],
    rows: Sequence[Row],
    columns: Sequence[Column],
    printed: Mapping[tuple[str, str], Printed],
    scores: Scores,
    alpha: float = 0.05,
    within: str = "",
) -> Table:
    """A table of these rows and columns; the caption says what values and letters mean and what is in parentheses.

    printed: (row, column) → the paper's cell. within: whose rows a row is tested against, in words.
    """
    by_column = [_column(rows, column, printed, scores, alpha) for column in columns]
    test = "paired t-test by family" if any(column.families for column in columns) else "paired t-test"
    if any(len(row.runs) > 1 for row in rows):
        title += " Values are means over the seeds in column Run, ± their standard deviation."
        test += " and random seed"
    test += f", p < {alpha:g}".replace("0.", ".")
    caption = f"{title} A letter marks a row{within} that this one beats significantly ({test})."
    if paired := [(column, *column.paper.rpartition(" ")[::2]) for column in columns if column.paper]:
        names = [f"{their_set} for {column.label}" for column, their_set, _ in paired]
        measures = [(theirs, printed_name(column.measure)) for column, _, theirs in paired]
        names += [f"{theirs} for {ours}" for theirs, ours in measures if theirs != ours]
        caption += f" In parentheses the paper's numbers, on MS MARCO: {', '.join(dict.fromkeys(names))}."
    return Table(caption, heads, list(rows), list(columns), [list(cells) for cells in zip(*by_column, strict=True)])


def _column(
    rows: Sequence[Row], column: Column, printed: Mapping[tuple[str, str], Printed], scores: Scores, alpha: float
) -> list[Cell]:
    """The cells of one column, from top to bottom."""
    means: dict[str, float] = {}  # by key
    blocks: dict[str, dict[str, Row]] = {}  # → letter → row
    for row in rows:
        if runs := [run for run in row.runs if column.test_set in scores[run]]:
            means[row.key] = fmean(level(scores, run, [column]) for run in runs)
            rivals = blocks.setdefault(row.block, {})
            if row.letter in rivals or (rivals and "" in (row.letter, *rivals)):
                raise ValueError(f"{row.label}: a row needs a letter of its own, not {row.letter!r}")
            rivals[row.letter] = row
    highest, cells = decimals(max(means.values(), default=0)), []
    for row in rows:
        theirs, value = printed.get((row.paper, column.paper)), means.get(row.key)
        if value is None:
            cells.append(Cell(None, row.missing, paper=theirs))
            continue
        beaten = [
            letter
            for letter, rival in blocks[row.block].items()
            if value > means[rival.key] and estimate(scores, (row.key, rival.key), [column]).p < alpha
        ]
        runs = [run for run in row.runs if column.test_set in scores[run]]
        text, deviation = decimals(value), spread(scores, runs, [column])
        cells.append(Cell(value, text, "".join(beaten), theirs, text == highest, deviation))
    return cells


# --- the paper's tables --------------------------------------------------------------------------------------------


def table3(scores: Scores, evaluation: Evaluation, systems: Systems, families: Families = ALONE) -> Table:
    """Table 3: losses for the in-batch signal; the pairwise part is Margin-MSE. systems: the profile's."""
    title = "Table 3: losses for the in-batch negatives; TAS-Balanced batches, both teachers."
    rows, columns = paper.filled(paper.TABLE3, scores, systems), six_columns(evaluation, families)
    return compose(title, ("Loss",), rows, columns, paper.paper_table(3), scores, evaluation.alpha)


def table4(scores: Scores, evaluation: Evaluation, systems: Systems, families: Families = ALONE) -> Table:
    """Table 4: samplings and teachers; letters compare the samplings of one teacher."""
    bm25 = {key: cell for key, cell in paper.paper_table(7).items() if key[0] == paper.TABLE4["bm25"].paper}
    title = "Table 4: samplings and teachers. BM25 is not in the paper's table; its numbers are from Table 7."
    rows, columns = paper.filled(paper.TABLE4, scores, systems), nine_columns(evaluation, families)
    heads, within, printed = ("Teacher", "Sampling"), " of the same teacher", paper.paper_table(4) | bm25
    return compose(title, heads, rows, columns, printed, scores, evaluation.alpha, within).with_others()


def table5(scores: Scores, evaluation: Evaluation, systems: Systems, families: Families = ALONE) -> Table:
    """Table 5: one configuration with several seeds; mean and standard deviation of the instances that were run.

    Reading: the sample's deviation, with n - 1: n gives .004 where the paper has .005.
    """
    printed = paper.paper_table(5)
    title = "Table 5: instances that differ only in the random seed, which draws clusters, queries and pairs."
    rows = paper.filled(paper.TABLE5, {key: scores.get(key, {}) for key in paper.TABLE5}, systems)
    rows = [row._replace(runs=[row.key for _ in row.runs[:1]]) for row in rows]
    table = compose(title, ("Inst.",), rows, six_columns(evaluation, families), printed, scores, evaluation.alpha)
    n = sum(len(row.runs) for row in rows)
    for name, summary in (("Avg.", fmean), ("StdDev", stdev)):
        cells = []
        for column, of_column in zip(table.columns, zip(*table.cells[: len(rows)], strict=True), strict=True):
            means = [cell.value for cell in of_column if cell.value is not None]
            value = summary(means) if len(means) > 1 else None
            text = NOT_RUN if value is None else decimals(value)
            cells.append(Cell(value, text, paper=printed.get((name, column.paper))))
        table.rows.append(Row((name,), paper=name, origin=f"over {n} instances" if n > 1 else NOT_RUN))
        table.cells.append(cells)
    return table


def table6(
    scores: Scores,
    evaluation: Evaluation,
    systems: Systems,
    encoder: str = "DistilBERT",
    layers: int = 6,
    families: Families = ALONE,
) -> Table:
    """Table 6: dense retrieval. The paper's other rows are reported only; further keys of `scores` are rows below.

    encoder, layers: what our systems start from.
    """
    rows = paper.rows6(systems, encoder, layers)
    rows |= {key: Row(("Added", key, "", "", "")) for key in scores if key not in rows and not SEED.search(key)}
    title = "Table 6: dense retrieval, baselines and TAS-Balanced."
    batches = [key for key, row in paper.TABLE6.items() if row.names[0] == "Ours" and key in systems]
    sizes = [(systems[key].batch_size, paper.TABLE6[key].paper.rpartition(" ")[2]) for key in batches]
    if moved := [f"{ours} beside {theirs}" for ours, theirs in sizes if str(ours) != theirs]:
        title += f" TAS-Balanced batch sizes are in the paper's order: {', '.join(moved)}."
    heads = ("", "Training Type", *paper.LABELS6)
    of_rows = paper.filled(paper.lettered(rows, scores), scores, systems)
    columns = nine_columns(evaluation, families)
    return compose(title, heads, of_rows, columns, paper.paper_table(6), scores, evaluation.alpha).with_others()


def table7(
    scores: Scores,
    settings: Profile,
    tas: str = "tas_b",
    latencies: Mapping[str, float] = {},
    families: Families = ALONE,
) -> Table:
    """Table 7: pipelines. Letters compare first stages under the same re-ranker; `tas` is the TAS-Balanced system.

    latencies: key → measured milliseconds per query.
    Where some rows were measured on a sample of a set's queries, all rows are: on the queries that all of them have.
    Further keys of `scores` are rows below, among the first stages.
    """
    evaluation, rows = settings.evaluation, paper.rows7(settings, tas, latencies)
    shared, counts = common(single(scores))
    rows |= {key: Row(("Added", key, "–", "–", ""), block="–") for key in shared if key not in rows}
    title = "Table 7: retrieval, fusion and re-ranking. # is how many candidates are re-ranked; ms: latency per query."
    sizes = [(test.label, *counts[test.name]) for test in evaluation.sets if test.name in counts]
    if sampled := [f"{label}: {n} of {whole} queries" for label, n, whole in sizes if n < whole]:
        title += f" {', '.join(sampled)}, the same for all rows."
    heads, within = ("", "First stage", "Re-ranker", "#", "ms"), " under the same re-ranker"
    of_rows = paper.filled(paper.lettered(rows, shared), shared, settings.systems)
    columns = nine_columns(evaluation, families)
    return compose(title, heads, of_rows, columns, paper.paper_table(7), shared, evaluation.alpha, within)


def common(scores: Scores) -> tuple[Scores, dict[str, tuple[int, int]]]:
    """The scores on the queries that every measured system has; test set → how many these are, of how many."""
    queries: dict[str, list[set[str]]] = defaultdict(list)
    for sets in scores.values():
        for name, measures in sets.items():
            queries[name].append(set(next(iter(measures.values()))))
    kept = {name: set.intersection(*of_systems) for name, of_systems in queries.items()}
    shared = {
        key: {
            name: {m: {q: v for q, v in values.items() if q in kept[name]} for m, values in measures.items()}
            for name, measures in sets.items()
        }
        for key, sets in scores.items()
    }
    return shared, {name: (len(kept[name]), len(set.union(*of_systems))) for name, of_systems in queries.items()}


def deviations(scores: Scores, evaluation: Evaluation, systems: Systems, families: Families = ALONE) -> Table:
    """What the other choice in some rows of DEVIATIONS.md changes. systems: the profile's."""
    rows = paper.filled(paper.DEVIATIONS, scores, systems)
    columns = [column._replace(paper="") for column in nine_columns(evaluation, families)]
    title = "The effect of choices listed in DEVIATIONS.md; both teachers, one random seed."
    return compose(title, ("Row", "Choice"), rows, columns, {}, scores, evaluation.alpha)


# --- between the rows ----------------------------------------------------------------------------------------------


def differences(table: Table, steps: Mapping[str, tuple[str, str]], scores: Scores) -> pd.DataFrame:
    """For each step and column: how much higher the second system's mean is than the first's, and p of the difference.

    steps: label → keys of two rows. paper: the same step between the paper's numbers. NaN where one is missing.
    """
    printed = {row.key: cells for row, cells in zip(table.rows, table.cells, strict=True)}
    lines: list[tuple[str, str, float, float, float]] = []
    for step, (before, after) in steps.items():
        for column, *cells in zip(table.columns, printed[after], printed[before], strict=True):
            both = ran(scores, (before, after), [column])
            found = estimate(scores, (after, before), [column]) if both else None
            new, old = (cell.paper.number if cell.paper else None for cell in cells)
            theirs = math.nan if new is None or old is None else new - old
            lines.append((step, column.heading, *((found.difference, found.p) if found else (math.nan,) * 2), theirs))
    return pd.DataFrame(lines, columns=["step", "column", "difference", "p", "paper"])


def step_grid(steps: pd.DataFrame, alpha: float = 0.05) -> Grid:
    """`differences` as a table, a line for each step: bold where p < alpha; the paper's step below in parentheses."""
    columns, lines = list(dict.fromkeys(steps["column"])), []
    for step, of_step in steps.groupby("step", sort=False):
        cells = [str(step)]
        for _, _, difference, p, theirs in of_step.itertuples(index=False):
            text = NOT_RUN if math.isnan(p) else f"{signed(difference)}, p {'&lt; .001' if p < 0.001 else decimals(p)}"
            text = f"**{text}**" if p < alpha else text
            cells.append(text if math.isnan(theirs) else f"{text}<br>({signed(theirs)})")
        lines.append(cells)
    return Grid("l" + "r" * len(columns), ["Step", *columns], lines)
