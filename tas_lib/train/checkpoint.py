"""Checkpoints, from which an interrupted training resumes: one safetensors file per evaluation, the newest two kept."""

import json
import logging
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from tas_lib.data import store
from tas_lib.records import History

log = logging.getLogger(__name__)


class Progress(NamedTuple):
    """How far a training is: steps done, evaluations so far, the weights to keep by name."""

    step: int
    history: list[History]
    best: dict[str, Tensor]


def write(
    folder: Path, progress: Progress, student: nn.Module, adam: torch.optim.Adam, scaler: torch.amp.GradScaler
) -> None:
    """Add a checkpoint, and keep the one before it, since a file may be damaged."""
    moments = adam.state_dict()["state"]
    tensors = {f"now.{k}": v for k, v in student.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in progress.best.items()}
    tensors |= {f"adam.{i}.{k}": v for i, state in moments.items() for k, v in state.items()}
    notes = {"step": progress.step, "history": progress.history, "scaler": scaler.state_dict()}
    with store.atomic_write(folder / f"checkpoint-{progress.step:09d}.safetensors", "wb") as f:
        f.write(save({k: v.contiguous() for k, v in tensors.items()}, {"progress": json.dumps(notes)}))
    for path in _newest_first(folder)[2:]:
        path.unlink()


def resume(folder: Path, student: nn.Module, adam: torch.optim.Adam, scaler: torch.amp.GradScaler) -> Progress:
    """Load the newest readable checkpoint into student and optimiser; without one, leave them unchanged."""
    for path in _newest_first(folder):
        try:
            with safe_open(path, "pt") as f:
                notes = json.loads(f.metadata()["progress"])
            tensors = load_file(path)
        except Exception as error:  # safetensors raises its own errors
            log.warning("%s cannot be read (%s); trying the one before it", path.name, error)
            continue
        student.load_state_dict(_part(tensors, "now."))
        indices = range(len(adam.param_groups[0]["params"]))
        moments = {i: state for i in indices if (state := _part(tensors, f"adam.{i}."))}
        adam.load_state_dict(adam.state_dict() | {"state": moments})
        if scaler.is_enabled():
            scaler.load_state_dict(notes["scaler"])
        log.info("resuming after step %d", notes["step"])
        return Progress(notes["step"], [History(*h) for h in notes["history"]], _part(tensors, "best."))
    return Progress(0, [], {k: v.detach().clone() for k, v in student.state_dict().items()})


def remove(folder: Path) -> None:
    """Delete the checkpoints, once the trained model is on disk; before that, a killed training needs them."""
    for path in _newest_first(folder):
        path.unlink()


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*.safetensors"), reverse=True)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
