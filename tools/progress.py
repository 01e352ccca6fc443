"""Snakemake's progress, briefly: which job runs and why, how long it took, how much time is left."""

import logging
import os
import time

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from tools import graph

JOBS: dict[str, graph.Job] = {}  # the profile's; the runner fills it before Snakemake starts
QUIET = ("tools.execute", "At least one job", "job execution failed")  # failed.txt says it better


class LogHandler(LogHandlerBase):
    """Snakemake's logger plugin interface."""

    writes_to_stream, writes_to_file = True, False
    has_filter, has_formatter, needs_rulegraph = True, True, False

    def __post_init__(self) -> None:
        """Nothing has run yet."""
        self.started: dict[int, tuple[str, float]] = {}  # Snakemake's job number → name, seconds
        self.waiting: list[str] = []
        self.total = 0
        self.rates: dict[str, float] = {}  # notebook → its time in this run, as a multiple of `Job.seconds`

    def emit(self, record: logging.LogRecord) -> None:
        """Print what a reader needs to know of an event."""
        event, fields = getattr(record, "event", None), record.__dict__
        if event == LogEvent.RUN_INFO and not self.total:
            self.waiting = [name for name in fields["stats"] if name in JOBS]
            self.total = len(self.waiting)
        elif event == LogEvent.JOB_INFO and fields["rule_name"] in JOBS and fields["jobid"] not in self.started:
            self.started[fields["jobid"]] = fields["rule_name"], time.monotonic()
            reason = short(fields["reason"]).partition("; ")[0].partition(": Union of")[0]
            print(f"[{len(self.started)}/{self.total}] {fields['rule_name']}: {reason}", flush=True)
        elif event == LogEvent.JOB_FINISHED and fields["job_id"] in self.started:
            self._end(*self.started[fields["job_id"]])
        elif event is None and record.getMessage().startswith("Nothing to be done"):
            print("Nothing to do: everything is up to date.", flush=True)
        elif record.levelno >= logging.ERROR and not any(text in record.getMessage() for text in QUIET):
            print(short(record.getMessage()), flush=True)

    def _end(self, name: str, start: float) -> None:
        seconds = time.monotonic() - start
        self.waiting.remove(name)
        self.rates[JOBS[name].notebook] = seconds / JOBS[name].seconds
        beside = f"{name}: " if JOBS[name].cores else ""
        print(f"      {beside}done in {duration(seconds)}{self._left()}", flush=True)

    def _left(self) -> str:
        """The time left, at this run's own rates; unknown until one of several trainings has run."""
        waiting = [JOBS[name] for name in self.waiting]
        if not waiting or any(job.trains and job.notebook not in self.rates for job in waiting):
            return ""
        overall = sum(self.rates.values()) / len(self.rates)
        left = sum(job.seconds * self.rates.get(job.notebook, overall) * _share(job) for job in waiting)
        return f"; about {duration(left)} left"


def _share(job: graph.Job) -> float:
    """The share of the machine that a job takes."""
    cores = os.cpu_count() or 1
    return (job.cores or cores) / cores


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(40), duration(7_500), duration(500_000), duration(1e9)
    ('40 s', '2.1 h', '5.8 days', '31.7 years')
    """
    for unit, size in (("years", 365.25 * 86_400), ("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def short(text: str) -> str:
    """Paths relative to the project."""
    return text.replace(f"{graph.ROOT}/", "")
