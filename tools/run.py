"""Build figures and tables of the paper: `./run_all.sh` is this, in an environment that it has set up.

A thin shell over Snakemake: it checks what is asked for, keeps two runs of one profile apart, and says at the end
what came out, or in the last line what went wrong.
"""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NoReturn

from snakemake import cli
from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

from tas_lib import config as profiles
from tas_lib.config import MsMarcoSource, Profile
from tools import graph, notebooks, progress, readme

ROOT = Path(__file__).resolve().parents[1]
DEFAULT = "docs"
DRY_RUN = {"--dry-run", "-n"}
HELP = {"--help", "-h"}
ALONE = {"benchmarks", "teachers"}
"""What is no job of the graph, and is asked for by itself."""


def main(words: list[str]) -> int:
    """The exit status: 0 built, 1 a notebook failed, 2 asked for something unknown, 130 stopped by hand."""
    options = {word for word in words if word.startswith("-")}
    if options & HELP:
        print((ROOT / "tools" / "help.txt").read_text(encoding="utf-8"), end="")
        return 0
    try:
        if options - DRY_RUN:
            raise ValueError(f"there is no option {min(options - DRY_RUN)}; see ./run_all.sh --help")
        return build([word for word in words if word not in options], dry_run=bool(options & DRY_RUN))
    except ValueError as error:
        return last_line(str(error), 2)
    except KeyboardInterrupt:
        return last_line("Stopped; started again, it goes on where it was.", 130)


def build(words: list[str], dry_run: bool) -> int:
    """Make the targets of a profile and list what came out."""
    for folder in {"TAS_RUNS", "TAS_FIGURES", "TAS_PROFILES"} & set(os.environ):
        os.environ[folder] = os.path.abspath(os.environ[folder])  # Snakemake and kernels work in other folders
    profile, targets = request(words)
    notebooks.refuse_edited()
    if dry_run:
        for line in [*fetched(profile), *expected(profile)]:
            print(line, flush=True)
        return 0 if targets[0] in ALONE else snakemake(profile, targets, "--dry-run")
    with alone(profile) as lock:
        if targets == ["teachers"]:
            teachers(profile, lock)
        if targets == ["benchmarks"]:
            become(lock, "benchmarks", "--full")
        (profile.folder / "failed.txt").unlink(missing_ok=True)
        status = snakemake(profile, targets)
        if status:
            return last_line(failure(profile), status)
        finish(profile, targets)
    return 0


def fetched(profile: Profile) -> list[str]:
    """A line for every file that the source is fetched from, with its size and whether it is there; no connection."""
    if not isinstance(profile.source, MsMarcoSource):
        return []
    from tas_lib.data.sources import msmarco

    files = msmarco.downloads(profile.source)
    missing = sum(file.size for file in files if not file.there)
    lines = [f"{'there' if f.there else 'to fetch':8}  {f}  {f.url} -> {f.path.parent}" for f in files]
    return [*lines, f"To fetch: {missing / 1e9:.1f} GB in all; terms of use: {msmarco.TERMS}"]


def expected(profile: Profile) -> list[str]:
    """What each figure and table of a profile at full size would take on this machine."""
    if not isinstance(profile.source, MsMarcoSource):
        return []
    from tools import estimate  # measures, and imports torch

    return estimate.lines(profile)


def request(words: list[str]) -> tuple[Profile, list[str]]:
    """The profile and the targets that the words mean, or ValueError; the profile may be left out."""
    name, *targets = words or [DEFAULT]
    try:
        profile = profiles.load(name)
    except ValueError:
        default = profiles.load(DEFAULT)
        if name not in known(default):
            raise
        profile, targets = default, words
    unknown = [target for target in targets if target not in known(profile)]
    if unknown:
        raise ValueError(f"there is no target {unknown[0]!r}; there are: {', '.join(known(profile))}")
    if len(targets) > 1 and (apart := ALONE & set(targets)):
        raise ValueError(f"{min(apart)} is made alone; ask for the rest afterwards")
    return profile, targets or ["everything"]


def known(profile: Profile) -> dict[str, list[str]]:
    """Every target of a profile, and the jobs that it means."""
    return graph.aliases(profile) | {target: [] for target in sorted(ALONE)}


@contextmanager
def alone(profile: Profile) -> Iterator[IO[str]]:
    """Hold the profile for this process; the system lets go of it when the process ends, however it ends."""
    profile.folder.mkdir(parents=True, exist_ok=True)
    with open(profile.folder / ".lock", "a+", encoding="utf-8") as lock:
        for attempt in range(4):  # what a killed run left behind ends within seconds
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == 3:
                    what = f"another run of profile {profile.name} is under way; wait for it, or stop it"
                    raise ValueError(what) from None
                time.sleep(1)
        os.environ["TAS_RUNNER"] = f"{os.getpid()} {time.time()}"
        lock.truncate(0)
        lock.write(os.environ["TAS_RUNNER"])
        lock.flush()
        yield lock


def snakemake(profile: Profile, targets: list[str], *options: str) -> int:
    """Run Snakemake in this process, so that the two end together; its exit status."""
    LoggerPluginRegistry().register_plugin("snakemake_logger_plugin_progress", progress)
    progress.JOBS.update(graph.jobs(profile))
    profile.folder.mkdir(parents=True, exist_ok=True)
    fixed = (
        f"--cores all --scheduler greedy --rerun-incomplete --nolock --logger progress --config profile={profile.name}"
    )
    paths = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(profile.folder)]
    triggers = ["--rerun-triggers", "mtime", "params", "input"]
    try:
        cli.main([*fixed.split(), *paths, *triggers, *options, "--", *targets])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def finish(profile: Profile, targets: list[str]) -> None:
    """After a whole run the notebooks in notebooks/ show it; then list figures and tables."""
    jobs = graph.jobs(profile)
    made = [jobs[name] for name in dict.fromkeys(name for target in targets for name in known(profile)[target])]
    if "everything" in targets and "TAS_FIGURES" not in os.environ:
        for job in made:
            notebooks.publish(profile.folder / "notebooks" / f"{job.name}.ipynb", job.source)
        if profile.name == DEFAULT:
            readme.publish(profile.figures / "table4.md")
    files = [progress.short(str(profile.figures / file)) for job in made for file in job.makes]
    print("", *files, f"Executed notebooks: {progress.short(str(profile.folder / 'notebooks'))}/", sep="\n", flush=True)


def teachers(profile: Profile, lock: IO[str]) -> None:
    """Make what data/ ships."""
    pins = str(ROOT / "requirements-teachers.txt")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "-r", pins], check=True)
    become(lock, "tools.make_shipped.remake", profile.name)


def become(lock: IO[str], module: str, *words: str) -> NoReturn:
    """Become the process of another module; the lock goes along."""
    os.set_inheritable(lock.fileno(), True)
    os.chdir(ROOT)
    os.execv(sys.executable, [sys.executable, "-m", module, *words])


def failure(profile: Profile) -> str:
    """What went wrong, in one line."""
    try:
        return (profile.folder / "failed.txt").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        job = f"{progress.FAILED[-1]} was stopped" if progress.FAILED else "Snakemake stopped"
        return f"{job}; started again, it goes on where it was"


def last_line(what: str, status: int) -> int:
    """Say it on standard error, after all else."""
    sys.stdout.flush()
    print(what, file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
