"""How the order of runs changes when passages are left out, on an example small enough to work by hand."""

import math

import pytest
from ir_measures import RR

from tools import reduced

QRELS = {"1": {"a": 1}, "2": {"b": 1}}


def ranked(*lists: str) -> dict[str, dict[str, float]]:
    """A run: for each query its passages, best first."""
    return {query: {p: -float(i) for i, p in enumerate(of_query)} for query, of_query in zip("12", lists, strict=True)}


RUNS = {
    "first": ranked("xab", "xb"),  # 1/2, 1/2; without x: 1, 1
    "second": ranked("ax", "ypqb"),  # 1, 1/4; the same without x
    "third": ranked("ypqa", "ypqb"),  # 1/4, 1/4
}


def test_means_swaps_and_tau_by_hand():
    order = reduced.order(RUNS, QRELS, {"a", "b", "y", "p", "q"}, RR @ 10)
    assert order.whole == {"first": 0.5, "second": 0.625, "third": 0.25}
    assert order.reduced == {"first": 1.0, "second": 0.625, "third": 0.25}
    assert order.tau == pytest.approx(1 / 3)  # one of three pairs is swapped
    [swap] = order.swaps
    assert (swap.better, swap.worse) == ("second", "first") and 0 < swap.p < 1


def test_with_every_passage_nothing_changes_and_equal_values_have_no_order():
    order = reduced.order(RUNS, QRELS, set("abxypq"), RR @ 10)
    assert order.whole == order.reduced and order.swaps == [] and order.tau == pytest.approx(1)
    same = reduced.order({"one": RUNS["first"], "two": RUNS["first"]}, QRELS, set("ab"), RR @ 10)
    assert math.isnan(same.tau) and same.swaps == []
