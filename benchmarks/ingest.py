"""Reading teacher scores of MS MARCO's size: synthetic files in its formats, read by the functions that a run uses."""

import os
import tempfile
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from benchmarks import Figure, verdict
from benchmarks.measure import in_new_process, used
from tas_lib.config import ROOT, Evaluation, LocalSource, Profile, TestSet
from tas_lib.data.collection import Collection, open_collection
from tas_lib.train.pairs import Scorer, open_pairs

LINES, PASSAGES, QUERIES = 40_000_000, 8_841_823, 400_000  # of MS MARCO
TOKENIZER = ROOT / "data" / "docs" / "encoder"
BLOCK = 1_000_000  # lines written at a time


def figures(full: bool = False, lines: int = 0) -> list[Figure]:
    """full: 40M lines, otherwise a tenth."""
    lines = lines or (LINES if full else LINES // 10)
    with tempfile.TemporaryDirectory() as folder:
        return [scored_pairs(Path(folder) / "pairs", lines)]


def scored_pairs(folder: Path, lines: int) -> Figure:
    """Teacher scores to pairs sorted by margin; as many passages per line as MS MARCO has."""
    n, part = max(lines * PASSAGES // LINES, 10), max(lines // 10, 1)
    write_folder(folder, (f"passage {i}" for i in range(n)), min(QUERIES, n))
    write_scores(folder / "pairs.tsv", lines, min(QUERIES, n), n)
    run("open_folder", folder)
    ours, plain = run("read_pairs", folder), run("read_lines", folder, lines=part)
    whole, ratio = ours["seconds"] * LINES / lines, ours["per_s"] / plain["per_s"]
    return Figure(
        f"{lines:,} lines of teacher scores, to pairs sorted by margin",
        f"{ours['per_s']:,.0f} lines/s, {ours['peak_gb']:.1f} GB ({ours['seconds']:.0f} s; 40M: {whole:.0f} s)",
        f"read line by line, not sorted: {plain['per_s']:,.0f} lines/s, {plain['peak_gb']:.1f} GB",
        f"{ratio:.1f} ×",
        "40M in 600 s, 6 GB",
        verdict(whole <= 600 and ours["peak_gb"] <= 6),
        f"{n:,} passage ids; {ours['cpu'] / lines * 1e6:.2f} µs of processor time per line against "
        f"{plain['cpu'] / part * 1e6:.2f} µs",
    )


# --- synthetic files ---------------------------------------------------------------------------------------------


def write_folder(folder: Path, passages: Iterable[str], queries: int) -> None:
    """A collection in MS MARCO's layout, with training queries and a test set of one query."""
    folder.mkdir()
    with open(folder / "collection.tsv", "w", encoding="utf-8") as f:
        f.writelines(f"{i}\t{text}\n" for i, text in enumerate(passages))
    (folder / "queries.train.tsv").write_text("".join(f"{i}\tquery {i}\n" for i in range(queries)))
    (folder / "qrels.train.tsv").write_text("".join(f"{i} 0 0 1\n" for i in range(queries)))
    (folder / "queries.dev.tsv").write_text("dev\ta query\n")
    (folder / "qrels.dev.tsv").write_text("dev 0 1 1\n")


def write_scores(path: Path, lines: int, queries: int, passages: int) -> None:
    """Lines in the published format, some 60 bytes each: random scores, queries and passages."""
    rng = np.random.default_rng(0)
    with open(path, "wb") as f:
        for start in range(0, lines, BLOCK):
            n = min(BLOCK, lines - start)
            scores = [rng.normal(mean, 4, n).astype(np.float32).astype(np.float64) for mean in (10, 2)]
            ids = [rng.integers(0, top, n) for top in (queries, passages, passages)]
            table = pa.table([*scores, *ids], names=["pos_score", "neg_score", "query", "pos", "neg"])
            csv.write_csv(table, f, csv.WriteOptions(include_header=False, delimiter="\t"))


# --- what is measured, each in a new process ---------------------------------------------------------------------


def run(function: str, folder: Path, **arguments: int) -> dict[str, float]:
    """What a function below measured."""
    measured: dict[str, float] = in_new_process("benchmarks.ingest", function, folder=str(folder), **arguments)
    return measured


def measure(work: Callable[[], object], n: int) -> dict[str, float]:
    """Time and memory of a work on n things."""
    result, _ = used(work)
    return result._asdict() | {"per_s": n / result.seconds}


def profile(folder: str) -> Profile:
    """A profile that reads the folder and stores beside it."""
    os.environ["TAS_RUNS"] = f"{folder}-runs"
    source = LocalSource(folder=folder, stop_queries=1, tune_queries=1)
    evaluation = Evaluation(sets=(TestSet(name="dev", label="Dev"),))
    shared = {"artefacts": "none", "encoder": str(TOKENIZER)}
    return Profile(name="ingest", source=source, evaluation=evaluation, systems={}, **shared)


def stored(folder: str) -> Collection:
    """The collection, read before."""
    return open_collection(profile(folder))


def open_folder(folder: str) -> dict[str, float]:
    """Read the collection and store it, which the others then open."""
    return measure(lambda: stored(folder), 1)


def read_pairs(folder: str) -> dict[str, float]:
    """Teacher scores to the pair table on disk."""
    collection = stored(folder)

    def no_scorer() -> Scorer:
        raise AssertionError("every line has its scores")

    result, pairs = used(lambda: open_pairs(profile(folder), collection, no_scorer))
    return result._asdict() | {"per_s": len(pairs.pos) / result.seconds}


def read_lines(folder: str, lines: int) -> dict[str, float]:
    """The first lines read one by one, ids looked up in dictionaries; nothing is sorted."""
    collection = stored(folder)
    index = {passage: i for i, passage in enumerate(collection.passages.ids)}

    def work() -> int:
        with open(Path(folder) / "pairs.tsv", encoding="utf-8") as f:
            rows = [line.split("\t") for line in islice(f, lines)]
        return len([(query, index[pos], index[neg.strip()], float(a) - float(b)) for a, b, query, pos, neg in rows])

    return measure(work, lines)
