"""Significance: cases worked by hand."""

import math
import random

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.stats import t as t_distribution
from scipy.stats import ttest_1samp
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from tas_lib.evaluation import significance
from tas_lib.evaluation.significance import Estimate


def column(values):
    return {f"q{i}": float(value) for i, value in enumerate(values)}


def test_the_paired_t_test_by_hand():
    # differences 1, 2, 3: mean 2, deviation 1, t = 2 / (1 / √3) = 3.46 with 2 degrees of freedom
    ours, theirs = column([2, 4, 6]), column([1, 2, 3])
    p = significance.paired(ours, theirs).p
    assert p == pytest.approx(2 * t_distribution.sf(2 * math.sqrt(3), 2))
    assert significance.paired(ours, dict(reversed(theirs.items()))).p == p  # pairs by query, not by order


def test_by_family_it_is_the_regression_on_a_constant_with_clustered_errors():
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(12), rng.integers(1, 9, 12))
    values = rng.normal(0.1, 1, len(labels)) + rng.normal(0, 1, 12)[labels]
    ours, families = column(values), {f"q{i}": int(label) for i, label in enumerate(labels) if label}
    # the first family's queries have no label: each is a family of its own
    alone = np.where(labels, labels, 100 + np.arange(len(labels)))
    fit = sm.OLS(values, np.ones(len(values))).fit(
        cov_type="cluster", cov_kwds={"groups": alone, "df_correction": True}
    )
    found = significance.paired(ours, dict.fromkeys(ours, 0.0), families)
    assert found == pytest.approx((values.mean(), fit.bse[0], len(set(alone)) - 1))
    assert found.p == pytest.approx(2 * t_distribution.sf(abs(fit.tvalues[0]), found.freedom))
    whole = significance.paired(ours, dict.fromkeys(ours, 0.0))
    assert whole.p == pytest.approx(ttest_1samp(values, 0).pvalue) and found.error > 1.2 * whole.error


def test_families_of_equal_size_are_tested_by_their_means():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(9, 4)) + 0.3
    families = {f"q{i}": i // 4 for i in range(36)}
    p = significance.paired(column(values.ravel()), column(np.zeros(36)), families).p
    assert p == pytest.approx(ttest_1samp(values.mean(axis=1), 0).pvalue)


def test_nearly_independent_families_raise_few_false_alarms_and_ignoring_them_raises_many():
    rng, alarms = np.random.default_rng(3), np.zeros(2)
    labels = np.repeat(np.arange(60), 4)
    families = {f"q{i}": int(label) for i, label in enumerate(labels)}
    for _ in range(400):
        ours = column(rng.normal(size=240) + rng.normal(size=60)[labels])
        alarms += [significance.paired(ours, dict.fromkeys(ours, 0.0), some).p < 0.05 for some in (families, {})]
    assert 0.02 < alarms[0] / 400 < 0.09 and alarms[1] / 400 > 0.12


def test_equal_systems_and_single_queries_are_never_significant():
    assert significance.paired(column([1, 2]), column([1, 2])).p == 1
    assert significance.paired(column([1]), column([2])).p == 1
    one_family = significance.paired(column([1, 2]), column([0, 0]), {"q0": 7, "q1": 7})
    assert one_family.p == 1 and not one_family.within(9) and one_family.smallest() == math.inf


def test_systems_over_different_queries_are_not_compared():
    with pytest.raises(ValueError, match="1 are in one of the two only: q2"):
        significance.paired(column([1, 2, 3]), column([1, 2]))


def test_no_difference_is_shown_by_two_one_sided_tests():
    rng = np.random.default_rng(4)
    for mean in (0.0, 0.3, 0.5):
        a, b = rng.normal(mean, 1, 60), rng.normal(0, 0.5, 60)
        p, _, _ = ttost_paired(a, b, -0.5, 0.5)
        found = significance.paired(column(a), column(b))
        assert found.within(0.5, p + 1e-6) and not found.within(0.5, p - 1e-6)


def test_the_smallest_effect_is_the_one_that_is_found_four_times_in_five():
    # for 80 queries with a deviation of 1: statsmodels' exact power, from the noncentral t, is close to .8
    effect = Estimate(0.0, 1 / math.sqrt(80), 79).smallest()
    assert TTestPower().power(effect, 80, 0.05) == pytest.approx(0.8, abs=0.003)


def test_sources_of_chance_are_added_by_hand():
    # .003² and 2 × .004²: 9e-6 + 32e-6 = 41e-6; Satterthwaite: 41² / (9² / 60 + 32² / 4) = 1681 / 257.35 = 6.53
    both = significance.combined(0.01, [(9e-6, 60), (32e-6, 4)])
    assert both == pytest.approx((0.01, math.sqrt(41e-6), 1681 / 257.35))
    assert significance.combined(0.01, [(9e-6, 60), (0.0, 0)]) == pytest.approx((0.01, 0.003, 60))
    assert significance.combined(0.01, [(0.0, 7)]) == (0.01, 0.0, math.inf)
    assert significance.combined(0.01, [(math.inf, math.inf), (9e-6, 60)])[1:] == (math.inf, math.inf)
    # equal errors add up their degrees of freedom
    assert significance.combined(2.0, [(0.01, 10), (0.01, 10)]) == pytest.approx((2, 0.2 / 2**0.5, 20))
    # with queries without end, two systems must lie 3.9 deviations of five seeds apart, one and BM25 2.8
    factors = [significance.combined(0.0, [(trained, 4)]).reach(0.95) for trained in (2, 1)]
    assert factors == pytest.approx([3.93, 2.78], abs=0.005)


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
