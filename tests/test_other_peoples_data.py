"""Other people's data, with known answers; runs where $TAS_SHARED_DATA, or ../shared/data, has it. See its README."""

import json
import os
import zipfile
from pathlib import Path

import pytest
from ir_measures import RR, R, nDCG

from tas_lib.config import ROOT, Bm25
from tas_lib.data import trec
from tas_lib.evaluation import metrics
from tas_lib.records import as_run
from tas_lib.retrieval.dense import Bm25Index

DATA = Path(os.environ.get("TAS_SHARED_DATA", ROOT.parent / "shared" / "data"))
TREC, NFCORPUS = DATA / "trec-dl-2020", DATA / "nfcorpus.zip"


@pytest.mark.skipif(not TREC.is_dir(), reason="no official TREC-DL 2020 runs at hand")
@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ("p_bm25", {nDCG @ 10: 0.4796, R(rel=2) @ 1000: 0.7863}),
        ("p_d2q_bm25", {nDCG @ 10: 0.6187, RR(rel=2) @ 10: 0.7323, R(rel=2) @ 1000: 0.8452}),
    ],
)
def test_official_runs_get_their_official_numbers(run, expected, tmp_path):
    topics = [line.split("\t")[0] for line in (TREC / "topics.dl20.txt").read_text().splitlines()]
    ranked = trec.read_run(TREC / f"{run}.run.gz", queries=topics)
    qrels = trec.read_qrels(TREC / "qrels.dl20-passage.txt")
    assert len(ranked) == 200 and len(qrels) == 54
    values = metrics.evaluate(ranked, qrels, list(expected))
    assert {len(v) for v in values.values()} == {54}
    assert {measure: round(metrics.mean(v), 4) for measure, v in values.items()} == expected
    trec.write_run(tmp_path / "ours.run.gz", ranked, "ours")
    assert trec.read_run(tmp_path / "ours.run.gz") == ranked


@pytest.mark.skipif(not NFCORPUS.is_file(), reason="no NFCorpus at hand")
def test_bm25_on_nfcorpus_is_as_good_as_others_report(tmp_path):
    with zipfile.ZipFile(NFCORPUS) as archive:
        archive.extractall(tmp_path)
    folder = tmp_path / "nfcorpus"
    passages = [json.loads(line) for line in (folder / "corpus.jsonl").read_text("utf-8").splitlines()]
    asked = [json.loads(line) for line in (folder / "queries.jsonl").read_text("utf-8").splitlines()]
    qrels = trec.read_qrels(folder / "qrels" / "test.tsv")
    queries = {query["_id"]: query["text"] for query in asked if query["_id"] in qrels}
    assert len(passages) == 3633 and len(queries) == len(qrels) == 323
    index = Bm25Index([f"{p['title']} {p['text']}" for p in passages], Bm25(k1=0.9, b=0.4))
    rows, scores = index.search(list(queries.values()), 1000)
    run = as_run(list(queries), [p["_id"] for p in passages], rows, scores)
    assert metrics.mean(metrics.evaluate(run, qrels, [nDCG @ 10])[nDCG @ 10]) == pytest.approx(0.322, abs=0.005)
