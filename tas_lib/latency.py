"""Where the time goes: Table 1, the milliseconds of a query; Table 2, what a training costs.

A measured time is worth as much as what is said beside it: the hardware, and what the time could not fall below there
(the bytes that must be read over the memory's bandwidth, the operations over the matrix rate).
"""

import csv
import io
import itertools
import logging
import math
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import torch
from numpy.random import Generator, Philox
from torch import Tensor
from torch.profiler import ProfilerActivity
from transformers import DistilBertConfig, DistilBertModel, PreTrainedTokenizerBase

from tas_lib import models
from tas_lib.collection import tokenise
from tas_lib.models import BertDot, ColBert
from tas_lib.published import paper_table
from tas_lib.records import Batch, History, IntArray, Ragged
from tas_lib.store import Store, atomic_write

log = logging.getLogger(__name__)
TOKENS, ENCODING, RETRIEVAL, TOTAL = "Tokenising", "Query encoding", "Retrieval", "Total"
PAPERS = {ENCODING: "Query encoding", RETRIEVAL: "Faiss retrieval", TOTAL: "Total"}
"""Our stages → the column groups of the paper's Table 1."""
SIZES = (1, 10, 2_000)
ENOUGH = 100  # repetitions from which on a 99th percentile is one
TRAINED = {"Standalone": "1", "Margin-MSE": "2", "TCT": "5", "TAS-Balanced": "10"}
"""The rows of the paper's Table 2 that we train → the system's number (DESIGN.md)."""


# --- the clock -----------------------------------------------------------------------------------------------------


class Timing(NamedTuple):
    """Repeated measurements of one thing, in milliseconds."""

    ms: list[float]

    @property
    def mean(self) -> float:
        """Milliseconds on average."""
        return sum(self.ms) / len(self.ms)

    @property
    def tail(self) -> float:
        """The smallest time that 99 of 100 repetitions do not exceed; of fewer than 100 the longest of all.

        >>> Timing([5.0, 1.0, 3.0]).tail, Timing([float(i) for i in range(1, 201)]).tail
        (5.0, 198.0)
        """
        return sorted(self.ms)[math.ceil(0.99 * len(self.ms)) - 1] if len(self.ms) >= ENOUGH else max(self.ms)

    @property
    def tail_name(self) -> str:
        """What `tail` is."""
        return "99th percentile" if len(self.ms) >= ENOUGH else f"longest of {len(self.ms)}"


def time_boxed(
    f: Callable[[], object],
    warm_up: int = 3,
    seconds: float = 5.0,
    most: int = 1_000,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """How long `f` takes, over and over for so many seconds: once at least, `most` times at most, after a warm-up."""

    def once() -> Iterator[str]:
        f()
        yield "call"

    return time_stages(once, warm_up, seconds, most, clock)[TOTAL]


def time_stages(
    run: Callable[[], Iterable[str]],
    warm_up: int = 3,
    seconds: float = 5.0,
    most: int = 1_000,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """The same for work in stages, and of the total: `run` yields a stage's name when the stage is done.

    A GPU works on while Python goes on: the clock is read when it has finished.
    """
    for _ in range(warm_up):
        for _stage in run():
            pass
    times: dict[str, list[float]] = {}
    began = None
    for _ in range(most):
        start = last = _now(clock)
        began = start if began is None else began
        for stage in run():
            now = _now(clock)
            times.setdefault(stage, []).append(1e3 * (now - last))
            last = now
        times.setdefault(TOTAL, []).append(1e3 * (last - start))
        if last - began >= seconds:
            break
    return {stage: Timing(ms) for stage, ms in times.items()}


def _now(clock: Callable[[], float]) -> float:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return clock()


# --- Table 1: a query ----------------------------------------------------------------------------------------------


def answering(
    model: BertDot,
    tokenizer: PreTrainedTokenizerBase,
    cap: int,
    find: Callable[[Tensor], object],
    chunk: int,
    texts: Sequence[str],
) -> Iterator[str]:
    """Queries from their words to ranked passages: the name of each stage when it is done.

    cap: tokens a query. find: from vectors (B, D) to the best passages, brought back to where Python can read them.
    chunk: queries that are encoded at a time.
    """
    tokens = tokenise(tokenizer, texts, cap)
    yield TOKENS
    with torch.inference_mode():
        vecs = models.encode_rows(model, tokens, np.arange(len(texts)), chunk)  # (B, D); copies the ids to the device
    yield ENCODING
    find(vecs)
    yield RETRIEVAL


def latencies(
    answer: Callable[[Sequence[str]], Iterator[str]], queries: Sequence[str], seconds: float, most: int = 1_000
) -> dict[int, dict[str, Timing]]:
    """Batch size → stage → times, every repetition with the next queries; at the paper's batch sizes."""
    found = {}
    for size in SIZES:
        batches = in_turn(queries, size)
        warm_up = 3 if size < ENOUGH else 1
        found[size] = time_stages(lambda ask=batches: answer(next(ask)), warm_up, seconds, most)  # type: ignore[misc]
        log.info("batch size %d: %.1f ms on average", size, found[size][TOTAL].mean)
    return found


def in_turn(queries: Sequence[str], size: int) -> Iterator[list[str]]:
    """Batches of the queries one after the other, from the first again after the last.

    >>> list(itertools.islice(in_turn(["a", "b", "c"], 2), 3))
    [['a', 'b'], ['c', 'a'], ['b', 'c']]
    """
    endless = itertools.cycle(queries)
    while True:
        yield list(itertools.islice(endless, size))


# --- what bounds it ------------------------------------------------------------------------------------------------


class Roofline(NamedTuple):
    """What the device can do at best, measured on it: gigabytes read a second, 10^9 fp32 operations a second."""

    gb_s: float
    gflop_s: float


class Work(NamedTuple):
    """What cannot be saved: bytes that have to be read once, additions and multiplications."""

    bytes: float
    operations: float


class Bound(NamedTuple):
    """The milliseconds that the work takes at least, for reading and for computing; both can go on side by side."""

    read_ms: float
    compute_ms: float

    @property
    def ms(self) -> float:
        """The larger of the two."""
        return max(self)

    def what(self, measured_ms: float) -> str:
        """What bounds a measured time: reading or computing where it accounts for half of it or more.

        >>> Bound(6.0, 1.0).what(10.0), Bound(1.0, 6.0).what(10.0), Bound(2.0, 1.0).what(10.0)
        ('reading', 'computing', 'neither')
        """
        if self.ms < measured_ms / 2:
            return "neither"
        return "reading" if self.read_ms >= self.compute_ms else "computing"


def roofline(device: torch.device, mb: int = 512, n: int = 2_048, seconds: float = 1.0) -> Roofline:
    """Measured by summing a tensor that no cache holds, and by multiplying two (n, n) matrices; the best of many."""
    large = torch.ones(mb * 250_000, device=device)
    a, b = torch.ones(2, n, n, device=device)
    read = min(time_boxed(large.sum, 2, seconds).ms)
    multiplied = min(time_boxed(lambda: a @ b, 2, seconds).ms)
    return Roofline(mb / read, 2e-6 * n**3 / multiplied)


def encoding_work(model: BertDot, lengths: IntArray, chunk: int) -> Work:
    """Encoding texts of these token counts (N,): the layers' weights once a chunk, and once a token.

    Left out: embeddings (a few rows of a table), attention between tokens (little, for queries), padding.
    """
    layers = [p for name, p in model.encoder.named_parameters() if "embedding" not in name]
    chunks = math.ceil(len(lengths) / chunk)
    size, number = sum(p.nbytes for p in layers), sum(p.numel() for p in layers)
    return Work(chunks * size, 2.0 * number * int(lengths.sum()))


def retrieval_work(n_queries: int, passages: Tensor) -> Work:
    """Exact search of passages (P, D): every vector is read once, and multiplied with every query."""
    return Work(passages.nbytes, 2.0 * n_queries * passages.numel())


def bound(work: Work, machine: Roofline) -> Bound:
    """The least time of a work.

    >>> bound(Work(bytes=2e9, operations=1e9), Roofline(gb_s=10.0, gflop_s=100.0))
    Bound(read_ms=200.0, compute_ms=10.0)
    """
    return Bound(1e-6 * work.bytes / machine.gb_s, 1e-6 * work.operations / machine.gflop_s)


def hardware(device: torch.device) -> dict[str, str]:
    """What the times hold for, in words."""
    found = {
        "processor": _processor(),
        "cores": f"{psutil.cpu_count()}, of which {torch.get_num_threads()} are used",
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
    }
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        found["GPU"] = f"{gpu.name}, {gpu.total_memory / 1e9:.0f} GB"
    return found | {"library": f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"}


def _processor() -> str:
    told = Path("/proc/cpuinfo")  # Linux; platform.processor() is empty there
    lines = told.read_text(encoding="utf-8").splitlines() if told.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


# --- an index of any size ------------------------------------------------------------------------------------------


def paper_encoder(vocabulary: int) -> BertDot:
    """A BERT_DOT of DistilBERT's size (6 layers of 768) with random weights: as slow as a trained one."""
    return BertDot(DistilBertModel(DistilBertConfig(vocab_size=vocabulary))).eval()


def unit_vectors(place: Store, n: int, width: int, seed: int = 0, shard: int = 65_536) -> Tensor:
    """n random vectors of length 1, (n, width) in fp16, memory-mapped; made once. 8,841,823 × 768 are 13.6 GB."""
    parameters = {"n": n, "width": width, "seed": seed, "shard": shard}
    folder = place.artefact(
        f"synthetic/{n}x{width}",
        parameters,
        {},
        lambda folder: write_unit_vectors(folder / "vectors.npy", n, width, seed, shard),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nobody may write to it, and nobody does
        return torch.from_numpy(np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False))


def write_unit_vectors(path: Path, n: int, width: int, seed: int, shard: int) -> None:
    """Append the vectors shard by shard, each a function of (seed, its number); a file cut off is gone on with."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f2", "fortran_order": False, "shape": (n, width)})
    with open(path, "r+b" if path.exists() else "w+b") as f:
        whole = max(f.seek(0, os.SEEK_END) - len(head.getvalue()), 0) // (2 * width * shard)  # shards that stand there
        f.seek(0)
        f.write(head.getvalue())
        f.seek(whole * 2 * width * shard, os.SEEK_CUR)
        for number in range(whole, math.ceil(n / shard)):
            rows = min(shard, n - number * shard)
            vecs = Generator(Philox(key=[seed, number])).standard_normal((rows, width), np.float32)
            vecs /= np.linalg.norm(vecs, axis=1, keepdims=True)
            f.write(torch.from_numpy(vecs).half().numpy().data)
            log.info("synthetic vectors: %d of %d", number * shard + rows, n)


# --- Table 2: a training -------------------------------------------------------------------------------------------


class Cost(NamedTuple):
    """What a training costs here.

    step_s: seconds a step, validation and waiting for the next batch included. teacher_ms: milliseconds of teacher
    inference a sample, nothing kept. kept_ms: with what is kept (stored margins, the frozen ColBERT's vectors).
    peak_mb: what the steps allocate beyond the student's weights. clustering_s: once, before; None without TAS.
    steps: until it stopped. hours: of as many steps as the paper trains.
    """

    batch_size: int
    step_s: float
    samples_s: float
    teacher_ms: float
    kept_ms: float
    peak_mb: float
    clustering_s: float | None
    steps: int
    hours: float


def cost(
    history: Sequence[History],
    batch_size: int,
    teacher_ms: float,
    kept_ms: float,
    peak: float,
    clustering_s: float | None,
    paper_steps: int = 800_000,
) -> Cost:
    """A training's cost from its evaluations, and from what was measured beside it."""
    last = history[-1]
    step_s = last.seconds / last.step
    hours = paper_steps * step_s / 3_600
    return Cost(batch_size, step_s, batch_size / step_s, teacher_ms, kept_ms, peak, clustering_s, last.step, hours)


def fresh_scores(colbert: ColBert, queries: Ragged, passages: Ragged, batch: Batch) -> Tensor:
    """The in-batch teacher's scores (B, 2B), columns as in losses.py, with nothing kept: every text is encoded now."""
    device = next(colbert.parameters()).device
    sides = []
    for texts, rows in ((queries, batch.queries), (passages, np.concatenate([batch.pos, batch.neg]))):
        ids, mask = models.pad([texts.row(row) for row in rows], device)
        sides += [colbert(ids, mask), mask]
    return models.late_interaction(*sides)


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


# --- the tables ----------------------------------------------------------------------------------------------------


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
