"""Exact search on the CPU: against FAISS, the memory's bandwidth and the matrix rate; 8.8M are in table1-full."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import faiss
import torch

from benchmarks import Figure, measure, verdict
from tas_lib.data.store import Store
from tas_lib.report.latency import Roofline, roofline, unit_vectors
from tas_lib.retrieval import dense

WIDTH, DEPTH = 768, 1_000
CPU = torch.device("cpu")


def figures(full: bool = False) -> list[Figure]:
    """One query over a million vectors, and 2,000."""
    with tempfile.TemporaryDirectory() as folder:
        return [*one_query(Path(folder)), many_queries(Path(folder))]


def many_queries(folder: Path, n: int = 1_000_000, queries: int = 2_000) -> Figure:
    """The share of the matrix rate; time is proportional to n, so a million stand for 8.8."""
    vecs, machine = unit_vectors(Store(folder), n, WIDTH), roofline(CPU, seconds=2.0)
    asked = torch.randn(queries, WIDTH, generator=torch.Generator().manual_seed(2))
    ours = measure.seconds(partial(dense.dense, asked, vecs, min(DEPTH, n)))
    products = measure.seconds(partial(dense.dot_products, asked, vecs[: n // 10])) * 10
    least = 2e-9 * queries * n * WIDTH / machine.gflop_s
    return Figure(
        f"{queries:,} queries, top {DEPTH:,}, {n:,} × {WIDTH} in fp16",
        f"{ours:.1f} s",
        f"the products at {machine.gflop_s:,.0f} GFLOP/s: {least:.1f} s",
        f"{least / ours:.0%}",
        "≥ 60 %",
        verdict(least >= 0.6 * ours),
        f"products alone, with fp16 converted, {products:.1f} s (of a tenth); the rest is choosing the best",
    )


def one_query(folder: Path, n: int = 1_000_000, repeats: int = 10) -> list[Figure]:
    """Top 1,000 of n vectors in fp16 against FAISS's flat index, which holds them in fp32; share of the bandwidth."""
    vecs, query, depth = unit_vectors(Store(folder), n, WIDTH), random_query(), min(DEPTH, n)
    flat = faiss.IndexFlatIP(WIDTH)
    for block in vecs.split(100_000):
        flat.add(block.float().numpy())
    works: list[Callable[[], object]] = [
        partial(dense.dense, query, vecs, depth),
        partial(flat.search, query.numpy(), depth),
    ]
    ours, theirs = measure.in_turn(works, repeats)
    machine = roofline(CPU, seconds=2.0)
    reading, computing = least_ms(vecs, machine)
    same = len({*dense.dense(query, vecs, depth)[0][0]} & {*flat.search(query.numpy(), depth)[1][0]})
    share, what = 1e-3 * max(reading, computing) / ours, f"one query, top {depth:,}, {n:,} × {WIDTH} in fp16"
    speed = f"{vecs.nbytes / 1e9 / ours:.1f} of {machine.gb_s:.1f} GB/s"
    note = f"{speed}; {same:,} of {depth:,} indices are FAISS's"
    flat_note = f"FAISS reads {4 * WIDTH * n / 1e9:.1f} GB on one core; here {torch.get_num_threads()}"
    times = f"{1e3 * ours:.0f} ms", f"FAISS flat fp32: {1e3 * theirs:.0f} ms"
    bandwidth = f"{vecs.nbytes / 1e9:.1f} GB over the bandwidth: {reading:.0f} ms"
    return [
        Figure(what, *times, f"{theirs / ours:.1f} ×", "≥ 2 ×", verdict(theirs >= 2 * ours), flat_note),
        Figure(what, times[0], bandwidth, f"{share:.0%}", "≥ 70 %", verdict(share >= 0.7), note),
    ]


def least_ms(passages: torch.Tensor, machine: Roofline) -> tuple[float, float]:
    """The least milliseconds to read every vector once, and to multiply it with a query; the two can overlap."""
    return 1e-6 * passages.nbytes / machine.gb_s, 2e-6 * passages.numel() / machine.gflop_s


def random_query() -> torch.Tensor:
    """A random query (1, 768)."""
    return torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(1))
