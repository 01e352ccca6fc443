"""On a GPU: the dual step at full size (DistilBERT's shape, random weights), and the retrieval of Table 1 at full size.

`python -m benchmarks.gpu`; where there is no GPU it says so and ends well. Rows are random token ids, as many as the
paper's caps allow: the longest that a step can meet.
"""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator, Philox

from benchmarks import Figure
from benchmarks.roofline import search_bound
from benchmarks.training_step import PAIRS, Rows, for_steps, our_steps
from tas_lib import losses
from tas_lib.config import Tokens
from tas_lib.data.store import Store
from tas_lib.models import ColBert
from tas_lib.records import Pairs, Ragged
from tas_lib.report.latency import paper_encoder, roofline, time_boxed, unit_vectors
from tas_lib.retrieval import dense as search
from tas_lib.train.loop import InBatchTeacher
from tas_lib.train.teachers import FreshVectors

VOCABULARY, WIDTH = 30_522, 768
PASSAGES, DEPTH = 8_841_823, 1_000
PAPER_MS = {1: 54, 10: 141, 2_000: 2_515}  # queries at once → Table 1, Faiss retrieval
STEPS, QUERIES = 30, 1_024
CARD_GB, PAPER_HOURS, PAPER_STEPS = 11.0, 48, 800_000
SETTINGS: dict[int, list[dict[str, Any]]] = {
    # batch size → what is set in Training for each measurement
    32: [{"precision": "bf16"}],
    96: [{"precision": "bf16"}],
    256: [{"precision": "bf16"}, {"precision": "bf16", "cached_chunk": 32}],
}


def rows() -> list[Figure]:
    """Steps a second and peak memory by batch size; milliseconds of retrieval. Nothing where there is no GPU."""
    if not torch.cuda.is_available():
        print("no GPU here")
        return []
    device = torch.device("cuda")
    steps = [dual_step(b, changes, device) for b, listed in SETTINGS.items() for changes in listed]
    return [*steps, encoding(device), *retrieval(device)]


def longest(seed: int = 0) -> Rows:
    """Random rows of as many tokens as the paper's caps allow."""
    rng, caps = Generator(Philox(key=[seed, 0])), Tokens()
    texts = {}
    for kind, n, cap in (("queries", QUERIES, caps.query), ("passages", 2 * QUERIES, caps.passage)):
        texts[kind] = Ragged(rng.integers(1_000, VOCABULARY, n * cap), np.arange(0, n * cap + 1, cap))
    n = QUERIES * PAIRS
    pos, neg = rng.integers(2 * QUERIES, size=(2, n))
    margins = rng.normal(4, 3, n).astype(np.float32)
    return Rows([], [], **texts, pairs=Pairs.sort(QUERIES, np.repeat(np.arange(QUERIES), PAIRS), pos, neg, margins))


def dual_step(b: int, changes: dict[str, Any], device: torch.device) -> Figure:
    """Both teachers at one batch size, ColBERT reading every batch anew, as in the paper."""
    data, settings = longest(), for_steps(STEPS, **changes)
    colbert = ColBert(paper_encoder(VOCABULARY).encoder, WIDTH).to(device).eval()
    teacher = InBatchTeacher(FreshVectors(colbert, data.queries), FreshVectors(colbert, data.passages))
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)

    def loss(scores: torch.Tensor, batch: Any) -> Any:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            target = teacher.scores(batch, device)
        return losses.dual(scores, target.clone(), torch.from_numpy(batch.margins).to(device))

    student = paper_encoder(VOCABULARY).to(device)
    try:
        seconds = float(np.median(our_steps(student, data, loss, settings, b)[STEPS // 3 :]))
    except torch.cuda.OutOfMemoryError:
        return Figure(f"dual step, b = {b}", "out of memory", "", "", f"≤ {CARD_GB:g} GB", "missed", told(changes))
    peak, hours = torch.cuda.max_memory_allocated(device) / 2**30, PAPER_STEPS * seconds / 3_600
    aim = f"≤ {CARD_GB:g} GB" if b != 96 else "report"
    return Figure(
        f"dual step, b = {b}",
        f"{1 / seconds:.1f} steps/s, {peak:.1f} GB",
        f"paper < {PAPER_HOURS} h for {PAPER_STEPS:,} steps at b = 32",
        f"{hours:.0f} h for as many",
        aim,
        "–" if b == 96 else "met" if peak <= CARD_GB else "missed",
        told(changes),
    )


def told(changes: dict[str, Any]) -> str:
    """What was set, in words."""
    asked = "".join(f"; {name} {value}" for name, value in changes.items())
    return f"{torch.cuda.get_device_name()}{asked}; texts as long as the caps; ColBERT reads each batch anew."


def encoding(device: torch.device) -> Figure:
    """One query of 30 tokens, from token ids to its vector."""
    model, ids = paper_encoder(VOCABULARY).to(device), torch.ones(1, Tokens().query, dtype=torch.int64, device=device)
    with torch.inference_mode():
        ms = time_boxed(lambda: model(ids, ids)).mean
    return Figure("encoding of one query", f"{ms:.1f} ms", "paper 8 ms", f"{8 / ms:.1f} ×", "report", "–", told({}))


def retrieval(device: torch.device) -> list[Figure]:
    """Exact retrieval of 1,000 of 8.8M passages: torch's product and top-k, against bytes over bandwidth."""
    with tempfile.TemporaryDirectory() as folder:
        passages = unit_vectors(Store(Path(folder)), PASSAGES, WIDTH).to(device)
    machine, found = roofline(device), []
    for n, paper in PAPER_MS.items():
        queries = torch.randn(n, WIDTH, device=device)
        ms = time_boxed(partial(search.dense, queries, passages, DEPTH), seconds=10).mean
        least = search_bound(n, passages, machine)
        ratio = ms / least.ms
        found.append(
            Figure(
                f"retrieval, {n:,} queries at once",
                f"{ms:.0f} ms",
                f"paper {paper:,} ms; at least {least.ms:.0f} ms here",
                f"{ratio:.2f} × the least",
                "≤ 1.3 × bytes/bandwidth" if n == 1 else "report",
                "–" if n > 1 else "met" if ratio <= 1.3 else "missed",
                f"{torch.cuda.get_device_name()}, {machine.gb_s:.0f} GB/s and {machine.gflop_s:,.0f} GFLOP/s (fp32) "
                f"measured; {least.what(ms)} bounds it.",
            )
        )
    return found


if __name__ == "__main__":
    for figure in rows():
        print(*figure, sep=" | ")
