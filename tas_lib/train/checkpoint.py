"""What a killed training goes on from: one safetensors file an evaluation, the two newest kept."""

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from tas_lib.data import store
from tas_lib.models import BertDot
from tas_lib.records import History

log = logging.getLogger(__name__)


class Progress(NamedTuple):
    """How far training has come: steps done, evaluations so far, the best weights by name."""

    step: int
    history: list[History]
    best: dict[str, Tensor]


def write(
    folder: Path, progress: Progress, student: BertDot, adam: torch.optim.Adam, scaler: torch.amp.GradScaler
) -> None:
    """Add a checkpoint; of the others the newest is kept, since a file may be damaged."""
    tensors = {f"now.{k}": v for k, v in student.state_dict().items()} | {
        f"best.{k}": v for k, v in progress.best.items()
    }
    for i, part in adam.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{k}": v for k, v in part.items()}
    notes: dict[str, Any] = {"step": progress.step, "history": progress.history, "scaler": scaler.state_dict()}
    with store.atomic_write(folder / f"checkpoint-{progress.step:09d}.safetensors", "wb") as f:
        f.write(save({k: v.contiguous() for k, v in tensors.items()}, {"progress": json.dumps(notes)}))
    for path in sorted(folder.glob("checkpoint-*.safetensors"))[:-2]:
        path.unlink()


def resume(folder: Path, student: BertDot, adam: torch.optim.Adam, scaler: torch.amp.GradScaler) -> Progress:
    """Put student and optimiser where the newest readable checkpoint left them; without any, leave them as they are."""
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
        if scaler.is_enabled():
            scaler.load_state_dict(notes["scaler"])
        log.info("going on after step %d", notes["step"])
        return Progress(notes["step"], [History(*h) for h in notes["history"]], parts["best"])
    return Progress(0, [], {k: v.detach().clone() for k, v in student.state_dict().items()})


def remove(folder: Path) -> None:
    """For when the trained model is on disk; sooner, a kill or a full disk would cost the whole training."""
    for path in folder.glob("checkpoint-*.safetensors"):
        path.unlink()
