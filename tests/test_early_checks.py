"""What does not fit is said before the work, with the profile's key and a way out; odd texts give numbers."""

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from tas_lib.config import Bm25, Profile, System, Training
from tas_lib.data.progress import Progress
from tas_lib.experiment import BM25, Experiment
from tas_lib.models import BertCat, BertDot, ColBert
from tas_lib.records import Ragged, Texts
from tas_lib.retrieval import encode as encoding
from tas_lib.retrieval import pretrained
from tas_lib.retrieval.bm25 import Bm25Index
from tas_lib.retrieval.encode import token_vectors
from tas_lib.train import early_stopping, loop

DUAL = System(sampling="random", batch_size=4)
VOCABULARY = len(tiny.tokenizer())
LONG = {"query": 30, "passage": 40}  # each fits the 64 positions of tiny models, both together do not


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "runs"))
    profile = tiny.settings(tmp_path, systems={"dual": DUAL})
    tiny.put_shipped(profile, tiny.source())
    tiny.put_collection(profile, tiny.source())
    return profile


def refusal(profile: Profile, **changed: object) -> str:
    with pytest.raises(ValueError) as error:
        Experiment(profile.model_copy(update=changed)).collection  # noqa: B018 - opened before anything is tokenised
    assert "\n" not in str(error.value) and not (profile.folder / "tokens").exists()
    return str(error.value)


def published(folder: Path, vocabulary: int = VOCABULARY) -> str:
    """A cross-encoder's or encoder's folder with a tokenizer of VOCABULARY tokens."""
    pretrained.save(BertCat(tiny.bert(vocabulary)), tiny.tokenizer(), folder)
    return str(folder)


def test_models_are_looked_for_before_the_first_step(profile: Profile, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    gone = str(tmp_path / "gone")
    assert refusal(profile, colbert=gone).startswith("`colbert` of profile 'tiny': no encoder in the hub name")
    systems = {"theirs": System(kind="checkpoint", source=gone)}
    assert refusal(profile, systems=systems).startswith("`systems.theirs.source` of profile 'tiny': no encoder")
    systems = {"r": System(kind="reranked", first="bm25", by="mono")}
    reranking = profile.reranking.model_copy(update={"mono": gone})
    assert refusal(profile, systems=systems, reranking=reranking).startswith("`reranking.mono` of profile 'tiny'")


def test_maximum_lengths_are_compared_with_positions_of_query_and_passage_together(profile: Profile, tmp_path: Path):
    long = profile.tokens.model_copy(update=LONG)
    systems = {"r": System(kind="reranked", first="bm25")}
    cat = published(tmp_path / "cat")
    message = refusal(profile, cross_encoder=cat, tokens=long, systems=systems)
    assert message == (
        f"`cross_encoder` of profile 'tiny': {cat!r} has positions for 64 tokens, but reads up to 69: "
        "lower `tokens.query` or `tokens.passage`, or name another model"
    )
    assert refusal(profile, tokens=long.model_copy(update={"passage": 65})).startswith("`encoder` of profile")
    assert refusal(profile, query_masks=60).startswith("`colbert` of profile")
    Experiment(profile.model_copy(update={"tokens": long})).collection  # noqa: B018 - no pair is read together


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused(profile: Profile, tmp_path: Path):
    source = published(tmp_path / "small", VOCABULARY - 3)
    message = refusal(profile, systems={"theirs": System(kind="checkpoint", source=source)})
    assert f"has ids up to {VOCABULARY - 1}, but its embedding has {VOCABULARY - 3} rows" in message


def test_a_model_that_is_replaced_under_the_same_name_is_compared_anew(profile: Profile, tmp_path: Path):
    source = published(tmp_path / "theirs")
    profile = profile.model_copy(update={"systems": {"theirs": System(kind="checkpoint", source=source)}})
    Experiment(profile).collection  # noqa: B018
    before = (profile.folder / "checked" / "provenance.json").read_bytes()
    Experiment(profile).collection  # noqa: B018 - nothing has changed, nothing is compared
    assert (profile.folder / "checked" / "provenance.json").read_bytes() == before
    published(tmp_path / "theirs", VOCABULARY - 3)
    assert f"its embedding has {VOCABULARY - 3} rows" in refusal(profile)


@pytest.mark.parametrize(("weight", "why"), [(1e6, "exceed 65,504"), (float("nan"), "are not numbers")])
def test_vectors_that_fp16_cannot_hold_are_refused(tmp_path: Path, weight: float, why: str):
    encoder, tokens = tiny.bert(), Ragged(np.array([2, 7, 3]), np.array([0, 3]))
    with torch.no_grad():
        encoder.encoder.layer[-1].output.LayerNorm.weight.fill_(weight)
    with pytest.raises(ValueError, match=f"^systems: theirs: vectors of this model {why}.*; name another model"):
        encoding.write_vectors(
            lambda rows: encoding.encode(BertDot(encoder), tokens, rows), 1, tmp_path / ".theirs.draft"
        )
    assert not list(tmp_path.rglob("*.npy"))
    with pytest.raises(ValueError, match=f"^colbert: vectors of this model {why}"):
        token_vectors(ColBert(encoder, 4), tokens)


def test_a_loss_that_is_not_finite_ends_the_training_with_a_sentence(profile: Profile, tmp_path: Path):
    lab = Experiment(profile)
    huge = lab.pairs._replace(margins=np.full(len(lab.pairs.margins), 2e30, np.float32))
    lab.__dict__["pairs"] = huge
    system = System(teacher="pairwise", sampling="random", batch_size=4)
    settings = Training(steps=2, workers=0)
    student = BertDot(tiny.bert(VOCABULARY), "mean")
    texts = lab.tokens["train"], lab.tokens["passages"]
    with pytest.raises(ValueError, match="the loss of step 1 is inf; .* 2e.30 to 2e.30.*`training.learning_rate`"):
        loss = loop.objective(system, settings, None)
        loop.train(student, lab.sampler(system), loss, *texts, lambda _: 0.0, settings, tmp_path)


def test_stop_words_and_empty_passages_give_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "runs"))
    made = tiny.source()
    texts = made.passages.texts[:3] + [""] + made.passages.texts[4:]
    sets = {
        name: one._replace(queries=Texts(one.queries.ids, ["the of an"] * len(one.queries.ids)))
        if name in ("dev", "stop")
        else one
        for name, one in made.sets.items()
    }
    made = made._replace(passages=Texts(made.passages.ids, texts), sets=sets)
    baseline, of = System(teacher="pairwise", sampling="random"), ("bm25", "pairwise/random")
    systems = {"pairwise/random": baseline, "fused": System(kind="fused", of=of)}
    profile = tiny.settings(tmp_path, systems=systems)
    tiny.put_shipped(profile, made)
    tiny.put_collection(profile, made)
    lab = Experiment(profile)
    assert lab.run(BM25, "dev") == {}
    for system in (BM25, *systems.values()):
        for values in lab.evaluate(system, "dev").values():
            assert len(values) == len(sets["dev"].queries.ids) and np.isfinite([*values.values()]).all()
    nothing = early_stopping.Candidates(np.array([0]), np.full((1, 3), -1), lab.collection)
    assert nothing.ndcg(lab.bi_encoder(baseline).load(), lab.tokens) == 0
    assert (Bm25Index(["", "the"], Bm25()).search(["a word", ""], 2)[0] == -1).all()


def test_progress_is_logged_every_few_seconds_with_the_time_left(caplog, monkeypatch: pytest.MonkeyPatch):
    now = iter([0.0, 2.0, 6.0, 8.0, 12.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    caplog.set_level("INFO", "tas_lib")
    progress = Progress(encoding.log, "scoring 40 pairs", 400)
    for _ in range(4):
        progress.add(100)
    assert caplog.messages == [
        "scoring 40 pairs: 50% after 6 s, about 6 s left",
        "scoring 40 pairs: 100% after 12 s, about 0 s left",
    ]
