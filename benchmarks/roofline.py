"""The least time of a search: its bytes over the memory's bandwidth, its operations over the matrix rate."""

from typing import NamedTuple

from torch import Tensor

from tas_lib.report.latency import Roofline


class Bound(NamedTuple):
    """The least milliseconds for reading and for computing; the two can overlap."""

    read_ms: float
    compute_ms: float

    @property
    def ms(self) -> float:
        """The larger of the two."""
        return max(self)

    def what(self, measured_ms: float) -> str:
        """What limits a measured time: reading or computing, if it accounts for at least half of it.

        >>> Bound(6.0, 1.0).what(10.0), Bound(1.0, 6.0).what(10.0), Bound(2.0, 1.0).what(10.0)
        ('reading', 'computing', 'neither')
        """
        if self.ms < measured_ms / 2:
            return "neither"
        return "reading" if self.read_ms >= self.compute_ms else "computing"


def search_bound(n_queries: int, passages: Tensor, machine: Roofline) -> Bound:
    """Exact search: every vector is read once, and multiplied with every query."""
    read_ms = 1e-6 * passages.nbytes / machine.gb_s
    return Bound(read_ms, 2e-6 * n_queries * passages.numel() / machine.gflop_s)
