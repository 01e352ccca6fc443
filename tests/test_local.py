"""Anybody's own collection: both layouts give one source, and what is wrong with a file is one sentence."""

import gzip
import json
import logging
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tiny
from ir_measures import nDCG

from tas_lib.config import LocalSource
from tas_lib.data import collection
from tas_lib.data.pair_files import read_pairs
from tas_lib.data.sources import local
from tas_lib.evaluation import metrics
from tas_lib.experiment import BM25, Experiment
from tas_lib.records import Qrels, Source

PASSAGES = {"p1": ("Mean", "the mean of an array"), "p2": ("", "a sum along an axis"), "p3": ("Plot", "a linear plot")}
QUERIES = {
    "train": {f"t{i}": f"training query {i}" for i in range(8)},
    "test": {"q1": "what is the mean", "q2": "what is a sum", "q3": "asked but never judged"},
}
QRELS = {
    "train": {f"t{i}": {f"p{1 + i % 3}": 1} for i in range(8)},
    "test": {"q2": {"p2": 2, "p1": 0}, "q1": {"p1": 1}},
}
BEIR = "query-id\tcorpus-id\tscore\n", "{}\t{}\t{}\n"


def write_qrels(path: Path, qrels: Qrels, head: str = "", line: str = "{} 0 {} {}\n") -> None:
    lines = [line.format(query, p, grade) for query, grades in qrels.items() for p, grade in grades.items()]
    path.write_text(head + "".join(lines))


def write_objects(path: Path, objects: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in objects))


def ms_marco(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "collection.tsv").write_text("".join(f"{i}\t{' '.join(p).strip()}\n" for i, p in PASSAGES.items()))
    for name, queries in QUERIES.items():
        (folder / f"queries.{name}.tsv").write_text("".join(f"{i}\t{text}\n" for i, text in queries.items()))
        write_qrels(folder / f"qrels.{name}.tsv", QRELS[name])
    return folder


def beir(folder: Path) -> Path:
    (folder / "qrels").mkdir(parents=True)
    passages = [{"_id": i, "title": title, "text": text, "metadata": {}} for i, (title, text) in PASSAGES.items()]
    write_objects(folder / "corpus.jsonl", passages)
    queries = [{"_id": i, "text": text} for queries in QUERIES.values() for i, text in queries.items()]
    write_objects(folder / "queries.jsonl", queries)
    for name, qrels in QRELS.items():
        write_qrels(folder / "qrels" / f"{name}.tsv", qrels, *BEIR)
    return folder


def settings(folder: Path, **changed: object) -> LocalSource:
    return LocalSource.model_validate({"folder": str(folder), "stop_queries": 2, "tune_queries": 3} | changed)


def read(folder: Path, **changed: object) -> Source:
    with tempfile.TemporaryDirectory() as draft:
        return local.read(settings(folder, **changed), Path(draft))


LAYOUTS = pytest.mark.parametrize("layout", [ms_marco, beir])


# --- what is read ------------------------------------------------------------------------------------------------


@LAYOUTS
def test_a_folder_of_either_layout_by_hand(tmp_path, layout):
    source = read(layout(tmp_path))
    assert source.passages.ids == ["p1", "p2", "p3"]
    assert source.passages.texts == ["Mean the mean of an array", "a sum along an axis", "Plot a linear plot"]
    assert source.titles == (["Mean", "p2", "Plot"] if layout is beir else ["p1", "p2", "p3"])
    assert source.sets["test"].queries == (["q1", "q2"], ["what is the mean", "what is a sum"])  # judged, in file order
    assert source.sets["test"].qrels == QRELS["test"]
    assert {name: len(one.qrels) for name, one in source.sets.items()} == {"test": 2, "stop": 2, "tune": 3, "train": 3}
    assert source.barred.tolist() == []
    ids = [query for queries in source.sets.values() for query in queries.queries.ids]
    assert len(ids) == len(set(ids)) == 10


@LAYOUTS
def test_every_file_may_be_packed(tmp_path, layout):
    plain, packed = layout(tmp_path / "plain"), layout(tmp_path / "packed")
    for folder in (plain, packed):
        (folder / "pairs.tsv").write_text("".join(f"t{i} p{1 + i % 3} p{1 + (i + 1) % 3}\n" for i in range(8)))
    for path in [path for path in packed.rglob("*") if path.is_file()]:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert read(packed).sets == read(plain).sets and read(packed).report == read(plain).report
    assert {*local.inputs(LocalSource(folder=str(packed)))} == {
        f"{name}.gz" for name in local.inputs(LocalSource(folder=str(plain)))
    }


def test_both_layouts_hold_the_same_queries_out_and_another_seed_holds_out_others(tmp_path):
    folders = ms_marco(tmp_path / "a"), beir(tmp_path / "b")
    first, second = ([read(folder, seed=seed).sets["stop"].queries for seed in range(5)] for folder in folders)
    assert first == second
    assert len({tuple(queries.ids) for queries in first}) > 1


def test_a_training_query_of_another_set_is_dropped(tmp_path):
    """The same wording or the same id as a test query, and the same wording as one that was held out."""
    ms_marco(tmp_path)
    texts = {f"t{i}": "What is the MEAN" if i == 3 else f"query {i % 5}" for i in range(8)} | {"q1": "another text"}
    (tmp_path / "queries.train.tsv").write_text("".join(f"{query}\t{text}\n" for query, text in texts.items()))
    write_qrels(tmp_path / "qrels.train.tsv", QRELS["train"] | {"q1": {"p1": 1}})
    source = read(tmp_path, stop_queries=1, tune_queries=1)
    homes = {query: name for name, queries in source.sets.items() for query in queries.queries.ids}
    assert "t3" not in homes and homes["q1"] == "test"
    assert source.report["dropped"]["a training query that another set asks"] == 2
    wordings = [{*source.sets[name].queries.texts} for name in ("stop", "tune", "train")]
    assert sum(map(len, wordings)) == len(set.union(*wordings))


def test_a_set_of_the_folder_can_stop_training_or_be_tuned_on(tmp_path):
    ms_marco(tmp_path)
    source = read(tmp_path, stop="test")
    assert source.sets["stop"].queries.ids == ["q1", "q2"] and source.sets["stop"].name == "stop"
    assert set(source.sets) == {"stop", "tune", "train"}
    for name in ("tset", "train"):
        with pytest.raises(ValueError, match=f"source.tune: there is no set '{name}' to take; there are: "):
            read(tmp_path, tune=name)
    (tmp_path / "queries.test.tsv").rename(tmp_path / "queries.tune.tsv")
    (tmp_path / "qrels.test.tsv").rename(tmp_path / "qrels.tune.txt")
    assert read(tmp_path).sets["tune"].queries.ids == ["q1", "q2"]


def test_too_few_training_queries_to_hold_out_are_an_error(tmp_path):
    ms_marco(tmp_path)
    with pytest.raises(ValueError, match="6 training queries are too few to hold 6 out as the set 'tune'"):
        read(tmp_path, tune_queries=6)


def test_a_training_query_whose_answer_is_not_in_the_collection_is_dropped_and_counted(tmp_path, caplog):
    ms_marco(tmp_path)
    more = {"t7": {"p9": 1}, "t6": {"p1": 0}}
    write_qrels(tmp_path / "qrels.train.tsv", QRELS["train"] | more)
    source = read(tmp_path)
    assert source.report["dropped"]["a training query without a relevant passage"] == 2
    assert source.report["judged, not in the collection"] == {"test": 0, "train": 1}
    assert "1 judged passages are not in the collection" in caplog.text


# --- without training queries, and with pairs --------------------------------------------------------------------


def test_without_training_queries_there_are_the_test_sets_alone_and_a_warning(tmp_path, monkeypatch, caplog):
    ms_marco(tmp_path / "mine")
    for path in (tmp_path / "mine").glob("*.train.tsv"):
        path.unlink()
    assert set(opened(tmp_path, tmp_path / "mine", monkeypatch).sets) == {"test"}
    assert "profile tiny has no training queries" in caplog.text and "\n" not in caplog.messages[-1]


SCORED = "9.5\t1.5\tt{0}\tp{1}\tp{2}\n"


@LAYOUTS
def test_published_pairs_say_which_queries_are_for_training(tmp_path, layout):
    layout(tmp_path)
    (tmp_path / "pairs.tsv").write_text("".join(SCORED.format(i, 3, 1) for i in (5, 2, 0, 7, 6, 1)))
    source = read(tmp_path)
    sets = ("train", "stop", "tune")
    ids = [query for name in sets for query in source.sets[name].queries.ids]
    assert sorted(ids) == ["t0", "t1", "t2", "t5", "t6", "t7"]
    assert {q: g for name in sets for q, g in source.sets[name].qrels.items()} == {
        query: {"p3": 1} | QRELS["train"][query] for query in ids
    }
    assert source.report["read"] == {"passages": 3, "pairs": 6}
    assert local.files(settings(tmp_path)).pairs == tmp_path / "pairs.tsv"


def test_pairs_replace_training_judgements(tmp_path):
    ms_marco(tmp_path)
    (tmp_path / "qrels.train.tsv").unlink()
    (tmp_path / "pairs.tsv").write_text("".join(f"t{i} p2 p3\n" for i in range(8)))
    source = read(tmp_path)
    assert source.sets["train"].qrels == {query: {"p2": 1} for query in source.sets["train"].queries.ids}
    assert len(source.sets["train"].qrels) == 3


# --- what is wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "file", "text", "message"),
    [
        (ms_marco, "collection.tsv", "p1\ta\np2 b\n", "collection.tsv, line 2: 1 columns, expected id and text with a"),
        (ms_marco, "collection.tsv", "p1\ta\n\np1\tb\n", "collection.tsv, line 3: p1 occurs twice"),
        (ms_marco, "collection.tsv", "p 1\ta\n", "collection.tsv, line 1: 'p 1' is empty or has a space in it"),
        (ms_marco, "collection.tsv", "", "collection.tsv is empty"),
        (
            ms_marco,
            "collection.tsv",
            "x\ttext\n",
            "qrels.test.tsv: of its 3 judged passages, none is in collection.tsv",
        ),
        (ms_marco, "queries.test.tsv", "q2\ta\n", "qrels.test.tsv, line 3: query q1 has no text in queries.test.tsv"),
        (ms_marco, "qrels.test.txt", "q1 0 p1 1\n", "qrels.test.txt is neither qrels.<set>.tsv nor .txt, or the set"),
        (ms_marco, "pairs.tsv", "t1 p1 p2\nx p1 p2\n", "pairs.tsv, line 2: query x has no text in queries.train.tsv"),
        (ms_marco, "corpus.jsonl", "{}", "holds both of two layouts"),
        (beir, "corpus.jsonl", '{"_id": "1", "text": "a"}\n{"_i', "corpus.jsonl, line 2: not JSON, or cut off"),
        (beir, "corpus.jsonl", '["p1"]\n', "corpus.jsonl, line 1: not an object with _id and text"),
        (beir, "corpus.jsonl", '{"_id": "p1"}\n', "corpus.jsonl, line 1: text is missing"),
        (beir, "corpus.jsonl", '{"_id": 1, "text": "a"}\n', "corpus.jsonl, line 1: _id is 1, not a string"),
    ],
)
def test_a_broken_file_is_one_sentence_with_file_and_line(tmp_path, layout, file, text, message):
    (layout(tmp_path / "mine") / file).write_text(text)
    refused(tmp_path / "mine", message)


def refused(folder: Path, message: str) -> None:
    with pytest.raises(ValueError) as error:
        read(folder)
    assert message in str(error.value) and str(folder) in str(error.value) and "\n" not in str(error.value)


def test_a_folder_that_is_not_there_or_holds_no_collection_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere: put a collection there, in MS MARCO's layout"):
        read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds neither of two layouts; expected MS MARCO's layout"):
        read(tmp_path)
    (tmp_path / "collection.tsv").write_text("p1\ta\n")
    with pytest.raises(ValueError, match="holds no judgements; expected"):
        read(tmp_path)
    (tmp_path / "qrels.test.tsv").write_text("q1 0 p1 1\n")
    with pytest.raises(ValueError, match=r"there is no file .*queries\.test\.tsv"):
        read(tmp_path)


def test_a_packed_file_is_read_and_a_cut_off_one_is_refused(tmp_path):
    whole = gzip.compress((ms_marco(tmp_path) / "collection.tsv").read_bytes())
    (tmp_path / "collection.tsv").write_bytes(whole)
    assert len(read(tmp_path).passages.ids) == 3
    (tmp_path / "collection.tsv").write_bytes(whole[:-12])
    refused(tmp_path, "cut off")


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_the_text(tmp_path):
    collection_file = ms_marco(tmp_path) / "collection.tsv"
    collection_file.write_bytes(b"\xef\xbb\xbf" + collection_file.read_bytes().replace(b"\n", b"\r\n"))
    assert read(tmp_path).passages == (
        ["p1", "p2", "p3"],
        ["Mean the mean of an array", "a sum along an axis", "Plot a linear plot"],
    )


# --- from a profile ----------------------------------------------------------------------------------------------


def opened(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> collection.Collection:
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "runs"))
    return collection.open_collection(tiny.settings(tmp_path, source=settings(folder)))


@LAYOUTS
def test_a_collection_is_stored_and_made_anew_when_a_file_changes_and_not_when_the_folder_moves(
    tmp_path, layout, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    first = opened(tmp_path, layout(tmp_path / "mine"), monkeypatch)
    assert first.passages.ids == ["p1", "p2", "p3"] and np.concatenate(first.relevant("test")).tolist() == [0, 1]
    (tmp_path / "mine").rename(tmp_path / "moved")
    assert opened(tmp_path, tmp_path / "moved", monkeypatch).digest == first.digest
    assert caplog.text.count("collection: ") == 1
    queries = tmp_path / "moved" / ("queries.jsonl" if layout is beir else "queries.test.tsv")
    queries.write_text(queries.read_text().replace("a sum", "the total"))
    assert "what is the total" in opened(tmp_path, tmp_path / "moved", monkeypatch).sets["test"].queries.texts
    assert f"inputs changed: {queries.name}" in caplog.text


def test_published_pairs_come_as_rows_of_the_training_queries_that_are_left(tmp_path, monkeypatch):
    (ms_marco(tmp_path / "mine") / "pairs.tsv").write_text("".join(SCORED.format(i, 3, 1) for i in range(8)))
    source = opened(tmp_path, tmp_path / "mine", monkeypatch)
    path = collection.published_pairs(tiny.settings(tmp_path, source=settings(tmp_path / "mine")))
    assert path == tmp_path / "mine" / "pairs.tsv"
    triples = read_pairs(path, source.sets["train"].queries.ids, source.passages.ids)
    assert triples.query.tolist() == [0, 1, 2] and triples.left_out == 5
    assert (triples.pos.tolist(), triples.neg.tolist()) == ([2, 2, 2], [0, 0, 0])
    assert triples.margins is not None and triples.margins.tolist() == [8.0, 8.0, 8.0]


def test_bm25_runs_over_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "runs"))
    sets = tiny.Evaluation(sets=(tiny.TestSet(name="test", label="Test"),), depth=3)
    changed = {"source": settings(beir(tmp_path / "mine")), "evaluation": sets}
    run = Experiment(tiny.settings(tmp_path, **changed)).run(BM25, "test")
    assert [max(run[query], key=run[query].__getitem__) for query in ("q1", "q2")] == ["p1", "p2"]


@pytest.mark.slow
@pytest.mark.network
def test_bm25_over_nfcorpus_is_as_good_as_others_report(tmp_path, monkeypatch):
    """Others report an nDCG@10 of 0.322 to 0.325 for BM25 over title and text (BEIR, Pyserini)."""
    import ir_datasets

    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "runs"))
    (tmp_path / "qrels").mkdir()
    parts = {name: ir_datasets.load(f"beir/nfcorpus/{name}") for name in ("train", "dev", "test")}
    passages = [{"_id": d.doc_id, "title": d.title, "text": d.text} for d in parts["test"].docs_iter()]
    write_objects(tmp_path / "corpus.jsonl", passages)
    texts = {q.query_id: q.text for part in parts.values() for q in part.queries_iter()}
    write_objects(tmp_path / "queries.jsonl", [{"_id": query, "text": text} for query, text in texts.items()])
    for name, part in parts.items():
        write_qrels(tmp_path / "qrels" / f"{name}.tsv", part.qrels_dict(), *BEIR)
    sets = tiny.Evaluation(sets=(tiny.TestSet(name="test", label="NFCorpus", graded=True),), depth=100)
    changed = {"source": LocalSource(folder=str(tmp_path), tune="dev"), "evaluation": sets}
    lab = Experiment(tiny.settings(tmp_path, **changed))
    assert {name: len(queries.queries.ids) for name, queries in lab.collection.sets.items()} == {
        "stop": 200,
        "test": 323,
        "train": 2590 - 200 - 8 - 3,  # eight ask what a test or dev query asks, three what one held out asks
        "tune": 324,
    }
    values = lab.evaluate(BM25, "test")
    assert metrics.mean(values[nDCG @ 10]) == pytest.approx(0.322, abs=0.005)
