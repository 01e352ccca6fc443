"""How fast it is, and compared with what: ratios of one run on one machine. `python -m benchmarks` for results.md."""

from typing import NamedTuple


class Figure(NamedTuple):
    """One comparison: our value, the other, their ratio, the target, whether it is met, and what limits it."""

    what: str
    ours: str
    against: str
    ratio: str
    target: str
    verdict: str
    note: str


def verdict(met: bool) -> str:
    """The word for the table."""
    return "met" if met else "missed"
