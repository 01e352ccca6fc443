"""Progress of long work in the log: how much is done, and how much time is left at this run's own rate."""

import logging
import time

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
