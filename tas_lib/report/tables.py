"""Tables in the paper's shape: our numbers with letters, the paper's on MS MARCO beside; md, csv and tex."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import stdev
from string import ascii_lowercase

import pandas as pd

from tas_lib.config import Evaluation, Profile, System
from tas_lib.data.store import atomic_write
from tas_lib.evaluation.metrics import PerQuery, mean, paired_t
from tas_lib.report import compared
from tas_lib.report.composing import Cell, Table, compose, values_of
from tas_lib.report.published import Printed, independent_figures, paper_table
from tas_lib.report.render import frame, latex, markdown
from tas_lib.report.rows import (
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
)

Scores = Mapping[str, Mapping[str, PerQuery]]
"""system's key → test set → what `evaluate` gave; {} where it was not run"""


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


def table7(scores: Scores, settings: Profile, tas: str = "tas_b", latencies: Mapping[str, float] = {}) -> Table:
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


def with_others(table: Table, printed: Mapping[tuple[str, str], Printed]) -> Table:
    """The table with its companion's lines: none where no test set is the paper's. printed: as in `compose`."""
    means = [[cell.value for cell in cells] for cells in table.cells]
    return table._replace(beside=compared.lines(table.rows, table.columns, means, printed, independent_figures()))


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
