"""The graph of the paper: which systems each notebook needs, and which figures and tables it makes.

The rows of a table say which systems it needs. `jobs` adds one training per system; the Snakefile makes them rules.
"""

import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any, NamedTuple

from tas_lib.config import LocalSource, Profile, System, located
from tas_lib.data import store
from tas_lib.report import paper

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "notebooks" / "src"
COLLECTION, CLUSTERS, TRAINING = "01_collection", "04_clustering", "06_training"
TABLE_1, PIPELINES = "07_latency", "12_pipelines"
BASELINE = "pairwise/random"  # gives all other systems their clusters and early-stopping candidates
MSMARCO_PASSAGES = 8_841_823


class Notebook(NamedTuple):
    """What a notebook needs, and the figures and tables that it makes.

    systems: keys of the systems that it evaluates; None: all of the profile. after: other notebooks.
    seconds: on profile docs with two cores; only the ratios matter, for the time left.
    on_request: built only when named, not with everything. alone: it measures time, or has work for all cores.
    """

    systems: Iterable[str] | None = ()
    after: tuple[str, ...] = (COLLECTION,)
    makes: tuple[str, ...] = ()
    seconds: int = 15
    on_request: bool = False
    alone: bool = False


NOTEBOOKS = {
    "00_start_here": Notebook(after=()),
    COLLECTION: Notebook(after=(), seconds=60, alone=True),
    "02_models": Notebook(),
    "03_losses": Notebook(),
    CLUSTERS: Notebook([BASELINE], makes=("figure1",), seconds=40),
    "05_sampling": Notebook(after=(CLUSTERS,), makes=("figure2",), seconds=30),
    TRAINING: Notebook(seconds=110),
    TABLE_1: Notebook([BASELINE], makes=("table1", "table2"), seconds=220, alone=True),
    "08_losses_compared": Notebook(paper.TABLE3, makes=("table3",), seconds=20),
    "09_ablation": Notebook(paper.TABLE4, makes=("table4",), seconds=30),
    "10_robustness": Notebook(paper.TABLE4 | paper.TABLE5, makes=("table5", "figure-steps"), seconds=20),
    "11_dense_compared": Notebook(paper.TABLE5 | paper.TABLE6, makes=("table6",), seconds=20),
    PIPELINES: Notebook([BASELINE, "in_batch/random"], makes=("figure3", "table7"), seconds=880, alone=True),
    "13_claims": Notebook(None, after=("05_sampling", PIPELINES), makes=("claims",), seconds=60, alone=True),
    "14_deviations": Notebook(paper.TABLE5 | paper.DEVIATIONS, makes=("deviations",), on_request=True),
    "15_your_trainer": Notebook(seconds=90, on_request=True),
}
VARIED = ("teacher", "sampling", "loss", "batch_size", "seed", "variant")  # parameters of the training notebook


class Job(NamedTuple):
    """One papermill run: `notebook` with `parameters`, executed as `notebooks/<name>.ipynb` of the profile's folder.

    early: of the jobs that are ready, those with the highest run first. trains: a system's key.
    cores: how many it uses; 0: all. With fewer than all, several jobs run at once.
    """

    name: str
    parameters: dict[str, Any]
    notebook: str
    needs: tuple[str, ...]
    makes: tuple[str, ...]
    seconds: int
    on_request: bool = False
    early: int = 2  # figures, and what Table 3 needs
    trains: str = ""
    cores: int = 0

    @property
    def source(self) -> Path:
        """The percent text that it runs."""
        return SOURCES / f"{self.notebook}.py"


def files(*made: str) -> tuple[str, ...]:
    """The files of figures and tables in figures/<profile>/.

    >>> files("figure1", "claims")
    ('figure1.svg', 'figure1.png', 'claims.md', 'claims.csv')
    """
    kinds = {True: ("svg", "png"), False: ("md", "csv")}
    return tuple(f"{name}.{kind}" for name in made for kind in kinds[name.startswith("figure")])


def jobs(profile: Profile) -> dict[str, Job]:
    """Every job of a profile by name."""
    systems, rows = trainable(profile), {**profile.systems, **profile.deviations}
    trainings = {key: f"{TRAINING}-{system.name}" for key, system in systems.items() if system.kind == "trained"}

    def behind(keys: Iterable[str]) -> Iterator[str]:
        """The trainings that these rows need; a fused or re-ranked one needs those of its parts."""
        for key in keys:
            if key in trainings and key in rows:  # further seeds are shipped
                yield trainings[key]
            elif key in rows:
                yield from behind(rows[key].parts)

    result: dict[str, Job] = {}
    for name, notebook in NOTEBOOKS.items():
        if name == TRAINING:
            before = {key: (COLLECTION, *behind({BASELINE} - {key})) for key in trainings}
            result |= {job: _training(profile, key, job, before[key]) for key, job in trainings.items()}
            continue
        keys = [*(profile.systems if notebook.systems is None else notebook.systems)]
        if name == PIPELINES:
            keys += [key for key, system in systems.items() if system.parts]
        needs = tuple(dict.fromkeys((*notebook.after, *behind(keys))))
        shown = {"table4", "table6"} & {*notebook.makes} if profile.evaluation.on_the_papers_sets else ()
        makes = files(*notebook.makes, *(f"{table}-compared" for table in shown))  # with the figures of others
        cores = 1 if profile.training.frozen_layers and not notebook.alone else 0
        early = 3 if name == TABLE_1 else 2  # the first table; with all cores it makes ColBERT's vectors for the rest
        result[name] = Job(name, {"PROFILE": profile.name}, name, needs, makes, notebook.seconds, notebook.on_request,
                           early, cores=cores)  # fmt: skip
    name, parameters = f"{TABLE_1}-full", {"PROFILE": profile.name, "PASSAGES": MSMARCO_PASSAGES}
    return result | {name: Job(name, parameters, TABLE_1, result[TABLE_1].needs, files("table1-full"), 2_400, True)}


def trainable(profile: Profile) -> dict[str, System]:
    """Everything that is trained or made of what is: rows, deviations, further seeds."""
    more = {key: system for key, system in profile.seeds.items() if system not in profile.systems.values()}
    return profile.systems | profile.deviations | more


def _training(profile: Profile, key: str, name: str, needs: tuple[str, ...]) -> Job:
    system = trainable(profile)[key]
    parameters = {"PROFILE": profile.name} | {field.upper(): getattr(system, field) for field in VARIED}
    needs += () if system.sampling == "random" else (CLUSTERS,)
    seconds = NOTEBOOKS[TRAINING].seconds * system.batch_size // 32
    # the longest are not last, or one core would wait for them
    early = 2 if key in (BASELINE, *paper.TABLE3) else int(system.batch_size > 32)
    # of a small part, a step is too short for two threads; the baseline runs alone, and makes the states that all read
    cores = 1 if profile.of(system).training.frozen_layers and key != BASELINE else 0
    return Job(name, parameters, TRAINING, needs, (), seconds, key not in profile.systems, early, key, cores)


def targets(profile: Profile) -> dict[str, list[str]]:
    """What can be requested by name, with its jobs: everything, figures, tables, notebooks, systems."""
    every = jobs(profile)
    result = {"everything": [name for name, job in every.items() if not job.on_request]}
    if profile.seeds:
        result["seeds"] = [*dict.fromkeys(f"{TRAINING}-{system.name}" for system in profile.seeds.values())]
    result |= {Path(file).stem: [job.name] for job in every.values() for file in job.makes}
    for job in every.values():
        if job.name == job.notebook or not job.on_request:
            for name in (job.notebook, job.notebook.partition("_")[2]):
                result[name] = [*dict.fromkeys([*result.get(name, []), job.name])]
        if job.trains:
            result[job.name.removeprefix(f"{TRAINING}-")] = [job.name]
    return result


def inputs(job: Job, profile: Profile) -> list[str]:
    """The files whose change makes a job run again: notebook, library, profile, models, runs, printed numbers."""
    result = [Path(os.environ.get("TAS_PROFILES", ROOT / "profiles")) / f"{profile.name}.yaml", *library(job.source)]
    result += sorted((ROOT / profile.artefacts).glob("*/provenance.json"))
    result += [ROOT / "requirements.txt"] if job.name == COLLECTION else []
    result += sorted((ROOT / "data" / "paper").glob("*.csv")) if job.makes else []
    result += sorted(named(profile))
    return [str(path) for path in result]


def named(profile: Profile) -> Iterator[Path]:
    """The user's own files that a profile names: collection, models, run files."""
    models = [profile.encoder, profile.cross_encoder, profile.colbert, profile.expansion.model]
    models += [profile.reranking.mono, profile.reranking.duo]
    for system in (profile.systems | profile.deviations).values():
        if system.kind == "checkpoint":
            models.append(system.source)
        elif system.kind == "run":
            paths = (ROOT / Path(system.source.format(set=test.name)).expanduser() for test in profile.evaluation.sets)
            yield from (path for path in paths if path.is_file())
    for folder in {Path(located(model)) for model in models if model}:
        if folder.parent != profile.artefacts_folder:  # else its provenance counts; and no .git or .cache
            visible = (path for path in folder.rglob("*") if "/." not in str(path.relative_to(folder.parent)))
            yield from (path for path in visible if path.is_file())
    if isinstance(profile.source, LocalSource):
        texts = (*profile.source.place.glob("*"), *profile.source.place.glob("qrels/*"))
        yield from (path for path in texts if re.search(r"\.(tsv|txt|jsonl)(\.gz)?$", path.name))


def stamp(profile: Profile) -> str:
    """A digest of paths, sizes and times of `named`: a replacement older than the notebooks changes it too."""
    return store.digest({str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in named(profile)})


@cache
def library(source: Path) -> list[Path]:
    """The modules of this project that a file imports, directly or through another; and the file itself."""
    finder = ModuleFinder([str(ROOT)])
    finder.run_script(str(source))  # reads it, and does not run it
    files = [getattr(module, "__file__", None) for module in finder.modules.values()]
    return sorted(Path(file) for file in files if file)
