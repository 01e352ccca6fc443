"""Words that are indexed with a passage: the regressions find planted words, and what is shipped takes no model."""

import logging
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from sklearn.linear_model import Ridge
from transformers import BertConfig, BertModel

from tas_lib.config import System
from tas_lib.data import shipped, store
from tas_lib.experiment import Experiment
from tas_lib.models import BertDot
from tas_lib.records import Ragged
from tas_lib.retrieval import pretrained
from tools.make_shipped import copying
from tools.make_shipped.copying import Answered
from tools.make_shipped.remake import Workshop
from tools.make_shipped.settings import Copying, Recipe

RNG = np.random.default_rng(0)
IDS = tiny.texts(60, 14, seed=2)
EVERY_THIRD = np.arange(0, 60, 3)
PARTS = [row[1:-1][IDS.row(p)[1:-1] % 2 == 0] for p, row in enumerate(map(IDS.row, range(60)))]  # even ids
SEEN = Answered([], tiny.ragged([[2, *part, 3] for part in PARTS]), EVERY_THIRD, EVERY_THIRD)


def test_copy_weights_are_those_of_ridge_regression_on_the_tokens_of_answers():
    states = Ragged(RNG.normal(size=(len(IDS.ids), 6)).astype(np.float16), IDS.offsets)
    x = np.concatenate([states.row(p)[1:-1] for p in EVERY_THIRD]).astype(np.float64)
    even = np.concatenate([IDS.row(p)[1:-1] % 2 == 0 for p in EVERY_THIRD]).astype(float)
    expected = Ridge(alpha=10.0, fit_intercept=False).fit(np.c_[x, np.ones(len(x))], even)
    np.testing.assert_allclose(copying.copy_weights(IDS, states, SEEN, 10.0), expected.coef_, atol=1e-4)


def test_words_like_those_of_queries_are_copied_and_likely_ones_that_the_passage_lacks_added():
    # the state of a token says whether it is even, that of a text's CLS its topic; queries name the topic
    topic = np.arange(60) % 2
    states = Ragged(RNG.normal(0, 0.1, (len(IDS.ids), 4)).astype(np.float16), IDS.offsets)
    states.ids[:, 0] += IDS.ids % 2 == 0
    states.ids[IDS.offsets[:-1], 1] += topic
    passages = ["a graph" if p % 4 == 0 else "plot" for p in range(60)]
    queries = [f"the {('graph', 'matrix')[topic[p]]} rare{'xyz'[p % 3]}" for p in range(60)]
    pieces = [f"{'even' if i % 2 == 0 else 'odd'}{'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN'[i]}" for i in range(40)]
    settings = Copying(copied=2, new=1, least=21, copy_ridge=0.1, new_ridge=1.0)
    words = copying.chosen(passages, IDS, states, pieces, SEEN._replace(queries=queries), settings)
    for p, (passage, own) in enumerate(zip(passages, words, strict=True)):
        evens = {pieces[i] for i in PARTS[p]}
        copied, new = set(own[0].split()), own[1]
        assert copied >= evens or copied <= evens
        assert new == (("graph", "matrix")[topic[p]] if passage == "plot" else "matrix"), p


def test_what_is_remade_is_indexed_without_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "runs"))
    made = tiny.source()
    p = tiny.settings(tmp_path, pooling="cls", systems={"d2q": System(kind="expanded")})
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    encoder = BertModel(BertConfig(vocab_size=len(tiny.tokenizer()), **shape), add_pooling_layer=False)
    pretrained.save(BertDot(encoder, "cls"), tiny.tokenizer(), p.artefacts_folder / "encoder")
    tiny.ship(p.artefacts_folder / "encoder")
    tiny.put_collection(p, made)
    Workshop(p, Recipe(copying=Copying(layers=1, copied=3, least=1))).expansions()
    folder = shipped.folder(p, "expansions")
    measured = store.provenance(folder)["measured"]
    assert [*measured] == ["tune, BM25", "tune, BM25 with these words"]
    words = shipped.read_expansions(folder / "queries.parquet")(shipped.text_keys(made.passages.texts))
    for passage, own in zip(made.passages.texts, words, strict=True):
        copied, new = (set(some.split()) for some in own)
        assert len(copied) == min(3, len(set(passage.split()))) and copied <= set(passage.split())
        assert len(new) <= 2 and not new & set(passage.split())
    with caplog.at_level(logging.INFO):
        lab = Experiment(p)
        assert lab.runs.written == words and all(lab.scores(["d2q"])["d2q"].values())
    assert "no shipped words" not in caplog.text
