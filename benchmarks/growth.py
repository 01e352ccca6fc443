"""Time, with its slope on logarithmic axes, and memory by the number of passages (growth.svg, growth.png).

Texts and vectors are synthetic. Encoding is measured on 1,000 passages and extrapolated: it is proportional.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow as pa
import torch
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import NullLocator
from numpy.random import Generator, Philox
from pyarrow import csv

from benchmarks import Figure, texts, verdict
from benchmarks.measure import in_new_process, used
from tas_lib import config
from tas_lib.clustering import kmeans
from tas_lib.config import Evaluation, LocalSource, Profile, TestSet
from tas_lib.data.collection import open_collection
from tas_lib.data.store import Store
from tas_lib.data.tokens import load_tokenizer, open_tokens, tokenise
from tas_lib.records import FloatArray
from tas_lib.report import style
from tas_lib.report.latency import unit_vectors
from tas_lib.retrieval import dense, pretrained
from tas_lib.retrieval.encode import encode
from tas_lib.train.pairs import Scorer, open_pairs

SIZES, ALL = (10_000, 100_000, 1_000_000), 8_841_823
WIDTH, BLOCK = 768, 1_000_000  # of a vector; lines written at a time
TOKENIZER = config.ROOT / "data" / "docs" / "encoder"
PARTS = {"ingest": 1.1, "clustering": 2.1, "encoding": 1.1, "search": 1.1}
"""The largest slope that is fine: k-means has as many more clusters as it has more queries."""


def figures(full: bool = False, sizes: tuple[int, ...] = SIZES) -> list[Figure]:
    """A row per part. full: also 8.8M passages, which takes half an hour and 40 GB on disk."""
    sizes = (*sizes, ALL) if full else sizes
    rows, found = [], {}
    for part, most in PARTS.items():
        measured = [in_new_process("benchmarks.growth", "at", part=part, n=n) for n in sizes]
        seconds, peak = found[part] = list(zip(*measured, strict=True))
        slope = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
        note = "extrapolated from 1,000" if part == "encoding" else "each in a new process"
        times = ", ".join(f"{n:,}: {s:.3g} s" for n, s in zip(sizes, seconds, strict=True))
        memory = ", ".join(f"{gb:.1f}" for gb in peak)
        row = f"growth of {part}", times, f"{memory} GB", f"n^{slope:.2f}", f"≤ n^{most:g}"
        rows.append(Figure(*row, verdict(slope <= most), note))
    draw(sizes, found, [row.ratio for row in rows])
    return rows


def draw(sizes: Sequence[int], found: Mapping[str, Sequence[Sequence[float]]], slopes: Sequence[str]) -> None:
    """Seconds on logarithmic axes with the slope of each part, and memory, but of 1,000 passages for encoding.

    found: part → seconds and gigabytes by size.
    """
    with matplotlib.rc_context(style.STYLE):
        picture = Picture(figsize=(6.5, 2.8), layout="constrained")
        axes = picture.subplots(1, 2)
        for (part, both), slope, (colour, mark) in zip(found.items(), slopes, style.CLUSTERS, strict=False):
            for ax, values in zip(axes[: 1 if part == "encoding" else 2], both, strict=False):
                ax.plot(sizes, values, color=colour, marker=mark, markersize=4, label=f"{part}, {slope}")
        axes[0].set(ylabel="Time (s)", yscale="log")
        axes[1].set(ylabel="Memory (GB)", ylim=(0, None))
        for ax in axes:
            ax.set(xlabel="Passages", xscale="log")
            ax.set_xticks(sizes, [f"{n / 1e6:.2g}M" if n >= 1e6 else f"{n / 1e3:g}K" for n in sizes], minor=False)
            ax.xaxis.set_minor_locator(NullLocator())
        picture.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(found))
        style.save(picture, Path(__file__).parent, "growth")


def at(part: str, n: int) -> tuple[float, float]:
    """Seconds and the most gigabytes of one part for n passages."""
    with tempfile.TemporaryDirectory() as folder:
        work = WORKS[part](Path(folder), n)
        result, factor = used(work)[0], n / 1_000 if part == "encoding" else 1
        return result.seconds * factor, result.peak_gb


def ingest(folder: Path, n: int) -> Callable[[], object]:
    """Passages to parquet and token ids, and 4.5 scored pairs for each, sorted by margin."""
    queries = max(n // 22, 10)
    write_folder(folder / "all", (f"passage {i} of words" for i in range(n)), queries)
    write_scores(folder / "all" / "pairs.tsv", 9 * n // 2, queries, n)

    def read() -> None:
        settings = profile(str(folder / "all"))
        collection = open_collection(settings)
        open_tokens(settings, collection)
        open_pairs(settings, collection, scorer)

    return read


def scorer() -> Scorer:
    """Not needed."""
    raise AssertionError("every line has its scores")


def clustering(folder: Path, n: int) -> Callable[[], object]:
    """A training query for 22 passages and a cluster for 200 queries, as in MS MARCO."""
    queries = max(n // 22, 400)
    return partial(kmeans, directions(queries, queries // 200), queries // 200)


def encoding(folder: Path, n: int) -> Callable[[], object]:
    """1,000 passages of MS MARCO's lengths with docs' encoder, tokenising included."""
    path = config.load("docs").encoder_path
    model, tokenizer = pretrained.load_dot(path).eval(), load_tokenizer(path)
    passages = texts.synthetic(tokenizer, 1_000, texts.MSMARCO["passages"])
    return lambda: encode(model, tokenise(tokenizer, passages, 200))


def search(folder: Path, n: int) -> Callable[[], object]:
    """32 queries, the best 1,000."""
    vecs, queries = unit_vectors(Store(folder), n, 768), torch.randn(32, 768)
    return lambda: dense.dense(queries, vecs, 1_000)


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
    """Lines in the published format, some 60 bytes each: all random, except that each query has one positive."""
    rng = np.random.default_rng(0)
    with open(path, "wb") as f:
        for start in range(0, lines, BLOCK):
            n = min(BLOCK, lines - start)
            scores = [rng.normal(mean, 4, n).astype(np.float32).astype(np.float64) for mean in (10, 2)]
            query, neg = (rng.integers(0, top, n) for top in (queries, passages))
            table = pa.table(
                [*scores, query, 7 * query % passages, neg], names=["pos_score", "neg_score", "query", "pos", "neg"]
            )
            csv.write_csv(table, f, csv.WriteOptions(include_header=False, delimiter="\t"))


def profile(folder: str) -> Profile:
    """A profile that reads the folder and stores beside it."""
    os.environ["TAS_RUNS"] = f"{folder}-runs"
    source = LocalSource(folder=folder, stop_queries=1, tune_queries=1)
    evaluation = Evaluation(sets=(TestSet(name="dev", label="Dev"),))
    shared = {"artefacts": "none", "encoder": str(TOKENIZER)}
    return Profile(name="ingest", source=source, evaluation=evaluation, systems={}, **shared)


def directions(n: int, clusters: int) -> FloatArray:
    """(n, 768) unit vectors around as many directions as there are clusters."""
    rng = Generator(Philox(key=[0, 0]))
    centres, vecs = (rng.standard_normal((size, WIDTH), np.float32) for size in (clusters, n))
    vecs *= 2
    vecs += centres[rng.integers(clusters, size=n)]
    return vecs / np.linalg.norm(vecs, axis=1, keepdims=True)


WORKS = {"ingest": ingest, "clustering": clustering, "encoding": encoding, "search": search}
