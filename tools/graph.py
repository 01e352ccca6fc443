"""The paper as a graph: which notebook needs which, and which figures and tables come out of it.

`NOTEBOOKS` is what there is; `jobs` puts in one training run a system for 06_training; the Snakefile makes them rules.
"""

import ast
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tas_lib.config import Profile, System

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "notebooks" / "src"
FULL = "07_latency-full"  # Table 1 at MS MARCO's size
MSMARCO_PASSAGES = 8_841_823
FIRST_TABLE = "08_losses_compared"  # of the tables the one with the fewest systems
BASELINE = "pairwise/random"  # the system that gives clusters and early-stopping candidates (DESIGN.md)


class Notebook(NamedTuple):
    """What a notebook needs: other notebooks, "baseline", and systems by their numbers; what it makes in figures/.

    asked: it is made when it is asked for by name, and is no part of everything.
    seconds: on profile docs with two cores. Only the ratios matter, for the time left.
    """

    needs: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    seconds: int = 15
    asked: bool = False


def _figure(name: str) -> tuple[str, ...]:
    return tuple(f"{name}.{kind}" for kind in ("svg", "png"))


def _table(name: str) -> tuple[str, ...]:
    return tuple(f"{name}.{kind}" for kind in ("md", "csv", "tex"))


def _numbers(*ranges: tuple[int, int]) -> tuple[str, ...]:
    return tuple(str(n) for first, last in ranges for n in range(first, last + 1))


TRAINING = "06_training"
NOTEBOOKS = {
    "00_start_here": Notebook(),
    "01_collection": Notebook(seconds=60),
    "02_models": Notebook(needs=("01_collection",)),
    "03_losses": Notebook(needs=("01_collection",)),
    "04_clustering": Notebook(needs=("baseline",), makes=_figure("figure1"), seconds=40),
    "05_sampling": Notebook(needs=("04_clustering",), makes=_figure("figure2"), seconds=30),
    TRAINING: Notebook(needs=("01_collection",), seconds=110),
    "07_latency": Notebook(
        needs=("labels", "pairwise/random", "in_batch/random", "dual/tas_balanced"),
        makes=(*_table("table1"), *_table("table2")),
        seconds=75,
    ),
    "08_losses_compared": Notebook(needs=_numbers((10, 13)), makes=_table("table3"), seconds=20),
    "09_ablation": Notebook(needs=_numbers((1, 10)), makes=_table("table4"), seconds=30),
    "10_robustness": Notebook(needs=_numbers((1, 10), (14, 17)), makes=_table("table5"), seconds=20),
    "11_dense_compared": Notebook(
        needs=("pairwise/random", "in_batch/random", *_numbers((10, 10), (18, 19))), makes=_table("table6"), seconds=20
    ),
    "12_pipelines": Notebook(
        needs=("pairwise/random", "in_batch/random", "tas_b"),
        makes=(*_figure("figure3"), *_table("table7")),
        seconds=880,
    ),
    "13_claims": Notebook(
        needs=("05_sampling", "12_pipelines", *_numbers((1, 21))), makes=("claims.md", "claims.csv"), seconds=60
    ),
    "14_deviations": Notebook(
        needs=("dual/tas_balanced", "D1", "D2", "D3", "D16"), makes=_table("deviations"), asked=True
    ),
}
COMPARED = {"09_ablation": "table4", "11_dense_compared": "table6"}
"""Notebooks whose table has a companion, `-compared`, where the test sets are the paper's."""


class Job(NamedTuple):
    """One papermill run: `notebook` with `parameters`, executed as `notebooks/<name>.ipynb` of the profile's folder."""

    name: str
    notebook: str
    parameters: dict[str, Any]
    needs: tuple[str, ...]
    makes: tuple[str, ...]
    seconds: int
    asked: bool = False  # no part of everything
    first: bool = False  # before other jobs that could run: figures, and what the first table is made of

    @property
    def source(self) -> Path:
        """The percent text that it runs."""
        return SOURCES / f"{self.notebook}.py"


def jobs(profile: Profile) -> dict[str, Job]:
    """Every job of a profile by name; those that others need come first."""
    systems = {number: s for number, s in (profile.systems | profile.deviations).items() if s.kind == "trained"}
    runs = {number: f"{TRAINING}-{system.name}" for number, system in systems.items()}
    baseline = [runs[BASELINE]] if BASELINE in runs else []
    known = {*NOTEBOOKS, *runs.values()}  # a table is made without the systems that a profile lacks
    found: dict[str, Job] = {}
    for name, notebook in NOTEBOOKS.items():
        if name == TRAINING:
            found |= {
                runs[number]: _training(profile, system, runs[number], number in profile.deviations, baseline)
                for number, system in systems.items()
            }
            continue
        meaning = runs | {"baseline": runs.get(BASELINE, "01_collection")}
        needs = tuple(need for word in notebook.needs if (need := meaning.get(word, word)) in known)
        if notebook.needs and not needs:
            needs = ("01_collection",)
        asked = {"PROFILE": profile.name}
        makes = notebook.makes
        if name in COMPARED and profile.evaluation.on_the_papers_sets:
            makes += _table(f"{COMPARED[name]}-compared")
        found[name] = Job(name, name, asked, needs, makes, notebook.seconds, notebook.asked, first=True)
    small = found[FULL.removesuffix("-full")]
    large = small.parameters | {"PASSAGES": MSMARCO_PASSAGES}
    found[FULL] = small._replace(name=FULL, parameters=large, makes=_table("table1-full"), seconds=2_400, asked=True)
    return found


def _training(profile: Profile, system: System, name: str, asked: bool, baseline: list[str]) -> Job:
    """The job that trains one system."""
    parameters: dict[str, Any] = {"TEACHER": system.teacher, "SAMPLING": system.sampling, "LOSS": system.loss}
    parameters |= {"PROFILE": profile.name, "BATCH_SIZE": system.batch_size, "SEED": system.seed}
    parameters |= {"VARIANT": system.variant}
    notebook = NOTEBOOKS[TRAINING]
    topics = [] if system.sampling == "random" else ["04_clustering"]
    needs = [*notebook.needs, *(baseline if [name] != baseline else []), *topics]
    first = any(profile.systems.get(number) == system for number in (BASELINE, *NOTEBOOKS[FIRST_TABLE].needs))
    seconds = notebook.seconds * system.batch_size // 32
    return Job(name, TRAINING, parameters, tuple(needs), notebook.makes, seconds, asked, first)


def aliases(profile: Profile) -> dict[str, list[str]]:
    """What can be asked for by name, and the jobs that it means: figures, tables, notebooks, systems, everything."""
    every = jobs(profile)
    found = {"everything": [name for name, job in every.items() if not job.asked]}
    for job in every.values():
        found |= {Path(made).stem: [job.name] for made in job.makes}
    for job in every.values():
        if job.name == job.notebook or not job.asked:
            for name in (job.notebook, job.notebook.partition("_")[2]):
                found[name] = [*dict.fromkeys([*found.get(name, []), job.name])]
        if job.name != job.notebook:
            found[job.name.removeprefix(f"{TRAINING}-")] = [job.name]
    return found


def inputs(job: Job, profile: Profile) -> list[str]:
    """The files whose change makes a job run again: its text, the library it uses, the profile, what is shipped."""
    settings = Path(os.environ.get("TAS_PROFILES", ROOT / "profiles")) / f"{profile.name}.yaml"
    shipped = sorted((ROOT / profile.artefacts).glob("*/provenance.json"))
    pins = [ROOT / "requirements.txt"] if job.notebook == "01_collection" else []
    made = {Path(made).stem for made in job.makes}
    numbers = made | ({"rows"} if any(name.startswith(("table", "deviations")) for name in made) else set())
    numbers |= {"independent", "others"} if any(name.endswith("-compared") for name in made) else set()
    paper = sorted(ROOT / "data" / "paper" / f"{name}.csv" for name in numbers)
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
