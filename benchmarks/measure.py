"""Seconds and memory: compared works take turns, and what needs clean memory runs in a new process."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

ROOT = Path(__file__).resolve().parents[1]
CODE = """
import importlib, json, sys
from pathlib import Path
module, function, arguments, result = sys.argv[1:]
value = getattr(importlib.import_module(module), function)(**json.loads(arguments))
Path(result).write_text(json.dumps(value))
"""


def in_turn(works: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """The least seconds of each work; each round runs all of them, so that other programs slow down all alike."""
    rounds = [[seconds(work) for work in works] for _ in range(repeats)]
    return [min(times) for times in zip(*rounds, strict=True)]


def seconds(work: Callable[[], object]) -> float:
    """How long a call takes, once."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


Result = TypeVar("Result")


class Used(NamedTuple):
    """What a work used: seconds, and gigabytes at most."""

    seconds: float
    peak_gb: float


def used(work: Callable[[], Result]) -> tuple[Used, Result]:
    """What a work used, and its result; the peak is that of the whole process, so call this in a new one."""
    start = time.perf_counter()
    result = work()
    return Used(time.perf_counter() - start, peak_gb()), result


def peak_gb() -> float:
    """The most gigabytes that this process has had."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux, where getrusage counts the parent's memory too
        return next(int(line.split()[1]) for line in status.open() if line.startswith("VmHWM")) * 1_024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9  # bytes on macOS


def in_new_process(module: str, function: str, **arguments: object) -> Any:
    """Call `function` of `module` in a new process; arguments and result go through JSON.

    Raises RuntimeError with the last line of its output if it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-c", CODE, module, function, json.dumps(arguments), str(result)]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        ended = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.PIPE, text=True)
        if ended.returncode or not result.is_file():
            lines = ended.stderr.strip().splitlines() or [f"it ended with status {ended.returncode}"]
            raise RuntimeError(f"{module}.{function}: {lines[-1]}")
        return json.loads(result.read_text(encoding="utf-8"))
