"""A trained BERT_DOT's vectors of every text, in fp16, in shards that several processes or machines can make, and an
interrupted run need not make again."""

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
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.inference_mode()
def encode(model: BertDot, tokens: Ragged, rows: IntArray | None = None, chunk: int = 64) -> FloatArray:
    """Vectors (N, D) in fp32 of these rows, all by default."""
    rows = np.arange(len(tokens.lengths)) if rows is None else rows
    return models.encode_rows(model.eval(), tokens, rows, chunk).float().cpu().numpy()


def shards(n: int) -> list[range]:
    """The rows of each shard of n texts."""
    return [range(start, min(start + SHARD, n)) for start in range(0, n, SHARD)]


def write_shards(model: BertDot, tokens: Ragged, folder: Path, numbers: Sequence[int]) -> None:
    """The vectors (SHARD, D) of these shards, in fp16, as `00000.npy`, `00001.npy`, ...

    A shard that stands there whole is left alone, so that several processes or machines can bring some each, and an
    interrupted one goes on. Which texts are padded together depends on the shard and on nothing else: a shard is the
    same bytes whoever encodes it (on the same kind of processor, with as many threads).
    Raises ValueError for one that is not whole: a copy cut off, for what is written here is whole or not there.
    """
    rows = shards(len(tokens.lengths))
    for number in missing(folder, len(tokens.lengths)):
        if number in numbers:
            vecs = encode(model, tokens, np.asarray(rows[number]))
            store.save_arrays(folder, **{_name(number): vecs.astype(np.float16)})
            log.info("encoded shard %d of 0 to %d", number, len(rows) - 1)


def missing(folder: Path, n: int) -> list[int]:
    """Which shards of n texts are still to be encoded."""
    if (folder / JOINED).exists():
        return []
    return [number for number, rows in enumerate(shards(n)) if not _stands(folder / f"{_name(number)}.npy", len(rows))]


def _name(number: int) -> str:
    return f"{number:05d}"


def _stands(path: Path, n: int) -> bool:
    """Whether a shard of n texts is there; ValueError where only a part of it is."""
    if not path.exists():
        return False
    try:
        found = store.load_array(path)
        if len(found) != n or found.dtype != np.float16:
            raise ValueError(f"{path.parent.name}/{path.name} holds {len(found)} vectors in {found.dtype}, not {n}")
    except ValueError as error:
        raise ValueError(f"{error}; copy it again, or delete it and it is encoded again") from error
    return True


def write_vectors(model: BertDot, tokens: Ragged, folder: Path) -> None:
    """Every text's vector (N, D) in fp16, in one file: the shards that are missing, then all of them joined."""
    rows = shards(len(tokens.lengths))
    write_shards(model, tokens, folder, range(len(rows)))
    join(folder, len(rows))


def join(folder: Path, n: int) -> None:
    """The n shards as one file that search can map; then they are deleted. One shard is one file already.

    For as long as it takes, vectors stand on the disk twice.
    """
    paths = [folder / f"{_name(number)}.npy" for number in range(n)]
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
    """The vectors (N, D) in fp16, memory-mapped: they lie on the disk and in the system's cache of it, not in ours."""
    paths = sorted(folder.glob("*.npy"))
    if len(paths) != 1:
        raise ValueError(f"{folder} holds {len(paths)} files of vectors, not one: delete it, and it is made anew")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nobody may write to it, and nobody does
        return torch.from_numpy(store.load_array(paths[0]))
