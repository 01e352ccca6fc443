"""How closely students follow the in-batch teacher's scores (§5.1: "and not just the general ordering")."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tas_lib import losses, models
from tas_lib.config import System
from tas_lib.data import shipped, store
from tas_lib.experiment import Experiment
from tas_lib.records import Batch
from tas_lib.retrieval import encode


def margin_errors(lab: Experiment, systems: Sequence[System], batches: Sequence[Batch]) -> list[float]:
    """For each system the root mean squared error of its in-batch margins (Eq. 7), in the teacher's units."""
    device, tokens = encode.device(), lab.tokens["train"]

    @cache
    def taught() -> list[Tensor]:
        return [losses.crossed_margins(lab.in_batch_teacher.scores(batch, device)).cpu() for batch in batches]

    @torch.inference_mode()
    def error(system: System) -> float:
        model, vecs, squares = lab.bi_encoder(system).load().to(device), lab.vectors(system), []
        for batch, theirs in zip(batches, taught(), strict=True):
            queries = models.encode_rows(model, tokens, batch.queries).float().cpu()  # (B, D)
            passages = vecs[np.concatenate([batch.pos, batch.neg])].float()  # (2B, D)
            own = torch.eye(len(queries), dtype=torch.bool).repeat(1, 2)  # (B, 2B)
            difference = losses.crossed_margins(queries @ passages.T) - theirs
            squares.append(difference[~own].square().mean())
        return float(torch.stack(squares).mean().sqrt())

    def kept(system: System) -> float:
        _, parameters, inputs = lab.bi_encoder(system).artefact
        inputs |= {"colbert": store.folder_digest(Path(shipped.model(lab.profile, "colbert")))}
        inputs["batches"] = store.digest(*(part for batch in batches for part in batch))
        folder = lab.store.artefact(
            f"following/{system.name}",
            {**parameters, "query_masks": lab.profile.query_masks, "mask": lab.profile.training.colbert_mask},
            inputs,
            lambda folder: store.write_json(folder / "error.json", error(system)),
        )
        return float(store.read_json(folder / "error.json"))

    return [kept(system) for system in systems]
