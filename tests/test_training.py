import json
import logging
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tas_lib import losses, models, sampling
from tas_lib.config import InBatchLoss, ListWeights, Sampling, System, Training
from tas_lib.data.store import Store
from tas_lib.models import BertDot
from tas_lib.records import Batch, History
from tas_lib.report import cost
from tas_lib.retrieval import encode
from tas_lib.train import checkpoint, loop, teachers

QUERIES, PASSAGES = tiny.texts(24, 8, seed=1), tiny.texts(60, 14, seed=2)
PAIRS = tiny.pairs(24, 60)
SETTINGS = Training(steps=24, min_steps=0, validate_every=4, patience=99, learning_rate=1e-3, workers=0, model_seed=0)
PAIRWISE = System(teacher="pairwise", sampling="random")
MARGINS = loop.objective(PAIRWISE, SETTINGS, None)


def sampler(seed: int = 1) -> sampling.Sampler:
    return sampling.make_sampler("random", PAIRS, [], Sampling(batch_size=8), seed)


def student(dropout: float = 0.1) -> BertDot:
    return BertDot(tiny.bert(dropout=dropout), "mean")


def agreement(model: BertDot) -> float:
    """A validation that needs no collection: how well the student's margins go with the teacher's."""
    with torch.inference_mode():
        vecs = models.encode_rows(model, QUERIES, np.arange(24)), models.encode_rows(model, PASSAGES, np.arange(60))
    scores = (vecs[0] @ vecs[1].T).numpy()
    query = np.repeat(np.arange(24), np.diff(PAIRS.offsets))
    return float(np.corrcoef(scores[query, PAIRS.pos] - scores[query, PAIRS.neg], PAIRS.margins)[0, 1]) + 1


def run(
    folder: Path, seed: int = 1, validate: Callable[[BertDot], float] = agreement, **changed: object
) -> tuple[BertDot, list[History]]:
    model, settings = student(), SETTINGS.model_copy(update=changed)
    return model, loop.train(model, sampler(seed), MARGINS, QUERIES, PASSAGES, validate, settings, folder)


def same(a: BertDot | dict[str, Tensor], b: BertDot | dict[str, Tensor]) -> bool:
    weights = [m if isinstance(m, dict) else m.state_dict() for m in (a, b)]
    return weights[0].keys() == weights[1].keys() and all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


# --- what a step is ----------------------------------------------------------------------------------------------


def batch(margins: list[float]) -> Batch:
    return Batch(np.array([0, 1]), np.array([0, 1]), np.array([5, 6]), np.array(margins, np.float32))


def colbert_teacher() -> teachers.InBatchTeacher:
    colbert = models.ColBert(tiny.bert(seed=3), 4)
    return teachers.InBatchTeacher(
        *(teachers.TokenVectors(encode.token_vectors(colbert, t), t.offsets) for t in (QUERIES, PASSAGES))
    )


def test_each_teacher_teaches_by_its_own_loss():
    scores = torch.tensor([[3.0, 1.0, 2.0, 0.0], [0.0, 4.0, 1.0, 1.0]])
    # own margins 3-2 = 1 and 4-1 = 3; of the teacher 2 and 3; squares 1 and 0
    value = loop.objective(PAIRWISE, SETTINGS, None)(scores, batch([2.0, 3.0]))
    assert [part.item() for part in value] == [0.5, 0.5, 0.0]

    value = loop.objective(System(teacher="none", sampling="random"), SETTINGS, None)(scores, batch([9.0, -9.0]))
    # RankNet on labels: ln(1 + e^-1) and ln(1 + e^-3), whatever the margins
    assert value.total.item() == pytest.approx((np.log1p(np.exp(-1)) + np.log1p(np.exp(-3))) / 2)

    teacher = colbert_teacher()
    target = teacher.scores(batch([2.0, 3.0]), torch.device("cpu"))
    crossed = losses.in_batch_margin_mse(scores, target)
    value = loop.objective(System(teacher="in_batch"), SETTINGS, teacher)(scores, batch([2.0, 3.0]))
    assert (value.total, value.pairwise, value.in_batch) == (crossed, 0, crossed)

    value = loop.objective(System(teacher="dual"), Training(alpha=0.5), teacher)(scores, batch([2.0, 3.0]))
    assert value.total.item() == pytest.approx(0.5 + 0.5 * crossed.item())


@pytest.mark.parametrize("name", get_args(InBatchLoss))
def test_every_in_batch_loss_has_its_own_function_and_its_own_weight(name):
    scores, teacher = torch.tensor([[3.0, 1.0, 2.0, 0.0], [0.0, 4.0, 1.0, 1.0]]), colbert_teacher()
    settings = Training(alpha=2, list_weights=ListWeights(kldiv_as_published=3, listnet=5, lambdarank=7))
    weight = {"kldiv_as_published": 3, "listnet": 5, "lambdarank": 7}.get(name, 2)  # α for both readings of Eq. 7
    loss = getattr(losses, f"in_batch_{name}" if name.startswith("margin") else name)
    crossed = loss(scores, teacher.scores(batch([2.0, 3.0]), torch.device("cpu")))
    assert crossed != 0

    value = loop.objective(System(loss=name), settings, teacher)(scores, batch([2.0, 3.0]))
    # the pairwise part stays Margin-MSE, .5 as above
    assert (value.pairwise, value.in_batch) == (0.5, crossed)
    assert value.total.item() == pytest.approx(0.5 + weight * crossed.item())

    value = loop.objective(System(loss=name, teacher="in_batch"), settings, teacher)(scores, batch([2.0, 3.0]))
    assert value == (crossed, 0, crossed)  # alone, it has no weight


def test_scores_of_a_batch_are_all_dot_products():
    model, drawn = student(0.0).eval(), sampler().batch(0)
    scores = loop.score_batch(model, QUERIES, PASSAGES, drawn)
    for i, q in enumerate(drawn.queries):
        for j, p in enumerate([*drawn.pos, *drawn.neg]):
            vecs = [model(*models.pad([text.row(row)])) for text, row in ((QUERIES, q), (PASSAGES, p))]
            assert scores[i, j].item() == pytest.approx((vecs[0] @ vecs[1].T).item(), abs=1e-5)


def test_scores_stay_in_fp32_when_the_encoder_is_in_bf16():
    model, drawn = student(0.0).eval(), sampler().batch(0)
    with torch.autocast("cpu", torch.bfloat16):
        scores = loop.score_batch(model, QUERIES, PASSAGES, drawn)
        q = models.encode_rows(model, QUERIES, drawn.queries)
        p = models.encode_rows(model, PASSAGES, np.concatenate([drawn.pos, drawn.neg]))
    assert scores.dtype == torch.float32
    assert torch.equal(scores, q @ p.T)
    assert not torch.equal(scores, scores.bfloat16().float())


def test_rates_are_the_papers_constant_the_public_codes_cosine_or_linear():
    constant = Training(learning_rate=8.0, steps=100)
    assert [loop.rate(constant, step) for step in (0, 50, 99)] == [8.0, 8.0, 8.0]
    cosine = Training(learning_rate=8.0, steps=100, schedule="cosine")
    # half of 1 + cos(0), cos(π/2), cos(π)
    assert [loop.rate(cosine, step) for step in (0, 50, 100)] == pytest.approx([8.0, 4.0, 0.0])
    linear = Training(learning_rate=8.0, steps=100, schedule="linear", warmup=1)
    # half of the first rate by warm-up, then 8 (1 - step / 100)
    assert [loop.rate(linear, step) for step in (0, 1, 50, 100)] == pytest.approx([4.0, 7.92, 4.0, 0.0])
    warm = Training(learning_rate=8.0, steps=100, warmup=3)
    assert [loop.rate(warm, step) for step in (0, 1, 2, 3, 4)] == [2.0, 4.0, 6.0, 8.0, 8.0]


def test_each_step_uses_its_own_rate(tmp_path: Path):
    constant, _ = run(tmp_path / "a")
    cosine, _ = run(tmp_path / "b", schedule="cosine")
    assert not same(constant, cosine)


# --- the loop ----------------------------------------------------------------------------------------------------


def test_training_brings_the_loss_down(tmp_path: Path):
    _, history = run(tmp_path, steps=80, validate_every=20)
    assert [h.step for h in history] == [20, 40, 60, 80]
    assert history[-1].pairwise < 0.7 * history[0].pairwise
    assert [h.in_batch for h in history] == [0.0] * 4


def scripted(values: list[float]):
    left = iter(values)
    kept: list[dict[str, Tensor]] = []

    def validate(model: BertDot) -> float:
        assert not model.training
        kept.append({name: value.clone() for name, value in model.state_dict().items()})
        return next(left)

    return validate, kept


@pytest.mark.parametrize(
    ("values", "patience", "min_steps", "evaluations", "best"),
    [
        ([0.1, 0.3, 0.2, 0.2, 0.9], 2, 0, 4, 1),  # two evaluations without a better one
        ([0.1, 0.3, 0.2, 0.3, 0.9], 2, 0, 4, 1),  # as good is not better
        ([0.1, 0.3, 0.2, 0.2, 0.2, 0.2], 2, 24, 6, 1),  # not before the steps that are due
        ([0.5, 0.4, 0.3, 0.4, 0.4, 0.6], 99, 0, 6, 5),  # to the last step
        ([0.0, 0.0], 1, 0, 2, 0),  # never any good: the first is kept
    ],
)
def test_training_stops_when_patience_ends_and_keeps_the_best(
    tmp_path: Path, values: list[float], patience: int, min_steps: int, evaluations: int, best: int
):
    validate, kept = scripted(values)
    model, history = run(tmp_path, validate=validate, patience=patience, min_steps=min_steps)
    assert [h.ndcg for h in history] == values[:evaluations]
    assert same(model, kept[best])


def test_the_last_step_is_evaluated_when_evaluations_do_not_divide_the_steps(tmp_path: Path):
    _, history = run(tmp_path, steps=10)
    assert [h.step for h in history] == [4, 8, 10]


def test_batches_and_model_have_separate_seeds(tmp_path: Path):
    first, _ = run(tmp_path / "a")
    again, _ = run(tmp_path / "b")
    other_order, _ = run(tmp_path / "c", seed=2)
    other_noise, _ = run(tmp_path / "d", model_seed=1)
    assert same(first, again)
    assert not same(first, other_order)
    assert not same(first, other_noise)
    drawn = [sampler(1).batch(step).queries.tolist() for step in range(24)]
    assert drawn == [sampler(1).batch(step).queries.tolist() for step in range(24)]  # whatever the model's seed
    assert drawn != [sampler(2).batch(step).queries.tolist() for step in range(24)]


def test_batches_come_in_order_from_any_step_on():
    expected = [sampler().batch(step) for step in range(5, 9)]
    for workers in (0, 1, 2):
        for ours, theirs in zip(loop.batches(sampler(), 5, 9, workers), expected, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_low_precision_trains_too_and_leaves_weights_in_fp32(tmp_path: Path, precision: str):
    rough, history = run(tmp_path / "a", steps=40, validate_every=20, precision=precision)
    exact, _ = run(tmp_path / "b", steps=40, validate_every=20)
    assert history[-1].pairwise < history[0].pairwise
    assert all(value.dtype == torch.float32 for value in rough.state_dict().values())
    assert not same(rough, exact)


# --- killed and resumed ------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


def killed_at(evaluation: int):
    """A validation that ends the run in the middle of this evaluation (counted from 1 in this run)."""
    seen = 0

    def validate(model: BertDot) -> float:
        nonlocal seen
        seen += 1
        if seen == evaluation:
            raise Killed
        return agreement(model)

    return validate


def interrupt(folder: Path, evaluation: int, **changed: object) -> None:
    with pytest.raises(Killed):
        run(folder, validate=killed_at(evaluation), **changed)


def test_an_interrupted_run_ends_with_the_same_weights_and_history(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    whole, history = run(tmp_path / "whole")
    interrupt(tmp_path / "cut", 4)
    with caplog.at_level(logging.INFO):
        resumed, after = run(tmp_path / "cut")
    assert "resuming after step 12" in caplog.text
    assert same(whole, resumed)
    assert [h[:4] for h in after] == [h[:4] for h in history]


def test_two_checkpoints_are_kept_and_removed_when_asked(tmp_path: Path):
    run(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"checkpoint-{step:09d}.safetensors" for step in (20, 24)
    ]
    checkpoint.remove(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_checkpoint_falls_back_to_the_one_before_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    whole, _ = run(tmp_path / "whole")
    interrupt(tmp_path / "cut", 5)
    newest = tmp_path / "cut" / "checkpoint-000000016.safetensors"
    os.truncate(newest, 5000)
    with caplog.at_level(logging.INFO):
        resumed, _ = run(tmp_path / "cut")
    assert "checkpoint-000000016.safetensors cannot be read" in caplog.text
    assert "resuming after step 12" in caplog.text
    assert same(whole, resumed)


def test_a_run_killed_after_its_last_evaluation_does_not_train_on(tmp_path: Path):
    values = [0.1, 0.3, 0.2, 0.2, 0.9]
    first, _ = run(tmp_path, validate=scripted(values)[0], patience=2)
    # the checkpoints are still there, as after a kill before the model was saved
    again, history = run(tmp_path, validate=scripted(values[4:])[0], patience=2)
    assert [h.ndcg for h in history] == values[:4]
    assert same(first, again)


def make_slowly(folder: Path) -> None:
    """A training in another process, to be killed in the middle."""
    torch.set_num_threads(1)
    settings = SETTINGS.model_copy(update={"steps": 120, "workers": 1})

    def validate(model: BertDot) -> float:
        time.sleep(0.05)
        return agreement(model)

    def make(draft: Path) -> None:
        model = student()
        loop.train(model, sampler(), MARGINS, QUERIES, PASSAGES, validate, settings, draft)
        save_file(model.state_dict(), draft / "weights.safetensors")
        checkpoint.remove(draft)

    Store(folder).artefact("trained", settings.model_dump(), {}, make)


@pytest.mark.parametrize("seed", [7, pytest.param(8, marks=pytest.mark.slow), pytest.param(9, marks=pytest.mark.slow)])
def test_a_real_sigkill_three_times_over_changes_no_bit(tmp_path: Path, seed: int):
    fresh = multiprocessing.get_context("forkserver")
    fresh.set_forkserver_preload([__name__])

    def start(name: str) -> multiprocessing.Process:
        process = fresh.Process(target=make_slowly, args=(tmp_path / name,))
        process.start()
        return process

    def evaluated() -> int:
        return max((int(path.stem[-9:]) // 4 for path in draft.glob("checkpoint-*")), default=0)

    start("whole").join()
    rng, draft = random.Random(seed), tmp_path / "killed" / ".trained.draft"
    for goal in (rng.randint(1, 7), rng.randint(9, 15), rng.randint(17, 23)):  # of thirty evaluations
        tiny.kill(start("killed"), lambda goal=goal: evaluated() >= goal, rng.uniform(0, 0.1))
    last = start("killed")
    last.join()
    assert last.exitcode == 0
    left = sorted(path.name for path in (tmp_path / "killed" / "trained").iterdir())
    assert left == ["provenance.json", "weights.safetensors"]
    weights = [load_file(tmp_path / name / "trained" / "weights.safetensors") for name in ("whole", "killed")]
    assert same(*weights)


# --- memory, precision, speed ------------------------------------------------------------------------------------


def gradients(model: BertDot, loss: loop.Objective, step: int = 0, b: int = 8, **changed: object) -> dict[str, Tensor]:
    """The gradients of one step, and its loss."""
    drawn = sampling.make_sampler("random", PAIRS, [], Sampling(batch_size=b), 1).batch(step)
    settings = SETTINGS.model_copy(update=changed)
    value = loop.forward_pass(model.train(), loss, QUERIES, PASSAGES, settings)(drawn, step)
    model.zero_grad()
    value.total.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": value.total.detach(), **grads}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cached_gradients_are_the_plain_ones_with_dropout(precision: str):
    loss = loop.objective(System(), SETTINGS, colbert_teacher())
    plain = gradients(student(0.3), loss, precision=precision)
    assert torch.any(plain["encoder.embeddings.word_embeddings.weight"] != 0)
    assert same(plain, gradients(student(0.3), loss, precision=precision, cached_chunk=32))  # the plain step's chunk
    assert not same(plain, gradients(student(0.3), loss, precision=precision, model_seed=1))  # there was dropout


def test_cached_gradients_without_dropout_do_not_depend_on_the_chunk():
    plain, *others = [gradients(student(0.0), MARGINS, cached_chunk=chunk) for chunk in (None, 1, 3, 1000)]
    for other in others:
        torch.testing.assert_close(other, plain, rtol=1e-4, atol=1e-5)


def test_a_cached_step_keeps_vectors_and_not_the_encoders_states():
    def peak(chunk: int | None) -> float:
        """The most megabytes that a step of all 24 queries takes beside weights and gradients."""
        model = student()
        gradients(model, MARGINS, b=24, cached_chunk=chunk)
        return cost.peak_mb(lambda: gradients(model, MARGINS, b=24, cached_chunk=chunk), torch.device("cpu"))

    plain, sixteen, eight = peak(None), peak(16), peak(8)
    assert eight < sixteen < plain / 2


def test_a_run_in_fp16_resumes_with_its_scale(tmp_path: Path):
    whole, _ = run(tmp_path / "whole", precision="fp16")
    interrupt(tmp_path / "cut", 4, precision="fp16")
    resumed, _ = run(tmp_path / "cut", precision="fp16")
    assert same(whole, resumed)
    scales = []
    for name in ("whole", "cut"):
        with safe_open(tmp_path / name / "checkpoint-000000024.safetensors", "pt") as f:
            scales.append(json.loads(f.metadata()["progress"])["scaler"])
    assert scales[0] == scales[1]
    assert scales[0]["_growth_tracker"] > 12  # steps without an overflow, those before the kill among them


def compiles() -> bool:
    """Whether torch.compile finds a C++ compiler that works."""
    try:
        return bool((torch.compile(lambda x: x.sin() + 1)(torch.ones(3)) > 1).all())
    except Exception:  # torch has its own kinds
        return False


@pytest.mark.slow
def test_a_compiled_step_has_the_plain_steps_gradients():
    if not compiles():
        pytest.skip("torch.compile finds no C++ compiler here")
    model, compiled = student(0.0), student(0.0)
    for step in range(2):  # texts of other lengths, too
        plain, fast = gradients(model, MARGINS, step), gradients(compiled, MARGINS, step, compile=True)
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)
    assert compiled.state_dict().keys() == model.state_dict().keys()  # nothing of the compiler's stays in the student
