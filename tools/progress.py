"""What Snakemake does, said in few lines: what runs and why, what is done, how long it may still take."""

import logging
import re
import time
from pathlib import Path
from types import SimpleNamespace

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from tools import graph

JOBS: dict[str, graph.Job] = {}  # the profile's; the runner fills it in before Snakemake starts
FAILED: list[str] = []  # names of jobs that ended badly
KNOWN = ("tools.execute", "At least one job", "job execution failed")  # said better by failed.txt


class LogHandler(LogHandlerBase):
    """Snakemake's logger plugin interface."""

    writes_to_stream, writes_to_file = True, False
    has_filter, has_formatter, needs_rulegraph = True, True, False

    def __post_init__(self) -> None:
        """Nothing has run yet."""
        self.names: dict[int, str] = {}  # by Snakemake's number of a job
        self.started: dict[str, float] = {}
        self.waiting: list[str] = []
        self.total = self.done = 0
        self.spent = self.expected = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Print what a reader wants to know of an event; `told` is what Snakemake says of it."""
        told = SimpleNamespace(**record.__dict__)
        event = getattr(told, "event", None)
        if event == LogEvent.RUN_INFO and not self.total:
            self.waiting = [name for name in told.stats if name in JOBS]
            self.total = len(self.waiting)
        elif event == LogEvent.JOB_INFO and told.rule_name in JOBS:
            self._begin(told.jobid, told.rule_name, told.reason)
        elif event == LogEvent.JOB_FINISHED and told.job_id in self.names:
            self._end(self.names[told.job_id])
        elif event == LogEvent.JOB_ERROR:
            FAILED.append(told.rule_name)
        elif event is None and record.getMessage().startswith("Nothing to be done"):
            print("Nothing to do: all is there and up to date.", flush=True)
        elif record.levelno >= logging.ERROR and not any(known in record.getMessage() for known in KNOWN):
            print(short(record.getMessage()), flush=True)

    def _begin(self, number: int, name: str, reason: str) -> None:
        if name in self.started:
            return
        self.names[number], self.started[name] = name, time.monotonic()
        print(f"[{len(self.started)}/{self.total}] {name}: {why(reason)}", flush=True)

    def _end(self, name: str) -> None:
        seconds = time.monotonic() - self.started[name]
        self.waiting.remove(name)
        self.spent += seconds
        self.expected += JOBS[name].seconds
        left = sum(JOBS[other].seconds for other in self.waiting) * self.spent / self.expected
        print(f"      done in {duration(seconds)}" + (f"; about {duration(left)} left" if left else ""), flush=True)


def duration(seconds: float) -> str:
    """`seconds` in words: 40 s, 3 min, 2 h 5 min."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def short(text: str) -> str:
    """Paths as seen from this folder."""
    return text.replace(f"{graph.ROOT}/", "")


def why(reason: str) -> str:
    """Snakemake's reason, for a reader.

    >>> why("Missing output files: notebooks/01_collection.ipynb; Updated input files: tas_lib/bm25.py")
    'not made yet'
    >>> why("Updated input files: notebooks/src/02_models.py, tas_lib/models.py")
    'changed: notebooks/src/02_models.py, tas_lib/models.py'
    """
    kind, _, files = short(reason).partition("; ")[0].partition(": ")
    names = ", ".join(Path(file).stem for file in re.split(r", ", files))
    return {
        "Missing output files": "not made yet" if "notebooks/" in files else f"missing: {files}",
        "Forced execution": "it was stopped half way",
        "Incomplete output files": "it was stopped half way",
        "Updated input files": f"changed: {files}",
        "Input files updated by another job": f"follows {names}",
        "Set of input files has changed since last execution": "it depends on other files than before",
        "Params have changed since last execution": "its parameters changed",
    }.get(kind, reason)
