"""What a job costs before its first cell computes: papermill and the kernel's imports, each in a new process."""

import resource
import subprocess
import sys

from benchmarks import Figure, verdict
from benchmarks.measure import ROOT

RUNNER = "import tools.execute"
KERNEL = "import tas_lib.experiment, tas_lib.report.figures, lecture.notebook, lecture.explore"
MOST_S = 2.0


def figures(full: bool = False) -> list[Figure]:
    """Processor seconds, which other programs lengthen less than seconds."""
    python, runner, kernel = (cpu_s(code) for code in ("pass", RUNNER, KERNEL))
    ours = runner + kernel
    return [
        Figure(
            "starting a job, processor time",
            f"{ours:.1f} s",
            f"Python alone, twice: {2 * python:.2f} s",
            f"{ours / (2 * python):.0f} ×",
            f"≤ {MOST_S:g} s",
            verdict(ours <= MOST_S),
            f"what runs a notebook imports for {runner:.1f} s (papermill), then its kernel for {kernel:.1f} s "
            f"(of which torch {cpu_s('import torch'):.1f} s); models of transformers come on top where they are loaded",
        )
    ]


def cpu_s(code: str, repeats: int = 3) -> float:
    """The least processor time of a new Python that runs this."""
    times = []
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)
