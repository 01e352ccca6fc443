"""Significance: cases worked by hand."""

import math
import random

import pytest
from scipy.stats import t as t_distribution

from tas_lib.evaluation import significance


def column(values):
    return {f"q{i}": float(value) for i, value in enumerate(values)}


def test_the_paired_t_test_by_hand():
    # differences 1, 2, 3: mean 2, deviation 1, t = 2 / (1 / √3) = 3.46 with 2 degrees of freedom
    ours, theirs = column([2, 4, 6]), column([1, 2, 3])
    p = significance.paired_t(ours, theirs)
    assert p == pytest.approx(2 * t_distribution.sf(2 * math.sqrt(3), 2))
    assert significance.paired_t(ours, dict(reversed(theirs.items()))) == p  # pairs by query, not by order


def test_equal_systems_and_single_queries_are_never_significant():
    assert significance.paired_t(column([1, 2]), column([1, 2])) == 1
    assert significance.paired_t(column([1]), column([2])) == 1


def test_systems_over_different_queries_are_not_compared():
    with pytest.raises(ValueError, match="1 are in one of the two only: q2"):
        significance.paired_t(column([1, 2, 3]), column([1, 2]))


def test_letters_name_the_systems_that_a_row_beats_significantly():
    # m beats k and l by 1 ± .1 on each query; l beats k on average only, by one lucky query
    noise = [0.1, -0.1] * 4
    low = column([0] * 8)
    lucky = column([4, 0, 0, 0, 0, 0, 0, 0])
    high = column([5 + n for n in noise])
    assert significance.better_than({"k": low, "l": lucky, "m": high}) == {"k": "", "l": "", "m": "kl"}
    # letters in the order of the rows; a row that is significantly worse has none
    assert significance.better_than({"m": high, "l": lucky, "k": low}) == {"m": "lk", "l": "", "k": ""}
    # at 40 % the lucky query is enough: t = 0.5 / (√2 / √8) = 1, p = .35
    assert significance.better_than({"k": low, "l": lucky}, alpha=0.4) == {"k": "", "l": "k"}


def test_holm_by_hand():
    # sorted .01, .02, .03, .04: times 4, 3, 2, 1 = .04, .06, .06, .04; never falling, .04, .06, .06, .06
    assert significance.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert significance.holm([0.6, 0.7]) == [1, 1]
    assert significance.holm([]) == []


def test_holm_rejects_what_stepping_down_rejects():
    rng = random.Random(1)
    for _ in range(50):
        p_values = [rng.random() ** 4 for _ in range(8)]
        rejected = set()
        for step, p in enumerate(sorted(p_values)):  # the textbook's loop
            if p >= 0.05 / (len(p_values) - step):
                break
            rejected.add(p)
        assert {p for p, q in zip(p_values, significance.holm(p_values), strict=True) if q < 0.05} == rejected
