"""The log of long work below a running cell of a live notebook."""

import logging
import os
import sys
from typing import Any


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
