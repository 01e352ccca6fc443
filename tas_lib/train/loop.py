"""The training loop of §4: numbered batches, one encoding of every text, early stopping, resumable bit for bit."""

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute
from torch.utils.data import DataLoader, Dataset

from tas_lib import losses, models
from tas_lib.config import System, Training
from tas_lib.losses import Dual
from tas_lib.records import Batch, History, Ragged
from tas_lib.sampling import Sampler
from tas_lib.train import checkpoint
from tas_lib.train.checkpoint import Progress
from tas_lib.train.teachers import InBatchTeacher

log = logging.getLogger(__name__)
Objective = Callable[[Tensor, Batch], Dual]
"""(student scores (B, 2B), batch) → the loss and its two parts"""


def objective(system: System, settings: Training, teacher: InBatchTeacher | None) -> Objective:
    """The loss of a system: from labels alone, one teacher, or both (Eqs. 6-8). A single loss has no weight."""
    in_batch = {
        "margin_mse": losses.in_batch_margin_mse,
        "margin_mse_as_printed": losses.in_batch_margin_mse_as_printed,
        "kldiv_as_published": losses.kldiv_as_published,
        "listnet": losses.listnet,
        "lambdarank": losses.lambdarank,
    }[system.loss]
    precision = models.PRECISION[settings.precision]

    def loss(student: Tensor, batch: Batch) -> Dual:
        zero = student.new_zeros(())
        margins = torch.from_numpy(np.asarray(batch.margins, np.float32)).to(student.device)
        if system.teacher in ("none", "pairwise"):
            value = losses.ranknet(student) if system.teacher == "none" else losses.margin_mse(student, margins)
            return Dual(value, value, zero)
        if teacher is None:
            raise ValueError(f"a system with teacher {system.teacher!r} needs the in-batch teacher's vectors")
        with torch.autocast(student.device.type, precision, enabled=precision != torch.float32):
            target = teacher.scores(batch, student.device)  # in fp32 but for its encoder
        if system.teacher == "in_batch":
            value = in_batch(student, target)
            return Dual(value, zero, value)
        return losses.dual(student, target, margins, settings.weight(system.loss), in_batch)

    return loss


def score_batch(student: nn.Module, queries: Ragged, passages: Ragged, batch: Batch, chunk: int = 32) -> Tensor:
    """Student scores (B, 2B) of every query against every passage, each text encoded once, in fp32."""
    q = models.encode_rows(student, queries, batch.queries, chunk)  # (B, D)
    p = models.encode_rows(student, passages, np.concatenate([batch.pos, batch.neg]), chunk)  # (2B, D)
    with torch.autocast(q.device.type, enabled=False):  # in bf16, scores of 100 would lie 0.5 apart (D12)
        return q.float() @ p.float().T


class Cached(nn.Module):
    """A student that keeps only vectors, and encodes again, chunk by chunk, once their gradients are known.

    Gradient caching (Gao et al., RepL4NLP 2021): at the cost of one more encoding, a batch needs the memory of a chunk.
    It is torch's activation checkpointing of the whole encoder, which repeats the same dropout.
    """

    def __init__(self, student: nn.Module) -> None:
        """student: a BERT_DOT."""
        super().__init__()
        self.student = student

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """As the student's."""
        return recompute(self.student, ids, mask, use_reentrant=False)


def batches(sampler: Sampler, start: int, stop: int, workers: int) -> Iterator[Batch]:
    """Batches start..stop-1 in order, composed ahead of need by `workers` processes (§3, "in a sub-process")."""
    context = "fork" if workers and sys.platform == "linux" else None  # the pair table is not copied
    steps = cast(Dataset[int], range(start, stop))  # 32 at a time
    loader = DataLoader(steps, 32, num_workers=workers, collate_fn=sampler.batches, multiprocessing_context=context)
    return chain.from_iterable(loader)


def rate(settings: Training, step: int) -> float:
    """The learning rate of a step: constant as printed, the public code's cosine (D3), or linear; with warm-up."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    factor = {"constant": 1.0, "cosine": cosine, "linear": 1 - step / settings.steps}[settings.schedule]
    return settings.learning_rate * min(1.0, (step + 1) / (settings.warmup + 1)) * factor


def forward_pass(
    student: nn.Module, loss: Objective, queries: Ragged, passages: Ragged, settings: Training
) -> Callable[[Batch, int], Dual]:
    """A function (batch, step) → loss, in the precision, memory and speed that the settings ask for."""
    encoder = cast(nn.Module, torch.compile(student, dynamic=True)) if settings.compile else student
    if settings.cached_chunk:
        encoder = Cached(encoder)
    kind, precision = next(student.parameters()).device.type, models.PRECISION[settings.precision]

    def forward(batch: Batch, step: int) -> Dual:
        # dropout depends on the step alone, as the batch does
        torch.manual_seed(settings.model_seed * 1_000_003 + step)
        with torch.autocast(kind, precision, enabled=settings.precision != "fp32"):
            scores = score_batch(encoder, queries, passages, batch, settings.cached_chunk or settings.chunk)
        return loss(scores.float(), batch)

    return forward


def train(
    student: nn.Module,
    sampler: Sampler,
    loss: Objective,
    queries: Ragged,
    passages: Ragged,
    validate: Callable[[nn.Module], float],
    settings: Training,
    folder: Path,
) -> list[History]:
    """Train until nDCG@10 on the early-stopping set has not improved `patience` times; `student` ends as the best one,
    or as the last if `settings.keep` says so.

    student: what is trained of it (`frozen.trained_part`); queries, passages: what that reads.
    validate: nDCG@10 on the early-stopping set. folder: of the checkpoints.
    You can interrupt it: called again with the same folder, it resumes and ends with the same weights. Call
    `checkpoint.remove` once these are saved.
    """
    device = next(student.parameters()).device
    adam = torch.optim.Adam(student.parameters(), lr=settings.learning_rate, fused=True)
    scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
    forward = forward_pass(student, loss, queries, passages, settings)
    start, history, best = checkpoint.resume(folder, student, adam, scaler)
    stop = start if history and _finished(history, settings) else settings.steps  # killed after the last evaluation
    clock = time.monotonic() - (history[-1].seconds if history else 0.0)
    sums = np.zeros(2)
    student.train()
    for step, batch in enumerate(batches(sampler, start, stop, settings.workers), start):
        adam.param_groups[0]["lr"] = rate(settings, step)
        value = forward(batch, step)
        student.zero_grad()
        scaler.scale(value.total).backward()
        scaler.step(adam)
        scaler.update()
        sums += (value.pairwise.item(), value.in_batch.item())
        if not np.isfinite(sums).all():
            raise ValueError(
                f"the loss of step {step + 1} is {value.total.item()}; the batch has margins from "
                f"{batch.margins.min():.3g} to {batch.margins.max():.3g}. If these are huge, rescale the scores of the "
                "training pairs; else lower `training.learning_rate`, or set `training.precision: fp32`"
            )
        done = step + 1
        if done % settings.validate_every == 0 or done == settings.steps:
            since = done - (history[-1].step if history else 0)
            pairwise, in_batch = (sums / since).tolist()
            history.append(History(done, validate(student.eval()), pairwise, in_batch, time.monotonic() - clock))
            student.train()
            sums[:] = 0
            log.info("step %d of %d: nDCG@10 %.4f, losses %.3f + %.3f, %.0f s", done, settings.steps, *history[-1][1:])
            if settings.keep == "last" or history[-1].ndcg > max((h.ndcg for h in history[:-1]), default=-1.0):
                best = {name: value.detach().clone() for name, value in student.state_dict().items()}
            checkpoint.write(folder, Progress(done, history, best), student, adam, scaler)
            if _finished(history, settings):
                break
    student.load_state_dict(best)
    return history


def _finished(history: list[History], settings: Training) -> bool:
    best = max(range(len(history)), key=lambda i: history[i].ndcg)
    return history[-1].step >= settings.min_steps and len(history) - 1 - best >= settings.patience
