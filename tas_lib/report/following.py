"""How closely students follow the in-batch teacher's scores (§5.1: "and not just the general ordering")."""

from collections.abc import Sequence

import numpy as np
import torch

from tas_lib import losses, models
from tas_lib.config import System
from tas_lib.experiment import Experiment
from tas_lib.records import Batch
from tas_lib.retrieval import encode


def margin_errors(lab: Experiment, systems: Sequence[System], batches: Sequence[Batch]) -> list[float]:
    """For each system the root mean squared error of its in-batch margins (Eq. 7), in the teacher's units."""
    device, tokens = encode.device(), lab.tokens["train"]
    with torch.inference_mode():
        taught = [losses.crossed_margins(lab.in_batch_teacher.scores(batch, device)).cpu() for batch in batches]
        errors = []
        for system in systems:
            model, vecs, squares = lab.load(system).to(device), lab.vectors(system), []
            for batch, theirs in zip(batches, taught, strict=True):
                queries = models.encode_rows(model, tokens, batch.queries).float().cpu()  # (B, D)
                passages = vecs[np.concatenate([batch.pos, batch.neg])].float()  # (2B, D)
                own = torch.eye(len(queries), dtype=torch.bool).repeat(1, 2)  # (B, 2B)
                error = losses.crossed_margins(queries @ passages.T) - theirs
                squares.append(error[~own].square().mean())
            errors.append(float(torch.stack(squares).mean().sqrt()))
    return errors
