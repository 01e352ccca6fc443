"""Fusion of runs: cases worked by hand to the last digit, and a literal loop as the oracle."""

import copy
import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tas_lib.records import Qrels, Run
from tas_lib.retrieval import fusion

DENSE = {"q1": {"a": 104.0, "b": 103.5, "c": 102.0}}
SPARSE = {"q1": {"c": 12.0, "d": 8.0, "a": 4.0}}
RUNS = st.dictionaries(
    st.sampled_from(["q1", "q2", "q3"]),
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(-4, 4).map(lambda n: n / 4), max_size=6),
)


def order(run: Run) -> dict[str, list[str]]:
    return {query: list(passages) for query, passages in run.items()}


# --- interpolation -----------------------------------------------------------------------------------------------


def test_interpolation_by_hand():
    # α = ½. b is not in the sparse list, whose lowest is 4: 103.5 + 2; d not in the dense one, lowest 102: 102 + 4
    found = fusion.interpolate(DENSE, SPARSE, 0.5)
    assert found == {"q1": {"c": 102.0 + 6.0, "a": 104.0 + 2.0, "d": 102.0 + 4.0, "b": 103.5 + 2.0}}
    assert order(found) == {"q1": ["c", "d", "a", "b"]}  # a and d both have 106: by falling id
    assert order(fusion.interpolate(DENSE, SPARSE, 0.5, depth=2)) == {"q1": ["c", "d"]}
    assert fusion.interpolate(DENSE, SPARSE, 0.5, depth=9) == found


def test_a_missing_passage_gets_the_lists_lowest_score_even_below_zero():
    assert fusion.interpolate(DENSE, SPARSE, 0.0) == {"q1": {"a": 104.0, "b": 103.5, "c": 102.0, "d": 102.0}}
    # ranks as scores, -1, -2, as in a run of MS MARCO's own format: x gets 3 + 2 · (-2), z the dense list's 3
    found = fusion.interpolate({"q": {"x": 3.0}}, {"q": {"y": -1.0, "z": -2.0}}, 2.0)
    assert found == {"q": {"y": 3.0 - 2.0, "x": 3.0 - 4.0, "z": 3.0 - 4.0}}


def test_a_query_missing_from_one_run_has_the_other_runs_list():
    dense, sparse = {"q1": {"a": 2.0, "b": 1.0}, "q2": {}}, {"q2": {"c": 8.0}, "q3": {"d": 6.0}, "q4": {}}
    found = fusion.interpolate(dense, sparse, 0.25)
    assert found == {"q1": {"a": 2.0, "b": 1.0}, "q2": {"c": 2.0}, "q3": {"d": 1.5}, "q4": {}}
    assert fusion.interpolate({}, {}, 0.25) == {}


def literally(dense: Run, sparse: Run, alpha: float) -> Run:
    """The rule, passage by passage."""
    fused: dict[str, dict[str, float]] = {}
    for query in {*dense, *sparse}:
        fused[query] = {}
        d, s = dense.get(query, {}), sparse.get(query, {})
        for passage in {*d, *s}:
            if passage not in d:
                fused[query][passage] = alpha * s[passage] + (min(d.values()) if d else 0)
            elif passage not in s:
                fused[query][passage] = alpha * (min(s.values()) if s else 0) + d[passage]
            else:
                fused[query][passage] = alpha * s[passage] + d[passage]
    return fused


@settings(deadline=None)
@given(RUNS, RUNS, st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0]))
def test_interpolation_equals_the_literal_loop_and_leaves_its_runs_alone(dense: Run, sparse: Run, alpha: float):
    before = copy.deepcopy((dense, sparse))
    assert fusion.interpolate(dense, sparse, alpha) == literally(dense, sparse, alpha)
    assert (dense, sparse) == before


# --- reciprocal ranks --------------------------------------------------------------------------------------------


def test_reciprocal_rank_by_hand():
    # ranks: a 1 and 3, b 2 and -, c 3 and 1, d - and 2
    found = fusion.reciprocal_rank([DENSE, SPARSE])
    assert found == {"q1": {"a": 1 / 61 + 1 / 63, "c": 1 / 61 + 1 / 63, "b": 1 / 62, "d": 1 / 62}}
    assert order(found) == {"q1": ["c", "a", "d", "b"]}
    assert order(fusion.reciprocal_rank([DENSE, SPARSE], depth=3)) == {"q1": ["c", "a", "d"]}


def test_runs_of_different_queries_and_empty_lists_are_fused_too():
    runs = [{"q1": {"a": 1.0}, "q2": {}}, {"q2": {"b": 5.0}}, {"q3": {}}]
    assert fusion.reciprocal_rank(runs) == {"q1": {"a": 1 / 61}, "q2": {"b": 1 / 61}, "q3": {}}
    assert fusion.reciprocal_rank([]) == {}


def test_only_the_order_of_a_run_counts_and_equal_scores_are_ordered_by_falling_id():
    stretched = {"q1": {passage: math.exp(score / 10) for passage, score in DENSE["q1"].items()}}
    assert fusion.reciprocal_rank([stretched, SPARSE]) == fusion.reciprocal_rank([DENSE, SPARSE])
    assert fusion.reciprocal_rank([{"q": {"b": 1.0, "a": 1.0}}]) == {"q": {"b": 1 / 61, "a": 1 / 62}}


def test_three_passages_with_the_same_ranks_in_other_runs_tie_to_the_last_digit():
    # each of a, b and c has the ranks 1, 2 and 7; added one after the other, 1/61 + 1/62 + 1/67 has two values
    runs = [{"q": {f"z{i}{rank}": -float(rank) for rank in (3, 4, 5, 6)}} for i in range(3)]
    for run, places in zip(runs, ("abc", "bca", "cab"), strict=True):
        run["q"] |= {passage: -float(rank) for passage, rank in zip(places, (1, 2, 7), strict=True)}
    for permuted in itertools.permutations(runs):
        found = fusion.reciprocal_rank(permuted, depth=3)
        assert len(set(found["q"].values())) == 1 and order(found) == {"q": ["c", "b", "a"]}


def test_nan_is_refused():
    broken = {"q": {"a": math.nan, "b": 1.0}}
    with pytest.raises(ValueError, match="NaN"):
        fusion.interpolate({"q": {"b": 1.0}}, broken, 0.5)
    with pytest.raises(ValueError, match="NaN"):
        fusion.reciprocal_rank([broken])


# --- α -----------------------------------------------------------------------------------------------------------


def precision(run: Run, qrels: Qrels) -> float:
    """Share of queries whose first passage is relevant."""
    return sum(next(iter(run[query])) in qrels[query] for query in qrels) / len(qrels)


def test_each_alpha_has_the_measure_of_its_fusion():
    # c passes a from 102 + 12α = 104 + 4α on: α ≥ ¼
    alphas, qrels = [0.1, 0.25, 0.3, 0.5], {"q1": {"c": 1}}
    values = fusion.qualities(DENSE, SPARSE, qrels, alphas, precision)
    assert values == {0.1: 0.0, 0.25: 1.0, 0.3: 1.0, 0.5: 1.0}
