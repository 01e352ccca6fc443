"""How long a query takes (Table 1), on which machine, and how fast that machine reads and computes.

No time falls below the bytes that must be read over the memory's bandwidth, or the operations over the matrix rate.
"""

import itertools
import logging
import math
import platform
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import torch
import transformers
from numpy.random import Generator, Philox
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tas_lib import models
from tas_lib.data.store import Store, atomic_write
from tas_lib.data.tokens import tokenise
from tas_lib.models import BertDot
from tas_lib.retrieval.encode import read_vectors

log = logging.getLogger(__name__)
TOKENS, ENCODING, RETRIEVAL, TOTAL = "Tokenising", "Query encoding", "Retrieval", "Total"
SIZES = (1, 10, 2_000)
"""Queries per batch in Table 1."""
ENOUGH = 100  # repetitions that a 99th percentile needs


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


def time_boxed(f: Callable[[], object], warm_up: int = 3, seconds: float = 5.0, most: int = 1_000) -> Timing:
    """How long `f` takes: repeated for `seconds`, at least once and at most `most` times, after a warm-up."""

    def once() -> Iterator[str]:
        f()
        yield "call"

    return time_stages(once, warm_up, seconds, most)[TOTAL]


def time_stages(
    run: Callable[[], Iterable[str]], warm_up: int = 3, seconds: float = 5.0, most: int = 1_000
) -> dict[str, Timing]:
    """The same for each stage of some work, and for the total: `run` yields a stage's name when the stage is done."""
    for _ in range(warm_up):
        list(run())
    times: dict[str, list[float]] = defaultdict(list)
    began = now()
    for _ in range(most):
        start = last = now()
        for stage in run():
            done = now()
            times[stage].append(1e3 * (done - last))
            last = done
        times[TOTAL].append(1e3 * (last - start))
        if last - began >= seconds:
            break
    return {stage: Timing(ms) for stage, ms in times.items()}


def now() -> float:
    """Seconds of a clock that is read when the GPU, which runs asynchronously, has finished."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


# --- a query -------------------------------------------------------------------------------------------------------


def answering(
    model: BertDot,
    tokenizer: PreTrainedTokenizerBase,
    cap: int,
    search: Callable[[Tensor], object],
    chunk: int,
    texts: Sequence[str],
) -> Iterator[str]:
    """From queries to ranked passages: yields the name of each stage when it is done.

    cap: tokens per query. search: from vectors (B, D) to the best passages, copied back to the CPU.
    chunk: queries that are encoded at a time.
    """
    tokens = tokenise(tokenizer, texts, cap)
    yield TOKENS
    with torch.inference_mode():
        vecs = models.encode_rows(model, tokens, np.arange(len(texts)), chunk)  # (B, D); copies the ids to the device
    yield ENCODING
    search(vecs)
    yield RETRIEVAL


def latencies(
    answer: Callable[[Sequence[str]], Iterator[str]], queries: Sequence[str], seconds: float, most: int = 1_000
) -> dict[int, dict[str, Timing]]:
    """Batch size → stage → times at the paper's batch sizes; every repetition answers the next queries."""
    times = {}
    for size in SIZES:
        answers = map(answer, in_turn(queries, size))
        times[size] = time_stages(answers.__next__, 3 if size < ENOUGH else 1, seconds, most)
        log.info("batch size %d: %.1f ms on average", size, times[size][TOTAL].mean)
    return times


def least(
    answer: Callable[[Sequence[str]], Iterator[str]], queries: Sequence[str], size: int, rounds: int = 10
) -> Timing:
    """The shortest of several times for each batch of the queries.

    Other programs make times longer and never shorter, so the shortest are the batches' own: their mean and tail differ
    little from run to run.
    """
    n = len(queries) // size
    answers = map(answer, in_turn(queries[: n * size], size))
    ms = time_stages(answers.__next__, 0, math.inf, rounds * n)[TOTAL].ms
    return Timing(np.reshape(ms, (rounds, n)).min(axis=0).tolist())


def in_turn(queries: Sequence[str], size: int) -> Iterator[list[str]]:
    """Batches of the queries, without end: after the last query comes the first.

    >>> list(itertools.islice(in_turn(["a", "b", "c"], 2), 3))
    [['a', 'b'], ['c', 'a'], ['b', 'c']]
    """
    endless = itertools.cycle(queries)
    while True:
        yield list(itertools.islice(endless, size))


# --- an index of any size ------------------------------------------------------------------------------------------


def paper_encoder(vocabulary: int) -> BertDot:
    """A BERT_DOT of DistilBERT's size (6 layers of 768) with random weights: as slow as a trained one."""
    return BertDot(transformers.DistilBertModel(transformers.DistilBertConfig(vocab_size=vocabulary))).eval()


def unit_vectors(store: Store, n: int, width: int, seed: int = 0, shard: int = 65_536) -> Tensor:
    """n random vectors of length 1, (n, width) in fp16, memory-mapped; made once. 8,841,823 × 768 are 13.6 GB."""

    def make(folder: Path) -> None:
        header = {"descr": "<f2", "fortran_order": False, "shape": (n, width)}
        with atomic_write(folder / "vectors.npy", "wb") as f:  # on a full disk, writing through a memory map is fatal
            np.lib.format.write_array_header_1_0(f, header)
            for number, first in enumerate(range(0, n, shard)):
                vecs = Generator(Philox(key=[seed, number])).standard_normal((min(shard, n - first), width), np.float32)
                f.write((vecs / np.linalg.norm(vecs, axis=1, keepdims=True)).astype(np.float16).data)

    parameters = {"n": n, "width": width, "seed": seed, "shard": shard}
    return read_vectors(store.artefact(f"synthetic/{n}x{width}", parameters, {}, make))


# --- the machine ---------------------------------------------------------------------------------------------------


class Roofline(NamedTuple):
    """What a device can do at best, measured on it: gigabytes read per second, 10^9 fp32 operations per second."""

    gb_s: float
    gflop_s: float


def roofline(device: torch.device, mb: int = 512, n: int = 2_048, seconds: float = 1.0) -> Roofline:
    """Measured by summing a tensor larger than any cache, and by multiplying two (n, n) matrices; the best of many."""
    large = torch.ones(mb * 250_000, device=device)
    a, b = torch.ones(2, n, n, device=device)
    read = min(time_boxed(large.sum, 2, seconds).ms)
    multiplied = min(time_boxed(lambda: a @ b, 2, seconds).ms)
    return Roofline(mb / read, 2e-6 * n**3 / multiplied)


def hardware(device: torch.device) -> dict[str, str]:
    """The machine that measured times are valid for."""
    cpuinfo = Path("/proc/cpuinfo")  # Linux; platform.processor() is empty there
    names = re.findall(r"model name\s*: (.+)", cpuinfo.read_text("utf-8")) if cpuinfo.is_file() else []
    parts = {
        "processor": next(iter(names), "").strip() or platform.processor() or platform.machine(),
        "cores": f"{psutil.cpu_count()}, of which {torch.get_num_threads()} are used",
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
    }
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        parts["GPU"] = f"{gpu.name}, {gpu.total_memory / 1e9:.0f} GB"
    return parts | {"library": f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"}
