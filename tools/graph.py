"""The paper as a graph: which notebook needs which, and which figures and tables come out of it.

`NOTEBOOKS` is what there is; `jobs` puts in one training run a system for 06_training; the Snakefile makes them rules.
"""

import ast
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tas_lib.profile import Profile, System

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "notebooks" / "src"
BASELINE = "2"  # the system that gives clusters and early-stopping candidates (DESIGN.md)


class Notebook(NamedTuple):
    """What a notebook needs: other notebooks, "baseline" or "systems"; and the files it puts under figures/<profile>/.

    seconds: on profile docs with two cores. Only the ratios matter, for the time left.
    """

    needs: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    seconds: int = 15


def _figure(name: str) -> tuple[str, ...]:
    return tuple(f"{name}.{kind}" for kind in ("svg", "png"))


def _table(name: str) -> tuple[str, ...]:
    return tuple(f"{name}.{kind}" for kind in ("md", "csv", "tex"))


TRAINING = "06_training"
NOTEBOOKS = {
    "00_start_here": Notebook(),
    "01_collection": Notebook(seconds=60),
    "02_models": Notebook(needs=("01_collection",)),
    "03_losses": Notebook(needs=("01_collection",)),
    "04_clustering": Notebook(needs=("baseline",), makes=_figure("figure1"), seconds=40),
    "05_sampling": Notebook(needs=("04_clustering",), makes=_figure("figure2"), seconds=30),
    TRAINING: Notebook(needs=("01_collection",), seconds=150),
    "09_ablation": Notebook(needs=("systems",), makes=_table("table4"), seconds=30),
}


class Job(NamedTuple):
    """One papermill run: `notebook` with `parameters`, executed as `notebooks/<name>.ipynb` of the profile's folder."""

    name: str
    notebook: str
    parameters: dict[str, Any]
    needs: tuple[str, ...]
    makes: tuple[str, ...]
    seconds: int

    @property
    def source(self) -> Path:
        """The percent text that it runs."""
        return SOURCES / f"{self.notebook}.py"


def _training(profile: Profile) -> dict[str, System]:
    """The systems trained here, by job name."""
    return {f"{TRAINING}-{s.name}": s for s in profile.systems.values() if s.kind == "trained"}


def jobs(profile: Profile) -> dict[str, Job]:
    """Every job of a profile by name; those that others need come first."""
    trained = _training(profile)
    baseline = [name for name, system in trained.items() if system == profile.systems.get(BASELINE)]
    meaning = {"baseline": baseline or ["01_collection"], "systems": list(trained) or ["01_collection"]}
    found = {}
    for name, notebook in NOTEBOOKS.items():
        needs = tuple(need for word in notebook.needs for need in meaning.get(word, [word]))
        if name != TRAINING:
            found[name] = Job(name, name, {"PROFILE": profile.name}, needs, notebook.makes, notebook.seconds)
            continue
        for run, system in trained.items():
            asked: dict[str, Any] = {"TEACHER": system.teacher, "SAMPLING": system.sampling, "LOSS": system.loss}
            asked |= {"PROFILE": profile.name, "BATCH_SIZE": system.batch_size, "SEED": system.seed}
            first = [] if run in baseline else baseline
            topics = [] if system.sampling == "random" else ["04_clustering"]
            seconds = notebook.seconds * system.batch_size // 32
            found[run] = Job(run, name, asked, (*needs, *first, *topics), notebook.makes, seconds)
    return found


def aliases(profile: Profile) -> dict[str, list[str]]:
    """What can be asked for by name, and the jobs that it means: figures, tables, notebooks, systems, everything."""
    every = jobs(profile)
    found = {"everything": list(every)}
    for job in every.values():
        found |= {Path(made).stem: [job.name] for made in job.makes}
    for job in every.values():
        found.setdefault(job.notebook, []).append(job.name)
        found.setdefault(job.notebook.partition("_")[2], []).append(job.name)
        if job.name != job.notebook:
            found[job.name.removeprefix(f"{TRAINING}-")] = [job.name]
    return found


def inputs(job: Job, profile: Profile) -> list[str]:
    """The files whose change makes a job run again: its text, the library it uses, the profile, what is shipped."""
    settings = Path(os.environ.get("TAS_PROFILES", ROOT / "profiles")) / f"{profile.name}.yaml"
    shipped = sorted((ROOT / profile.artefacts).glob("*/provenance.json"))
    pins = [ROOT / "requirements.txt"] if job.notebook == "01_collection" else []
    paper = sorted({ROOT / "data" / "paper" / f"{Path(made).stem}.csv" for made in job.makes})
    paper = [path for path in paper if path.is_file()]
    return [str(path) for path in (job.source, settings, *library(job.source), *shipped, *pins, *paper)]


def library(source: Path) -> list[Path]:
    """The modules of tas_lib that a file imports, directly or through another."""
    found: set[Path] = set()
    waiting = [source] if source.is_file() else []
    while waiting:
        for module in _imported(ast.parse(waiting.pop().read_text(encoding="utf-8"))):
            path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
            if path.is_file() and path not in found:
                found.add(path)
                waiting.append(path)
    return sorted(found)


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
