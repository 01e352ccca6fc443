"""The training loop of §4: batches by number, one encoding of every text, early stopping, resumable bit for bit."""

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tas_lib import losses, models, store
from tas_lib.losses import Dual
from tas_lib.models import BertDot
from tas_lib.profile import System, Training
from tas_lib.records import Batch, History, Ragged
from tas_lib.sampling import Sampler
from tas_lib.teachers import TextVectors

log = logging.getLogger(__name__)
Objective = Callable[[Tensor, Batch], Dual]
"""(student scores (B, 2B), batch) → the loss and its two parts"""


class InBatchTeacher(NamedTuple):
    """A frozen ColBERT's token vectors; it scores every query of a batch against every passage."""

    queries: TextVectors
    passages: TextVectors

    def scores(self, batch: Batch, device: torch.device) -> Tensor:
        """(B, 2B), columns as in losses.py."""
        passages = self.passages.rows(np.concatenate([batch.pos, batch.neg]), device)
        return models.late_interaction(*self.queries.rows(batch.queries, device), *passages)


def objective(system: System, settings: Training, teacher: InBatchTeacher | None) -> Objective:
    """What a system is taught by: labels alone, one teacher, or both (Eqs. 6-8). A single loss has no weight."""
    in_batch = {
        "margin_mse": losses.in_batch_margin_mse,
        "margin_mse_as_printed": losses.in_batch_margin_mse_as_printed,
        "kldiv_as_published": losses.kldiv_as_published,
        "listnet": losses.listnet,
        "lambdarank": losses.lambdarank,
    }[system.loss]

    def loss(student: Tensor, batch: Batch) -> Dual:
        zero = student.new_zeros(())
        margins = torch.from_numpy(np.asarray(batch.margins, np.float32)).to(student.device)
        if system.teacher == "none":
            value = losses.ranknet(student)
            return Dual(value, value, zero)
        if system.teacher == "pairwise":
            value = losses.margin_mse(student, margins)
            return Dual(value, value, zero)
        if teacher is None:
            raise ValueError(f"a system with teacher {system.teacher!r} needs the in-batch teacher's vectors")
        target = teacher.scores(batch, student.device)
        if system.teacher == "in_batch":
            value = in_batch(student, target)
            return Dual(value, zero, value)
        return losses.dual(student, target, margins, settings.weight(system.loss), in_batch)

    return loss


def score_batch(student: BertDot, queries: Ragged, passages: Ragged, batch: Batch) -> Tensor:
    """Student scores (B, 2B) of every query against every passage, each text encoded once, in fp32."""
    q = models.encode_rows(student, queries, batch.queries)  # (B, D)
    p = models.encode_rows(student, passages, np.concatenate([batch.pos, batch.neg]))  # (2B, D)
    with torch.autocast(q.device.type, enabled=False):  # in bf16, scores of 100 would lie 0.5 apart (D12)
        return q.float() @ p.float().T


class Batches(Dataset[Batch]):
    """Step numbers in, batches out; what the worker processes hold (§3, "concurrently in a sub-process")."""

    def __init__(self, sampler: Sampler) -> None:
        """sampler: any of the four strategies."""
        self.sampler = sampler

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step."""
        return self.sampler.batch(step)


def batches(sampler: Sampler, start: int, stop: int, workers: int) -> Iterator[Batch]:
    """Batches start..stop-1 in order, composed ahead of need by `workers` processes."""
    loader = DataLoader(
        Batches(sampler),
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        collate_fn=_same,
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,  # the pair table is not copied
    )
    return iter(loader)


def _same(batch: Any) -> Any:  # the default would make tensors of the rows
    return batch


def rate(settings: Training, step: int) -> float:
    """The learning rate of a step: constant as printed, or the public code's cosine (D3); a warm-up is ours."""
    base = settings.learning_rate * min(1.0, (step + 1) / (settings.warmup + 1))
    return base if settings.schedule == "constant" else base * 0.5 * (1 + math.cos(math.pi * step / settings.steps))


def train(
    student: BertDot,
    sampler: Sampler,
    loss: Objective,
    queries: Ragged,
    passages: Ragged,
    validate: Callable[[BertDot], float],
    settings: Training,
    folder: Path,
) -> list[History]:
    """Train until nDCG@10 on the early-stopping set has not improved `patience` times; `student` ends as the best one.

    validate: nDCG@10 on the early-stopping set. folder: holds the checkpoints; called again with the same folder after
    a kill, it goes on after the last whole one and ends with the same weights. `remove_checkpoints` once they are safe.
    """
    device = next(student.parameters()).device
    adam = torch.optim.Adam(student.parameters(), lr=settings.learning_rate)
    state = _resume(folder, student, adam)
    start, history, best = state.step, list(state.history), state.best
    stop = start if history and _finished(history, settings) else settings.steps  # killed after the last evaluation
    clock = time.monotonic() - (history[-1].seconds if history else 0.0)
    sums = np.zeros(2)
    student.train()
    for step, batch in enumerate(batches(sampler, start, stop, settings.workers), start):
        torch.manual_seed(settings.model_seed * 1_000_003 + step)  # dropout, a function of the step like the batch
        adam.param_groups[0]["lr"] = rate(settings, step)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            scores = score_batch(student, queries, passages, batch)
        value = loss(scores.float(), batch)
        adam.zero_grad()
        value.total.backward()
        adam.step()
        sums += (value.pairwise.item(), value.in_batch.item())
        done = step + 1
        if done % settings.validate_every == 0 or done == settings.steps:
            since = done - (history[-1].step if history else 0)
            pairwise, in_batch = (sums / since).tolist()
            history.append(History(done, validate(student.eval()), pairwise, in_batch, time.monotonic() - clock))
            student.train()
            sums[:] = 0
            log.info("step %d of %d: nDCG@10 %.4f, losses %.3f + %.3f, %.0f s", done, settings.steps, *history[-1][1:])
            if history[-1].ndcg > max((h.ndcg for h in history[:-1]), default=-1.0):
                best = {name: value.detach().clone() for name, value in student.state_dict().items()}
            finished = _finished(history, settings)
            _checkpoint(folder, Progress(done, history, best), student, adam)
            if finished:
                break
    student.load_state_dict(best)
    return history


def remove_checkpoints(folder: Path) -> None:
    """For when the trained model is on disk; sooner, a kill or a full disk would cost the whole training."""
    for path in folder.glob("checkpoint-*.safetensors"):
        path.unlink()


def _finished(history: list[History], settings: Training) -> bool:
    best = max(range(len(history)), key=lambda i: history[i].ndcg)
    return history[-1].step >= settings.min_steps and len(history) - 1 - best >= settings.patience


# --- checkpoints -------------------------------------------------------------------------------------------------


class Progress(NamedTuple):
    """How far training has come: steps done, evaluations so far, the best weights by name."""

    step: int
    history: list[History]
    best: dict[str, Tensor]


def _checkpoint(folder: Path, progress: Progress, student: BertDot, adam: torch.optim.Adam) -> None:
    """One safetensors file an evaluation; the two newest are kept, so that one may be damaged."""
    tensors = {f"now.{k}": v for k, v in student.state_dict().items()} | {
        f"best.{k}": v for k, v in progress.best.items()
    }
    for i, part in adam.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{k}": v for k, v in part.items()}
    notes: dict[str, Any] = {"step": progress.step, "history": progress.history}
    with store.atomic_write(folder / f"checkpoint-{progress.step:09d}.safetensors", "wb") as f:
        f.write(save({k: v.contiguous() for k, v in tensors.items()}, {"progress": json.dumps(notes)}))
    for path in sorted(folder.glob("checkpoint-*.safetensors"))[:-2]:
        path.unlink()


def _resume(folder: Path, student: BertDot, adam: torch.optim.Adam) -> Progress:
    for path in sorted(folder.glob("checkpoint-*.safetensors"), reverse=True):
        try:
            with safe_open(path, "pt") as f:
                notes = json.loads(f.metadata()["progress"])
            tensors = load_file(path)
        except Exception as error:  # safetensors raises its own kinds
            log.warning("%s cannot be read (%s); going back to the one before", path.name, error)
            continue
        parts: dict[str, dict[str, Tensor]] = {"now": {}, "best": {}, "adam": {}}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            parts[kind][rest] = tensor
        student.load_state_dict(parts["now"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["adam"].items():
            i, _, key = name.partition(".")
            moments.setdefault(int(i), {})[key] = tensor
        adam.load_state_dict(adam.state_dict() | {"state": moments})
        log.info("going on after step %d", notes["step"])
        return Progress(notes["step"], [History(*h) for h in notes["history"]], parts["best"])
    return Progress(0, [], {k: v.detach().clone() for k, v in student.state_dict().items()})
