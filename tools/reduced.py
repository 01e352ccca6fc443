"""Which comparisons survive a reduced collection: full runs, whole and reduced in the same way (DEVIATIONS, D37).

python -m tools.reduced msmarco-small dl19 one.run.gz another.run.gz
"""

import sys
from pathlib import Path

from tas_lib import config
from tas_lib.data import formats
from tas_lib.data.collection import open_collection
from tas_lib.evaluation import reduction
from tas_lib.evaluation.metrics import paper_measures, printed_name
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
        order = reduction.order(runs, qrels, collection.row, measure)
        lines += ["", f"{printed_name(measure):10} {'whole':>6} {'reduced':>8}   Kendall's tau {order.tau:.2f}"]
        lines += [f"{name:30} {value:.3f} {order.reduced[name]:8.3f}" for name, value in order.whole.items()]
        lines += [f"swapped: {a} > {b} on the whole collection (p = {p:.2g})" for a, b, p in order.swaps]
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
