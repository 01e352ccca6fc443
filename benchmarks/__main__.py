"""`python -m benchmarks [name ...] [--full]`: each in its own process, one table, and what limits each figure.

Without names, it runs all but `afternoon`, in half an hour, and also writes benchmarks/results.md. --full: at MS
MARCO's size where possible, and `afternoon` too: an hour and a half.
"""

import platform
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks import Figure
from benchmarks.measure import in_new_process
from tas_lib.data.store import atomic_write
from tas_lib.report.latency import hardware, roofline

NAMES = ("start", "search", "sampling", "encoding", "reranking", "training_step", "growth", "gpu")
LONG = ("afternoon",)  # only when named, or with --full
LIBRARIES = ("numpy", "torch", "faiss-gpu", "faiss-cpu", "transformers", "sentence-transformers", "scikit-learn")
RESULTS = Path(__file__).with_name("results.md")


def main(words: Sequence[str]) -> int:
    """The exit status: 0, or 1 if a benchmark failed, or 2 if one is unknown."""
    names, full = [word for word in words if word != "--full"], "--full" in words
    if unknown := [name for name in names if name not in (*NAMES, *LONG)]:
        print(f"no benchmark {unknown[0]!r}; the benchmarks are: {', '.join((*NAMES, *LONG))}", file=sys.stderr)
        return 2
    machine, figures, failed = description(), {}, {}
    for name in names or (*NAMES, *(LONG if full else ())):
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            rows = in_new_process(f"benchmarks.{name}", "figures", full=full)
            figures[name] = [Figure(*row) for row in rows]
        except RuntimeError as error:
            failed[name] = str(error)
        if not names:  # after each, so that an interrupted run leaves what it measured
            with atomic_write(RESULTS) as f:
                f.write(page(machine, figures, failed))
    print(page(machine, figures, failed), end="")
    return 1 if failed else 0


def description() -> dict[str, str]:
    """The machine: what it is, and what it does at best, measured now."""
    device, versions = torch.device("cpu"), {}
    best = roofline(device)
    for library in LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[library] = version(library)
    return hardware(device) | {
        "matrix rate": f"{best.gflop_s:,.0f} GFLOP/s in fp32",
        "memory bandwidth": f"{best.gb_s:.1f} GB/s, reading",
        "versions": ", ".join(f"{library} {number}" for library, number in versions.items()),
        "Python": platform.python_version(),
        "date": date.today().isoformat(),
    }


def page(machine: Mapping[str, str], figures: Mapping[str, Sequence[Figure]], failed: Mapping[str, str]) -> str:
    """The page: the machine, one table of all figures, and below it what limits each.

    failed: benchmark → what went wrong; it gets a line of the table.
    """
    how = "Of one run on one machine: `python -m benchmarks`; `./run_all.sh benchmarks` measures at full size too."
    lines = ["# Benchmarks", "", how, ""]
    lines += [f"- {what}: {value}" for what, value in machine.items()]
    lines += ["", _line("what", "ours", "against", "ratio", "target", ""), _line("---", *["---:"] * 3, "---", "---")]
    notes = ["", "What limits each, and what remains:", ""]
    for figure in (figure for of_one in figures.values() for figure in of_one):
        lines.append(_line(*figure[:-1]))
        notes.append(f"- *{figure.what}*: {figure.note}")
    for name, error in failed.items():
        lines.append(_line(name, "failed", "", "", "", "–"))
        notes.append(f"- *{name}* failed: {error}")
    picture = ["", "![Time and memory by number of passages](growth.png)"] if "growth" in figures else []
    return "\n".join([*lines, *picture, *notes]) + "\n"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
