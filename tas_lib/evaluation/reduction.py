"""What a reduced collection changes: runs over the whole one, as they are and without the passages that it lacks."""

from collections.abc import Container, Mapping
from itertools import combinations
from typing import NamedTuple

import scipy
from ir_measures import Measure

from tas_lib.evaluation.metrics import evaluate, mean
from tas_lib.evaluation.significance import paired
from tas_lib.records import Qrels, Run, only


class Swap(NamedTuple):
    """Two runs of which the first is better on the whole collection, and the second on the reduced one.

    p: of the paired t-test on the whole one; a swap with a high p reverses what was not established.
    """

    better: str
    worse: str
    p: float


class Order(NamedTuple):
    """Means of runs by name, whole and reduced; Kendall's tau (b) between the two orders, NaN for equal values."""

    whole: dict[str, float]
    reduced: dict[str, float]
    tau: float
    swaps: list[Swap]


def order(runs: Mapping[str, Run], qrels: Qrels, passages: Container[str], measure: Measure) -> Order:
    """How the order of runs by a measure changes if only these passages are searched.

    For exact dense search the reduced run is what a search of the reduced collection returns, up to its depth; BM25
    would weigh terms by the reduced collection's statistics.
    """
    values = {name: evaluate(run, qrels, [measure])[measure] for name, run in runs.items()}
    whole = {name: mean(of_run) for name, of_run in values.items()}
    reduced = {name: mean(evaluate(only(run, passages), qrels, [measure])[measure]) for name, run in runs.items()}
    ranked = sorted(whole, key=lambda name: -whole[name])
    swaps = [
        Swap(better, worse, paired(values[better], values[worse]).p)
        for better, worse in combinations(ranked, 2)
        if reduced[better] < reduced[worse] and whole[better] > whole[worse]
    ]
    return Order(whole, reduced, float(scipy.stats.kendalltau([*whole.values()], [*reduced.values()]).statistic), swaps)
