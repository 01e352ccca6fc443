"""On a GPU: the dual step at full size (DistilBERT's shape, random weights); encoding and search are in table1-full.

Without a GPU, the row is empty. Texts are random token ids, as long as the paper's caps allow: the
longest that a step can meet.
"""

from typing import Any

import numpy as np
import torch
from numpy.random import Generator, Philox

from benchmarks import Figure, verdict
from benchmarks.training_step import Data, random_pairs, timed_loop
from tas_lib import losses
from tas_lib.config import Tokens
from tas_lib.models import ColBert
from tas_lib.records import Ragged
from tas_lib.report.latency import paper_encoder
from tas_lib.train.loop import InBatchTeacher
from tas_lib.train.teachers import FreshVectors

VOCABULARY, WIDTH = 30_522, 768
STEPS, QUERIES = 30, 1_024
CARD_GB, PAPER_HOURS, PAPER_STEPS = 11.0, 48, 800_000
BATCHES: list[tuple[int, dict[str, Any]]] = [(32, {}), (96, {}), (256, {}), (256, {"cached_chunk": 32})]


def figures(full: bool = False) -> list[Figure]:
    """Steps per second and peak memory by batch size."""
    if not torch.cuda.is_available():
        return [Figure("dual step on a GPU, b = 32, 96, 256", "", "", "", f"≤ {CARD_GB:g} GB", "–", "no GPU at hand")]
    device = torch.device("cuda")
    return [dual_step(b, changes, device) for b, changes in BATCHES]


def longest() -> Data:
    """Random texts of as many tokens as the paper's caps allow."""
    rng, caps = Generator(Philox(key=[0, 0])), Tokens()
    queries, passages = (
        Ragged(rng.integers(1_000, VOCABULARY, n * cap), np.arange(0, n * cap + 1, cap))
        for n, cap in ((QUERIES, caps.query), (2 * QUERIES, caps.passage))
    )
    return Data([], [], queries, passages, random_pairs(QUERIES, 2 * QUERIES))


def dual_step(b: int, changes: dict[str, Any], device: torch.device) -> Figure:
    """Both teachers at one batch size, ColBERT encoding every batch again, as in the paper."""
    data, colbert = longest(), ColBert(paper_encoder(VOCABULARY).encoder, WIDTH).to(device).eval()
    teacher = InBatchTeacher(*(FreshVectors(colbert, tokens) for tokens in (data.queries, data.passages)))
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)

    def loss(scores: torch.Tensor, batch: Any) -> Any:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            target = teacher.scores(batch, device)
        return losses.dual(scores, target.clone(), torch.from_numpy(batch.margins).to(device))

    student = paper_encoder(VOCABULARY).to(device)
    what, target = f"dual step, b = {b}", f"≤ {CARD_GB:g} GB" if b != 96 else "report"
    settings = "".join(f"; {name} {value}" for name, value in changes.items())
    note = f"{torch.cuda.get_device_name()}; bf16{settings}; texts as long as the caps; ColBERT encodes each batch."
    try:
        times = timed_loop(student, data, loss, STEPS, b, precision="bf16", **changes)
    except torch.cuda.OutOfMemoryError:
        return Figure(what, "out of memory", "", "", target, verdict(False), note)
    seconds, peak = float(np.median(times[STEPS // 3 :])), torch.cuda.max_memory_allocated(device) / 2**30
    return Figure(
        what,
        f"{1 / seconds:.1f} steps/s, {peak:.1f} GB",
        f"paper < {PAPER_HOURS} h for {PAPER_STEPS:,} steps at b = 32",
        f"{PAPER_STEPS * seconds / 3_600:.0f} h for as many",
        target,
        "–" if b == 96 else verdict(peak <= CARD_GB),
        note,
    )
