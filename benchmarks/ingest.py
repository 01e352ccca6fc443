"""Ingest (issue "Full size"): teacher scores to sorted pairs, passages to parquet and token ids, on synthetic files.

python -m benchmarks.ingest [--lines N | --full]
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv

from benchmarks import Figure
from tas_lib.config import ROOT
from tas_lib.data import store
from tas_lib.data.formats import read_entries
from tas_lib.data.pair_files import pair_lines, read_pairs
from tas_lib.data.texts import PASSAGES as PASSAGES_FILE
from tas_lib.data.texts import Column, open_passages, write_passages
from tas_lib.records import Pairs

LINES = 40_000_000  # of the published scores, about
PASSAGES = 8_841_823  # of MS MARCO
QUERIES = 400_000  # for training
CAP = 200  # tokens of a passage, §4.1
PLAIN = 10  # the plain reader reads one part in so many
PIECE = 1_000_000  # lines written at a time


class Measured(NamedTuple):
    """What the work took in a process of its own: seconds, those of all cores, gigabytes resident at the most.

    result: what the work gave back.
    """

    seconds: float
    cpu: float
    peak: float
    result: Any


# --- synthetic files ---------------------------------------------------------------------------------------------


def write_scores(path: Path, lines: int) -> None:
    """Lines in the published format, some 60 bytes each: random scores, queries and passages of MS MARCO's numbers."""
    rng = np.random.default_rng(0)
    with open(path, "wb") as f:
        for start in range(0, lines, PIECE):
            n = min(PIECE, lines - start)
            scores = [rng.normal(mean, 4, n).astype(np.float32).astype(np.float64) for mean in (10, 2)]
            ids = [rng.integers(0, top, n) for top in (QUERIES, PASSAGES, PASSAGES)]
            table = pa.table([*scores, *ids], names=["pos_score", "neg_score", "query", "pos", "neg"])
            csv.write_csv(table, f, csv.WriteOptions(include_header=False, delimiter="\t"))


def write_collection(path: Path, passages: int) -> None:
    """Passages of MS MARCO's length, 20 to 200 words and 56 on average, of the words that our tokenizer knows."""
    rng = np.random.default_rng(0)
    words = np.array(sorted(word for word in _tokenizer().get_vocab() if word.isalpha() and len(word) > 1))
    chances = 1 / np.arange(10, len(words) + 10)
    lengths = np.clip(rng.lognormal(3.93, 0.43, passages).astype(int), 20, 200)
    with open(path, "w", encoding="utf-8") as f:
        for passage, length in enumerate(lengths):
            f.write(f"{passage}\t{' '.join(rng.choice(words, length, p=chances / chances.sum()))}.\n")


def _tokenizer() -> Any:
    from tas_lib.data.tokens import load_tokenizer

    return load_tokenizer(str(ROOT / "data" / "docs" / "encoder"))


def _ids(n: int) -> pa.ChunkedArray:
    """The ids of MS MARCO, numbers as words."""
    return pa.chunked_array([pa.array(np.arange(n)).cast(pa.string())])


# --- what is measured: each makes ready, and gives the work back ---------------------------------------------------


def pairs(path: Path, folder: Path) -> Callable[[], Any]:
    """Teacher scores to the table of pairs on disk; gives the seconds of reading alone."""
    queries, passages = Column(_ids(QUERIES)), Column(_ids(PASSAGES))

    def work() -> float:
        start = time.perf_counter()
        query, pos, neg, margins, _ = read_pairs(path, queries, passages)
        read = time.perf_counter() - start
        assert margins is not None
        store.save_arrays(folder, **Pairs.sort(QUERIES, query, pos, neg, margins)._asdict())
        return read

    return work


def plain_pairs(path: Path, lines: int) -> Callable[[], Any]:
    """The first lines read one by one, ids looked up in dictionaries; nothing is sorted."""
    queries, passages = ({str(row): row for row in range(n)} for n in (QUERIES, PASSAGES))

    def work() -> int:
        found = islice(pair_lines(path), lines)
        return len([(queries[q], passages[pos], passages[neg], margin) for _, q, pos, neg, margin in found])

    return work


def passages(path: Path, root: Path) -> Callable[[], Any]:
    """`collection.tsv` to an artefact with an Arrow file."""
    from tas_lib.data import collection
    from tas_lib.records import Source

    def make(folder: Path) -> None:
        write_passages(folder / PASSAGES_FILE, read_entries(path))
        collection.write(Source(*open_passages(folder / PASSAGES_FILE), {}, np.array([], np.int64), {}), folder)

    return lambda: store.Store(root).artefact("collection", {}, {}, make) and None


def opened(root: Path) -> Callable[[], Any]:
    """The collection opened; gives the gigabytes that it holds."""
    from tas_lib.data import collection

    def work() -> float:
        before = _resident()
        found = collection.Collection(root / "collection")
        assert found.row.of([found.passages.ids[-1]]).tolist() == [len(found.passages.texts) - 1]
        return _resident() - before

    return work


def opened_as_lists(root: Path) -> Callable[[], Any]:
    """The same as lists and a dictionary."""

    def work() -> float:
        before = _resident()
        (ids, texts), titles = open_passages(root / "collection" / PASSAGES_FILE)
        columns = [[*ids], [*titles], [*texts]]
        row = {passage: row for row, passage in enumerate(columns[0])}
        return _resident() - before if row else 0.0

    return work


def tokens(root: Path) -> Callable[[], Any]:
    """The collection's passages to token ids on disk."""
    from tas_lib.data import collection
    from tas_lib.data.tokens import write_tokens

    texts, tokenizer = collection.Collection(root / "collection").passages.texts, _tokenizer()
    return lambda: write_tokens(tokenizer, texts, CAP, root, "passages")


def plain_tokens(root: Path) -> Callable[[], Any]:
    """The tokenizer library's own call over all texts, which are in memory already; nothing is kept or written."""
    from tas_lib.data import collection

    texts, backend = [*collection.Collection(root / "collection").passages.texts], _tokenizer().backend_tokenizer
    backend.enable_truncation(CAP)
    return lambda: len(backend.encode_batch(texts))


def measured(ready: Callable[..., Callable[[], Any]], *given: Any) -> Measured:
    """What the work that `ready` gives back takes, in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, partial(ready, *given)).result()


def _measured(ready: Callable[[], Callable[[], Any]]) -> Measured:
    work = ready()
    start, cpu = time.perf_counter(), time.process_time()
    result = work()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return Measured(seconds, cpu, _peak(), result)


def _peak() -> float:
    """Gigabytes that this process had resident at the most; Linux counts them in KiB, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def _resident() -> float:
    """Gigabytes of this process now, which /proc tells on Linux; elsewhere, at the most."""
    note = Path("/proc/self/statm")
    return int(note.read_text().split()[1]) * resource.getpagesize() / 2**30 if note.exists() else _peak()


# --- the table ---------------------------------------------------------------------------------------------------


def rows(full: bool = False, lines: int = 0) -> list[Figure]:
    """All that is measured here; passages are a fortieth of the lines, of which there are a tenth unless `full`."""
    lines = lines or (LINES if full else LINES // 10)
    n = max(lines // 40, 1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_scores(root / "scores.tsv", lines)
        write_collection(root / "collection.tsv", n)
        return [_pairs(root, lines), *_passages(root, n)]


def _pairs(root: Path, lines: int) -> Figure:
    part = max(lines // PLAIN, 1)
    (root / "pairs").mkdir()
    ours, plain = measured(pairs, root / "scores.tsv", root / "pairs"), measured(plain_pairs, root / "scores.tsv", part)
    whole = ours.seconds * LINES / lines
    return Figure(
        f"{lines:,} lines of teacher scores, to pairs sorted by margin",
        f"{lines / ours.seconds:,.0f} lines/s, {ours.peak:.1f} GB ({ours.seconds:.0f} s; 40M: {whole:.0f} s)",
        f"read line by line, not sorted: {part / plain.seconds:,.0f} lines/s, {plain.peak:.1f} GB",
        f"{lines / ours.seconds / (part / plain.seconds):.1f}",
        "40M in 300 s, 4 GB",
        _verdict(whole <= 300 and ours.peak <= 4),
        f"of it {ours.result:.0f} s reading; {ours.cpu:.1f} s of cores, {ours.cpu / lines * 1e6:.2f} µs a line against "
        f"{plain.cpu / part * 1e6:.2f} µs; bound by the joins with {PASSAGES:,} ids",
    )


def _passages(root: Path, n: int) -> list[Figure]:
    stored = measured(passages, root / "collection.tsv", root)
    held, lists = measured(opened, root), measured(opened_as_lists, root)
    ours, plain = measured(tokens, root), measured(plain_tokens, root)
    return [
        Figure(
            f"{n:,} passages, collection.tsv to Arrow",
            f"{n / stored.seconds:,.0f} passages/s, {stored.peak:.1f} GB",
            "",
            "",
            "bounded memory",
            "reported",
            f"{stored.cpu:.1f} s of cores; torch is in the gigabytes",
        ),
        Figure(
            f"a collection of {n:,} passages, open",
            f"{held.result * 1024:,.0f} MB",
            f"lists and a dictionary: {lists.result * 1024:,.0f} MB",
            f"{lists.result / max(held.result, 1e-3):.1f}",
            "less",
            _verdict(held.result < lists.result),
            "ids in memory, texts where they lie",
        ),
        Figure(
            f"{n:,} passages to token ids on disk",
            f"{n / ours.seconds:,.0f} passages/s, {ours.peak:.1f} GB",
            f"encode_batch alone: {n / plain.seconds:,.0f} passages/s, {plain.peak:.1f} GB",
            f"{plain.seconds / ours.seconds:.2f}",
            "the library's own speed: 0.95",
            _verdict(plain.seconds / ours.seconds >= 0.95),
            f"{ours.cpu / n * 1e6:.0f} µs of cores a passage against {plain.cpu / n * 1e6:.0f}; bound by the tokenizer",
        ),
    ]


def _verdict(reached: bool) -> str:
    return "met" if reached else "missed"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=0)
    parser.add_argument("--full", action="store_true", help="as many lines as were published, 40M")
    asked = parser.parse_args()
    for figure in rows(asked.full, asked.lines):
        print("\n".join(f"{name:8} {value}" for name, value in figure._asdict().items() if value), "\n")


if __name__ == "__main__":
    main()
