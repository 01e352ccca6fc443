"""A trained BERT_DOT's fp16 vectors of every text, in shards that several processes or machines can share.

You can interrupt encoding; run it again and it resumes at the first missing shard. Which texts are padded together
depends on the shard alone, so a shard has the same bytes whoever encodes it (on one kind of processor and as many
threads).
"""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from tas_lib import models
from tas_lib.data import store
from tas_lib.models import BertDot
from tas_lib.records import FloatArray, IntArray, Ragged

log = logging.getLogger(__name__)
SHARD = 100_000  # texts in a shard
JOINED = "vectors.npy"


def device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.inference_mode()
def encode(model: BertDot, tokens: Ragged, rows: IntArray | None = None, chunk: int = 64) -> FloatArray:
    """fp32 vectors (N, D) of the texts at `rows` (N,), of all by default."""
    rows = np.arange(len(tokens.lengths)) if rows is None else rows
    return models.encode_rows(model.eval(), tokens, rows, chunk).float().cpu().numpy()


def shards(n: int) -> list[range]:
    """The indices of the texts of each shard of n texts."""
    return [range(start, min(start + SHARD, n)) for start in range(0, n, SHARD)]


def write_shards(model: BertDot, tokens: Ragged, folder: Path, numbers: Sequence[int]) -> None:
    """Those of the shards `numbers` that are missing, as `00000.npy`, `00001.npy`, ...: fp16 vectors (SHARD, D)."""
    rows = shards(len(tokens.lengths))
    for number in missing(folder, len(tokens.lengths)):
        if number in numbers:
            vecs = encode(model, tokens, np.asarray(rows[number]))
            store.save_arrays(folder, **{f"{number:05d}": vecs.astype(np.float16)})
            log.info("encoded shard %d of 0 to %d", number, len(rows) - 1)


def missing(folder: Path, n: int) -> list[int]:
    """Which shards of n texts are still to be encoded; ValueError for one that was cut off when it was copied."""
    if (folder / JOINED).exists():
        return []
    return [number for number, rows in enumerate(shards(n)) if not _complete(folder / f"{number:05d}.npy", len(rows))]


def _complete(path: Path, n: int) -> bool:
    if not path.exists():
        return False
    try:
        vecs = store.load_array(path)
        if len(vecs) != n or vecs.dtype != np.float16:
            raise ValueError(f"{path.parent.name}/{path.name} holds {len(vecs)} vectors in {vecs.dtype}, not {n}")
    except ValueError as error:
        raise ValueError(f"{error}; copy it again, or delete it and it is encoded again") from error
    return True


def write_vectors(model: BertDot, tokens: Ragged, folder: Path) -> None:
    """Every text's vector (N, D) in fp16, in one file: the shards that are missing, then all of them joined."""
    n = len(shards(len(tokens.lengths)))
    write_shards(model, tokens, folder, range(n))
    join(folder, n)


def join(folder: Path, n: int) -> None:
    """Join n shards into one file that search can map, then delete them; needs the space twice. One shard stays."""
    paths = [folder / f"{number:05d}.npy" for number in range(n)]
    if n > 1 and not (folder / JOINED).exists():
        parts = [store.load_array(path) for path in paths]
        shape = (sum(map(len, parts)), parts[0].shape[1])
        with store.atomic_write(folder / JOINED, "wb") as f:
            np.lib.format.write_array_header_1_0(f, {"descr": "<f2", "fortran_order": False, "shape": shape})
            for part in parts:
                f.write(np.ascontiguousarray(part).data)
    for path in paths if n > 1 else []:
        path.unlink(missing_ok=True)


def read_vectors(folder: Path) -> torch.Tensor:
    """The fp16 vectors (N, D), memory-mapped."""
    paths = sorted(folder.glob("*.npy"))
    if len(paths) != 1:
        raise ValueError(f"{folder} holds {len(paths)} files of vectors, not one: delete it, and it is made again")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the array is not writable, and nobody writes to it
        return torch.from_numpy(store.load_array(paths[0]))
