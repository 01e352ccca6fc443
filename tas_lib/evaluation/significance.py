"""Significance of differences between systems (Tables 3-7): errors by family and seed, Holm's correction.

Queries that link to each other are not independent: what helps one helps the other. So the unit of chance is a family
of queries; where none are known, each query is its own, and the test is the ordinary paired t-test.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy


class Estimate(NamedTuple):
    """A mean difference, its standard error, and the degrees of freedom of that error; infinite if it is unknown."""

    difference: float
    error: float
    freedom: float

    @property
    def p(self) -> float:
        """Of the two-sided t-test of no difference."""
        if not self.difference or math.isinf(self.error):
            return 1.0
        return float(2 * scipy.stats.t.sf(abs(self.difference) / self.error, self.freedom)) if self.error else 0.0

    def reach(self, share: float) -> float:
        """Half the width of the interval that holds the true difference with this chance, 0.95 or another."""
        return (
            math.inf if math.isinf(self.error) else float(scipy.stats.t.ppf((1 + share) / 2, self.freedom)) * self.error
        )

    def within(self, margin: float, alpha: float = 0.05) -> bool:
        """Whether the difference is shown to be smaller than the margin, either way: two one-sided tests (TOST)."""
        return abs(self.difference) + self.reach(1 - 2 * alpha) < margin

    def smallest(self, alpha: float = 0.05) -> float:
        """The smallest true difference that the two-sided test would find four times in five."""
        return self.reach(1 - alpha) + self.reach(2 * 0.8 - 1)


def combined(difference: float, chances: Iterable[tuple[float, float]]) -> Estimate:
    """An estimate with several independent sources of chance, each a variance and its degrees of freedom.

    The variances add up; the degrees of freedom of the sum are Satterthwaite's.
    """
    known = [(variance, freedom) for variance, freedom in chances if variance]
    total = sum(variance for variance, _ in known)
    if not known or math.isinf(total):
        return Estimate(difference, math.sqrt(total), math.inf)
    freedom = total**2 / sum(variance**2 / freedom for variance, freedom in known)
    return Estimate(difference, math.sqrt(total), freedom)


def paired(ours: Mapping[str, float], theirs: Mapping[str, float], families: Mapping[str, int] = {}) -> Estimate:
    """The mean difference over queries, with an error that is robust to families (CR1).

    families: query → label. A query without one is its own family. With fewer than two families the error is unknown.
    """
    if ours.keys() != theirs.keys():
        odd = sorted(ours.keys() ^ theirs.keys())
        raise ValueError(f"a paired test needs the same queries; {len(odd)} are in one of the two only: {odd[0]}, ...")
    differences = np.array([ours[query] - theirs[query] for query in ours])  # (Q,)
    _, family = np.unique([str(families.get(query, f"{query} alone")) for query in ours], return_inverse=True)  # (Q,)
    sums = np.bincount(family, differences - differences.mean())  # (G,)
    n = len(sums)
    if n < 2:
        return Estimate(float(differences.mean()), math.inf, math.inf)
    return Estimate(float(differences.mean()), math.sqrt(n / (n - 1) * (sums @ sums)) / len(differences), n - 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for many tests by Holm's step-down method, in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    from statsmodels.stats.multitest import multipletests  # takes a second, with pandas

    return multipletests(p_values, method="holm")[1].tolist() if p_values else []
