"""Metrics and significance: hand-worked cases, and ir_measures or a literal loop as the oracle."""

import math
import random

import ir_measures
import pytest
from ir_measures import RR, Judged, R, nDCG
from scipy.stats import t as t_distribution

from tas_lib.evaluation import metrics, significance

QRELS = {"q1": {"a": 3, "b": 1, "c": 2}, "q2": {"a": 2}, "q3": {"d": 0, "e": 1}}
RUN = {"q1": {"b": 9.0, "x": 8.0, "a": 7.0}, "q3": {"e": 1.0, "d": 2.0}, "q9": {"a": 1.0}}
MEASURES = [nDCG @ 10, RR(rel=2) @ 10, R(rel=2) @ 100, Judged @ 10]


def test_every_measure_by_hand():
    values = metrics.evaluate(RUN, QRELS, MEASURES)
    # q1: gains 1, 0, 3 at ranks 1, 2, 3; ideal 3, 2, 1. Relevant from 2 on: a (rank 3), c (not found)
    gained, ideal = 1 + 3 / math.log2(4), 3 + 2 / math.log2(3) + 1 / math.log2(4)
    assert values[nDCG @ 10]["q1"] == pytest.approx(gained / ideal)
    assert values[RR(rel=2) @ 10]["q1"] == pytest.approx(1 / 3)
    assert values[R(rel=2) @ 100]["q1"] == 1 / 2
    assert values[Judged @ 10]["q1"] == pytest.approx(2 / 3)
    # q3: d (grade 0) before e (grade 1): nothing is relevant from 2 on
    assert values[nDCG @ 10]["q3"] == pytest.approx(1 / math.log2(3))
    assert values[RR(rel=2) @ 10]["q3"] == values[R(rel=2) @ 100]["q3"] == 0


def test_every_judged_query_counts_and_no_other():
    for values in metrics.evaluate(RUN, QRELS, MEASURES).values():
        assert list(values) == ["q1", "q2", "q3"]
        assert values["q2"] == 0
    found = metrics.evaluate({"q2": {"a": 1.0}}, QRELS, [R(rel=2) @ 100])[R(rel=2) @ 100]
    assert metrics.mean(found) == pytest.approx(1 / 3)


def test_a_query_with_an_empty_list_is_one_that_the_run_misses():
    assert metrics.evaluate({"q1": {}}, QRELS, MEASURES) == metrics.evaluate({}, QRELS, MEASURES)


def test_relevance_begins_at_the_given_grade():
    run = {"q1": {"b": 3.0, "c": 2.0, "a": 1.0}}  # grades 1, 2, 3
    values = metrics.evaluate(run, {"q1": QRELS["q1"]}, [RR(rel=g) @ 10 for g in (1, 2, 3)])
    assert [v["q1"] for v in values.values()] == pytest.approx([1, 1 / 2, 1 / 3])


def test_equal_scores_are_ranked_by_id_for_every_measure():
    # b before c before z whatever the order in the file; trec_eval by itself would put z first
    for passages in (["b", "c", "z"], ["z", "c", "b"], ["c", "z", "b"]):
        run, measures = {"q": dict.fromkeys(passages, 1.0)}, [nDCG @ 10, RR @ 10, R @ 1]
        assert [v["q"] for v in metrics.evaluate(run, {"q": {"b": 1}}, measures).values()] == [1, 1, 1]
        last = metrics.evaluate(run, {"q": {"z": 1}}, measures)
        assert [v["q"] for v in last.values()] == pytest.approx([1 / math.log2(4), 1 / 3, 0])


def test_scores_that_single_precision_cannot_tell_apart_keep_their_order():
    run = {"q": {"a": 1.0 + 1e-12, "b": 1.0}}
    values = metrics.evaluate(run, {"q": {"a": 1}}, [nDCG @ 10, RR @ 10])
    assert [v["q"] for v in values.values()] == [1, 1]


def test_without_ties_the_values_are_those_of_ir_measures():
    rng = random.Random(0)
    passages = [f"p{i}" for i in range(60)]
    qrels = {f"q{i}": {p: rng.randrange(4) for p in rng.sample(passages, 20)} for i in range(20)}
    run = {query: {p: rng.random() for p in rng.sample(passages, 40)} for query in qrels}
    ours = metrics.evaluate(run, qrels, MEASURES)
    for query, measure, value in ir_measures.iter_calc(MEASURES, qrels, run):
        assert ours[measure][query] == pytest.approx(value), (query, measure)


def test_nan_and_missing_judgements_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        metrics.evaluate({"q1": {"a": math.nan}}, QRELS, MEASURES)
    with pytest.raises(ValueError, match="no query has a judgement"):
        metrics.evaluate(RUN, {"q1": {}}, MEASURES)


def test_the_measures_of_table_4_have_the_papers_names():
    assert metrics.paper_measures(2, 1000) == [nDCG @ 10, RR(rel=2) @ 10, R(rel=2) @ 1000, Judged @ 10]
    assert [metrics.printed_name(m) for m in metrics.paper_measures(2, 1000)] == [
        "nDCG@10",
        "MRR@10",
        "R@1K",
        "Judged@10",
    ]


def column(values):
    return {f"q{i}": float(value) for i, value in enumerate(values)}


def test_the_paired_t_test_by_hand():
    # differences 1, 2, 3: mean 2, deviation 1, t = 2 / (1 / √3) = 3.46 with 2 degrees of freedom
    p = significance.paired_t(column([2, 4, 6]), column([1, 2, 3]))
    assert p == pytest.approx(2 * t_distribution.sf(2 * math.sqrt(3), 2))


def test_the_paired_t_test_pairs_by_query_not_by_order():
    ours, theirs = column([2, 4, 6]), column([1, 2, 3])
    assert significance.paired_t(ours, dict(reversed(theirs.items()))) == significance.paired_t(ours, theirs)


def test_equal_systems_and_single_queries_are_never_significant():
    assert significance.paired_t(column([1, 2]), column([1, 2])) == 1
    assert significance.paired_t(column([1]), column([2])) == 1


def test_systems_over_different_queries_are_not_compared():
    with pytest.raises(ValueError, match="1 are in one of the two only: q2"):
        significance.paired_t(column([1, 2, 3]), column([1, 2]))


def test_letters_name_the_systems_that_a_row_is_significantly_better_than():
    # m beats k and l by 1 ± .1 on each query; l beats k on the average only, by one lucky query
    noise = [0.1, -0.1] * 4
    low = column([0] * 8)
    lucky = column([4, 0, 0, 0, 0, 0, 0, 0])
    high = column([5 + n for n in noise])
    assert significance.better_than({"k": low, "l": lucky, "m": high}) == {"k": "", "l": "", "m": "kl"}
    # letters stand in the order of the rows; a row that is significantly worse has none
    assert significance.better_than({"m": high, "l": lucky, "k": low}) == {"m": "lk", "l": "", "k": ""}
    # at 40 % the lucky query is enough: t = 0.5 / (√2 / √8) = 1, p = .35
    assert significance.better_than({"k": low, "l": lucky}, alpha=0.4) == {"k": "", "l": "k"}


def test_holm_by_hand():
    # sorted .01, .02, .03, .04: times 4, 3, 2, 1 = .04, .06, .06, .04; never falling: .04, .06, .06, .06
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
