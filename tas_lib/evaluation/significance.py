"""Significance of differences between systems (Tables 3-7): tests by family, letters, Holm's correction.

Queries that link to each other are not independent: what helps one helps the other. So the unit of chance is a family
of queries; where none are known, each query is its own, and the test is the ordinary paired t-test.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t
from statsmodels.stats.multitest import multipletests

from tas_lib.evaluation.metrics import mean


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
        return float(2 * t.sf(abs(self.difference) / self.error, self.freedom)) if self.error else 0.0

    def reach(self, share: float) -> float:
        """Half the width of the interval that holds the true difference with this chance, 0.95 or another."""
        return math.inf if math.isinf(self.error) else float(t.ppf((1 + share) / 2, self.freedom)) * self.error

    def within(self, margin: float, alpha: float = 0.05) -> bool:
        """Whether the difference is shown to be smaller than the margin, either way: two one-sided tests (TOST)."""
        return abs(self.difference) + self.reach(1 - 2 * alpha) < margin

    def smallest(self, power: float = 0.8, alpha: float = 0.05) -> float:
        """The smallest true difference that the two-sided test would find with this chance."""
        return self.reach(1 - alpha) + self.reach(2 * power - 1)

    def with_seeds(self, deviation: float, trained: int, freedom: int = 4) -> "Estimate":
        """The same with the chance of the random seed: `trained` systems of this standard deviation between seeds.

        freedom: of the deviation, which is that of Table 5's five seeds. The sum has Satterthwaite's.
        """
        if not trained or not deviation or math.isinf(self.error):
            return self
        queries, seeds = self.error**2, trained * deviation**2
        combined = (queries + seeds) ** 2 / (queries**2 / self.freedom + seeds**2 / freedom)
        return Estimate(self.difference, math.sqrt(queries + seeds), combined)


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


def paired_t(ours: Mapping[str, float], theirs: Mapping[str, float], families: Mapping[str, int] = {}) -> float:
    """p of the two-sided paired t-test by family; 1 if the two never differ or there is only one family."""
    return paired(ours, theirs, families).p


def better_than(
    column: Mapping[str, Mapping[str, float]], families: Mapping[str, int] = {}, alpha: float = 0.05
) -> dict[str, str]:
    """The superscripts of a column: a system's letter → the letters of those that it beats significantly.

    column: letter → query → value. Letters in the order of the rows; as in the paper, not corrected for many tests.
    """
    means = {letter: mean(values) for letter, values in column.items()}
    return {
        letter: "".join(
            rival
            for rival in column
            if means[letter] > means[rival] and paired_t(values, column[rival], families) < alpha
        )
        for letter, values in column.items()
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for many tests by Holm's step-down method, in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    return multipletests(p_values, method="holm")[1].tolist() if p_values else []
