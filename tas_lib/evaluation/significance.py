"""Significance of differences between systems (Tables 3-6): paired t-tests over queries, letters, Holm's correction."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import ttest_rel
from statsmodels.stats.multitest import multipletests

from tas_lib.evaluation.metrics import mean


def paired_t(ours: Mapping[str, float], theirs: Mapping[str, float]) -> float:
    """p of the two-sided paired t-test over queries; 1 if the two never differ or there is only one query."""
    if ours.keys() != theirs.keys():
        odd = sorted(ours.keys() ^ theirs.keys())
        raise ValueError(f"a paired test needs the same queries; {len(odd)} are in one of the two only: {odd[0]}, ...")
    pairs = np.array([(ours[query], theirs[query]) for query in ours])  # (Q, 2)
    if len(pairs) < 2 or np.array_equal(pairs[:, 0], pairs[:, 1]):
        return 1.0
    return float(ttest_rel(pairs[:, 0], pairs[:, 1]).pvalue)


def better_than(column: Mapping[str, Mapping[str, float]], alpha: float = 0.05) -> dict[str, str]:
    """The superscripts of a column: a system's letter → the letters of those that it beats significantly.

    column: letter → query → value. Letters in the order of the rows; as in the paper, not corrected for many tests.
    """
    means = {letter: mean(values) for letter, values in column.items()}
    return {
        letter: "".join(
            rival for rival in column if means[letter] > means[rival] and paired_t(values, column[rival]) < alpha
        )
        for letter, values in column.items()
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for many tests by Holm's step-down method, in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    return multipletests(p_values, method="holm")[1].tolist() if p_values else []
