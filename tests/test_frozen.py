"""Students whose lower layers are frozen: the short cut equals the stock layer, and training is as any other's."""

import multiprocessing
import re
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertConfig, BertModel

from tas_lib import models, sampling
from tas_lib.config import Sampling, System, Training, Variant
from tas_lib.data import store
from tas_lib.experiment import BASELINE, Experiment
from tas_lib.models import BertDot
from tas_lib.records import History, Ragged
from tas_lib.retrieval import encode, frozen
from tas_lib.train import checkpoint, loop

QUERIES, PASSAGES = tiny.texts(24, 8, seed=1), tiny.texts(60, 14, seed=2)
PAIRS = tiny.pairs(24, 60)
SETTINGS = Training(
    steps=60, min_steps=0, validate_every=6, patience=99, learning_rate=1e-2, schedule="linear", workers=0,
    frozen_layers=2,
)  # fmt: skip
MARGINS = loop.objective(System(teacher="pairwise", sampling="random"), SETTINGS, None)


def bert(vocabulary: int = 40, layers: int = 3, dropout: float = 0.0) -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=vocabulary, hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
        initializer_range=0.3,
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=False)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):  # zero in a new BERT, which would hide a forgotten one
            torch.nn.init.normal_(weight, std=0.3)
    return model


def states(texts: Ragged, layers: int = 2) -> Ragged:
    return Ragged(encode.token_vectors(frozen.LowerLayers(BertDot(bert()), layers), texts), texts.offsets)


def train(folder: Path, dropout: float = 0.1, pause_s: float = 0.0) -> tuple[BertDot, list[History]]:
    student = BertDot(bert(dropout=dropout))
    sampler = sampling.make_sampler("random", PAIRS, [], Sampling(batch_size=8), 1)

    def validate(model: torch.nn.Module) -> float:
        time.sleep(pause_s)
        return len(list(folder.glob("*")))  # rises, or stays: the best are the first weights or the second

    part = frozen.trained_part(student, SETTINGS.frozen_layers)
    return student, loop.train(part, sampler, MARGINS, states(QUERIES), states(PASSAGES), validate, SETTINGS, folder)


def test_the_last_layer_at_cls_equals_the_stock_layer_in_values_and_gradients():
    stock, ours = BertDot(bert()).eval(), BertDot(bert()).eval()
    ids, mask = models.pad([PASSAGES.row(row) for row in range(20)])
    below = stock.encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[2].detach()
    below = below.masked_fill(~mask[:, :, None].bool(), 9.0)  # what is under the mask must not count
    expected, vecs = stock(ids, mask), frozen.LastLayer(ours, 2)(below, mask)
    torch.testing.assert_close(vecs, expected, atol=1e-6, rtol=1e-6)
    direction = torch.randn(vecs.shape, generator=torch.Generator().manual_seed(1))
    for result in (expected, vecs):
        (result * direction).sum().backward()
    theirs = dict(stock.encoder.encoder.layer[-1].named_parameters())
    for name, weight in ours.encoder.encoder.layer[-1].named_parameters():
        grad = torch.zeros_like(weight) if weight.grad is None else weight.grad  # the keys' bias has none
        torch.testing.assert_close(grad, theirs[name].grad, atol=2e-5, rtol=1e-4, msg=lambda why, n=name: f"{n}: {why}")
    assert all(weight.grad is None for weight in ours.encoder.encoder.layer[:2].parameters())


def test_kept_states_are_those_of_the_frozen_layers_in_fp16():
    kept = states(PASSAGES)
    for row in (0, 7, 59):
        ids, mask = models.pad([PASSAGES.row(row)])
        direct = bert().eval()(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[2][0]
        np.testing.assert_allclose(kept.row(row), direct.detach().numpy(), atol=2e-3, rtol=2e-3)
    padded, mask = models.pad([kept.row(row) for row in (0, 7)])
    assert padded.dtype == torch.float32 and padded.shape == (*mask.shape, 16)
    assert padded[mask.bool()].numpy().tolist() == np.concatenate([kept.row(0), kept.row(7)]).astype(float).tolist()
    assert not padded[~mask.bool()].any()


def test_training_brings_the_loss_down_and_changes_the_last_layer_alone(tmp_path: Path):
    student, history = train(tmp_path, dropout=0.0)
    assert history[-1].pairwise < 0.7 * history[0].pairwise
    before = bert().state_dict()
    changed = {name for name, weight in student.encoder.state_dict().items() if not torch.equal(weight, before[name])}
    last = {name for name in before if name.startswith("encoder.layer.2.")}
    assert changed == last - {"encoder.layer.2.attention.self.key.bias"}  # which changes no score
    names = [*load_file(max(tmp_path.glob("checkpoint-*")))]
    assert names and all(re.match(r"(now|best)\.layer\.|adam\.\d+\.", name) for name in names), "all layers are kept"


def make(folder: Path, pause_s: float) -> None:
    torch.set_num_threads(1)

    def fill(draft: Path) -> None:
        save_file(train(draft, pause_s=pause_s)[0].state_dict(), draft / "weights.safetensors")
        checkpoint.remove(draft)

    store.Store(folder).artefact("trained", {}, {}, fill)


def test_a_killed_training_resumes_to_the_same_weights(tmp_path: Path):
    make(tmp_path / "whole", 0.0)
    draft, context = tmp_path / "killed" / ".trained.draft", multiprocessing.get_context("spawn")
    for step in (12, 30):
        process = context.Process(target=make, args=(tmp_path / "killed", 0.1))
        process.start()
        tiny.kill(process, lambda step=step: (draft / f"checkpoint-{step:09d}.safetensors").exists(), 0.05)
    make(tmp_path / "killed", 0.0)
    whole, killed = (load_file(tmp_path / name / "trained" / "weights.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(weight, killed[name]) for name, weight in whole.items())


@pytest.mark.parametrize(
    ("student", "layers", "why"),
    [
        (BertDot(bert(), "mean"), 2, "needs pooling `cls`; this encoder's is 'mean'"),
        (BertDot(tiny.distilbert()), 0, "needs a BERT; the encoder is a distilbert"),
        (BertDot(bert()), 1, "must be all but the last: 2 of this encoder's, not 1"),
    ],
)
def test_other_students_are_refused(student: BertDot, layers: int, why: str):
    with pytest.raises(ValueError, match=why):
        frozen.LastLayer(student, layers)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """A profile whose systems have two frozen layers of three, but for those of the variant `whole`."""
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "runs"))
    training = tiny.settings(tmp_path).training.model_copy(update={"frozen_layers": 2})
    with pytest.raises(ValueError, match="frozen_layers needs `pooling: cls`"):
        type(tiny.settings(tmp_path)).model_validate(tiny.settings(tmp_path, training=training).model_dump())
    start = str(tiny.save_encoder(tmp_path / "start", bert(len(tiny.tokenizer()))))
    variants = {"whole": Variant(training={"frozen_layers": 0})}
    profile = tiny.settings(tmp_path, training=training, pooling="cls", encoder=start, variants=variants)
    tiny.put_shipped(profile, tiny.source())
    tiny.put_collection(profile, tiny.source())
    return Experiment(profile)


def test_a_system_of_a_profile_is_trained_on_kept_states_and_saved_as_a_stock_bert(lab: Experiment):
    folder = lab.trained(BASELINE)
    kept = (lab.profile.folder / "states").glob("2-*/states.npy")
    assert sorted(path.parent.name for path in kept) == ["2-passages", "2-stop", "2-train"]
    before, after = (AutoModel.from_pretrained(path).state_dict() for path in (lab.profile.encoder_path, folder))
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert changed and all(name.startswith(("encoder.layer.2.", "pooler")) for name in changed)  # its pooler is random


def test_what_is_made_from_kept_states_is_what_the_whole_model_makes(lab: Experiment):
    whole, dual = lab.bi_encoder(BASELINE).load(), System(teacher="dual", sampling="tas_balanced", batch_size=8)
    candidates = lab.candidates(dual)
    expected = candidates.ndcg(whole, lab.tokens)
    assert 0 < candidates.ndcg(frozen.trained_part(whole, 2), lab.texts(dual)) == pytest.approx(expected, abs=1e-3)
    for vecs, name in ((lab.vectors(BASELINE), "passages"), (lab.query_vecs, "train")):
        expected = encode.encode(whole, lab.tokens[name])
        np.testing.assert_allclose(np.asarray(vecs, np.float32), expected, atol=5e-3, rtol=5e-3)


def test_training_and_encoding_run_the_frozen_layers_once(lab: Experiment, monkeypatch: pytest.MonkeyPatch):
    dual, read = System(teacher="dual", sampling="tas_balanced", batch_size=8), list[int]()
    forward = BertModel.forward
    monkeypatch.setattr(
        BertModel, "forward", lambda self, *args, **kw: read.append(len(kw["input_ids"])) or forward(self, *args, **kw)
    )
    lab.vectors(BASELINE), lab.clusters
    colbert = lab.in_batch_teacher
    before = sum(read)
    assert colbert and before == 2 * 80 + 2 * 40 + 6, "states of three sets, and ColBERT's vectors of two"
    lab.vectors(dual)
    assert sum(read) == before + 6, "the baseline's candidates: 6 queries, by the whole model"
    assert lab.history(dual)[-1].step == 6 and len(lab.run(dual, "dev")) == 6


def test_vectors_and_runs_are_made_again_if_another_number_of_layers_is_frozen(lab: Experiment):
    whole = System(teacher="dual", sampling="random", variant="whole")
    assert lab.bi_encoder(BASELINE).inputs()["frozen_layers"] == "2"
    assert "frozen_layers" not in lab.bi_encoder(whole).inputs()
    assert lab.texts(whole)["passages"].ids.ndim == 1 and lab.texts(BASELINE)["passages"].ids.ndim == 2
    np.testing.assert_array_equal(
        lab.vectors(whole), encode.encode(lab.bi_encoder(whole).load(), lab.tokens["passages"]).astype(np.float16)
    )
    checkpoint_row = System(kind="checkpoint", source=lab.profile.encoder_path)
    vecs = lab.vectors(checkpoint_row)  # of no student, so no states are read
    np.testing.assert_array_equal(
        vecs, encode.encode(lab.bi_encoder(checkpoint_row).load(), lab.tokens["passages"]).astype(np.float16)
    )
