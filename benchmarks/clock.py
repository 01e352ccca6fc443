"""Times that are compared: measured in turn, so that another program on the machine slows down both."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import psutil

from benchmarks import Figure


def in_turn(works: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """The least seconds of each work, every round all of them: other programs make times longer and never shorter."""
    rounds = [[_seconds(work) for work in works] for _ in range(repeats)]
    return [min(times) for times in zip(*rounds, strict=True)]


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class Peak(NamedTuple):
    """The most resident memory of a work in gigabytes: in all, and without mapped files (on Linux; else the same)."""

    resident: float
    own: float


@contextmanager
def peak() -> Iterator[Callable[[], Peak]]:
    """What this process holds at the most, looked at twenty times a second; to be asked for afterwards."""
    seen: list[Peak] = []
    ends = threading.Event()

    def look() -> None:
        while True:
            found = psutil.Process().memory_info()
            seen.append(Peak(found.rss / 1e9, (found.rss - getattr(found, "shared", 0)) / 1e9))
            if ends.wait(0.05):
                return

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield lambda: Peak(*map(max, zip(*seen, strict=True)))
    finally:
        ends.set()
        watcher.join()


def verdict(value: float, aim: float) -> str:
    """Whether a ratio reaches its aim.

    >>> verdict(2.0, 2.0), verdict(1.9, 2.0)
    ('met', 'missed')
    """
    return "met" if value >= aim else "missed"


def show(figures: Sequence[Figure]) -> None:
    """One line a figure."""
    for figure in figures:
        print("; ".join(f"{name}: {value}" for name, value in figure._asdict().items() if value), flush=True)
