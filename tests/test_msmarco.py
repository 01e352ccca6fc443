"""MS MARCO on small files in exactly the published formats, served on loopback; and downloads that break off."""

import contextlib
import gzip
import hashlib
import importlib.util
import io
import json
import logging
import multiprocessing
import pkgutil
import shutil
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import tiny

from tas_lib.config import Evaluation, MsMarcoSource, Profile, Sampling, System, TestSet, Training
from tas_lib.data import collection
from tas_lib.data.pair_files import read_pairs
from tas_lib.data.sources import msmarco
from tas_lib.experiment import Experiment
from tas_lib.models import ColBert
from tas_lib.records import Source
from tas_lib.retrieval import pretrained
from tools import reduced

SCORES = "8.5\t1.25\t101\t0\t3\n-1.0 2.5 101 0 2\n4.0\t3.0\t102\t1\t0\n"


class Loopback(ThreadingHTTPServer):
    """Serves `files` by name and records the requests; can break off."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.breaks_after: list[int] = []  # bytes of the next answers, whatever their length should be
        self.hold = threading.Event()  # cleared, answers wait in the middle
        self.hold.set()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(BaseHTTPRequestHandler):
    """One answer."""

    server: Loopback

    def do_GET(self) -> None:
        name, wanted = self.path.partition("?")[0].lstrip("/"), self.headers.get("Range")
        self.server.asked.append((name, wanted))
        whole = self.server.files.get(name)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if whole is None:
            self.send_error(404)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(whole) - start))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # whoever asked was killed
            if not self.server.hold.is_set():
                self.wfile.write(whole[start : (start := (start + len(whole)) // 2)])
                self.server.hold.wait(60)
            self.wfile.write(whole[start:][: self.server.breaks_after.pop(0) if self.server.breaks_after else None])

    def log_message(self, *words: object) -> None:
        """Nothing: a test is silent."""


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Loopback()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


# --- downloads ---------------------------------------------------------------------------------------------------

TEXT = bytes(range(256)) * 400
TEXT_MD5 = hashlib.md5(TEXT).hexdigest()


def test_a_file_is_downloaded_once_and_only_a_whole_one_gets_its_name(tmp_path, loopback):
    loopback.files["a.tsv"] = TEXT
    path = tmp_path / "deep" / "a.tsv"
    for _ in range(2):
        assert msmarco.fetch([loopback.url("a.tsv?download=1")], path, TEXT_MD5) == path
    assert path.read_bytes() == TEXT
    assert loopback.asked == [("a.tsv", None)] and [p.name for p in path.parent.iterdir()] == ["a.tsv"]


def test_a_broken_connection_is_resumed(tmp_path, loopback):
    loopback.files["a.tsv"] = TEXT
    loopback.breaks_after = [40_000, 10_000]
    msmarco.fetch([loopback.url("a.tsv")], tmp_path / "a.tsv", TEXT_MD5)
    assert (tmp_path / "a.tsv").read_bytes() == TEXT
    starts = [int(part.removeprefix("bytes=").removesuffix("-")) for _, part in loopback.asked if part]
    assert len(starts) == 2 and 0 < starts[0] < starts[1]


def test_the_next_address_is_tried_if_one_has_nothing_or_another_file(tmp_path, loopback):
    loopback.files |= {"changed.tsv": TEXT[:-1] + b"x", "a.tsv": TEXT}
    urls = [loopback.url(name) for name in ("gone.tsv", "changed.tsv", "a.tsv")]
    assert msmarco.fetch(urls, tmp_path / "a.tsv", TEXT_MD5).read_bytes() == TEXT
    assert [name for name, _ in loopback.asked] == ["gone.tsv", "changed.tsv", "a.tsv"]


def test_a_failed_download_is_one_sentence_and_leaves_nothing(tmp_path, loopback):
    loopback.files["changed.tsv"] = TEXT + b"x"
    urls = ["http://127.0.0.1:9/a.tsv", loopback.url("gone.tsv"), loopback.url("changed.tsv")]
    with pytest.raises(ValueError) as error:
        msmarco.fetch(urls, tmp_path / "a.tsv", TEXT_MD5)
    message = str(error.value)
    assert message.startswith(f"could not fetch a.tsv, which goes to {tmp_path} (") and "\n" not in message
    assert all(part in message for part in ("9/a.tsv: ConnectionError", "gone.tsv: ", "changed.tsv: HashVerification"))
    assert list(tmp_path.iterdir()) == []


def test_a_file_put_there_by_hand_is_used_if_it_is_the_published_one_and_kept_if_not(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(TEXT)
    assert msmarco.fetch([], path, TEXT_MD5) == path
    path.write_bytes(TEXT[:-1])
    with pytest.raises(ValueError, match=r"a\.tsv is not the published file .*cut off or changed; remove it"):
        msmarco.fetch([], path, TEXT_MD5)
    assert path.exists()


# --- a small MS MARCO --------------------------------------------------------------------------------------------

PASSAGES = "0\tThe presence of communication.\n1\tA cafÃ© in Paris.\n2\tThe sum.\n3\tA plot.\n"
FILES = {
    "train/qrels": "101\t0\t0\t1\n102\t0\t1\t1\n103\t0\t2\t1\n",
    "dev/qrels": "".join(f"{q}\t0\t{q % 4}\t1\n" for q in (*range(201, 209), 203)),  # one is repeated
    "trec-dl-2019/qrels": "301 Q0 0 3\n301 Q0 1 0\n302 Q0 2 1\n",
    "trec-dl-2020/qrels": "401 0 3 2\n",
    "trec-dl-2019/queries": "301\twhat is communication\n302\twhat is a sum\n303\tnobody judged this\n",
    "trec-dl-2020/queries": "401\twhat is a plot\n402\tnor this\n",
}
ARCHIVES = {
    "collectionandqueries": {
        "collection.tsv": PASSAGES,
        "queries.dev.small.tsv": "201\tdev query one\n202\tdev query two\n",
        "qrels.dev.small.tsv": "201\t0\t1\t1\n202\t0\t2\t1\n",
        "queries.eval.small.tsv": "901\tno judgements\n",
    },
    "queries": {
        "queries.train.tsv": "103\tthird\n101\tfirst\n102\tsecond\n104\tnever judged\n",
        "queries.dev.tsv": "".join(f"{q}\tdev query {q}\n" for q in range(201, 220)),
        "queries.eval.tsv": "901\tno judgements\n",
    },
}
SMALL = {"passages": 4, "dev": 2, "dl19": 2, "dl20": 1, "tune_queries": 2}


def packed(files: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, text in files.items():
            note = tarfile.TarInfo(name)
            note.size = len(text.encode())
            archive.addfile(note, io.BytesIO(text.encode()))
    return out.getvalue()


def library() -> Path:
    """Where ir_datasets is installed, found without importing it: that would make a folder in the real home."""
    spec = importlib.util.find_spec("ir_datasets")
    assert spec and spec.origin
    return Path(spec.origin).parent


class Home:
    """ir_datasets with an empty home folder, whose downloads come from loopback."""

    def __init__(self, folder: Path, loopback: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.loopback = folder / "msmarco-passage", loopback
        self.listed = json.loads((library() / "etc" / "downloads.json").read_text(encoding="utf-8"))
        self.put(ARCHIVES | FILES)
        self.patch, self.sizes = monkeypatch, SMALL
        self.put_scores(SCORES)
        get_data = pkgutil.get_data
        monkeypatch.setattr(
            pkgutil,
            "get_data",
            lambda package, name: (
                json.dumps(self.listed).encode() if name == "etc/downloads.json" else get_data(package, name)
            ),
        )
        for name, value in (("HOME", str(folder)), ("TMP", str(folder / "tmp")), ("DL_TRIES", "1")):
            monkeypatch.setenv(f"IR_DATASETS_{name}", value)

    def put(self, files: dict[str, str | dict[str, str]]) -> None:
        """Publish these files: archives, gz of queries and candidates, and plain texts."""
        for name, content in files.items():
            if isinstance(content, dict):
                data = packed(content)
            else:
                data = gzip.compress(content.encode()) if name.endswith(("queries", "docs")) else content.encode()
            self.loopback.files[name] = data
            digest, note = hashlib.md5(data).hexdigest(), self.listed["msmarco-passage"][name]
            note |= {"url": self.loopback.url(name), "expected_md5": digest, "size_hint": len(data)}
            note.pop("irds_mirror", None)

    def put_scores(self, text: str) -> None:
        """Publish these teacher scores."""
        name = msmarco.SCORES["t2"].file
        self.loopback.files[name] = text.encode()
        scores = msmarco.Scores(name, hashlib.md5(text.encode()).hexdigest())
        self.patch.setattr(msmarco, "SCORES", {"t2": scores})

    def settings(self, **changed: object) -> MsMarcoSource:
        urls = (self.loopback.url("{file}?download=1"),)
        return MsMarcoSource.model_validate({"urls": urls, **self.sizes, **changed})

    def read(self, **changed: object) -> Source:
        with tempfile.TemporaryDirectory() as draft:
            return msmarco.read(self.settings(**changed), Path(draft))


@pytest.fixture
def home(tmp_path: Path, loopback: Loopback, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    loaded = {name: sys.modules.pop(name) for name in [*sys.modules] if name.split(".")[0] == "ir_datasets"}
    yield Home(tmp_path / "home", loopback, monkeypatch)  # it finds its home folder when it is imported
    for name in [*sys.modules]:
        if name.split(".")[0] == "ir_datasets":
            del sys.modules[name]
    sys.modules.update(loaded)


def test_the_collection_and_its_sets_by_hand(home):
    source = home.read()
    assert source.passages.ids == source.titles == ["0", "1", "2", "3"]
    assert source.passages.texts[:2] == ["The presence of communication.", "A café in Paris."]  # its encoding mended
    sets = source.sets
    assert sets["dev"].queries == (["201", "202"], ["dev query one", "dev query two"])
    assert sets["dl19"].queries.ids == ["301", "302"] and sets["dl20"].queries.texts == ["what is a plot"]
    assert sets["dl19"].qrels == {"301": {"0": 3, "1": 0}, "302": {"2": 1}}
    assert sets["train"].queries == (["101", "102"], ["first", "second"])  # 103 has no pair, 104 no judgement
    assert sets["train"].qrels == {"101": {"0": 1}, "102": {"1": 1}}
    rest = {name: sets[name].queries.ids for name in ("stop", "tune")}
    assert sorted(rest["stop"] + rest["tune"]) == [str(q) for q in range(203, 209)]  # of dev, not of dev-small
    assert (len(rest["stop"]), len(rest["tune"]), sets["tune"].name) == (4, 2, "tune")
    assert source.report["read"] == {"passages": 4, "pairs": 3} and source.barred.tolist() == []


def test_without_teacher_scores_all_judged_queries_are_for_training(home):
    settings = home.settings(scores="none")
    assert home.read(scores="none").sets["train"].queries.ids == ["103", "101", "102"]
    assert msmarco.pairs(settings) is None
    assert msmarco.SCORES["t2"].file not in {name for name, _ in home.loopback.asked}


def test_files_that_are_there_are_not_downloaded_again(home):
    first = home.read()
    asked = sorted(name for name, _ in home.loopback.asked)
    assert asked == sorted([*msmarco.PARTS, msmarco.SCORES["t2"].file])
    assert all(download.there for download in msmarco.downloads(home.settings()))
    (home.folder / "collectionandqueries.tar.gz").unlink()  # what was in it is kept
    assert all(download.there for download in msmarco.downloads(home.settings()))
    home.loopback.files.clear()
    again = home.read()
    assert (again.passages, again.sets) == (first.passages, first.sets)


def test_without_a_connection_one_sentence_says_what_is_missing_and_where_it_would_go(home):
    for note in home.listed["msmarco-passage"].values():
        note["url"] = "http://127.0.0.1:9/" + note["url"].rpartition("/")[2]
    with pytest.raises(ValueError) as error:
        home.read()
    message = str(error.value)
    assert message.startswith(f"msmarco-passage could not be fetched to {home.folder} (ConnectionError: ")
    assert "still missing: collectionandqueries.tar.gz (0.1 MB), queries.tar.gz" in message and "\n" not in message
    assert [path.name for path in home.folder.rglob("*") if path.is_file()] == ["irds_version.txt"]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("collection.tsv", PASSAGES[:-12], "collection.tsv has 3 passages, as published it has 4: cut off"),
        ("dev/small/qrels", "201\t0\t1\t1\n", "qrels has 1 judged queries, as published it has 2: cut off"),
        ("train/queries.tsv", "101\tfirst\n", "train/qrels, line 2: query 102 has no text in queries.tsv"),
    ],
)
def test_a_file_that_was_cut_off_on_disk_is_refused(home, file, text, message):
    home.read()
    (home.folder / file).write_text(text)
    with pytest.raises(ValueError) as error:
        home.read()
    assert message in str(error.value) and str(home.folder) in str(error.value)


def test_from_the_profile_the_collection_is_stored_with_its_pairs(home, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "runs"))
    profile = tiny.settings(tmp_path, source=home.settings())
    found = collection.open_collection(profile)
    assert f"MS MARCO is fetched to {home.folder}; its terms of use: http://www.msmarco.org" in caplog.text
    path = collection.published_pairs(profile)
    assert path is not None
    triples = read_pairs(path, found.sets["train"].queries.ids, found.passages.ids)
    assert (triples.query.tolist(), triples.pos.tolist(), triples.neg.tolist()) == ([0, 0, 1], [0, 0, 1], [3, 2, 0])
    assert triples.margins is not None and triples.margins.tolist() == [7.25, -3.5, 1.0]
    home.loopback.files.clear()
    other = profile.model_copy(update={"source": home.settings(urls=("http://127.0.0.1:9/{file}",))})
    assert collection.open_collection(other).digest == found.digest
    assert caplog.text.count("collection: ") == 1  # another mirror is no other collection


# --- a part of it ------------------------------------------------------------------------------------------------

N, CUT = 120, {"passages": 70, "dev": 3, "stop": 4, "train": 12, "negatives": 2, "candidates": 3}
LARGER = {"passages": N, "dev": 6, "dl19": 2, "dl20": 1, "tune_queries": 3, "reduce": CUT}
SIZES = {"dev": 3, "dl19": 2, "dl20": 1, "stop": 4, "tune": 3, "train": 12}


def candidates(queries: range | list[int]) -> list[tuple[int, int]]:
    """Query and passage, published for re-ranking: eight of each query, and the queries are mixed."""
    return [(query, (7 * query + 13 * i) % N) for i in range(8) for query in queries]


def triples() -> list[tuple[float, float, int, int, int]]:
    """Five of each of the training queries 101 to 140, whose relevant passages are 0 to 39."""
    rng = np.random.default_rng(1)
    return [(8 + rng.random(), 4 * rng.random(), q, q - 101, int(rng.integers(40, N))) for q in range(101, 141)
            for _ in range(5)]  # fmt: skip


@pytest.fixture
def larger(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """MS MARCO with 120 passages, to be reduced to 70; runs go to `tmp_path`."""
    rng = np.random.default_rng(0)
    words = [" ".join(rng.choice(tiny.WORDS, 6)) for _ in range(N)]

    def texts(queries: range) -> str:
        return "".join(f"{q}\t{words[q % N]}\n" for q in queries)

    def listed(queries: range | list[int]) -> str:
        return "".join(f"{q}\t{p}\ta query\ta passage\n" for q, p in candidates(queries))

    home.put({
        "collectionandqueries": {
            "collection.tsv": "".join(f"{i}\t{text}\n" for i, text in enumerate(words)),
            "queries.dev.small.tsv": texts(range(201, 207)),
            "qrels.dev.small.tsv": "".join(f"{q}\t0\t{q % N}\t1\n" for q in range(201, 207)),
        },
        "queries": {"queries.train.tsv": texts(range(101, 143)), "queries.dev.tsv": texts(range(201, 220))},
        "train/qrels": "".join(f"{q}\t0\t{q - 101}\t1\n" for q in range(101, 143)),
        "dev/qrels": "".join(f"{q}\t0\t{q % N}\t1\n" for q in range(201, 220)),
        "trec-dl-2019/qrels": "301 Q0 60 3\n301 Q0 61 0\n302 Q0 62 2\n",
        "dev/scoreddocs": {"top1000.dev": listed(range(201, 207))},
        "trec-dl-2019/scoreddocs": listed([301, 302, 303]),
        "trec-dl-2020/scoreddocs": listed([401]),
    })  # fmt: skip
    home.put_scores("".join("\t".join(map(str, line)) + "\n" for line in triples()))
    home.sizes = LARGER
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "runs"))
    return home


def test_a_reduced_collection_by_literal_loops(larger: Home):
    source = larger.read()
    kept, sets = {*source.passages.ids}, source.sets
    assert len(kept) == 70 and source.passages.ids == sorted(kept, key=int)
    assert {name: len(of_set.qrels) for name, of_set in sets.items()} == SIZES
    assert all({*grades} <= kept for of_set in sets.values() for grades in of_set.qrels.values())
    assert not {*sets["stop"].qrels, *sets["tune"].qrels} & {str(q) for q in range(201, 207)}
    for query in (q for name in ("dev", "dl19", "dl20") for q in sets[name].qrels):
        first = [str(p) for q, p in candidates([int(query)])][:3]
        assert {*first} <= kept
    of_query = {q: [line for line in triples() if line[2] == int(q)] for q in sets["train"].qrels}
    whole = {q: [x for x in lines if {str(x[3]), str(x[4])} <= kept] for q, lines in of_query.items()}
    assert all(len(lines) >= 2 for lines in whole.values())
    path = msmarco.pairs(larger.settings())
    assert path
    file = read_pairs(path, sets["train"].queries.ids, source.passages.ids, partial=True)
    assert len(file.query) == sum(map(len, whole.values())) == 200 - file.left_out
    assert sum(source.report["kept"].values()) == 70 and source.report["kept"]["at random"] > 0
    assert source.report["dropped"] == {"a training query without a pair": 2}


def test_the_seed_decides_what_is_kept_and_sizes_that_do_not_fit_are_one_sentence(larger: Home):
    first, again, other = larger.read(), larger.read(), larger.read(seed=1)
    assert first.passages == again.passages and first.sets == again.sets
    assert first.passages.ids != other.passages.ids and first.sets["train"].qrels != other.sets["train"].qrels
    for size in (30, N + 1):
        with pytest.raises(ValueError, match=rf"^source.reduce.passages is {size}, but \d+ of 120 are needed$"):
            larger.read(reduce=CUT | {"passages": size})
    assert "candidates of dev" not in larger.read(reduce=CUT | {"candidates": 0}).report["kept"]


def afternoon(home: Home, folder: Path) -> Profile:
    """Two students and a run over everything."""
    sets = (TestSet(name="dl19", label="DL", binarise_at=2, graded=True), TestSet(name="dev", label="Dev"))
    systems = {
        "pairwise/random": System(teacher="pairwise", sampling="random", batch_size=8),
        "dual/tas_balanced": System(batch_size=8),
        "theirs": System(kind="run", source=f"{folder}/theirs.{{set}}.run"),
    }
    training = Training(steps=4, min_steps=0, validate_every=2, learning_rate=1e-3, workers=0, precision="bf16")
    shared = {"evaluation": Evaluation(sets=sets, depth=10), "sampling": Sampling(clusters=2), "training": training}
    return tiny.settings(folder, source=home.settings(), kept_vectors_gb=0, systems=systems, **shared)


def test_from_published_files_to_a_table_and_on_from_a_mounted_folder(larger, tmp_path, monkeypatch):
    place, n = tmp_path / "tiny", len(tiny.tokenizer())
    tiny.ship(tiny.save_encoder(place / "encoder"))
    pretrained.save(ColBert(tiny.bert(n, seed=5), 8), tiny.tokenizer(), place / "colbert")
    tiny.ship(place / "colbert")
    profile = afternoon(larger, tmp_path)
    for name, queries in (("dl19", [301]), ("dev", range(201, 207)), ("dl20", [301])):
        sign = -1 if name == "dl20" else 1
        run = "".join(f"{query} Q0 {p} 1 {sign * p} t\n" for query in queries for p in range(N))
        (tmp_path / f"theirs.{name}.run").write_text(run)
    lab = Experiment(profile)
    lab.trained(lab.baseline)
    shutil.rmtree(larger.folder)  # another machine: what was downloaded is gone, the runs are mounted
    larger.loopback.files.clear()
    lab = Experiment(profile)
    scores = lab.scores(["bm25", *profile.systems])
    assert all({*of_row} == {"dl19", "dev"} for of_row in scores.values())
    assert {*lab.run(profile.systems["theirs"], "dl19")["301"]} == {*lab.collection.passages.ids}
    monkeypatch.setattr(reduced.config, "load", lambda _: profile)
    lines = reduced.report("any", "dl19", [tmp_path / "theirs.dl19.run", tmp_path / "theirs.dl20.run"])
    assert lines[0] == "2 queries; reduced runs have 70 to 70 passages per query" and len(lines) >= 13


def stalled(flag: Path, *_: object) -> None:
    flag.touch()
    time.sleep(60)


@pytest.mark.parametrize("while_", ["fetching", "sampling", "writing"])
def test_a_killed_reduction_resumes_to_the_same_bytes(larger, tmp_path, monkeypatch, while_: str):
    profile, flag = tiny.settings(tmp_path, source=larger.settings()), tmp_path / "flag"
    ready: Callable[[], bool] = flag.exists

    def interrupted() -> None:
        if while_ == "sampling":
            msmarco._reduced = lambda *_: stalled(flag)
        if while_ == "writing":
            write = msmarco.write_passages
            msmarco.write_passages = lambda path, rows: write(
                path, (stalled(flag) if i else r for i, r in enumerate(rows))
            )
        collection.open_collection(profile)

    if while_ == "fetching":
        larger.loopback.hold.clear()
        ready = lambda: bool(larger.loopback.asked)  # noqa: E731
    process = multiprocessing.get_context("fork").Process(target=interrupted)
    process.start()
    tiny.kill(process, ready, 0.2)
    larger.loopback.hold.set()
    resumed = collection.open_collection(profile).digest
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "undisturbed"))
    assert collection.open_collection(profile).digest == resumed
