"""Speed at full size, as ratios of one run on one machine; `python -m benchmarks.<name>` prints what it measures."""

from typing import NamedTuple


class Figure(NamedTuple):
    """One measured line: ours against another's, the ratio, the aim of the issue, whether it was met, and why."""

    what: str
    ours: str
    against: str
    ratio: str
    aim: str
    verdict: str
    note: str
