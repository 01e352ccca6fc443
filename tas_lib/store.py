"""Artefacts on disk: folders of plain files with a provenance, written beside and renamed into place when whole."""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import IO, Any

import numpy as np

log = logging.getLogger(__name__)
VERSIONED = ("torch", "transformers", "tokenizers", "numpy", "scipy", "scikit-learn", "faiss-gpu", "faiss-cpu", "bm25s")


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a hidden sibling and rename it onto `path` on success; on error leave `path` alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(draft, mode, encoding=None if "b" in mode else "utf-8") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(draft, path)
    except OSError as error:
        raise OSError(
            error.errno, f"{error.strerror}: {path.name} was not written, what stood there is kept"
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """`value` as indented JSON, whole or not at all."""
    with atomic_write(path) as f:
        json.dump(value, f, indent=1, ensure_ascii=False)
        f.write("\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file; ValueError names one that is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.parent.name}/{path.name} is missing or cut off: {error}") from error


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def digest(*parts: object) -> str:
    """Sixteen digits over parameters or arrays: equal parts, equal digest."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            sha.update(np.ascontiguousarray(part).data)
        elif isinstance(part, Path):
            sha.update(file_digest(part).encode())
        else:
            sha.update(json.dumps(part, sort_keys=True, default=str).encode())
    return sha.hexdigest()[:16]


def folder_digest(folder: Path) -> str:
    """The digest of what a folder's own provenance says; of its name where it has none (a model from a hub)."""
    note = folder / "provenance.json"
    return digest(note) if note.is_file() else digest(str(folder))


@cache
def versions() -> dict[str, str]:
    """Installed versions of what decides a number, and the commit of this code."""
    found = {}
    for package in VERSIONED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return found | {"commit": commit.stdout.strip() or "unknown"}


def installed(packages: Sequence[str]) -> dict[str, str]:
    """The version of every distribution that brings one of these import names."""
    owners = packages_distributions()
    return {
        package: version(owners[package][0]).partition("+")[0] if package in owners else "not installed"
        for package in packages
    }


class Store:
    """The artefacts of one profile, under `runs/<profile>`; each is a folder named by what it is."""

    def __init__(self, root: Path) -> None:
        """root: the profile's folder."""
        self.root = root

    def artefact(
        self, name: str, parameters: Mapping[str, Any], inputs: Mapping[str, str], make: Callable[[Path], None]
    ) -> Path:
        """The folder `name`, read if it was made from these parameters and inputs, else made anew by `make(folder)`.

        inputs: digests of what it is made from. `make` fills a folder, which is renamed into place when whole and then
        holds `provenance.json`. Interrupted, it finds what it had written when it is called again for the same thing.
        Raises ValueError where another process is making the same artefact.
        """
        place = self.root / name
        wanted = {"parameters": json.loads(json.dumps(parameters, default=str)), "inputs": dict(inputs)}
        why = self._stale(place, wanted)
        if why is None:
            return place
        with self.lock(name):
            if self._stale(place, wanted) is None:
                return place
            log.info("%s: %s", name, why)
            draft = place.with_name(f".{place.name}.draft")
            mark = draft / ".made-from.json"
            if not (mark.exists() and mark.read_text() == json.dumps(wanted)):
                shutil.rmtree(draft, ignore_errors=True)
                draft.mkdir(parents=True)
                mark.write_text(json.dumps(wanted))
            start = time.monotonic()
            make(draft)
            mark.unlink()
            files = {str(p.relative_to(draft)): file_digest(p) for p in sorted(draft.rglob("*")) if p.is_file()}
            provenance = wanted | {
                "digest": digest(files),
                "files": {name: (draft / name).stat().st_size for name in files},
                "versions": versions(),
                "seconds": round(time.monotonic() - start, 2),
            }
            write_json(draft / "provenance.json", provenance)
            shutil.rmtree(place, ignore_errors=True)
            os.replace(draft, place)
        return place

    def _stale(self, place: Path, wanted: Mapping[str, Any]) -> str | None:
        try:
            found = json.loads((place / "provenance.json").read_text())
        except FileNotFoundError:
            return "not made yet"
        except (ValueError, OSError):
            return "its provenance cannot be read"
        for part in ("parameters", "inputs"):
            old, new = found.get(part, {}), wanted[part]
            changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
            if changed:
                return f"made anew, {part} changed: {', '.join(changed)}"
        broken = [
            n for n, size in found["files"].items() if not (place / n).exists() or (place / n).stat().st_size != size
        ]
        return f"made anew, {broken[0]} is missing or cut off" if broken else None

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold `name` for this process alone; the system lets go of it when the process ends, however it ends."""
        path = self.root / ".locks" / name.replace("/", "--")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", encoding="utf-8") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"another run is making {name} in {self.root.name} just now; wait for it, or stop it"
                ) from None
            yield


def provenance(folder: Path) -> dict[str, Any]:
    """What an artefact was made from, by what, in how many seconds."""
    note: dict[str, Any] = read_json(folder / "provenance.json")
    return note


def digest_of(folder: Path) -> str:
    """The digest of an artefact's content, to be named among the inputs of the next."""
    return str(provenance(folder)["digest"])


def save_arrays(folder: Path, **arrays: np.ndarray) -> None:
    """One `name.npy` an array."""
    for name, array in arrays.items():
        with atomic_write(folder / f"{name}.npy", "wb") as f:
            np.save(f, array, allow_pickle=False)


def load_array(path: Path) -> np.ndarray:
    """A memory-mapped array; a file that is cut off or no array is a ValueError that names it."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path.parent.name}/{path.name} is missing, cut off or no array: {error}") from error
