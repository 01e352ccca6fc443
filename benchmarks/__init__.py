"""Speed, in ratios of one run on one machine: each module has `rows()`, and prints its table when it is run."""

from typing import NamedTuple


class Figure(NamedTuple):
    """One row of the table: what was measured, ours and what it is held against, the aim and whether it was reached."""

    what: str
    ours: str
    against: str
    ratio: str
    aim: str
    verdict: str
    note: str
