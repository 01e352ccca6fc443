"""What a training costs, and Tables 1 and 2: what we measured beside what the paper prints."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pandas as pd
import torch
from torch.profiler import ProfilerActivity

from tas_lib.config import System
from tas_lib.data import shipped
from tas_lib.experiment import Experiment
from tas_lib.records import History
from tas_lib.report.latency import ENCODING, ENOUGH, RETRIEVAL, TOTAL, Timing
from tas_lib.report.paper import NOT_RUN, REPORTED, paper_table
from tas_lib.report.render import Grid
from tas_lib.retrieval import encode, frozen, pretrained
from tas_lib.train import loop

PAPERS = {ENCODING: "Query encoding", RETRIEVAL: "Faiss retrieval", TOTAL: "Total"}
"""Our stages → the column groups of the paper's Table 1."""
TRAINED = {
    "Standalone": "labels",
    "Margin-MSE": "pairwise/random",
    "TCT": "in_batch/random",
    "TAS-Balanced": "dual/tas_balanced",
}
"""The rows of the paper's Table 2 that we train → our system."""
FIELDS = ("row", "column", "value", "paper_value")


class Cost(NamedTuple):
    """What a training costs here.

    step_s: seconds per step, waiting for the next batch included. teacher_ms: milliseconds of teacher inference per
    sample, nothing kept. kept_ms: with what is kept (stored margins, the frozen ColBERT's vectors). peak_mb: what the
    steps allocate beyond the student's weights. clustering_s: once, before; None without TAS.
    """

    batch_size: int
    step_s: float
    teacher_ms: float
    kept_ms: float
    peak_mb: float
    clustering_s: float | None


COLUMNS: dict[str, Callable[[Cost], str]] = {
    "Batch size, here": lambda cost: str(cost.batch_size),
    "Seconds per step": lambda cost: f"{cost.step_s:.3f}",
    "Samples per second": lambda cost: f"{cost.batch_size / cost.step_s:,.0f}",
    "Teacher inference, ms per sample": lambda cost: digits(cost.teacher_ms) if cost.teacher_ms else "–",
    "The same, with scores and vectors kept": lambda cost: digits(cost.kept_ms) if cost.kept_ms else "–",
    "Peak memory of a step, MB": lambda cost: f"{cost.peak_mb:,.0f}",
    "Clustering, s": lambda cost: "–" if cost.clustering_s is None else f"{cost.clustering_s:.1f}",
    "Hours for 800K steps": lambda cost: f"{800_000 * cost.step_s / 3_600:,.1f}",
}
"""Table 2, the columns that we measure."""


def peak_mb(f: Callable[[], object], device: torch.device) -> float:
    """The most megabytes that torch's tensors take at any time during `f`, beyond what they took before.

    On a CPU from the profiler's record of every tensor allocated and freed: exact, but no memory outside torch.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        f()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profile:
        f()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(changes), default=0) / 1e6


def training(lab: Experiment, system: System, steps: int) -> Callable[[], list[History]]:
    """A function that makes these steps of a training, on a throw-away student, with two evaluations that cost nothing.

    It returns the log of both: after half of the steps, and at the end.
    """
    short = {"steps": steps, "validate_every": steps // 2, "min_steps": 0, "workers": 0}
    settings, device = lab.profile.of(system).training.model_copy(update=short), encode.device()
    loss = loop.objective(system, settings, lab.in_batch_teacher_of(system))
    student = pretrained.load_dot(shipped.encoder(lab.profile), lab.profile.pooling).to(device)
    part, texts = frozen.trained_part(student, settings.frozen_layers), lab.texts(system)

    def run() -> list[History]:
        with TemporaryDirectory() as folder:
            read = texts["train"], texts["passages"], lambda _: 0.0, settings, Path(folder)
            return loop.train(part, lab.sampler(system), loss, *read)

    return run


def table1(times: Mapping[int, Mapping[str, Timing]]) -> tuple[list[Grid], pd.DataFrame]:
    """Table 1: mean and tail of the stages, as text and with one line per cell. times: batch size → stage → times."""
    paper, cells = paper_table(1), []
    for size, stages in times.items():
        for stage, theirs in PAPERS.items():
            timing = stages[stage]
            tail = f"{digits(timing.tail)} ms" + ("" if (n := len(timing.ms)) >= ENOUGH else f" (longest of {n})")
            for name, ours in (("Avg.", f"{digits(timing.mean)} ms"), ("99th Per.", tail)):
                printed = paper.get((f"Batch size {size:,}", f"{theirs} {name}"))
                cells.append((f"{size:,}", f"{stage} {name}", ours, printed.value if printed else ""))
    tidy = pd.DataFrame(cells, columns=FIELDS)
    return [_grid("Batch Size", tidy)], tidy


def table2(costs: Mapping[str, Cost]) -> tuple[list[Grid], pd.DataFrame]:
    """Table 2: the paper's rows as printed, and what those that we train cost here.

    costs: system → its cost; one that is missing was not run.
    """
    paper, measured = paper_table(2), []
    references = {row: f"{row} {cell.value}" for (row, column), cell in paper.items() if column == "Reference"}
    names = {row: references.get(row, row) for row, _ in paper}
    printed = [(names[row], column, "", cell.value) for (row, column), cell in paper.items() if column != "Reference"]
    for row, name in names.items():
        cost, missing = costs.get(TRAINED.get(row, "")), NOT_RUN if row in TRAINED else REPORTED
        measured += [(name, column, text(cost) if cost else missing, "") for column, text in COLUMNS.items()]
    parts = [pd.DataFrame(cells, columns=FIELDS) for cells in (printed, measured)]
    return [_grid("Training", part) for part in parts], pd.concat(parts)


def _grid(head: str, cells: pd.DataFrame) -> Grid:
    """The cells of Table 1 or 2 as a table; the paper's number below ours in parentheses. head: of the row names."""
    theirs = cells.paper_value.map(lambda text: f"({text})" if text else "")
    text = (cells.value + "<br>" + theirs).str.removeprefix("<br>").str.removesuffix("<br>")
    wide = cells.assign(text=text).pivot(index="row", columns="column", values="text")
    wide = wide.loc[cells["row"].unique(), cells["column"].unique()]
    return Grid("l" + "r" * wide.shape[1], [head, *wide.columns], [list(line) for line in wide.itertuples()])


def digits(value: float) -> str:
    """A time with three digits where it has fewer, as the paper prints it.

    >>> digits(0.1234), digits(8.5), digits(54.32), digits(4779.9)
    ('0.123', '8.50', '54.3', '4,780')
    """
    return f"{value:,.{3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0}f}"
