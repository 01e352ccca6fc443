"""Exact search on the CPU: one query beside FAISS and the memory's bandwidth, and the whole of MS MARCO on a laptop.

python -m benchmarks.search [--slow] [--folder FOLDER]
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import faiss
import torch

from benchmarks import Figure, clock
from benchmarks.roofline import search_bound
from tas_lib.data.store import Store
from tas_lib.report.latency import roofline, unit_vectors
from tas_lib.retrieval import dense as search

WIDTH, DEPTH, MSMARCO = 768, 1_000, 8_841_823
CPU = torch.device("cpu")


def rows(slow: bool = False, folder: Path | None = None) -> list[Figure]:
    """One query over a million vectors; slow: also 97 over as many as MS MARCO has, which are written to `folder`."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        found = one_query(Path(place))
    if slow:
        with tempfile.TemporaryDirectory() as place:
            found += whole(folder or Path(place))
    return found


def one_query(folder: Path, n: int = 1_000_000, repeats: int = 10) -> list[Figure]:
    """Top 1,000 of n vectors in fp16 against FAISS's flat index, which holds them in fp32; share of the bandwidth."""
    vecs, query = unit_vectors(Store(folder), n, WIDTH), random_queries(1)
    flat = faiss.IndexFlatIP(WIDTH)
    for block in vecs.split(100_000):
        flat.add(block.float().numpy())
    depth = min(DEPTH, n)
    works: list[Callable[[], object]] = [
        partial(search.dense, query, vecs, depth),
        partial(flat.search, query.numpy(), depth),
        partial(search.dot_products, query, vecs),
    ]
    ours, theirs, product = clock.in_turn(works, repeats)
    machine = roofline(CPU, seconds=2.0)
    least = search_bound(1, vecs, machine)
    same = len({*search.dense(query, vecs, depth)[0][0]} & {*flat.search(query.numpy(), depth)[1][0]})
    share, what = 1e-3 * least.ms / ours, f"one query, top {depth:,}, {n:,} × {WIDTH} in fp16"
    note = (
        f"bound by {least.what(1e3 * ours)}: {vecs.nbytes / 1e9 / ours:.1f} of {machine.gb_s:.1f} GB/s; products "
        f"as for several queries would take {1e3 * product:.0f} ms; {same:,} of {depth:,} rows are FAISS's"
    )
    flat_note = f"FAISS reads {4 * WIDTH * n / 1e9:.1f} GB on one core; here {torch.get_num_threads()}"
    times = f"{1e3 * ours:.0f} ms", f"FAISS flat fp32: {1e3 * theirs:.0f} ms"
    bandwidth = f"{vecs.nbytes / 1e9:.1f} GB over the bandwidth: {least.read_ms:.0f} ms"
    return [
        Figure(what, *times, f"{theirs / ours:.1f} ×", "≥ 2 ×", clock.verdict(theirs / ours, 2), flat_note),
        Figure(what, times[0], bandwidth, f"{share:.0%}", "≥ 70 %", clock.verdict(share, 0.7), note),
    ]


def whole(folder: Path, n: int = MSMARCO, queries: int = 97) -> list[Figure]:
    """97 queries over as many vectors as MS MARCO has passages, read from a file: seconds, and what is resident."""
    vecs, asked = unit_vectors(Store(folder), n, WIDTH), random_queries(queries)
    with clock.peak() as most:
        start = time.perf_counter()
        search.dense(asked, vecs, min(DEPTH, n))
        seconds = time.perf_counter() - start
    held, machine = most(), roofline(CPU)
    least = search_bound(queries, vecs, machine)
    what = f"{queries} queries, top {DEPTH:,}, {n:,} × {WIDTH} in fp16, memory-mapped"
    note = f"reading takes {least.read_ms / 1e3:.1f} s at least (from memory), computing {least.compute_ms / 1e3:.1f} s"
    cache = (
        f"{held.own:.1f} GB are the process's own; the rest is the file ({vecs.nbytes / 1e9:.1f} GB) in the system's "
        "cache, which gives it back to whoever needs the memory"
    )
    return [
        Figure(what, f"{seconds:.0f} s", "", "", "≤ 180 s", clock.verdict(180, seconds), note),
        Figure(what, f"{held.resident:.1f} GB", "", "", "≤ 16 GB", clock.verdict(16, held.resident), cache),
    ]


def random_queries(n: int) -> torch.Tensor:
    """n random queries (n, 768)."""
    return torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser("benchmarks.search", description=__doc__.partition("\n")[0])
    parser.add_argument("--slow", action="store_true", help="also MS MARCO's size: writes 13.6 GB")
    parser.add_argument("--folder", type=Path, help="where vectors are written; those of --slow are kept there")
    asked = parser.parse_args()
    clock.show(rows(asked.slow, asked.folder))
