"""Build figures and tables of the paper: what `./run_all.sh` runs once .venv is ready.

A thin shell over Snakemake: it checks the request, refuses a second run of the same profile, and says at the end what
was built, or in the last line what went wrong.
"""

import argparse
import fcntl
import importlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import psutil
from snakemake import cli
from snakemake.scheduling.job_scheduler import JobScheduler
from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

from tas_lib import config
from tas_lib.config import MsMarcoSource, Profile
from tools import graph, notebooks, progress, verify
from tools.graph import ROOT

DEFAULT = "docs"
ALONE = ("benchmarks", "book", "editions", "pack", "slides", "teachers", "unpack")  # targets outside the graph
RESUME = "Run the same command again to resume."


def main(words: list[str]) -> int:
    """The exit status: 0 built, 1 a notebook failed, 2 unknown request; of an interrupted run 130 or 143 (SIGTERM)."""
    parser = argparse.ArgumentParser("./run_all.sh", usage="see ./run_all.sh --help", add_help=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--dry-run", "-n", action="store_true")
    parser.add_argument("--verify", action="store_true")
    given = parser.parse_intermixed_args(words)  # options may stand between the words
    try:
        if given.verify:
            return check(given.words)
        return build(given.words, given.dry_run)
    except ValueError as error:
        return last_line(str(error), 2)
    except KeyboardInterrupt:
        return last_line(f"Interrupted. {RESUME}", 130)


def build(words: list[str], dry_run: bool) -> int:
    """Build the targets of a profile and list what was built."""
    for folder in {"TAS_RUNS", "TAS_FIGURES", "TAS_PROFILES"} & set(os.environ):
        os.environ[folder] = os.path.abspath(os.environ[folder])  # Snakemake and kernels work in other folders
    profile, targets = request(words)
    for path in map(str, (ROOT, profile.folder, profile.figures, *graph.named(profile))):
        if "{" in path or "}" in path:
            raise ValueError(f"{path}: Snakemake takes braces in a path for placeholders; rename this folder or file")
    notebooks.refuse_edited()
    if dry_run:
        if isinstance(profile.source, MsMarcoSource):
            from tools import estimate  # measures the machine, and imports torch

            print(*estimate.downloads(profile.source), *estimate.lines(profile), sep="\n", flush=True)
        return 0 if targets[0] in ALONE else snakemake(profile, targets, "--dry-run")
    with locked(profile):
        if targets == ["benchmarks"]:
            from benchmarks.__main__ import main as benchmarks

            return benchmarks(["--full"])
        if targets in (["book"], ["slides"]):
            install("book")
            return importlib.import_module(f"tools.{targets[0]}").main()
        if targets == ["editions"]:
            from tools import editions

            return editions.main()
        if targets[0] in ("pack", "unpack"):
            return share(profile, targets[0])
        if targets == ["teachers"]:
            install("teachers")
            from tools.make_shipped import remake

            remake.main(profile)
            return 0
        (profile.folder / "failed.txt").unlink(missing_ok=True)
        if status := snakemake(profile, targets):
            failed = profile.folder / "failed.txt"
            message = failed.read_text(encoding="utf-8").strip() if failed.is_file() else f"Interrupted. {RESUME}"
            return last_line(message, status)
        if "seeds" in targets:
            ship_seeds(profile)
        publish(profile, targets)
    return 0


def ship_seeds(profile: Profile) -> None:
    """Measure the rows of `Profile.seeds`, which are trained, and ship it."""
    from tas_lib.evaluation import seeds
    from tas_lib.experiment import Experiment  # imports torch

    lab, tests = Experiment(profile), [test.name for test in profile.evaluation.sets]
    measured = {key: {test: lab.evaluate(row, test) for test in tests} for key, row in profile.seeds.items()}
    seeds.write(profile, lab.collection.digest, measured)


def install(target: str) -> None:
    """Add to .venv the packages that only this target needs."""
    pins = str(ROOT / f"requirements-{target}.txt")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "-r", pins], check=True)


def share(profile: Profile, how: str) -> int:
    """Write the results pack of a profile (`pack`), or put it into the store (`unpack`)."""
    from tools import pack

    log = logging.getLogger("tas_lib")
    log.addHandler(logging.StreamHandler(sys.stdout))
    log.setLevel(logging.INFO)
    packed = ROOT / "data" / "results" / f"{profile.name}.tar.xz"
    if how == "unpack" and not packed.is_file():
        raise ValueError(f"there is no results pack of profile {profile.name}")
    getattr(pack, how)(profile, packed)
    notebooks.trust()
    print(f"{progress.short(str(packed))}: {how}ed, {packed.stat().st_size / 1e6:.1f} MB")
    return 0


def check(words: list[str]) -> int:
    """Compare what a profile has stored with the digests recorded when it was made."""
    if len(words) > 1:
        raise ValueError("--verify takes a profile and nothing else")
    profile = config.load(*words or [DEFAULT])
    with locked(profile):
        return verify.main(profile)


def request(words: list[str]) -> tuple[Profile, list[str]]:
    """The requested profile and targets, or ValueError; the profile may be left out."""
    name, *targets = words or [DEFAULT]
    there = config.files()
    if name not in there and DEFAULT in there and name in {*graph.targets(config.load(DEFAULT)), *ALONE}:
        name, targets = DEFAULT, words
    profile = config.load(name)
    known = [*graph.targets(profile), *ALONE]
    if unknown := [target for target in targets if target not in known]:
        raise ValueError(f"no target {unknown[0]!r}; the targets are: {', '.join(known)}")
    if len(targets) > 1 and (apart := set(ALONE) & set(targets)):
        raise ValueError(f"{min(apart)} is a target to run alone; run it without the others")
    return profile, targets or ["everything"]


@contextmanager
def locked(profile: Profile) -> Iterator[None]:
    """Hold the profile; the operating system releases it when the process ends, however it ends."""
    profile.folder.mkdir(parents=True, exist_ok=True)
    with open(profile.folder / ".lock", "a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"another run of profile {profile.name} is in progress; wait for it or stop it"
            raise ValueError(message) from None
        os.environ["TAS_RUNNER"] = str(os.getpid())
        yield


def snakemake(profile: Profile, targets: list[str], *options: str) -> int:
    """Run Snakemake in this process, so that the two end together; its exit status."""
    LoggerPluginRegistry().register_plugin("snakemake_logger_plugin_progress", progress)
    progress.JOBS.update(graph.jobs(profile))
    JobScheduler.exit_gracefully = staticmethod(interrupted)  # its SIGTERM handler; its own waits for the running job
    profile.folder.mkdir(parents=True, exist_ok=True)
    fixed = "--cores all --scheduler greedy --rerun-incomplete --nolock --logger progress"
    triggers = "--rerun-triggers mtime params input"
    paths = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(profile.folder)]
    name = ["--config", f"profile={profile.name}"]
    try:
        cli.main([*fixed.split(), *name, *paths, *triggers.split(), *options, "--", *targets])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def publish(profile: Profile, targets: list[str]) -> None:
    """After a whole run, show it in notebooks/ and README.md; then list figures and tables."""
    jobs, meaning = graph.jobs(profile), graph.targets(profile)
    built = [jobs[name] for name in dict.fromkeys(name for target in targets for name in meaning[target])]
    executed = profile.folder / "notebooks"
    if "everything" in targets and "TAS_FIGURES" not in os.environ:
        for job in built:
            notebooks.publish(executed / f"{job.name}.ipynb", job.source, job.parameters)
        if profile.name == DEFAULT:
            notebooks.publish_table(ROOT / "README.md", profile.figures / "table4.md")
            notebooks.publish_verdict(ROOT / "README.md", profile.figures / "claims.csv")
    files = [progress.short(str(profile.figures / file)) for job in built for file in job.makes]
    print("", *files, f"Executed notebooks: {progress.short(str(executed))}/", sep="\n", flush=True)


def interrupted(number: int, _: object = None) -> NoReturn:
    """Handle SIGINT and SIGTERM: end the job with all its processes, then this one. Files are whole at any moment."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
    os.write(2, f"Interrupted. {RESUME}\n".encode())  # a signal may arrive in the middle of a print
    os._exit(128 + number)


def last_line(message: str, status: int) -> int:
    """Print the message on standard error, after everything else."""
    sys.stdout.flush()
    print(message, file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupted)
    sys.exit(main(sys.argv[1:]))
