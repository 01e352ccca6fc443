"""`python -m benchmarks [name ...] [--full]`: each in a process of its own, one table, and what bounds each figure.

Without names, all that need no GPU; the table is then written to benchmarks/results.md too. --full: those that can are
run at MS MARCO's size, for minutes each, where they otherwise take a tenth.
"""

import importlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks import Figure
from benchmarks.fresh import call
from tas_lib.data.store import atomic_write
from tas_lib.report.latency import hardware, roofline

NAMES = ("search", "sampling", "kmeans", "ingest", "encoding", "training_step")
"""All that need no GPU; `gpu` is there beside them."""
LIBRARIES = ("numpy", "torch", "faiss-gpu", "faiss-cpu", "transformers", "sentence-transformers", "scikit-learn")
RESULTS = Path(__file__).with_name("results.md")
HEADS = ("what", "ours", "against", "ratio", "aim", "")


def main(words: Sequence[str]) -> int:
    """The exit status: 0, or 1 where a benchmark failed, or 2 where one is unknown."""
    names, full = [word for word in words if word != "--full"], "--full" in words
    if unknown := [name for name in names if name not in (*NAMES, "gpu")]:
        print(f"there is no benchmark {unknown[0]!r}; there are: {', '.join((*NAMES, 'gpu'))}", file=sys.stderr)
        return 2
    machine = described()
    found, failed = {}, {}
    for name in names or NAMES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            found[name] = [Figure(*row) for row in call("benchmarks.__main__", "measured", name=name, full=full)]
        except RuntimeError as error:
            failed[name] = str(error)
        if not names:  # after each, so that a run that is stopped leaves what it measured
            with atomic_write(RESULTS) as f:
                f.write(page(machine, found, failed))
    print(page(machine, found, failed), end="")
    return 1 if failed else 0


def measured(name: str, full: bool = False) -> list[Figure]:
    """The figures of one benchmark; `full` reaches those whose `rows` have a word for it."""
    rows = importlib.import_module(f"benchmarks.{name}").rows
    return rows(**{word: full for word in ("full", "slow") if word in inspect.signature(rows).parameters})


def described() -> dict[str, str]:
    """The machine in words: what it is, and what it can do at best, measured now."""
    device = torch.device("cpu")
    best = roofline(device)
    there = {}
    for library in LIBRARIES:
        try:
            there[library] = version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return hardware(device) | {
        "matrix rate": f"{best.gflop_s:,.0f} GFLOP/s in fp32",
        "memory bandwidth": f"{best.gb_s:.1f} GB/s, reading",
        "versions": ", ".join(f"{library} {number}" for library, number in there.items()),
        "Python": sys.version.partition(" ")[0],
        "date": date.today().isoformat(),
    }


def page(machine: Mapping[str, str], found: Mapping[str, Sequence[Figure]], failed: Mapping[str, str]) -> str:
    """The page: the machine, one table of all figures, and below it what bounds each.

    failed: benchmark → what went wrong; a line of the table says so.
    """
    lines = ["# Benchmarks", "", "Ratios of one run on one machine: `./run_all.sh benchmarks`.", ""]
    lines += [f"- {what}: {told}" for what, told in machine.items()]
    lines += ["", _line(HEADS), _line(["---"] + ["---:"] * 3 + ["---"] * 2)]
    notes = ["", "What bounds each, and what remains:", ""]
    for name in (*found, *failed):
        for figure in found.get(name, []):
            lines.append(_line(figure[:-1]))
            notes.append(f"- *{figure.what}*: {figure.note}")
        if name in failed:
            lines.append(_line([name, "failed", "", "", "", "–"]))
            notes.append(f"- *{name}* failed: {failed[name]}")
    return "\n".join([*lines, *notes]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
