"""Artefacts: folders of plain files with a provenance, written as a draft that is renamed when it is complete."""

import errno
import fcntl
import hashlib
import json
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from tas_lib.data.versions import versions

log = logging.getLogger(__name__)
MARK = ".made-from.json"  # in a draft: the parameters and inputs that it is made from
BORROWED = "borrowed.sha256"  # of sha256sum: files of other folders that a shipped model reads; one that changes counts


# --- files -------------------------------------------------------------------------------------------------------


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
        number = error.errno or (errno.ENOSPC if _disk_is_full(error) else None)  # numpy gives none
        why = os.strerror(number) if number else str(error)
        raise OSError(number, f"{why}: {path.name} was not written, the old one is kept") from error
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON."""
    with atomic_write(path) as f:
        json.dump(value, f, indent=1, ensure_ascii=False)
        f.write("\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file; ValueError names one that is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.parent.name}/{path.name} is missing or cut off: {error}") from error


def save_arrays(folder: Path, **arrays: np.ndarray) -> None:
    """Write each array as `name.npy`."""
    for name, array in arrays.items():
        with atomic_write(folder / f"{name}.npy", "wb") as f:
            np.save(f, array, allow_pickle=False)


def load_array(path: Path) -> np.ndarray:
    """A memory-mapped array; ValueError names a file that is cut off or not an array."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path.parent.name}/{path.name} is missing, cut off or no array: {error}") from error


# --- digests ----------------------------------------------------------------------------------------------------


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def digest(*parts: object) -> str:
    """Sixteen hexadecimal digits of parameters, arrays or files: equal parts, equal digest."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            sha.update(np.ascontiguousarray(part).data)
        elif isinstance(part, Path):
            sha.update(file_digest(part).encode())
        else:
            sha.update(json.dumps(part, sort_keys=True, default=str).encode())
    return sha.hexdigest()[:16]


def folder_digest(folder: Path, largest: float = math.inf) -> str:
    """The digest of a folder's provenance, else of its files (of larger ones, the size); of a hub name itself."""
    note, borrowed = folder / "provenance.json", folder / BORROWED
    if note.is_file():
        lines = [line.split() for line in borrowed.read_text().splitlines()] if borrowed.is_file() else []
        return digest(note, *(new for old, file in lines if (new := file_digest(folder / file)) != old))
    if not folder.is_dir():
        return digest(str(folder))
    sizes = {path: path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    return digest({str(p.relative_to(folder)): file_digest(p) if n <= largest else n for p, n in sizes.items()})


# --- artefacts ---------------------------------------------------------------------------------------------------


class Store:
    """The artefacts of one profile, under `runs/<profile>`; each is a folder named by what it is."""

    def __init__(self, root: Path) -> None:
        """root: the profile's folder."""
        self.root = root

    def artefact(
        self,
        name: str,
        parameters: Mapping[str, Any],
        inputs: Mapping[str, str],
        make: Callable[[Path], None],
        timed: Sequence[str] = (),
        light: bool = False,
    ) -> Path:
        """The folder `name`: reused if it was made from these parameters and inputs, else made by `make(folder)`.

        inputs: digests of what it is made from. `make` fills a draft, which is renamed when it is complete and gets
        `provenance.json`. After an interruption, `make` finds the files that it had written for the same artefact.
        timed: files that hold measured times. The artefact's digest leaves them out, so that equal content
        is an equal input to the next artefact, however long it took.
        light: accept one that lacks what a results pack left out (tools/pack.py); else it is rebuilt.
        While another process makes the same artefact, this one waits for it. Raises OSError if the disk is full.
        """
        target = self.root / name
        draft = target.with_name(f".{target.name}.draft")
        origin = {"parameters": json.loads(json.dumps(parameters, default=str)), "inputs": dict(inputs)}
        why = _stale(target, origin, light)
        if why is None:
            return target
        with self.lock(name):
            if _stale(target, origin, light) is None:
                return target
            log.info("%s: %s", name, why)
            if _stale(draft, origin) is not None:  # else killed between completing and renaming it
                try:
                    _fill(draft, origin, make, timed)
                except Exception as error:
                    if not _disk_is_full(error):
                        raise
                    why = f"the disk is full: {name} was not made, the old one is kept"
                    raise OSError(errno.ENOSPC, why) from error
            (draft / MARK).unlink(missing_ok=True)
            old = target.with_name(f".{target.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            if target.exists():
                os.replace(target, old)
            os.replace(draft, target)
            shutil.rmtree(old, ignore_errors=True)
        return target

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold `name` as soon as it is free; a process that ends frees what it held.

        A record lock: forked workers do not inherit it, so a worker that outlives a killed run blocks nobody.
        """
        path = self.root / ".locks" / name.replace("/", "--")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+", encoding="utf-8") as f:
            try:
                fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                log.info("%s: another process is making it; waiting for it", name)
                fcntl.lockf(f, fcntl.LOCK_EX)
            yield


def _stale(folder: Path, origin: Mapping[str, Any], light: bool = False) -> str | None:
    """Why a folder is not a complete artefact of this origin; None if it is. light: ignore what was left out."""
    try:
        note = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        sizes: dict[str, int] = note["files"]
    except FileNotFoundError:
        return "not made yet"
    except (ValueError, OSError, KeyError, TypeError):
        return "remade, its provenance cannot be read"
    for part in ("parameters", "inputs"):
        old, new = note.get(part, {}), origin[part]
        changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
        if changed:
            return f"remade, {part} changed: {', '.join(changed)}"
    needed = {n: size for n, size in sizes.items() if not (light and n in note.get("left_out", ()))}
    broken = [n for n, size in needed.items() if not (folder / n).exists() or (folder / n).stat().st_size != size]
    return f"remade, {broken[0]} is missing or cut off" if broken else None


def _fill(draft: Path, origin: Mapping[str, Any], make: Callable[[Path], None], timed: Sequence[str]) -> None:
    """Make the artefact in `draft`, from what an interrupted run left there, and write its provenance."""
    mark = draft / MARK
    if not mark.exists() or mark.read_text(encoding="utf-8") != json.dumps(origin):
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        mark.write_text(json.dumps(origin), encoding="utf-8")
    (draft / "provenance.json").unlink(missing_ok=True)
    for path in draft.rglob(".*"):  # drafts that `atomic_write` or safetensors left when they were killed
        if re.search(r"\.\d+$|^\.tmp", path.name) and path.is_file():
            path.unlink()
    start = time.monotonic()
    make(draft)
    paths = [path for path in sorted(draft.rglob("*")) if path.is_file() and path != mark]
    files = {str(path.relative_to(draft)): file_digest(path) for path in paths}
    provenance = {
        **origin,
        "digest": digest({name: of_file for name, of_file in files.items() if name not in timed}),
        "files": {name: (draft / name).stat().st_size for name in files},
        "sha256": files,
        "versions": versions(),
        "seconds": round(time.monotonic() - start, 2),
    }
    write_json(draft / "provenance.json", provenance)


def _disk_is_full(error: BaseException | None) -> bool:
    """Whether an error, or its cause, means that space ran out; not every library keeps the system's number."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        if "No space left" in str(error) or re.search(r"\d+ requested and \d+ written", str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def provenance(folder: Path) -> dict[str, Any]:
    """What an artefact was made from, with which versions, in how many seconds."""
    return dict(read_json(folder / "provenance.json"))


def damaged(folder: Path) -> list[str]:
    """The files of an artefact that are not as they were written, each with what is wrong; reads every byte."""
    try:
        note = provenance(folder)
        digests: dict[str, str] = {n: d for n, d in note.get("sha256", {}).items() if n not in note.get("left_out", ())}
    except (ValueError, AttributeError):
        return ["provenance.json cannot be read"]
    missing = [f"{name} is missing" for name in digests if not (folder / name).is_file()]
    there = {name: digest for name, digest in digests.items() if (folder / name).is_file()}
    return missing + [f"{name} has changed" for name, digest in there.items() if file_digest(folder / name) != digest]


def digest_of(folder: Path) -> str:
    """The digest of an artefact's content, for the inputs of the next."""
    return str(provenance(folder)["digest"])
