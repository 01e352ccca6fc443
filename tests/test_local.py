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
from pydantic import ValidationError

from tas_lib.config import LocalSource, sentence
from tas_lib.data import collection, formats
from tas_lib.data.pair_files import read_pairs
from tas_lib.data.sources import local
from tas_lib.evaluation import metrics
from tas_lib.experiment import BM25, Experiment
from tas_lib.records import Source

PASSAGES = {"p1": ("Mean", "the mean of an array"), "p2": ("", "a sum along an axis"), "p3": ("Plot", "a linear plot")}
QUERIES = {
    "train": {f"t{i}": f"training query {i}" for i in range(8)},
    "test": {"q1": "what is the mean", "q2": "what is a sum", "q3": "asked but never judged"},
}
QRELS = {
    "train": {f"t{i}": {f"p{1 + i % 3}": 1} for i in range(8)},
    "test": {"q2": {"p2": 2, "p1": 0}, "q1": {"p1": 1}},
}


def ms_marco(folder: Path) -> Path:
    (folder / "collection.tsv").write_text("".join(f"{i}\t{' '.join(p).strip()}\n" for i, p in PASSAGES.items()))
    for name, queries in QUERIES.items():
        (folder / f"queries.{name}.tsv").write_text("".join(f"{i}\t{text}\n" for i, text in queries.items()))
        formats.write_qrels(folder / f"qrels.{name}.tsv", QRELS[name])
    return folder


def beir(folder: Path) -> Path:
    objects = [{"_id": i, "title": title, "text": text, "metadata": {}} for i, (title, text) in PASSAGES.items()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(one) + "\n" for one in objects))
    objects = [{"_id": i, "text": text} for queries in QUERIES.values() for i, text in queries.items()]
    (folder / "queries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in objects))
    (folder / "qrels").mkdir()
    for name, qrels in QRELS.items():
        lines = [f"{q}\t{p}\t{grade}\n" for q, grades in qrels.items() for p, grade in grades.items()]
        (folder / "qrels" / f"{name}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
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
    found = read(layout(tmp_path))
    assert found.passages.ids == ["p1", "p2", "p3"]
    assert found.passages.texts == ["Mean the mean of an array", "a sum along an axis", "Plot a linear plot"]
    assert found.titles == (["Mean", "p2", "Plot"] if layout is beir else ["p1", "p2", "p3"])
    assert found.sets["test"].queries == (["q1", "q2"], ["what is the mean", "what is a sum"])  # judged, in file order
    assert found.sets["test"].qrels == QRELS["test"]
    assert {name: len(queries.qrels) for name, queries in found.sets.items()} == {
        "test": 2,
        "stop": 2,
        "tune": 3,
        "train": 3,
    }
    assert found.barred.tolist() == []
    ids = [query for queries in found.sets.values() for query in queries.queries.ids]
    assert len(ids) == len(set(ids)) == 10


def test_both_layouts_hold_the_same_queries_out_and_another_seed_holds_out_others(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, layout in zip(folders, (ms_marco, beir), strict=True):
        folder.mkdir()
        layout(folder)
    first, second = ([read(folder, seed=seed).sets["stop"].queries for seed in range(5)] for folder in folders)
    assert first == second
    assert len({tuple(queries.ids) for queries in first}) > 1


def test_a_training_query_of_another_set_is_dropped(tmp_path):
    """The same wording or the same id as a test query, and the same wording as one that was held out."""
    ms_marco(tmp_path)
    texts = {f"t{i}": "What is the MEAN" if i == 3 else f"query {i % 5}" for i in range(8)} | {"q1": "another text"}
    (tmp_path / "queries.train.tsv").write_text("".join(f"{query}\t{text}\n" for query, text in texts.items()))
    formats.write_qrels(tmp_path / "qrels.train.tsv", QRELS["train"] | {"q1": {"p1": 1}})
    found = read(tmp_path, stop_queries=1, tune_queries=1)
    homes = {query: name for name, queries in found.sets.items() for query in queries.queries.ids}
    assert "t3" not in homes and homes["q1"] == "test"
    assert found.report["dropped"]["a training query that another set asks"] == 2
    wordings = [{*found.sets[name].queries.texts} for name in ("stop", "tune", "train")]
    assert sum(map(len, wordings)) == len(set.union(*wordings))


def test_a_set_of_the_folder_can_stop_training_or_be_tuned_on(tmp_path):
    ms_marco(tmp_path)
    found = read(tmp_path, stop="test")
    assert found.sets["stop"].queries.ids == ["q1", "q2"] and found.sets["stop"].name == "stop"
    assert set(found.sets) == {"stop", "tune", "train"}
    for name in ("tset", "train"):
        with pytest.raises(ValueError, match=f"source.tune: there is no set '{name}' to take; there are: "):
            read(tmp_path, tune=name)
    (tmp_path / "queries.test.tsv").rename(tmp_path / "queries.tune.tsv")
    (tmp_path / "qrels.test.tsv").rename(tmp_path / "qrels.tune.txt")
    assert read(tmp_path).sets["tune"].queries.ids == ["q1", "q2"]


def test_too_few_training_queries_to_hold_out_are_told(tmp_path):
    ms_marco(tmp_path)
    with pytest.raises(ValueError, match="8 training queries are too few to hold 8 out as the set 'stop'.*stop_quer"):
        read(tmp_path, stop_queries=8)
    with pytest.raises(ValueError, match="6 training queries are too few to hold 6 out as the set 'tune'"):
        read(tmp_path, tune_queries=6)


def test_a_training_query_whose_answer_is_not_in_the_collection_is_dropped_and_counted(tmp_path, caplog):
    ms_marco(tmp_path)
    more = {"t7": {"p9": 1}, "t6": {"p1": 0}}
    formats.write_qrels(tmp_path / "qrels.train.tsv", QRELS["train"] | more)
    found = read(tmp_path)
    assert found.report["dropped"]["a training query without a relevant passage"] == 2
    assert found.report["judged, not in the collection"] == {"test": 0, "train": 1}
    assert "1 judged passages are not in the collection" in caplog.text


# --- without training queries, and with pairs --------------------------------------------------------------------


def test_without_training_queries_there_are_the_test_sets_alone_and_a_warning(tmp_path, monkeypatch, caplog):
    (tmp_path / "mine").mkdir()
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
    found = read(tmp_path)
    sets = ("train", "stop", "tune")
    ids = [query for name in sets for query in found.sets[name].queries.ids]
    assert sorted(ids) == ["t0", "t1", "t2", "t5", "t6", "t7"]
    assert {q: g for name in sets for q, g in found.sets[name].qrels.items()} == {
        query: {"p3": 1} | QRELS["train"][query] for query in ids
    }
    assert found.report["read"] == {"passages": 3, "pairs": 6}
    assert local.pairs(settings(tmp_path)) == tmp_path / "pairs.tsv"


def test_pairs_do_in_place_of_training_judgements(tmp_path):
    ms_marco(tmp_path)
    (tmp_path / "qrels.train.tsv").unlink()
    (tmp_path / "pairs.tsv").write_text("".join(f"t{i} p2 p3\n" for i in range(8)))
    found = read(tmp_path)
    assert found.sets["train"].qrels == {query: {"p2": 1} for query in found.sets["train"].queries.ids}
    assert len(found.sets["train"].qrels) == 3


# --- what is wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("collection.tsv", "p1\ta\np2 b\n", "collection.tsv, line 2: 1 columns, expected id and text with a tab"),
        ("collection.tsv", "p1\ta\n\np1\tb\n", "collection.tsv, line 3: p1 occurs twice"),
        ("collection.tsv", "p 1\ta\n", "collection.tsv, line 1: 'p 1' is empty or has a space in it"),
        ("collection.tsv", "", "collection.tsv is empty"),
        ("collection.tsv", "other\ttext\n", "qrels.test.tsv: of its 3 judged passages, none is in collection.tsv"),
        ("queries.test.tsv", "q1\twhat\n", "qrels.test.tsv, line 2: query q2 has no text in queries.test.tsv"),
        ("qrels.test.tsv", "q1 0 p1 yes\n", "qrels.test.tsv, line 1: invalid literal"),
        ("qrels.test.txt", "q1 0 p1 1\n", "qrels.test.txt is neither qrels.<set>.tsv nor .txt, or the set has both"),
        ("qrels.test.json", "{}", "qrels.test.json is neither"),
        ("pairs.tsv", "t1 p1 p2\nt1 p1\n", "pairs.tsv, line 2: 2 columns, expected query pos neg"),
        ("pairs.tsv", "t1 p1 p2\nx p1 p2\n", "pairs.tsv, line 2: query x has no text in queries.train.tsv"),
        ("pairs.tsv", "t1 p1 p9\n", "pairs.tsv, line 1: passage p9 is not in the collection"),
        ("pairs.tsv", "1.0 nan t1 p1 p2\n", "pairs.tsv, line 1: the scores are 1.0 and nan"),
        ("corpus.jsonl", "{}", "holds both of two layouts"),
    ],
)
def test_a_broken_file_of_ms_marcos_layout_is_one_sentence_with_file_and_line(tmp_path, file, text, told):
    (ms_marco(tmp_path) / file).write_text(text)
    refused(tmp_path, told)


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("corpus.jsonl", '{"_id": "p1", "text": "a"}\n{"_id": "p2", "te', "corpus.jsonl, line 2: not JSON, or cut off"),
        ("corpus.jsonl", '["p1"]\n', "corpus.jsonl, line 1: not an object with _id and text"),
        ("corpus.jsonl", '{"_id": "p1"}\n', "corpus.jsonl, line 1: text is missing"),
        ("corpus.jsonl", '{"_id": 1, "text": "a"}\n', "corpus.jsonl, line 1: _id is 1, not a string"),
        ("corpus.jsonl", '{"_id": "", "text": "a"}\n', "corpus.jsonl, line 1: '' is empty"),
        ("queries.jsonl", '{"_id": "q1", "text": "a"}\n', "test.tsv, line 2: query q2 has no text in queries.jsonl"),
    ],
)
def test_a_broken_file_of_beirs_layout_is_one_sentence_with_file_and_line(tmp_path, file, text, told):
    (beir(tmp_path) / file).write_text(text)
    refused(tmp_path, told)


def refused(folder: Path, told: str) -> None:
    with pytest.raises(ValueError) as error:
        read(folder)
    assert told in str(error.value) and str(folder) in str(error.value) and "\n" not in str(error.value)


def test_a_folder_that_is_not_there_or_holds_no_collection_is_told_what_is_expected(tmp_path):
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


def test_a_packed_file_is_read_and_a_cut_off_one_is_told(tmp_path):
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


def test_an_unknown_kind_of_source_is_one_sentence():
    with pytest.raises(ValidationError) as error:
        tiny.Profile(name="x", source={"kind": "lokal"}, evaluation={"sets": []}, systems={})
    assert sentence(error.value).startswith("source: Input tag 'lokal' found using 'kind' does not match any of")
    assert "(got" not in sentence(error.value)


# --- from a profile ----------------------------------------------------------------------------------------------


def opened(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> collection.Collection:
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "runs"))
    return collection.open_collection(tiny.settings(tmp_path, source=settings(folder)))


@LAYOUTS
def test_a_collection_is_stored_and_made_anew_when_a_file_changes_and_not_when_the_folder_moves(
    tmp_path, layout, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    (tmp_path / "mine").mkdir()
    first = opened(tmp_path, layout(tmp_path / "mine"), monkeypatch)
    assert first.passages.ids == ["p1", "p2", "p3"] and np.concatenate(first.relevant("test")).tolist() == [0, 1]
    (tmp_path / "mine").rename(tmp_path / "moved")
    assert opened(tmp_path, tmp_path / "moved", monkeypatch).digest == first.digest
    assert caplog.text.count("collection: ") == 1
    queries = tmp_path / "moved" / ("queries.jsonl" if layout is beir else "queries.test.tsv")
    queries.write_text(queries.read_text().replace("a sum", "the total"))
    assert "what is the total" in opened(tmp_path, tmp_path / "moved", monkeypatch).sets["test"].queries.texts
    assert f"inputs changed: {queries.name}" in caplog.text


def test_nothing_is_stored_of_a_folder_with_a_broken_file(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (ms_marco(tmp_path / "mine") / "qrels.train.tsv").write_text("t1 0 p1 1\nt2 0 p1\n")
    with pytest.raises(ValueError, match=r"qrels\.train\.tsv, line 2: 3 columns"):
        opened(tmp_path, tmp_path / "mine", monkeypatch)
    assert not (tmp_path / "runs" / "tiny" / "collection").exists()


def test_published_pairs_come_as_rows_of_the_training_queries_that_are_left(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (ms_marco(tmp_path / "mine") / "pairs.tsv").write_text("".join(SCORED.format(i, 3, 1) for i in range(8)))
    found = opened(tmp_path, tmp_path / "mine", monkeypatch)
    path = collection.published_pairs(tiny.settings(tmp_path, source=settings(tmp_path / "mine")))
    assert path == tmp_path / "mine" / "pairs.tsv"
    triples = read_pairs(path, found.sets["train"].queries.ids, found.passages.ids)
    assert triples.query.tolist() == [0, 1, 2] and triples.left_out == 5
    assert (triples.pos.tolist(), triples.neg.tolist()) == ([2, 2, 2], [0, 0, 0])
    assert triples.margins is not None and triples.margins.tolist() == [8.0, 8.0, 8.0]


def test_bm25_runs_over_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "runs"))
    (tmp_path / "mine").mkdir()
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
    objects = [{"_id": d.doc_id, "title": d.title, "text": d.text} for d in parts["test"].docs_iter()]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(one) + "\n" for one in objects))
    texts = {q.query_id: q.text for part in parts.values() for q in part.queries_iter()}
    objects = [{"_id": query, "text": text} for query, text in texts.items()]
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in objects))
    for name, part in parts.items():
        lines = [f"{q.query_id}\t{q.doc_id}\t{q.relevance}\n" for q in part.qrels_iter()]
        (tmp_path / "qrels" / f"{name}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
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
