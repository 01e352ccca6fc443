"""A trained BERT_DOT's vectors of every text, in fp16, in shards that an interrupted run need not make again."""

import logging
from pathlib import Path

import numpy as np
import torch

from tas_lib import models, store
from tas_lib.models import BertDot
from tas_lib.records import FloatArray, IntArray, Ragged

log = logging.getLogger(__name__)
SHARD = 100_000


def device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.inference_mode()
def encode(model: BertDot, tokens: Ragged, rows: IntArray | None = None, chunk: int = 64) -> FloatArray:
    """Vectors (N, D) in fp32 of these rows, all by default."""
    rows = np.arange(len(tokens.lengths)) if rows is None else rows
    return models.encode_rows(model.eval(), tokens, rows, chunk).float().cpu().numpy()


def write_vectors(model: BertDot, tokens: Ragged, folder: Path, shard: int = SHARD) -> None:
    """Every text's vector as fp16 in `00000.npy`, `00001.npy`, ...; a shard that stands there whole is left alone."""
    n = len(tokens.lengths)
    for number, start in enumerate(range(0, n, shard)):
        path = folder / f"{number:05d}.npy"
        if not path.exists():
            vecs = encode(model, tokens, np.arange(start, min(start + shard, n)))
            store.save_arrays(folder, **{path.stem: vecs.astype(np.float16)})
            log.info("encoded %d of %d", min(start + shard, n), n)


def read_vectors(folder: Path) -> torch.Tensor:
    """The shards as one tensor (N, D), fp16, never twice in memory."""
    parts = [store.load_array(path) for path in sorted(folder.glob("[0-9]*.npy"))]
    return torch.from_numpy(np.concatenate(parts))
