"""What `data/<profile>/` ships: models and teacher scores, each folder with a provenance that names every digest."""

import hashlib
from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tas_lib.config import ROOT, Profile, located
from tas_lib.data import store
from tas_lib.records import FloatArray, IntArray

Keys = NDArray[np.uint64]


def folder(profile: Profile, name: str) -> Path:
    """The shipped folder `name` of a profile, checked against its provenance.

    A missing, cut-off or changed file is a ValueError that names it.
    """
    place = profile.artefacts_folder / name
    files: dict[str, str] = store.provenance(place)["files"]
    for file, wanted in files.items():
        if not (place / file).is_file():
            raise ValueError(f"{name}/{file} is missing from {profile.artefacts}; `git checkout` brings it back")
        if store.file_digest(place / file) != wanted:
            raise ValueError(f"{profile.artefacts}/{name}/{file} is not the file that was shipped: cut off or changed")
    return place


def encoder(profile: Profile) -> str:
    """The path or hub name of the profile's encoder, its files checked where it is one that is shipped."""
    path = ROOT / profile.encoder
    if path.parent == profile.artefacts_folder:
        folder(profile, path.name)
    return profile.encoder_path


ROLES = {
    "cat": ("cat", "cross_encoder"),
    "colbert": ("colbert", "colbert"),
    "mono": ("seq2seq", "reranking.mono"),
    "duo": ("seq2seq", "reranking.duo"),
    "expansion": ("seq2seq", "expansion.model"),
}
"""What a model is for → the shipped folder that serves, and the setting that names another model."""


def model(profile: Profile, role: str) -> str:
    """The path or hub name of a model: the one that the profile names, else the shipped one, its files checked."""
    place, setting = ROLES[role]
    if named := attrgetter(setting)(profile):
        return located(named)
    if not has(profile, role):
        raise ValueError(
            f"profile {profile.name!r} has no {setting} and {profile.artefacts} brings none ({place}/): "
            f"name one, `{setting}: <hub name or folder>`"
        )
    return str(folder(profile, place))


def has(profile: Profile, role: str) -> bool:
    """Whether there is a model for it, named or shipped."""
    place, setting = ROLES[role]
    return bool(attrgetter(setting)(profile)) or (profile.artefacts_folder / place).is_dir()


def text_keys(texts: Sequence[str]) -> Keys:
    """(N,) the key of each text: the first eight bytes of its SHA-256."""
    return np.array([int.from_bytes(hashlib.sha256(t.encode()).digest()[:8], "big") for t in texts], np.uint64)


def write_scores(path: Path, query: Keys, passage: Keys, score: FloatArray, fold: IntArray) -> None:
    """Pairwise teacher's scores as parquet, one row a (query, passage) pair, sorted by their text keys."""
    order = np.lexsort((passage, query))
    columns: dict[str, NDArray[Any]] = {
        "query": query,
        "passage": passage,
        "score": score.astype(np.float32),
        "fold": fold.astype(np.int8),
    }
    table = pa.table({name: column[order] for name, column in columns.items()})
    with store.atomic_write(path, "wb") as f:
        pq.write_table(table, f, compression="zstd")


def read_scores(path: Path) -> Callable[[Keys, Keys], FloatArray]:
    """A function (query keys, passage keys) → scores, NaN for a pair that the file does not hold."""
    table = pq.read_table(path)
    keys = mixed(table["query"].to_numpy(), table["passage"].to_numpy())
    order = np.argsort(keys)
    keys, scores = keys[order], table["score"].to_numpy()[order]

    def look_up(query: Keys, passage: Keys) -> FloatArray:
        wanted = mixed(query, passage)
        if len(keys) == 0:
            return np.full(len(wanted), np.nan, np.float32)
        place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        return np.where(keys[place] == wanted, scores[place], np.float32("nan"))

    return look_up


def write_expansions(path: Path, passage: Keys, queries: Sequence[Sequence[str]]) -> None:
    """Written queries as parquet, one row a distinct passage, by its text key."""
    kept, first = np.unique(passage, return_index=True)
    table = pa.table({"passage": kept, "queries": pa.array([queries[row] for row in first], pa.list_(pa.string()))})
    with store.atomic_write(path, "wb") as f:
        pq.write_table(table, f, compression="zstd")


def read_expansions(path: Path) -> Callable[[Keys], list[list[str] | None]]:
    """A function passage keys → written queries, None for a passage that the file does not hold."""
    table = pq.read_table(path)
    known = dict(zip(table["passage"].to_pylist(), table["queries"].to_pylist(), strict=True))
    return lambda passage: [known.get(key) for key in passage.tolist()]


def mixed(query: Keys, passage: Keys) -> Keys:
    """One key (N,) of two; swapping them gives another."""
    return (query * np.uint64(0x9E3779B97F4A7C15)) ^ passage
