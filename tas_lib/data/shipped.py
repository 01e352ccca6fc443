"""What `data/<profile>/` ships: models and teacher scores, each folder with a provenance that names every digest."""

import hashlib
from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path

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
    path = profile.artefacts_folder / name
    files: dict[str, str] = store.provenance(path)["files"]
    for file, digest in files.items():
        if not (path / file).is_file():
            raise ValueError(f"{name}/{file} is missing from {profile.artefacts}; `git checkout` brings it back")
        if store.file_digest(path / file) != digest:
            raise ValueError(f"{profile.artefacts}/{name}/{file} is not the file that was shipped: cut off or changed")
    return path


def encoder(profile: Profile) -> str:
    """The path or hub name of the profile's encoder; the files of a shipped one are checked."""
    path = ROOT / profile.encoder
    if path.parent == profile.artefacts_folder:
        folder(profile, path.name)
    return profile.encoder_path


ROLES = {
    "cat": ("cat", "cross_encoder"),
    "colbert": ("colbert", "colbert"),
    "mono": ("seq2seq", "reranking.mono"),
    "duo": ("seq2seq", "reranking.duo"),
    "expansion": ("expansions", "expansion.model"),
}
"""What a model is for → the folder shipped for it (for `expansion`, of words), and the setting that names another."""


def model(profile: Profile, role: str) -> str:
    """The path or hub name of a model: the one that the profile names, else the shipped one, its files checked."""
    shipped, setting = ROLES[role]
    if named := attrgetter(setting)(profile):
        return located(named)
    if not has(profile, role):
        raise ValueError(
            f"profile {profile.name!r} has no {setting} and {profile.artefacts} brings none ({shipped}/): "
            f"name one, `{setting}: <hub name or folder>`"
        )
    return str(folder(profile, shipped))


def has(profile: Profile, role: str) -> bool:
    """Whether a model for it is named or shipped; for `expansion`, shipped words count."""
    shipped, setting = ROLES[role]
    return bool(attrgetter(setting)(profile)) or (profile.artefacts_folder / shipped).is_dir()


def text_keys(texts: Sequence[str]) -> Keys:
    """(N,) the key of each text: the first eight bytes of its SHA-256."""
    return np.array([int.from_bytes(hashlib.sha256(t.encode()).digest()[:8], "big") for t in texts], np.uint64)


def read_scores(path: Path) -> Callable[[Keys, Keys], FloatArray]:
    """A function (query keys, passage keys) → scores, NaN for a pair that is not in the file."""
    table = pq.read_table(path)  # a row per (query, passage), with the text keys of both
    keys = mixed(table["query"].to_numpy(), table["passage"].to_numpy())
    order = np.argsort(keys)
    keys, scores = keys[order], table["score"].to_numpy()[order]

    def look_up(query: Keys, passage: Keys) -> FloatArray:
        pairs = mixed(query, passage)
        if len(keys) == 0:
            return np.full(len(pairs), np.nan, np.float32)
        index = np.searchsorted(keys, pairs).clip(max=len(keys) - 1)
        return np.where(keys[index] == pairs, scores[index], np.float32("nan"))

    return look_up


def scored_pairs(path: Path, queries: Keys, passages: Keys) -> tuple[IntArray, IntArray]:
    """The pairs of a file of scores whose texts are among these: indices (N,) of queries and passages, by query."""
    table = pq.read_table(path, columns=["query", "passage"])
    query, passage = (
        _index(keys, table[name].to_numpy()) for name, keys in (("query", queries), ("passage", passages))
    )
    here = np.flatnonzero((query >= 0) & (passage >= 0))
    order = here[np.argsort(query[here], kind="stable")]
    return query[order], passage[order]


def _index(keys: Keys, some: Keys) -> IntArray:
    """The index of each of `some` keys among `keys`, -1 if it is not one of them."""
    order = np.argsort(keys, kind="stable")
    index = order[np.searchsorted(keys, some, sorter=order).clip(max=len(keys) - 1)]
    return np.where(keys[index] == some, index, -1)


def write_expansions(path: Path, passage: Keys, queries: Sequence[Sequence[str]]) -> None:
    """Write what each passage is expanded with as parquet, one row per distinct passage, by its text key."""
    kept, first = np.unique(passage, return_index=True)
    words = pa.array([queries[index] for index in first], pa.list_(pa.string()))
    with store.atomic_write(path, "wb") as f:
        pq.write_table(pa.table({"passage": kept, "queries": words}), f, compression="zstd")


def read_expansions(path: Path) -> Callable[[Keys], list[list[str] | None]]:
    """A function passage keys → what each is expanded with, None for a passage that is not in the file."""
    known = dict(zip(*pq.read_table(path).to_pydict().values(), strict=True))
    return lambda passage: [known.get(key) for key in passage.tolist()]


def mixed(query: Keys, passage: Keys) -> Keys:
    """One key (N,) of two; swapping them gives another."""
    return (query * np.uint64(0x9E3779B97F4A7C15)) ^ passage
