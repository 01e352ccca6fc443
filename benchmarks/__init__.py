"""How fast it is, and against what: ratios in one run on one machine. `python -m benchmarks` writes results.md."""

from typing import NamedTuple


class Figure(NamedTuple):
    """One measured thing: ours, what it stands against, their ratio, the aim, whether it is met, and what bounds it."""

    what: str
    ours: str
    against: str
    ratio: str
    aim: str
    verdict: str
    note: str
