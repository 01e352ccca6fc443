"""What a time could not fall below: the bytes that must be read over the memory's bandwidth, the operations over the
matrix rate, both measured on the machine in question; and which machine that is."""

import math
import platform
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from torch import Tensor

from tas_lib.models import BertDot
from tas_lib.records import IntArray
from tas_lib.report.latency import time_boxed


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
