"""Metrics: cases worked by hand, and ir_measures as the oracle."""

import math
import random

import ir_measures
import pytest
import pytrec_eval
from ir_measures import RR, Judged, R, nDCG

from tas_lib.data import formats
from tas_lib.evaluation import metrics

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
    assert metrics.evaluate({"q1": {}}, QRELS, MEASURES) == metrics.evaluate({}, QRELS, MEASURES)


def test_equal_scores_are_ranked_by_falling_id_for_every_measure():
    # z before c before b whatever the order in the file
    for passages in (["b", "c", "z"], ["z", "c", "b"], ["c", "z", "b"]):
        run, measures = {"q": dict.fromkeys(passages, 1.0)}, [nDCG @ 10, RR @ 10, R @ 1]
        assert [v["q"] for v in metrics.evaluate(run, {"q": {"z": 1}}, measures).values()] == [1, 1, 1]
        last = metrics.evaluate(run, {"q": {"b": 1}}, measures)
        assert [v["q"] for v in last.values()] == pytest.approx([1 / math.log2(4), 1 / 3, 0])


def test_a_run_file_with_ties_has_our_digits_under_trec_eval(tmp_path):
    rng = random.Random(1)
    passages, scores = [f"p{i}" for i in range(60)], [0.1, 0.2, 0.3, 0.3 + 1e-12, 0.3 - 1e-12, 0.3 + 1e-6]
    qrels = {f"q{i}": {p: rng.randrange(4) for p in rng.sample(passages, 20)} for i in range(20)}
    run = {query: {p: rng.choice(scores) for p in rng.sample(passages, 40)} for query in qrels}
    formats.write_run(tmp_path / "tied.run", run, "ours")
    lines = [line.split() for line in (tmp_path / "tied.run").read_text().splitlines()]
    written: dict[str, dict[str, float]] = {query: {} for query in qrels}
    for query, _, passage, _, score, _ in lines:
        written[query][passage] = float(score)
    names = {nDCG @ 10: "ndcg_cut_10", RR(rel=2): "recip_rank", R(rel=2) @ 15: "recall_15"}
    ours = metrics.evaluate(run, qrels, [*names])
    for measure, name in names.items():
        level = 2 if "rel=2" in str(measure) else 1
        theirs = pytrec_eval.RelevanceEvaluator(qrels, {name.replace("_1", ".1")}, relevance_level=level)
        values = {query: found[name] for query, found in theirs.evaluate(written).items()}
        assert ours[measure] == pytest.approx(values, abs=1e-9), name
    ranks = {query: [passage for q, _, passage, *_ in lines if q == query] for query in qrels}
    assert ranks == {query: metrics.ranking(passages) for query, passages in run.items()}


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
    measures = metrics.paper_measures(2, 1000)
    assert measures == [nDCG @ 10, RR(rel=2) @ 10, R(rel=2) @ 1000, Judged @ 10]
    assert [metrics.printed_name(m) for m in measures] == ["nDCG@10", "MRR@10", "R@1K", "Judged@10"]


def test_recall_curve_by_hand():
    run = {"x": {"a": 3.0, "b": 2.0, "c": 1.0}, "y": {"a": 1.0}}
    qrels = {"x": {"a": 1, "b": 2, "c": 2}, "y": {"a": 2, "b": 2}}
    # from grade 2 on: x has b and c, retrieved second and third; y has a and b, of which a is retrieved first
    assert metrics.recall_curve(run, qrels, [1, 2, 3], binarise_at=2) == [0.25, 0.5, 0.75]
