"""Which comparisons survive a reduced collection: full runs, whole and reduced in the same way (DEVIATIONS, D37).

python -m tools.reduced msmarco-small dl19 one.run.gz another.run.gz
"""

import sys
from collections.abc import Container, Mapping
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import scipy
from ir_measures import Measure

from tas_lib import config
from tas_lib.data import formats
from tas_lib.data.collection import open_collection
from tas_lib.evaluation.metrics import evaluate, mean, paper_measures, printed_name
from tas_lib.evaluation.significance import paired
from tas_lib.records import Qrels, Run, only
from tas_lib.retrieval.runs import known


def main(words: list[str]) -> int:
    """Print means, Kendall's tau and swaps for each of the paper's measures; 2 for a wrong request."""
    try:
        if len(words) < 4:
            raise ValueError("usage: python -m tools.reduced <profile> <set> <run file> <run file> ...")
        for line in report(words[0], words[1], [Path(word) for word in words[2:]]):
            print(line)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def report(name: str, of_set: str, files: list[Path]) -> list[str]:
    """The lines; the queries are those of the profile's set, on both sides."""
    profile = config.load(name)
    collection = open_collection(profile)
    test = known(of_set, {test.name: test for test in profile.evaluation.sets})
    qrels = collection.sets[of_set].qrels
    runs = {file.name: formats.read_run(file, qrels) for file in files}
    left = [sum(p in collection.row for p in of_query) for run in runs.values() for of_query in run.values()]
    lines = [f"{len(qrels)} queries; reduced runs have {min(left)} to {max(left)} passages per query"]
    for measure in paper_measures(test.binarise_at, profile.evaluation.depth)[:3]:
        found = order(runs, qrels, collection.row, measure)
        lines += ["", f"{printed_name(measure):10} {'whole':>6} {'reduced':>8}   Kendall's tau {found.tau:.2f}"]
        lines += [f"{name:30} {value:.3f} {found.reduced[name]:8.3f}" for name, value in found.whole.items()]
        lines += [f"swapped: {a} > {b} on the whole collection (p = {p:.2g})" for a, b, p in found.swaps]
    return lines


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
