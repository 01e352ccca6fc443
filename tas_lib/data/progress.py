"""Progress of long work in the log: how much is done, and how much time is left at this run's own rate."""

import logging
import os
import sys
import time
from typing import Any

EVERY_S = 5.0


class Progress:
    """Counts what is done of a total and logs its share every few seconds."""

    def __init__(self, log: logging.Logger, what: str, total: int) -> None:
        """what: begins the line, such as `scoring 900 pairs`. total: in any unit, the one of `add`."""
        self.log, self.what, self.total, self.done = log, what, total, 0
        self.start = self.shown = time.monotonic()

    def add(self, n: int) -> None:
        """`n` more are done."""
        self.done += n
        now = time.monotonic()
        if now - self.shown >= EVERY_S:
            self.shown, spent, share = now, now - self.start, self.done / self.total
            left = spent * (1 - share) / share
            self.log.info("%s: %.0f%% after %.0f s, about %.0f s left", self.what, 100 * share, spent, left)


class LiveLine(logging.Handler):
    """The log below a running notebook cell, in one line that is empty when the cell has ended; warnings stay."""

    line: Any = None

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record in place of the one before."""
        from IPython.display import display

        text = {"text/plain": self.format(record)}
        if record.levelno >= logging.WARNING:
            print(text["text/plain"], file=sys.stderr)
        elif self.line is None:
            self.line = display(text, raw=True, display_id=True)
        else:
            self.line.update(text, raw=True)

    def end(self, _: object) -> None:
        """Empty the line."""
        if self.line is not None:
            self.line.update({"text/plain": ""}, raw=True)
            self.line = None


def show_in(shell: Any) -> None:
    """Show the log if this shell of IPython is a live kernel's; one of the runner's writes it to a file (`TAS_LOG`)."""
    log = logging.getLogger("tas_lib")
    if "TAS_LOG" not in os.environ and hasattr(shell, "kernel") and not log.handlers:
        log.addHandler(line := LiveLine())
        log.setLevel(logging.INFO)
        shell.events.register("post_run_cell", line.end)
