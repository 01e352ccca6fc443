"""What Snakemake does, in few lines: which job runs and why, how long it took, how much time is left."""

import logging
import re
import time
from pathlib import Path

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from tools import graph

JOBS: dict[str, graph.Job] = {}  # the profile's; the runner fills it before Snakemake starts
FAILED: list[str] = []  # names of jobs that failed
QUIET = ("tools.execute", "At least one job", "job execution failed")  # failed.txt says it better


class LogHandler(LogHandlerBase):
    """Snakemake's logger plugin interface."""

    writes_to_stream, writes_to_file = True, False
    has_filter, has_formatter, needs_rulegraph = True, True, False

    def __post_init__(self) -> None:
        """Nothing has run yet."""
        self.names: dict[int, str] = {}  # Snakemake's job number → name
        self.started: dict[str, float] = {}
        self.waiting: list[str] = []
        self.total = 0
        self.spent = self.expected = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Print what a reader needs to know of an event."""
        event, fields = getattr(record, "event", None), record.__dict__
        if event == LogEvent.RUN_INFO and not self.total:
            self.waiting = [name for name in fields["stats"] if name in JOBS]
            self.total = len(self.waiting)
        elif event == LogEvent.JOB_INFO and fields["rule_name"] in JOBS:
            self._start(fields["jobid"], fields["rule_name"], fields["reason"])
        elif event == LogEvent.JOB_FINISHED and fields["job_id"] in self.names:
            self._end(self.names[fields["job_id"]])
        elif event == LogEvent.JOB_ERROR:
            FAILED.append(fields["rule_name"])
        elif event is None and record.getMessage().startswith("Nothing to be done"):
            print("Nothing to do: everything is up to date.", flush=True)
        elif record.levelno >= logging.ERROR and not any(text in record.getMessage() for text in QUIET):
            print(short(record.getMessage()), flush=True)

    def _start(self, number: int, name: str, reason: str) -> None:
        if name not in self.started:
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
    """A time for people.

    >>> duration(40), duration(170), duration(7_500), duration(500_000), duration(1e9)
    ('40 s', '3 min', '2 h 5 min', '5.8 days', '31.7 years')
    """
    minutes, days = round(seconds / 60), seconds / 86_400
    if days >= 2:
        return f"{days:.1f} days" if days < 365 else f"{days / 365.25:.1f} years"
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def short(text: str) -> str:
    """Paths relative to the project."""
    return text.replace(f"{graph.ROOT}/", "")


def why(reason: str) -> str:
    """Snakemake's reason, for a reader.

    >>> why("Missing output files: notebooks/01_collection.ipynb; Updated input files: tas_lib/bm25.py")
    'not built yet'
    >>> why("Updated input files: notebooks/src/02_models.py, tas_lib/models.py")
    'changed: notebooks/src/02_models.py, tas_lib/models.py'
    """
    kind, _, files = short(reason).partition("; ")[0].partition(": ")
    return {
        "Missing output files": "not built yet" if "notebooks/" in files else f"missing: {files}",
        "Forced execution": "interrupted before",
        "Incomplete output files": "interrupted before",
        "Updated input files": f"changed: {files}",
        "Input files updated by another job": f"follows {', '.join(Path(file).stem for file in re.split(', ', files))}",
        "Set of input files has changed since last execution": "its set of input files changed",
        "Params have changed since last execution": "its parameters changed",
    }.get(kind, reason)
