"""Run one job, a notebook, with papermill. The Snakefile calls it: python -m tools.execute PROFILE JOB.

In the profile's folder: `notebooks/<job>.partial.ipynb` is the copy while it runs, `logs/<job>.log` what tas_lib logs
(its last line is shown every few seconds), `logs/<job>.stderr` warnings. If the job fails, the partial copy stays and
`failed.txt` says in one line what happened in which cell.
"""

import logging
import os
import re
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import nbformat
import papermill
import psutil
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from papermill.exceptions import PapermillExecutionError
from traitlets import Unicode

from tas_lib import config
from tas_lib.config import Profile
from tools import graph, notebooks, progress

SHOW_EVERY_S = 8


def main(profile_name: str, job_name: str) -> None:
    """Run the job; raises SystemExit(1) if it fails."""
    profile = config.load(profile_name)
    job = graph.jobs(profile)[job_name]
    log = profile.folder / "logs" / f"{job.name}.log"
    partial = profile.folder / "notebooks" / f"{job.name}.partial.ipynb"
    for folder in (log.parent, partial.parent):
        folder.mkdir(parents=True, exist_ok=True)
    partial.unlink(missing_ok=True)
    log.write_text("")
    os.dup2(os.open(log.with_suffix(".stderr"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)  # the kernel's as well
    name = f"{job.name}: " if job.cores else ""  # else no other job runs beside it
    threading.Thread(target=_show_last_line, args=[log, name], daemon=True).start()
    if runner := os.environ.get("TAS_RUNNER"):
        threading.Thread(target=_end_with, args=[int(runner)], daemon=True).start()
    os.environ |= {
        "TAS_LOG": str(log),
        "PYTHONSTARTUP": str(Path(__file__).with_name("kernel_startup.py")),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(graph.ROOT), os.environ.get("PYTHONPATH")])),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "TQDM_DISABLE": "1",
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait leave their core to others
    }
    start = time.time()
    try:
        with ThreadPoolExecutor(1) as pool:  # not here: in the main thread, nbclient would take over SIGTERM
            pool.submit(_run, job, partial).result()
    except PapermillExecutionError as error:
        print(re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback)), flush=True)
        _fail(profile, f"{job.name} failed{_last_cell(partial)}: {error.ename}: {error.evalue}", partial)
    except Exception as error:  # a kernel that died, a full disk: report whatever it is in one line
        _fail(profile, f"{job.name} failed{_last_cell(partial)}: {error or repr(error)}", partial)
    executed = nbformat.read(partial, as_version=4)
    for file in job.makes:
        path = profile.figures / file
        if path.is_file() and path.stat().st_mtime >= start - 2:  # some file systems keep whole seconds only
            continue
        if not (reason := notebooks.not_run(executed)):
            _fail(profile, f"{job.name} ran to its last cell but did not write {file}", partial)
        _leave_out(path, reason)
    print(notebooks.stderr(executed), file=sys.stderr, end="", flush=True)
    notebooks.write(notebooks.clean(executed), partial.with_name(f"{job.name}.ipynb"))
    partial.unlink()


class ThisPython(AsyncKernelManager):
    """A kernel of the Python that runs this, whatever else Jupyter finds under the name python3.

    Over sockets in the file system: two kernels that start at the same time can be given the same port.
    """

    transport = Unicode("ipc")
    ip = Unicode(f"{tempfile.gettempdir()}/tas-kernel-{os.getpid()}")

    @property
    def kernel_spec(self) -> KernelSpec:
        """ipykernel's own."""
        return KernelSpec(**get_kernel_dict())


def _run(job: graph.Job, copy: Path) -> None:
    notebook = notebooks.read(job.source)
    if unknown := set(job.parameters) - set(notebooks.defaults(notebook)):
        raise ValueError(f"{job.source.name} has no parameter {min(unknown)}")
    logging.getLogger("papermill").setLevel(logging.ERROR)
    papermill.execute_notebook(
        notebook,
        copy,
        job.parameters,
        kernel_name="python3",
        progress_bar=False,
        cwd=notebooks.FOLDER,
        kernel_manager_class=ThisPython,
    )


def _leave_out(path: Path, reason: str) -> None:
    """Write "not run: ..." in place of a figure or table that a notebook could not make."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".svg", ".png"):
        from matplotlib.figure import Figure  # here: it is rarely needed, and takes longer than all else to import

        from tas_lib.report import style

        figure = Figure(figsize=(6.5, 0.6))
        figure.text(0.02, 0.4, reason)
        style.save(figure, path.parent, path.stem)
    else:
        path.write_text(f"{reason}\n", encoding="utf-8")
    print(f"      {path.name}: {reason}", flush=True)


def _last_cell(partial: Path) -> str:
    """The cell that was started last."""
    if not partial.is_file():
        return ""
    cells = [cell for cell in nbformat.read(partial, as_version=4).cells if cell.cell_type == "code"]
    started = [(number, cell.source) for number, cell in enumerate(cells, 1) if "execution" in cell.metadata]
    return " in cell In [{}] ({!r})".format(started[-1][0], started[-1][1].strip().split("\n")[0]) if started else ""


def _fail(profile: Profile, message: str, partial: Path) -> NoReturn:
    line = " ".join(message.split())
    if partial.is_file():
        line += f"; partial copy: {str(partial).removeprefix(f'{graph.ROOT}/')}"
    try:
        (profile.folder / "failed.txt").write_text(f"{line}\n", encoding="utf-8")
    except OSError:  # the disk is full
        print(line, flush=True)
    raise SystemExit(1)


def _show_last_line(log: Path, name: str = "") -> None:
    """Print the library's last log line when it is new, else how long the job has run; `name` before it."""
    shown, start = "", time.monotonic()
    while True:
        time.sleep(SHOW_EVERY_S)
        last = log.read_text(encoding="utf-8").rpartition("\n")[0].rpartition("\n")[2]
        news = last if last != shown else f"{progress.duration(time.monotonic() - start)} so far"
        print(f"      {name}{news}", flush=True)
        shown = last


def _end_with(runner: int) -> NoReturn:
    """End this process and its kernel once the runner is gone (kill -9)."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(runner)
        while process.status() != psutil.STATUS_ZOMBIE:  # dead, but nobody has asked for its exit status yet
            time.sleep(1)
    _end(1)


def _end(status: int) -> NoReturn:
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(status)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: _end(128 + number))
    main(*sys.argv[1:])
