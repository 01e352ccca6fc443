"""One job: a notebook run by papermill. Called by the Snakefile: python -m tools.execute PROFILE JOB.

While it runs, the copy is `notebooks/<job>.partial.ipynb` of the profile's folder, and what tas_lib logs is
`logs/<job>.log`, whose last line is shown from time to time; warnings lie in `logs/<job>.stderr`. Where it fails, the
partial copy stays and `failed.txt` says in one line what happened in which cell.
"""

import fcntl
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import nbformat
import papermill
import psutil
from papermill.exceptions import PapermillExecutionError

from tas_lib import config as profiles
from tools import graph, notebooks

SHOW_EVERY_S = 20


def main(profile_name: str, job_name: str) -> None:
    """Run the job; raises SystemExit(1) where the notebook fails."""
    profile = profiles.load(profile_name)
    job = graph.jobs(profile)[job_name]
    log = profile.folder / "logs" / f"{job.name}.log"
    errors = log.with_suffix(".stderr")
    partial = profile.folder / "notebooks" / f"{job.name}.partial.ipynb"
    partial.parent.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(exist_ok=True)
    partial.unlink(missing_ok=True)
    for path in (log, errors):
        path.write_text("")
    with open(errors, "a") as f:
        os.dup2(f.fileno(), 2)  # of this process and of the kernel
    _in_background(_show_last_line, log)
    if "TAS_RUNNER" in os.environ:
        _in_background(_end_with_runner, profile.folder / ".lock", os.environ["TAS_RUNNER"])
    os.environ |= {
        "TAS_LOG": str(log),
        "PYTHONSTARTUP": str(Path(__file__).with_name("kernel_startup.py")),
        "PYTHONPATH": os.pathsep.join([str(graph.ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "TQDM_DISABLE": "1",
    }
    start = time.time()
    try:
        _run(job, partial)
    except PapermillExecutionError as error:
        print(re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback)), flush=True)
        why = " ".join(f"{error.ename}: {error.evalue}".split())
        _fail(profile, f"{job.name} failed in cell {_named(error.exec_count, error.source)}: {why}", partial)
    except Exception as error:  # a kernel that died, a full disk: whatever it is, say it in one line
        _fail(profile, f"{job.name} failed{_where(partial)}: {' '.join(str(error).split()) or repr(error)}", partial)
    late = [made for made in job.makes if not _newer(profile.figures / made, start)]
    if late:
        _fail(profile, f"{job.name} ran to its last cell, but did not write {', '.join(late)}", partial)
    executed = nbformat.read(partial, as_version=4)
    with open(errors, "a", encoding="utf-8") as f:
        f.write(notebooks.stderr(executed))
    notebooks.write(notebooks.clean(executed), partial.with_name(f"{job.name}.ipynb"))
    partial.unlink()


def _run(job: graph.Job, copy: Path) -> None:
    notebook = notebooks.read(job.source)
    unknown = set(job.parameters) - set(notebooks.defaults(notebook))
    if unknown:
        raise ValueError(f"{job.source.name} has no parameter {', '.join(sorted(unknown))}")
    logging.getLogger("papermill").setLevel(logging.ERROR)
    papermill.execute_notebook(
        notebook, copy, job.parameters, kernel_name="python3", progress_bar=False, cwd=notebooks.FOLDER
    )


def _newer(path: Path, start: float) -> bool:
    return path.is_file() and path.stat().st_mtime >= start - 2  # some file systems keep seconds only


def _where(partial: Path) -> str:
    """The cell that had begun last, when no traceback came back."""
    if not partial.is_file():
        return ""
    cells = [cell for cell in nbformat.read(partial, as_version=4).cells if cell.cell_type == "code"]
    begun = [number for number, cell in enumerate(cells, 1) if "execution" in cell.metadata]
    return f" in cell {_named(begun[-1], cells[begun[-1] - 1].source)}" if begun else ""


def _named(number: int, source: str) -> str:
    return f"In [{number}] ({next(iter(source.strip().splitlines()), '')!r})"


def _fail(profile: profiles.Profile, what: str, partial: Path) -> NoReturn:
    copy = f"; as far as it went: {_short(partial)}" if partial.is_file() else ""
    try:
        (profile.folder / "failed.txt").write_text(f"{what}{copy}\n", encoding="utf-8")
    except OSError:  # the disk is full
        print(f"{what}{copy}", flush=True)
    raise SystemExit(1)


def _short(path: Path) -> str:
    return str(path.relative_to(graph.ROOT) if path.is_relative_to(graph.ROOT) else path)


def _in_background(watch: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=watch, args=arguments, daemon=True).start()


def _show_last_line(log: Path) -> None:
    """Print what the library last logged, when it is new."""
    shown = ""
    while True:
        time.sleep(SHOW_EVERY_S)
        last = next(iter(reversed(log.read_text(encoding="utf-8").splitlines())), "")
        if last != shown:
            print(f"      {last}", flush=True)
            shown = last


def _end_with_runner(lock: Path, runner: str) -> None:
    """End, kernel and all, when the runner is gone (kill -9): it holds the lock, with its number in it."""
    while True:
        time.sleep(1)
        with open(lock, encoding="utf-8") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                if f.read() == runner:
                    continue
        for child in psutil.Process().children(recursive=True):
            child.kill()
        os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
