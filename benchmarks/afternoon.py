"""Building profile msmarco-small from files of MS MARCO's size: synthetic, in the published formats, on loopback.

It takes 20 minutes, three of them to write what is served, and 25 GB on disk.
"""

import gzip
import hashlib
import json
import os
import pkgutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.random import Generator, Philox

from benchmarks import Figure, growth, texts, verdict
from benchmarks.measure import in_new_process, peak_gb, seconds
from tas_lib import config
from tas_lib.data.collection import open_collection
from tas_lib.data.sources import msmarco
from tas_lib.data.tokens import load_tokenizer, open_tokens
from tas_lib.train.pairs import open_pairs

PASSAGES, LINES = 8_841_823, 39_780_811  # of the collection, of the teacher's scores
TRAIN, DEV, SMALL = (808_731, 502_939), (101_093, 55_578), 6_980  # queries, judged ones; those of dev-small
JUDGED = {"trec-dl-2019": (43, 200, 9_260), "trec-dl-2020": (54, 200, 11_386)}  # judged and all queries, judgements
MOST_MINUTES, MOST_GB = 20, 12


def figures(full: bool = False, share: float = 1.0) -> list[Figure]:
    """One row: minutes and memory of one process, downloads from loopback included. share: of all sizes."""
    with tempfile.TemporaryDirectory() as folder:
        names = {"IR_DATASETS_HOME": "home", "IR_DATASETS_TMP": "tmp", "TAS_RUNS": "runs"}
        os.environ |= {name: str(Path(folder) / value) for name, value in names.items()}
        in_new_process("benchmarks.afternoon", "publish", folder=folder, share=share)
        minutes, gb, parts = in_new_process("benchmarks.afternoon", "build", folder=folder, share=share)
    return [
        Figure(
            "building msmarco-small from all of MS MARCO (synthetic)",
            f"{minutes:.1f} min, {gb:.1f} GB",
            "",
            "",
            f"≤ {MOST_MINUTES} min, {MOST_GB} GB",
            verdict(minutes <= MOST_MINUTES and gb <= MOST_GB),
            f"{parts}; one process, beside the server of the files",
        )
    ]


def build(folder: str, share: float) -> tuple[float, float, str]:
    """Minutes, the most gigabytes, and what took how long; in a new process, since it redirects downloads for good."""
    place = Path(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    redirect(place, f"http://127.0.0.1:{port}")
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "-d", str(place / "published")]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(2)
        profile, found = settings(place, f"http://127.0.0.1:{port}", share), []
        times = {"downloads and collection": seconds(lambda: found.append(open_collection(profile)))}
        times["token ids"] = seconds(partial(open_tokens, profile, found[0]))
        times["pairs"] = seconds(partial(open_pairs, profile, found[0], growth.scorer))
    finally:
        server.terminate()
    parts = ", ".join(f"{what} {took / 60:.1f} min" for what, took in times.items())
    return sum(times.values()) / 60, peak_gb(), parts


def of(n: int, share: float) -> int:
    """A size, times `share`."""
    return max(int(n * share), 20)


def settings(place: Path, url: str, share: float) -> config.Profile:
    """msmarco-small with these downloads, the vocabulary of docs' encoder, which is DistilBERT's, and this share."""
    profile = config.load("msmarco-small")
    assert isinstance(profile.source, config.MsMarcoSource) and profile.source.reduce
    parts = {"passages": int(share * 485_000) + 15_000, "train": of(40_000, share), "dev": of(1_000, share)}
    cut = profile.source.reduce.model_copy(update=parts | {"stop": of(800, share)})
    sizes = {"passages": of(PASSAGES, share), "dev": of(SMALL, share), "tune_queries": of(400, share), "reduce": cut}
    source = profile.source.model_copy(update=sizes | {"urls": (f"{url}/{{file}}",)})
    return profile.model_copy(update={"source": source, "encoder": str(growth.TOKENIZER)})


def redirect(place: Path, url: str) -> None:
    """Let ir_datasets be imported anew in this process, with downloads from loopback."""
    original, file = pkgutil.get_data, "etc/downloads.json"
    listed = json.loads(original("ir_datasets", file) or b"")  # this imports it
    for name in [name for name in sys.modules if name.partition(".")[0] == "ir_datasets"]:
        del sys.modules[name]
    for name in (*msmarco.PARTS, *msmarco.CANDIDATES):
        path, note = place / "published" / name.replace("/", "-"), listed[msmarco.NAME][name]
        note |= {"url": f"{url}/{path.name}", "expected_md5": md5(path), "size_hint": path.stat().st_size}
        note.pop("irds_mirror", None)
    ours = json.dumps(listed).encode()
    pkgutil.get_data = lambda package, resource: ours if resource == file else original(package, resource)
    scores = msmarco.SCORES["t2"]
    msmarco.SCORES["t2"] = scores._replace(md5=md5(place / "published" / scores.file))


def md5(path: Path) -> str:
    """Of a file."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "md5").hexdigest()


def publish(folder: str, share: float) -> None:
    """Write every file that the profile downloads, with about as many lines as the published one, times `share`.

    A passage has as many bytes as the published ones, in a third fewer tokens.
    """
    out, rng = Path(folder) / "published", Generator(Philox(key=[0, 0]))
    out.mkdir()
    n, small, say = (*(of(size, share) for size in (PASSAGES, SMALL)), Words(rng))
    train, dev = range(of(TRAIN[0], share)), range(2_000_000, 2_000_000 + of(DEV[0], share))
    queries = {"train": train, "dev": dev}
    judged = {"train": train[: of(TRAIN[1], share)], "dev": dev[: of(DEV[1], share)]}
    archive(out / "queries", {f"queries.{name}.tsv": say.lines(of_set, 6) for name, of_set in queries.items()})
    for name, of_set in judged.items():
        (out / f"{name}-qrels").write_text("".join(f"{q}\t0\t{rng.integers(n)}\t1\n" for q in of_set))
    archive(out / "collectionandqueries", {
        "collection.tsv": say.lines(range(n), 47, mangled=True),
        "queries.dev.small.tsv": say.lines(dev[:small], 6),
        "qrels.dev.small.tsv": (f"{q}\t0\t{rng.integers(n)}\t1\n" for q in dev[:small]),
    })  # fmt: skip
    archive(out / "dev-scoreddocs", {"top1000.dev": say.candidates(dev[:small], n)})
    for start, (name, (some, asked, lines)) in enumerate(JUDGED.items(), 3):
        ids = range(start * 1_000_000, start * 1_000_000 + asked)
        with gzip.open(out / f"{name}-queries", "wt", 1, encoding="utf-8") as f:
            f.writelines(say.lines(ids, 6))
        passages = rng.choice(n, lines // some, replace=False)
        grades = [f"{q} Q0 {p} {rng.integers(4)}\n" for q in ids[:some] for p in passages]
        (out / f"{name}-qrels").write_text("".join(grades))
        with gzip.open(out / f"{name}-scoreddocs", "wt", 1, encoding="utf-8") as f:
            f.writelines(say.candidates(ids, n))
    growth.write_scores(out / msmarco.SCORES["t2"].file, of(LINES, share), len(judged["train"]), n)


class Words:
    """Random texts: stretches of one long text of random words."""

    def __init__(self, rng: Generator) -> None:
        """rng: draws words and stretches."""
        vocabulary = texts.vocabulary(load_tokenizer(str(growth.TOKENIZER)))
        self.words, self.rng = [vocabulary[i] for i in rng.integers(len(vocabulary), size=2_000_000)], rng

    def some(self, n: int, mean: float) -> Iterator[str]:
        """n texts of so many words on average, lognormal."""
        sizes = self.rng.lognormal(np.log(mean) - 0.1, 0.45, n).clip(2, 160).astype(int)
        for start, size in zip(self.rng.integers(len(self.words) - 160, size=n), sizes, strict=True):
            yield " ".join(self.words[start : start + size])

    def lines(self, ids: range, mean: float, mangled: bool = False) -> Iterator[str]:
        """`id <tab> text`. mangled: one in eight has a character whose encoding ir_datasets repairs."""
        for i, text in zip(ids, self.some(len(ids), mean), strict=True):
            yield f"{i}\t{text}{' cafÃ©' if mangled and i % 8 == 0 else ''}\n"

    def candidates(self, ids: range, passages: int) -> Iterator[str]:
        """`query <tab> passage <tab> text of the query <tab> text of the passage`, up to 1,000 of each query."""
        for query, asked in zip(ids, self.some(len(ids), 6), strict=True):
            found = self.rng.integers(passages, size=955)
            for p, text in zip(found.tolist(), self.some(955, 47), strict=True):
                yield f"{query}\t{p}\t{asked}\t{text}\n"


def archive(path: Path, files: dict[str, Iterable[str]]) -> None:
    """A tar.gz of these files."""
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, lines in files.items():
            plain = path.with_name(name)
            with open(plain, "w", encoding="utf-8") as f:
                f.writelines(lines)
            tar.add(plain, name)
            plain.unlink()
