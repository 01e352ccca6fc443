"""Artefacts on disk: folders of plain files with a provenance, written beside and renamed into place when whole."""

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import IO, Any

import numpy as np

log = logging.getLogger(__name__)
MARK = ".made-from.json"  # in a draft: what it is a draft of
VERSIONED = ("torch", "transformers", "tokenizers", "numpy", "scipy", "scikit-learn", "faiss-gpu", "faiss-cpu", "bm25s")

_ONLY_READS = ContextVar("only reads", default=False)


@contextmanager
def reading_only() -> Iterator[None]:
    """Nothing is made in this block: of the processes that train together, one alone writes (ranks.py)."""
    before = _ONLY_READS.set(True)
    try:
        yield
    finally:
        _ONLY_READS.reset(before)


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
        raise OSError(number, f"{why}: {path.name} was not written, what stood there is kept") from error
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
    """The digest of what a folder's own provenance says, else of its files; of its name where it is one of a hub."""
    note = folder / "provenance.json"
    if note.is_file():
        return digest(note)
    if not folder.is_dir():
        return digest(str(folder))
    return digest({str(p.relative_to(folder)): file_digest(p) for p in sorted(folder.rglob("*")) if p.is_file()})


@cache
def _owners() -> Mapping[str, list[str]]:
    """Import name → the distributions that bring it; looking takes a second."""
    return packages_distributions()


@cache
def versions() -> dict[str, str]:
    """Installed versions of what decides a number, and the commit of this code."""
    found = {}
    for package in VERSIONED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        ).stdout.strip()
    except OSError:  # a machine without git
        commit = ""
    return found | {"commit": commit or "unknown"}


def installed(packages: Sequence[str]) -> dict[str, str]:
    """The version of every distribution that brings one of these import names."""
    owners = _owners()
    return {
        package: version(owners[package][0]).partition("+")[0] if package in owners else "not installed"
        for package in packages
    }


def off_pins(packages: Sequence[str], requirements: Path) -> list[str]:
    """Where the installed version of one of these import names is not the one that `requirements` pins with ==.

    Each as `numpy 2.3.0 (pinned: 2.4.6)`.
    """
    pins = {}
    for line in requirements.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"([\w.-]+)==([^\s;#]+)", line):
            pins[_normal(found[1])] = found[2]
    return [
        f"{package} {found} (pinned: {pin})"
        for package, found in installed(packages).items()
        if (pin := pins.get(_normal(_owners().get(package, [package])[0]))) and found != pin
    ]


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


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
    ) -> Path:
        """The folder `name`, read if it was made from these parameters and inputs, else made anew by `make(folder)`.

        inputs: digests of what it is made from. `make` fills a folder, which is renamed into place when whole and then
        holds `provenance.json`. Interrupted, it finds what it had written when it is called again for the same thing.
        timed: files that tell how long something took; the artefact's digest leaves them out, so that the same content
        made in another time is the same input to the next.
        Raises ValueError where another process is making the same artefact or this one only reads, OSError where the
        disk is full.
        """
        place, draft, wanted = self.root / name, self._draft(name), _wanted(parameters, inputs)
        why = self._stale(place, wanted)
        if why is None:
            return place
        if _ONLY_READS.get():
            raise ValueError(
                f"{name}: {why}; the first process should have made it: do all see one {self.root} and one environment?"
            )
        with self.lock(name):
            if self._stale(place, wanted) is None:
                return place
            log.info("%s: %s", name, why)
            if self._stale(draft, wanted) is not None:  # else killed when whole, but not yet in place
                try:
                    self._fill(draft, wanted, make, timed)
                except Exception as error:
                    if not _disk_is_full(error):
                        raise
                    raise OSError(
                        errno.ENOSPC, f"the disk is full: {name} was not made, what stood there is kept"
                    ) from error
            (draft / MARK).unlink(missing_ok=True)
            old = place.with_name(f".{place.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            if place.exists():
                os.replace(place, old)
            os.replace(draft, place)
            shutil.rmtree(old, ignore_errors=True)
        return place

    @contextmanager
    def parts(self, name: str, parameters: Mapping[str, Any], inputs: Mapping[str, str]) -> Iterator[Path]:
        """The folder where `artefact` will look for what there is already of this artefact, while a part is put there.

        For processes that each make some of its files, by `atomic_write`, before `artefact` is asked for the whole;
        they hold the name together. What a draft of something else had left is removed. If the artefact is whole, it is
        the artefact's own folder.
        Raises ValueError where another process is making the artefact, or begins a draft of something else.
        """
        place, draft, wanted = self.root / name, self._draft(name), _wanted(parameters, inputs)
        if self._stale(place, wanted) is None:
            yield place
            return
        if not _is_draft_of(wanted, draft):
            with self.lock(name):
                self._begin(draft, wanted)
        with self.lock(name, fcntl.LOCK_SH):
            if not _is_draft_of(wanted, draft):
                raise ValueError(f"another run began {name} in {self.root.name} from something else just now; stop it")
            yield draft

    def _draft(self, name: str) -> Path:
        place = self.root / name
        return place.with_name(f".{place.name}.draft")

    def _begin(self, draft: Path, wanted: Mapping[str, Any]) -> None:
        """An empty draft, unless there is one of the same thing."""
        if not _is_draft_of(wanted, draft):
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            (draft / MARK).write_text(json.dumps(wanted), encoding="utf-8")

    def _fill(self, draft: Path, wanted: Mapping[str, Any], make: Callable[[Path], None], timed: Sequence[str]) -> None:
        """Make the artefact in `draft`, going on from what a killed run for the same thing left there."""
        mark = draft / MARK
        self._begin(draft, wanted)
        (draft / "provenance.json").unlink(missing_ok=True)
        for path in draft.rglob(".*"):  # what `atomic_write` had begun when it was killed
            if re.search(r"\.\d+$", path.name) and path.is_file():
                path.unlink()
        start = time.monotonic()
        make(draft)
        files = {
            str(p.relative_to(draft)): file_digest(p) for p in sorted(draft.rglob("*")) if p.is_file() and p != mark
        }
        provenance = {
            **wanted,
            "digest": digest({name: found for name, found in files.items() if name not in timed}),
            "files": {name: (draft / name).stat().st_size for name in files},
            "versions": versions(),
            "seconds": round(time.monotonic() - start, 2),
        }
        write_json(draft / "provenance.json", provenance)

    def _stale(self, place: Path, wanted: Mapping[str, Any]) -> str | None:
        try:
            found = json.loads((place / "provenance.json").read_text(encoding="utf-8"))
            sizes: dict[str, int] = found["files"]
        except FileNotFoundError:
            return "not made yet"
        except (ValueError, OSError, KeyError, TypeError):
            return "made anew, its provenance cannot be read"
        for part in ("parameters", "inputs"):
            old, new = found.get(part, {}), wanted[part]
            changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
            if changed:
                return f"made anew, {part} changed: {', '.join(changed)}"
        broken = [n for n, size in sizes.items() if not (place / n).exists() or (place / n).stat().st_size != size]
        return f"made anew, {broken[0]} is missing or cut off" if broken else None

    @contextmanager
    def lock(self, name: str, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
        """Hold `name` for this process alone, or (LOCK_SH) for all who hold it so; the system lets go of it when the
        process ends, however it ends.

        A record lock: forked workers do not inherit it, so that one who outlives a killed run holds up nobody.
        """
        path = self.root / ".locks" / name.replace("/", "--")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+", encoding="utf-8") as f:
            try:
                fcntl.lockf(f, kind | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise ValueError(
                    f"another run is making {name} in {self.root.name} just now; wait for it, or stop it"
                ) from None
            yield


def _wanted(parameters: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, Any]:
    """What a provenance says an artefact was made from."""
    return {"parameters": json.loads(json.dumps(parameters, default=str)), "inputs": dict(inputs)}


def _is_draft_of(wanted: Mapping[str, Any], draft: Path) -> bool:
    mark = draft / MARK
    return mark.exists() and mark.read_text(encoding="utf-8") == json.dumps(wanted)


def _disk_is_full(error: BaseException | None) -> bool:
    """Whether this, or what it came from, is for want of space; not every library keeps the system's number."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        if "No space left" in str(error) or re.search(r"\d+ requested and \d+ written", str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


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
