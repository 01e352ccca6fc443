"""Runs that are killed again and again, and a small `local` profile for every kind of fault.

TAS_KILLS=50 TAS_FAULT_SEED=0 TAS_KILL_WITHIN=60 .venv/bin/python -m pytest -m slow tests/faults -s
"""

import io
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path

from tas_lib import config
from tas_lib.config import ROOT
from tas_lib.data import store
from tas_lib.experiment import Experiment
from tas_lib.models import BertCat, ColBert
from tas_lib.retrieval import pretrained
from tests import tiny
from tools import verify

KILLS, SEED, WITHIN_S = (
    int(os.environ.get(f"TAS_{name}", default))
    for name, default in {"KILLS": "50", "FAULT_SEED": "0", "KILL_WITHIN": "60"}.items()
)
TIMED = ("table1", "table2", "table7")  # contain milliseconds; the runs behind Table 7 are compared
LOCAL_TARGETS = ["local", "collection", "labels-b8", "dual-random-b8", "table6"]
LOCAL = """
source: {{kind: local, folder: {folder}}}
artefacts: {folder}/shipped
encoder: {folder}/encoder
cross_encoder: {folder}/cat
colbert: {folder}/colbert
pooling: mean
tokens: {{query: 8, passage: 16}}
pairing: {{depth: 20, negatives: 4}}
sampling: {{clusters: 3}}
training: {{steps: 20, min_steps: 0, validate_every: 10, learning_rate: 1.0e-3}}
stop: {{queries: 6, depth: 5}}
evaluation: {{depth: 20, sets: [{{name: graded, label: G, binarise_at: 2, graded: true}}, {{name: dev, label: Dev}}]}}
reranking: {{depth: 5}}
systems:
  labels: {{teacher: none, sampling: random, batch_size: 8}}
  pairwise/random: {{teacher: pairwise, sampling: random}}
  dual/random: {{teacher: dual, sampling: random, batch_size: 8}}
  dual: {{teacher: dual, sampling: tas_balanced, batch_size: 8}}
  bm25+dual: {{kind: fused, of: [bm25, dual]}}
  bm25>cat: {{kind: reranked, first: bm25, by: cat}}
"""


def put_local(folder: Path) -> dict[str, str]:
    """A small collection with models of toy size, and profile `local`; the variables that make a run use them."""
    made, mine, vocabulary = tiny.source(), folder / "mine", len(tiny.tokenizer())
    tiny.save_encoder(mine / "encoder")
    pretrained.save(ColBert(tiny.bert(vocabulary, seed=5), 8), tiny.tokenizer(), mine / "colbert")
    pretrained.save(BertCat(tiny.bert(vocabulary, seed=6)), tiny.tokenizer(), mine / "cat")
    files = {"collection": made.passages} | {f"queries.{name}": queries.queries for name, queries in made.sets.items()}
    for name, texts in files.items():
        lines = (f"{one}\t{text}\n" for one, text in zip(*texts, strict=True))
        (mine / f"{name}.tsv").write_text("".join(lines))
    for name, queries in made.sets.items():
        judged = [f"{query} 0 {one} {grade}\n" for query, of in queries.qrels.items() for one, grade in of.items()]
        (mine / f"qrels.{name}.tsv").write_text("".join(judged))
    (folder / "profiles").mkdir()
    (folder / "profiles" / "local.yaml").write_text(LOCAL.format(folder=mine))
    return {"TAS_PROFILES": str(folder / "profiles")}


def kill_often(attempt: Callable[[Path, float | None], bool], folder: Path, within_s: float) -> list[Path]:
    """Kill KILLS attempts, each begun as soon as the one before is killed; the folders of the whole runs made so.

    attempt: works in a folder, for that many seconds or to the end, and says whether it came to the end.
    """
    rng, kills, runs = random.Random(SEED), 0, [folder / "0"]
    while kills < KILLS:
        wait_s, start = rng.uniform(0, within_s), time.monotonic()
        if attempt(runs[-1], wait_s):
            runs.append(folder / str(len(runs)))
            within_s = min(within_s, time.monotonic() - start)
        else:
            kills += 1
            print(f"kill {kills} of {KILLS}, after {wait_s:.1f} s of run {len(runs)}", flush=True)
    attempt(runs[-1], None)
    return runs


# --- ./run_all.sh ------------------------------------------------------------------------------------------------


def start(folder: Path, words: list[str], more: Mapping[str, str]) -> subprocess.Popen[str]:
    """`./run_all.sh` into `folder`, once .venv is ready, in its own process group."""
    env = os.environ | {"TAS_RUNS": str(folder / "runs"), "TAS_FIGURES": str(folder / "figures")} | more
    command, pipe = [sys.executable, "-m", "tools.run", *words], subprocess.PIPE
    options = {"cwd": ROOT, "env": env, "stdout": pipe, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, start_new_session=True, **options)


def finished(folder: Path, words: list[str], more: Mapping[str, str], kill_after_s: float | None = None) -> bool:
    """Run to the end, or kill the whole process group after a time; whether it came to the end."""
    process = start(folder, words, more)
    try:
        output, _ = process.communicate(timeout=kill_after_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return False
    assert process.returncode == 0, output
    return True


def contents(runs: Path) -> dict[str, str]:
    """Each artefact of profile `local`, and the digest of its content."""
    root = runs / "local"
    return {str(folder.relative_to(root)): store.digest_of(folder) for folder in verify.artefacts(root)}


def different(expected: Path, folder: Path, profile: str) -> list[str]:
    """Tables and run files of `expected` that `folder` has not with the same bytes."""
    tables = [path for path in (expected / "figures" / profile).glob("table*") if path.stem not in TIMED]
    runs = [*(expected / "runs" / profile).rglob("*.run.gz")]
    assert tables and runs
    pairs = ((path, folder / path.relative_to(expected)) for path in tables + runs)
    return [str(here) for path, here in pairs if not here.is_file() or here.read_bytes() != path.read_bytes()]


# --- the library without notebooks -------------------------------------------------------------------------------

server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(["tests.faults.campaign"])


def work(more: Mapping[str, str], kill_after_s: float | None = None) -> str:
    """Make every artefact of profile `local` in another process, or kill it after a time.

    Returns "killed", or "done" and what was logged, or how it failed.
    """
    ours, theirs = server.Pipe(duplex=False)
    process = server.Process(target=_work, args=[dict(more), theirs])
    process.start()
    theirs.close()
    try:
        ended = ours.recv() if ours.poll(kill_after_s) else "killed"
    except EOFError:
        ended = "the process died"
    process.kill()
    process.join()
    return ended


def _work(more: dict[str, str], result: Connection) -> None:
    os.environ |= more
    log = io.StringIO()
    logging.basicConfig(stream=log, level=logging.INFO, format="%(message)s", force=True)
    try:
        lab = Experiment(config.load("local"))
        lab.scores(lab.profile.systems)
        _ = lab.pairs, lab.tokens, lab.clusters, lab.query_vecs, lab.in_batch_teacher
        _ = [lab.vectors(system) for system in lab.profile.systems.values() if system.kind == "trained"]
        result.send(f"done\n{log.getvalue()}")
    except (ValueError, OSError) as error:
        result.send(f"{type(error).__name__}: {error}")
