"""Where the time goes: Table 1, the milliseconds of a query; Table 2, what a training costs.

A measured time is worth as much as what is said beside it: the hardware, and what the time could not fall below there
(the bytes that must be read over the memory's bandwidth, the operations over the matrix rate).
"""

import io
import itertools
import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import Generator, Philox
from torch import Tensor
from torch.profiler import ProfilerActivity
from transformers import DistilBertConfig, DistilBertModel, PreTrainedTokenizerBase

from tas_lib import models
from tas_lib.data.collection import tokenise
from tas_lib.data.store import Store
from tas_lib.models import BertDot, ColBert
from tas_lib.records import Batch, History, Ragged

log = logging.getLogger(__name__)
TOKENS, ENCODING, RETRIEVAL, TOTAL = "Tokenising", "Query encoding", "Retrieval", "Total"
SIZES = (1, 10, 2_000)
ENOUGH = 100  # repetitions from which on a 99th percentile is one


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


def least(
    answer: Callable[[Sequence[str]], Iterator[str]],
    queries: Sequence[str],
    size: int,
    rounds: int = 10,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """The shortest of several times of each batch of the queries.

    Other programs make times longer and never shorter; so what differs between these is the batches' own, and mean and
    tail differ little from run to run.
    """
    n, times = len(queries) // size, []
    for _ in range(rounds):
        batches = in_turn(queries, size)
        once = time_stages(lambda ask=batches: answer(next(ask)), 0, math.inf, n, clock)  # type: ignore[misc]
        times.append(once[TOTAL].ms)
    return Timing([min(of_batch) for of_batch in zip(*times, strict=True)])


def in_turn(queries: Sequence[str], size: int) -> Iterator[list[str]]:
    """Batches of the queries one after the other, from the first again after the last.

    >>> list(itertools.islice(in_turn(["a", "b", "c"], 2), 3))
    [['a', 'b'], ['c', 'a'], ['b', 'c']]
    """
    endless = itertools.cycle(queries)
    while True:
        yield list(itertools.islice(endless, size))


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
