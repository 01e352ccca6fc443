"""The whole of an experiment on a collection of eighty passages, with real training of random models."""

import gzip
import logging
import math
import shutil
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from sentence_transformers import SentenceTransformer

from tas_lib import clustering, losses, models
from tas_lib.config import Bm25, Evaluation, Expansion, Profile, Reranking, Sampling, System, TestSet, Tokens, Variant
from tas_lib.data import shipped, store
from tas_lib.data.tokens import load_tokenizer, tokenise
from tas_lib.evaluation import metrics
from tas_lib.experiment import BASELINE, BM25, Experiment
from tas_lib.records import NotRun, as_run
from tas_lib.report import following
from tas_lib.retrieval import bm25, checks, cross_encoder, doc2query, fusion, pretrained
from tas_lib.retrieval import encode as encoding
from tas_lib.retrieval.t5 import T5Scorer
from tas_lib.train.teachers import FreshVectors
from tools.run import ship_seeds

DUAL = System(batch_size=6)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(autouse=True)
def runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAS_RUNS", str(place / "runs"))


@pytest.fixture
def lab(place: Path) -> Experiment:
    p = tiny.settings(place)
    if not p.artefacts_folder.exists():
        tiny.put_shipped(p, tiny.source())
        tiny.put_collection(p, tiny.source())
    return Experiment(p)


def changed(lab: Experiment, **settings: object) -> Experiment:
    return Experiment(lab.profile.model_copy(update=settings))


# --- the early-stopping set --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("system", "first"), [(BASELINE, BM25), (DUAL, BASELINE)], ids=["baseline", "others"])
def test_candidates_are_the_first_stages_and_every_relevant_passage(lab: Experiment, system: System, first: System):
    candidates, relevant = lab.candidates(system), lab.collection.relevant("stop")
    assert len(candidates.rows) == len(candidates.queries) == 6
    rows, _ = lab.runs.retriever(first)(lab.collection.sets["stop"].queries.texts, 5)
    assert candidates.rows[:, :5].tolist() == rows.tolist()
    for query, passages in zip(candidates.queries, candidates.rows, strict=True):
        kept = passages[passages >= 0]
        assert set(relevant[query]) <= set(kept)
        assert len(set(kept)) == len(kept) <= 6  # five, and the relevant one


def test_masks_behind_the_query_change_the_in_batch_teacher(lab: Experiment):
    batch = lab.sampler(DUAL).batch(0)
    plain, masked = (changed(lab, query_masks=n).in_batch_teacher.scores(batch, torch.device("cpu")) for n in (0, 8))
    assert plain.shape == masked.shape == (6, 12)
    assert not torch.allclose(plain, masked)


def test_masks_come_before_the_last_token_of_the_query_as_in_the_public_loader(lab: Experiment):
    queries = changed(lab, query_masks=8, kept_vectors_gb=0).in_batch_teacher.queries.tokens
    for row, text in enumerate(lab.collection.sets["train"].queries.texts):
        expected = f"[CLS] {text} {'[MASK] ' * 8}[SEP]".split()
        assert tiny.tokenizer().convert_ids_to_tokens(queries.row(row).tolist()) == expected


def test_the_public_mask_scores_each_passage_under_the_mask_of_the_querys_own(lab: Experiment):
    public = lab.profile.training.model_copy(update={"colbert_mask": "public"})
    batch, teacher = lab.sampler(DUAL).batch(0), changed(lab, training=public).in_batch_teacher
    rows = np.concatenate([batch.pos, batch.neg])
    q, p = teacher.queries.rows(batch.queries), teacher.passages.rows(rows)
    scores = teacher.scores(batch, torch.device("cpu"))
    for i in range(6):
        for j in range(12):
            own = p[1][i if j < 6 else 6 + i]  # positives under the own positive's mask, negatives under the negative's
            expected = sum((p[0][j][own] @ token).max() for token in q[0][i][q[1][i]])
            assert scores[i, j].item() == pytest.approx(expected.item(), abs=1e-5)
    again = teacher.scores(batch, torch.device("cpu"))  # now from memory
    assert torch.equal(scores, again)
    fresh = changed(lab, training=public, kept_vectors_gb=0).in_batch_teacher
    torch.testing.assert_close(fresh.scores(batch, torch.device("cpu")), scores, atol=0.02, rtol=0.01)  # not in fp16
    exact = changed(lab, kept_vectors_gb=0).in_batch_teacher.scores(batch, torch.device("cpu"))
    torch.testing.assert_close(losses.own_margins(scores), losses.own_margins(exact), rtol=0, atol=1e-5)
    assert not torch.allclose(scores, exact, atol=0.01)


def test_token_vectors_that_would_fill_the_disk_are_made_for_every_batch(lab: Experiment):
    batch = lab.sampler(DUAL).batch(0)
    little = changed(lab, kept_vectors_gb=0).in_batch_teacher
    assert isinstance(little.passages, FreshVectors)
    fresh, kept = (teacher.scores(batch, torch.device("cpu")) for teacher in (little, lab.in_batch_teacher))
    torch.testing.assert_close(fresh, kept, atol=0.02, rtol=0.01)


def test_the_error_of_margins_equals_the_literal_loop(lab: Experiment):
    batch = lab.sampler(DUAL).batch(0)
    teacher, squares = lab.in_batch_teacher.scores(batch, torch.device("cpu")), []
    queries = encoding.encode(lab.bi_encoder(BASELINE).load(), lab.tokens["train"], batch.queries)
    passages = np.array(lab.vectors(BASELINE))[np.concatenate([batch.pos, batch.neg])].astype(np.float32)
    for i in range(6):
        for j in (j for j in range(12) if j not in (i, 6 + i)):
            margin = queries[i] @ passages[i] - queries[i] @ passages[j]
            squares.append((margin - (teacher[i, i] - teacher[i, j]).item()) ** 2)
    expected = np.sqrt(np.mean(squares))
    assert following.margin_errors(lab, [BASELINE, BASELINE], [batch]) == pytest.approx([expected] * 2, rel=1e-3)


def test_ndcg_of_candidates_equals_the_formula(lab: Experiment):
    candidates, model = lab.candidates(DUAL), lab.bi_encoder(BASELINE).load()
    values = []
    for n, query in enumerate(candidates.queries):
        q = encoding.encode(model, lab.tokens["stop"], np.array([query]))[0]
        rows = candidates.rows[n][candidates.rows[n] >= 0]
        scores = [encoding.encode(model, lab.tokens["passages"], np.array([row]))[0] @ q for row in rows]
        ranked = rows[np.argsort(-np.array(scores))]
        rank = ranked.tolist().index(lab.collection.relevant("stop")[query][0])
        values.append(1 / math.log2(rank + 2))  # one relevant passage: its discount, over that of rank 1
    assert candidates.ndcg(model, lab.tokens) == pytest.approx(np.mean(values), abs=1e-6)


# --- one system --------------------------------------------------------------------------------------------------


def test_a_trained_system_is_a_model_that_others_can_load(lab: Experiment):
    folder = lab.trained(DUAL)
    assert folder.name == "dual-tas_balanced-b6"
    assert not list(folder.glob("*checkpoint*"))
    assert store.provenance(folder)["inputs"].keys() == {"collection", "pairs", "encoder", "baseline", "colbert"}
    assert store.provenance(lab.trained(BASELINE))["inputs"].keys() == {"collection", "pairs", "encoder"}
    assert [h.step for h in lab.history(DUAL)] == [3, 6]
    assert all(h.pairwise > 0 and h.in_batch > 0 for h in lab.history(DUAL))
    texts = lab.collection.passages.texts
    theirs = SentenceTransformer(str(folder), device="cpu").encode([*texts])
    ours = encoding.encode(lab.bi_encoder(DUAL).load(), lab.tokens["passages"])
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_training_changes_the_encoder_and_another_seed_changes_it_differently(lab: Experiment):
    start = pretrained.load_encoder(lab.profile.encoder_path).state_dict()
    systems = [DUAL, DUAL.model_copy(update={"seed": 2})]
    name = "embeddings.word_embeddings.weight"
    weights = [start[name], *(lab.bi_encoder(system).load().encoder.state_dict()[name].cpu() for system in systems)]
    assert not any(torch.equal(a, b) for a, b in [(weights[0], weights[1]), (weights[1], weights[2])])


@pytest.mark.parametrize(
    ("teacher", "sampling"),
    [("none", "random"), ("pairwise", "tas"), ("in_batch", "tas_balanced"), ("dual", "hard_margin")],
)
def test_every_teacher_and_every_sampling_can_be_trained(lab: Experiment, teacher, sampling):
    system = System(teacher=teacher, sampling=sampling, batch_size=6)
    assert [h.step for h in lab.history(system)] == [3, 6]


def test_a_second_evaluation_makes_nothing_again(lab: Experiment, caplog: pytest.LogCaptureFixture):
    lab.evaluate(DUAL, "dev")
    caplog.clear()
    with caplog.at_level(logging.INFO):
        Experiment(lab.profile).evaluate(DUAL, "dev")
    assert caplog.text == ""


def remade(lab: Experiment, system: System, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.INFO, "tas_lib.data.store"):
        lab.trained(system)
    return [record.message for record in caplog.records if record.message.startswith("systems/")]


def test_a_changed_setting_makes_those_systems_again_that_depend_on_it(
    lab: Experiment, caplog: pytest.LogCaptureFixture
):
    random, tas = BASELINE, DUAL
    lab.trained(tas)
    bins = changed(lab, sampling=Sampling(clusters=3, margin_bins=5))
    assert remade(bins, random, caplog) == []
    assert remade(bins, tas, caplog) == [f"systems/{tas.name}: remade, parameters changed: sampling"]
    shorter = changed(lab, tokens=Tokens(query=8, passage=12))
    assert remade(shorter, random, caplog) == [f"systems/{random.name}: remade, parameters changed: tokens"]
    assert remade(lab, random, caplog) == [f"systems/{random.name}: remade, parameters changed: tokens"]


def test_a_system_is_trained_again_on_other_passages_with_the_same_margins(
    lab: Experiment, caplog: pytest.LogCaptureFixture
):
    lab.trained(BASELINE)
    other = Experiment(lab.profile)
    other.pairs = lab.pairs._replace(neg=np.roll(lab.pairs.neg, 1))
    assert remade(other, BASELINE, caplog) == [f"systems/{BASELINE.name}: remade, inputs changed: pairs"]


def test_the_baselines_vectors_are_clustered(lab: Experiment):
    vecs = encoding.encode(lab.bi_encoder(BASELINE).load(), lab.tokens["train"])
    np.testing.assert_allclose(Experiment(lab.profile).query_vecs, vecs, atol=1e-6)
    assert sorted(np.concatenate(lab.clusters.members).tolist()) == list(range(40))
    again = clustering.kmeans(vecs, 3)
    assert lab.clusters.assignment.tolist() == again.assignment.tolist()
    made = lab.profile.folder / "clusters" / "3-spherical"
    assert lab.clustering_s == store.provenance(made)["seconds"]


# --- runs --------------------------------------------------------------------------------------------------------


def test_dense_retrieval_is_exact_for_any_text(lab: Experiment):
    texts = ["plot the graph", "a word nobody heard"]
    rows, scores = lab.runs.retriever(DUAL)(texts, 4)
    vecs = SentenceTransformer(str(lab.trained(DUAL)), device="cpu").encode(texts)
    every = vecs @ lab.vectors(DUAL).float().numpy().T
    np.testing.assert_allclose(scores, -np.sort(-every, axis=1)[:, :4], atol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(every, rows, 1), scores, atol=1e-4)


@pytest.mark.parametrize("system", [BM25, DUAL], ids=["bm25", "dual"])
def test_runs_are_trec_files_of_what_was_retrieved(lab: Experiment, system: System):
    run = lab.run(system, "dev")
    queries = lab.collection.sets["dev"].queries
    rows, scores = lab.runs.retriever(system)(queries.texts, 10)
    for n, query in enumerate(queries.ids):
        expected = {lab.collection.passages.ids[r]: float(s) for r, s in zip(rows[n], scores[n], strict=True) if r >= 0}
        assert run[query] == pytest.approx(expected)
    file = lab.store.root / "retrieved" / system.name / "dev" / "dev.run.gz"
    first = gzip.decompress(file.read_bytes()).decode().splitlines()[0].split()
    assert (len(first), first[1], first[3], first[5]) == (6, "Q0", "1", system.name)


def test_metrics_by_hand(lab: Experiment):
    values = {str(m): v for m, v in lab.evaluate(BM25, "graded").items()}
    assert list(values) == ["nDCG@10", "RR(rel=2)@10", "R(rel=2)@10", "Judged@10"]
    run, qrels = lab.run(BM25, "graded"), lab.collection.sets["graded"].qrels
    for query, value in values["RR(rel=2)@10"].items():
        passages = run.get(query, {})  # a query without any word of the collection has no line
        ranked = sorted(passages, key=lambda p: (-passages[p], p))
        hits = [rank for rank, p in enumerate(ranked, 1) if qrels[query].get(p, 0) >= 2]
        assert value == pytest.approx(1 / hits[0] if hits else 0)


def test_a_run_file_made_elsewhere_is_a_run(lab: Experiment, tmp_path: Path):
    queries = lab.collection.sets["dev"].queries.ids
    (tmp_path / "dev.run").write_text("".join(f"{q} Q0 p1 1 2.5 x\n" for q in queries))
    system = System(kind="run", source=str(tmp_path / "{set}.run"))
    assert lab.run(system, "dev") == {q: {"p1": 2.5} for q in queries}


# --- published checkpoints ---------------------------------------------------------------------------------------


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A DistilBERT with another tokenizer than the profile's encoder, in a folder without a provenance."""
    folder = tiny.save_encoder(tmp_path / "published", tiny.distilbert(len(tiny.tokenizer()), seed=7))
    tiny.tokenizer(tiny.WORDS[::-1]).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_checkpoint_reads_with_its_own_tokenizer_and_pooling(lab: Experiment, published: Path, pooling):
    system = System(kind="checkpoint", source=str(published), pooling=pooling)
    own, model = load_tokenizer(str(published)), pretrained.load_dot(str(published), pooling)
    passages, texts = tokenise(own, lab.collection.passages.texts, 16), ["plot the graph", "a mean"]
    vecs = encoding.encode(model, passages)
    np.testing.assert_allclose(lab.vectors(system).float(), vecs, atol=2e-3)
    assert not np.allclose(vecs, encoding.encode(model, lab.tokens["passages"]), atol=2e-3)  # the encoder's tokenizer
    rows, scores = lab.runs.retriever(system)(texts, 4)
    every = encoding.encode(model, tokenise(own, texts, 8)) @ lab.vectors(system).float().numpy().T
    np.testing.assert_allclose(scores, -np.sort(-every, axis=1)[:, :4], atol=1e-4)
    assert set(lab.run(system, "dev")) == set(lab.collection.sets["dev"].queries.ids)


def test_a_checkpoint_without_stated_pooling_has_the_profiles(lab: Experiment, published: Path):
    assert (
        lab.bi_encoder(System(kind="checkpoint", source=str(published))).load().pooling == lab.profile.pooling == "mean"
    )


def test_a_checkpoint_without_a_tokenizer_has_the_encoders(lab: Experiment, published: Path, caplog):
    for path in published.glob("tokenizer*"):
        path.unlink()
    system = System(kind="checkpoint", source=str(published), pooling="cls")
    vecs = encoding.encode(pretrained.load_dot(str(published), "cls"), lab.tokens["passages"])
    np.testing.assert_allclose(lab.vectors(system).float(), vecs, atol=2e-3)
    assert f"{published} has no tokenizer; using that of {lab.profile.encoder_path}" in caplog.text


def test_a_checkpoint_whose_files_change_is_read_again(lab: Experiment, published: Path):
    system = System(kind="checkpoint", source=str(published))
    first, run = lab.vectors(system), lab.run(system, "dev")
    tiny.distilbert(len(tiny.tokenizer()), seed=8).save_pretrained(published)
    assert not torch.equal(lab.vectors(system), first)
    assert lab.run(system, "dev") != run


def test_an_unknown_checkpoint_is_one_sentence_before_any_work(lab: Experiment, tmp_path: Path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # read once, at its import
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "runs"))
    tiny.put_collection(lab.profile, tiny.source())
    unknown = System(kind="checkpoint", source="nobody/no-such-model")
    fresh = changed(lab, systems={"pairwise/random": BASELINE, "tas_b/largest": unknown})
    for ask in (
        lambda: fresh.scores(["pairwise/random", "tas_b/largest"]),
        lambda: fresh.run(unknown, "dev"),
        lambda: fresh.vectors(unknown),
    ):
        with pytest.raises(ValueError, match=r"no encoder in the hub name .*'nobody/no-such-model'") as error:
            ask()
        assert "\n" not in str(error.value)
    assert {path.name for path in (tmp_path / "runs" / "tiny").iterdir()} == {".locks", "collection", ".checked.draft"}


def test_without_training_queries_trained_rows_are_empty_and_the_log_says_why_once(
    lab: Experiment, published: Path, tmp_path: Path, monkeypatch, caplog
):
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "runs"))
    made = tiny.source()
    sets = {name: queries for name, queries in made.sets.items() if name in ("dev", "graded")}
    tiny.put_collection(lab.profile, made._replace(sets=sets))
    caplog.clear()
    bare = changed(
        lab, systems={"pairwise/random": BASELINE, "tas_b/largest": System(kind="checkpoint", source=str(published))}
    )
    scores = bare.scores(["bm25", "pairwise/random", "dual/tas_balanced", "tas_b/largest"])
    assert scores["pairwise/random"] == scores["dual/tas_balanced"] == {}
    assert scores["bm25"].keys() == scores["tas_b/largest"].keys() == {"dev", "graded"}
    assert caplog.text.count("has no training queries") == 1
    with pytest.raises(NotRun, match="this profile has no query set 'train'"):
        bare.trained(BASELINE)


# --- rows of tables ----------------------------------------------------------------------------------------------


def test_scores_are_of_what_the_profile_lists_and_can_be_run(lab: Experiment):
    listed = changed(lab, systems={"pairwise/random": BASELINE, "x": System(kind="reported", source="someone")})
    scores = listed.scores(["bm25", "pairwise/random", "pairwise/tas", "x"])
    assert list(scores) == ["bm25", "pairwise/random", "pairwise/tas", "x"]
    assert scores["pairwise/tas"] == scores["x"] == {}
    sets = {test.name for test in lab.profile.evaluation.sets}
    assert scores["pairwise/random"].keys() == scores["bm25"].keys() == sets
    assert scores["pairwise/random"]["dev"] == lab.evaluate(BASELINE, "dev")


# --- bad input ---------------------------------------------------------------------------------------------------


def test_more_clusters_than_queries_are_refused_before_any_work(lab: Experiment, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TAS_RUNS", str(tmp_path))
    tiny.put_collection(lab.profile, tiny.source())
    with pytest.raises(ValueError) as error:
        changed(lab, sampling=Sampling(clusters=41)).trained(DUAL)
    assert str(error.value) == "profile 'tiny': 41 clusters (sampling.clusters) of 40 queries"
    assert {path.name for path in (tmp_path / "tiny").iterdir()} == {".locks", "collection"}


def test_a_batch_of_more_queries_than_there_are_is_refused_before_any_work(lab: Experiment):
    with pytest.raises(ValueError, match=r"a batch of system tas_b is 96 of 40 queries"):
        changed(lab, systems={"tas_b": System(batch_size=96)}).trained(DUAL)


def test_a_test_set_that_the_collection_lacks_is_refused(lab: Experiment):
    other = changed(lab, evaluation=Evaluation(sets=(TestSet(name="dl-2019", label="DL"),)))
    with pytest.raises(ValueError, match="there is no query set 'dl-2019'; there are: dev, graded, stop, train, tune"):
        other.run(BM25, "dev")
    with pytest.raises(ValueError, match="there is no query set 'devv'; there are: dev, graded"):
        lab.evaluate(BM25, "devv")


@pytest.mark.parametrize("kind", ["checkpoint", "reported"])
def test_other_kinds_of_system_are_never_trained_by_mistake(lab: Experiment, kind):
    with pytest.raises(ValueError, match=f"a system of kind '{kind}' is not trained here: someone/model"):
        lab.trained(System(kind=kind, source="someone/model"))


def damaged(place: Path, tmp_path: Path, profile: Profile) -> Profile:
    copy = shutil.copytree(profile.artefacts_folder, tmp_path / "tiny")
    with open(copy / "encoder" / "model.safetensors", "ab") as f:
        f.write(b"x")
    return profile.model_copy(update={"artefacts": str(copy), "encoder": str(copy / "encoder")})


def test_a_shipped_encoder_that_is_not_the_one_shipped_stops_before_any_work(
    lab: Experiment, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "runs"))
    tiny.put_collection(lab.profile, tiny.source())
    broken = Experiment(damaged(place, tmp_path, lab.profile))
    for ask in (lambda: broken.trained(DUAL), lambda: broken.tokens):
        with pytest.raises(ValueError, match=r"encoder/model\.safetensors is not the file that was shipped"):
            ask()
    assert {path.name for path in (tmp_path / "runs" / "tiny").iterdir()} == {".locks", "collection", "checked"}


# --- pipelines ---------------------------------------------------------------------------------------------------

FUSED = System(kind="fused", of=("bm25", "dual/tas_balanced"))
RERANKED = System(kind="reranked", first="bm25", by="cat")
LISTED = {"dual/tas_balanced": DUAL, "bm25+dual/tas_balanced": FUSED, "bm25>cat": RERANKED}


@pytest.fixture
def pipelines(lab: Experiment) -> Experiment:
    folder = lab.profile.artefacts_folder / "cat"
    if not folder.exists():
        pretrained.save(models.BertCat(tiny.bert(len(tiny.tokenizer()), seed=9)), tiny.tokenizer(), folder)
        tiny.ship(folder)
    return changed(lab, systems=LISTED, reranking=Reranking(depth=4, dev_sample=2))


def test_the_weight_of_a_fusion_is_the_best_on_the_early_stopping_set(pipelines: Experiment):
    words, dense = (pipelines.run(system, "stop") for system in (BM25, DUAL))
    qrels = pipelines.collection.sets["stop"].qrels
    worth = {a: metrics.mean_ndcg(fusion.interpolate(dense, words, a), qrels) for a in pipelines.profile.fusion.alphas}
    alpha = pipelines.runs.alpha(FUSED)
    assert alpha == next(a for a, value in worth.items() if value == max(worth.values()))
    assert max(worth.values()) > min(worth.values())


def test_a_fused_run_is_alpha_times_the_first_and_the_second(pipelines: Experiment):
    words, dense, both = (pipelines.run(system, "graded") for system in (BM25, DUAL, FUSED))
    assert both == fusion.interpolate(dense, words, pipelines.runs.alpha(FUSED), depth=10)
    ranks = pipelines.run(FUSED.model_copy(update={"how": "rrf"}), "graded")
    assert ranks == fusion.reciprocal_rank([words, dense], 60, depth=10) != both


def test_a_reranked_run_is_the_first_stages_with_its_first_candidates_by_score(pipelines: Experiment):
    queries = pipelines.collection.sets["graded"].queries.ids
    row = {passage: i for i, passage in enumerate(pipelines.collection.passages.ids)}
    cat = pretrained.load_cat(str(pipelines.profile.artefacts_folder / "cat"))
    before, after = (pipelines.run(system, "graded") for system in (BM25, RERANKED))
    moved = 0
    for q, query in enumerate(queries):
        first = metrics.ranking(before.get(query, {}))
        with torch.inference_mode():
            scores = {
                p: cross_encoder.cat_scores(
                    cat, pipelines.tokens["graded"], pipelines.tokens["passages"], np.array([q]), np.array([row[p]]), 1
                ).item()
                for p in first[:4]
            }
        expected = sorted(first[:4], key=lambda p: -scores[p]) + first[4:]
        assert metrics.ranking(after.get(query, {})) == expected
        moved += expected != first
    assert moved


def test_of_a_set_that_is_not_graded_a_sample_is_reranked_and_evaluated(pipelines: Experiment):
    sample = pipelines.runs.rerankers.sample("dev")
    assert len(sample) == 2 and set(sample) < set(pipelines.collection.sets["dev"].queries.ids)
    assert pipelines.runs.rerankers.sample("graded") == pipelines.collection.sets["graded"].queries.ids
    assert all(set(values) == set(sample) for values in pipelines.evaluate(RERANKED, "dev").values())
    assert all(len(values) == 6 for values in pipelines.evaluate(FUSED, "dev").values())
    everything = changed(pipelines, reranking=Reranking(depth=4))
    assert len(everything.runs.rerankers.sample("dev")) == 6


def test_a_pipeline_without_its_model_has_no_scores_and_says_why(pipelines: Experiment):
    mono = System(kind="reranked", first="bm25", by="mono")
    listed = changed(pipelines, systems=LISTED | {"m": mono, "m>duo": System(kind="reranked", first="m", by="duo")})
    scores = listed.scores(["m", "m>duo", "bm25>cat"])
    assert scores["m"] == scores["m>duo"] == {} != scores["bm25>cat"]
    assert listed.scores(["d2q"]) == {"d2q": {}}
    with pytest.raises(
        ValueError, match="reranked-mono-bm25: the profile names no `reranking.mono`, and none is shipped for it"
    ):
        listed.run(mono, "graded")


@pytest.fixture
def with_t5(pipelines: Experiment, tmp_path: Path) -> Experiment:
    """The same with a T5 by its name, and all that it serves for."""
    tiny.t5().save_pretrained(tmp_path / "t5")
    tiny.t5_tokenizer().save_pretrained(tmp_path / "t5")
    named = str(tmp_path / "t5")
    more = {
        "d2q": System(kind="expanded"),
        "d2q+dual/tas_balanced": System(kind="fused", of=("d2q", "dual/tas_balanced")),
        "d2q>mono": System(kind="reranked", first="d2q", by="mono"),
        "d2q>mono>duo": System(kind="reranked", first="d2q>mono", by="duo"),
    }
    expand = Expansion(model=named, queries=2, longest=5, batch=16, shard=32)
    reranking = Reranking(depth=4, duo_depth=3, dev_sample=2, mono=named, duo=named)
    return changed(pipelines, systems=LISTED | more, expansion=expand, reranking=reranking)


def test_docT5query_is_bm25_with_the_written_queries_behind_each_passage(with_t5: Experiment):
    collection, texts = with_t5.collection, with_t5.collection.passages.texts
    written = doc2query.queries_for(
        tiny.t5(), tiny.t5_tokenizer(), texts[32:64], with_t5.profile.expansion, first=32
    )  # the second shard
    assert with_t5.runs.written[32:64] == written
    longer = [" ".join([t, *q]) for t, q in zip(texts, with_t5.runs.written, strict=True)]
    queries = collection.sets["graded"].queries
    rows, scores = bm25.Bm25Index(longer, with_t5.profile.bm25).search(queries.texts, 10)
    expected = as_run(queries.ids, collection.passages.ids, rows, scores)
    assert with_t5.run(with_t5.listed["d2q"], "graded") == {
        query: ranked for query, ranked in expected.items() if ranked
    }
    assert with_t5.run(with_t5.listed["d2q"], "graded") != with_t5.run(BM25, "graded")


def test_without_a_model_shipped_words_are_indexed_and_other_passages_stay_as_they_are(
    with_t5: Experiment, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    texts, folder = with_t5.collection.passages.texts, tmp_path / "data" / "expansions"
    words = [[f"word{row}"] for row in range(5, 80)]
    folder.mkdir(parents=True)
    shipped.write_expansions(folder / "queries.parquet", shipped.text_keys(texts[5:]), words)
    tiny.ship(folder)
    ours = changed(with_t5, artefacts=str(tmp_path / "data"), expansion=Expansion()).profile
    known = dict(zip(reversed(texts[5:]), reversed(words), strict=True))  # of equal passages, the first counts
    lacking = sum(text not in known for text in texts)
    with caplog.at_level(logging.INFO):
        assert doc2query.open_queries(ours, with_t5.collection) == [known.get(text, []) for text in texts]
    assert lacking and f"{lacking} of 80 passages have no shipped words and stay unchanged" in caplog.text
    d2q = {"d2q": System(kind="expanded")}
    assert [*checks.needed(ours, d2q, True)] == []  # no model
    (folder / "queries.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match=r"expansions/queries\.parquet is not the file that was shipped"):
        [*checks.needed(ours, d2q, True)]


def test_mono_then_duo_order_by_the_scores_of_the_model(with_t5: Experiment):
    texts = {"graded": with_t5.collection.sets["graded"].queries, "passages": with_t5.collection.passages}
    row = with_t5.collection.row
    first, mono, duo = (with_t5.run(with_t5.listed[key], "graded") for key in ("d2q", "d2q>mono", "d2q>mono>duo"))
    scorer = T5Scorer(tiny.t5(), tiny.t5_tokenizer(), texts["graded"].texts, texts["passages"].texts)
    moved = 0
    for q, query in enumerate(texts["graded"].ids):
        before = metrics.ranking(first.get(query, {}))
        top = np.array([row[p] for p in before[:4]], int)
        scores = scorer.mono(np.full(len(top), q), top)
        by_mono = [before[i] for i in np.argsort(-scores, kind="stable")] + before[4:]
        assert metrics.ranking(mono.get(query, {})) == by_mono
        pairs = list(permutations([row[p] for p in by_mono[:3]], 2))
        i, j = np.array(pairs, int).reshape(-1, 2).T
        wins = dict(zip(pairs, scorer.duo(np.full(len(i), q), i, j), strict=True))
        total = {p: sum(wins[row[p], r] + 1 - wins[r, row[p]] for _, r in pairs if r != row[p]) for p in by_mono[:3]}
        assert metrics.ranking(duo.get(query, {})) == sorted(by_mono[:3], key=lambda p: -total[p]) + by_mono[3:]
        moved += metrics.ranking(duo.get(query, {})) != before
    assert moved


@pytest.mark.parametrize("key", ["bm25", "dual/tas_balanced", "d2q+dual/tas_balanced", "bm25>cat", "d2q>mono>duo"])
def test_the_answer_to_one_query_is_that_of_the_run(with_t5: Experiment, key: str):
    answer, run = with_t5.runs.answerer(with_t5.listed[key], "graded"), with_t5.run(with_t5.listed[key], "graded")
    for query in with_t5.collection.sets["graded"].queries.ids:
        one = answer(query)
        assert one.keys() <= {query}
        assert metrics.ranking(one.get(query, {})) == metrics.ranking(run.get(query, {}))


def test_a_changed_bm25_makes_a_fusion_again_and_the_baseline_which_its_candidates_stop(
    pipelines: Experiment, caplog: pytest.LogCaptureFixture
):
    pipelines.run(FUSED, "graded")
    retuned = changed(pipelines, bm25=Bm25(k1=2.0))
    with caplog.at_level(logging.INFO, "tas_lib.data.store"):
        retuned.run(FUSED, "graded")
    why = dict(record.message.split(": remade, ") for record in caplog.records if ": remade, " in record.message)
    assert f"retrieved/{FUSED.name}/graded" in why
    assert why[f"systems/{pipelines.baseline.name}"] == "parameters changed: bm25"
    assert why.get(f"systems/{DUAL.name}", "inputs changed: baseline") == "inputs changed: baseline"
    kept = store.provenance(pipelines.trained(DUAL))["parameters"]["system"]
    assert kept.keys() == {"kind", "teacher", "sampling", "loss", "batch_size", "seed", "variant", "source"}


def test_further_seeds_are_shipped_and_read_under_the_same_settings_only(lab: Experiment):
    systems = {"dual": DUAL, "labels": System(teacher="none", batch_size=6)}
    fewer = {"fewer": Variant(sampling={"queries": 9})}
    lab = changed(lab, systems=systems, variants=fewer, repeated={"dual": 5, "labels/fewer": 2})
    assert lab.scores(["dual"]).keys() == {"dual"}
    ship_seeds(lab.profile)
    again = Experiment(lab.profile)
    scores = again.scores(["dual", "labels"])
    assert scores.keys() == {"dual", "labels", *(f"dual/seed{n}" for n in range(2, 6))}
    asked = again.scores(["dual", "dual/seed2", "dual/seed6"])  # as Table 5 does; nothing but `dual` is a row here
    assert asked["dual/seed2"] == again.shipped_seeds["dual/seed2"] and not asked["dual/seed6"]
    assert lab.profile.seeds["labels/fewer/seed2"].variant == "fewer"
    assert again.shipped_seeds.keys() == lab.profile.seeds.keys()
    test = lab.profile.evaluation.sets[0].name
    for measure, values in scores["dual/seed3"][test].items():
        assert values == pytest.approx(again.evaluate(DUAL.model_copy(update={"seed": 3}), test)[measure], abs=1e-6)
    other = again.profile.training.model_copy(update={"learning_rate": 0.1})
    assert (fresh := changed(again, training=other)).shipped_seeds == {}
    assert not fresh.scores(["dual", "dual/seed2"])["dual/seed2"]
    assert fresh.notes["dual/seed2"].endswith(f"; ./run_all.sh {lab.profile.name} seeds trains it")
    file = lab.profile.artefacts_folder / "seeds" / "measures.parquet"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match="measures.parquet is not the file that was shipped"):
        Experiment(lab.profile).shipped_seeds  # noqa: B018
    shutil.rmtree(file.parent)
