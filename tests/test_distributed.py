"""Several processes, really started: they must train the student that one process trains."""

import multiprocessing
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import accelerate  # noqa: F401 - once, in the process that the others are forked from
import numpy as np
import pytest
import tiny
import torch
import yaml
from test_training import PAIRS, PASSAGES, QUERIES, agreement, colbert_teacher
from torch import Tensor

from tas_lib import models, sampling
from tas_lib.config import Sampling, System, Training
from tas_lib.data import store
from tas_lib.data.store import Store
from tas_lib.experiment import BASELINE, Experiment
from tas_lib.models import BertDot
from tas_lib.train import distributed, loop
from tools import parallel

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = Training(steps=12, min_steps=0, validate_every=4, patience=99, learning_rate=1e-3, workers=0)
Weights = dict[str, Tensor]


def launched(n: int, work: Callable[..., Any], *arguments: object) -> list[Any]:
    """What `work` returns in each of n processes that have joined each other."""
    fresh = multiprocessing.get_context("forkserver")
    fresh.set_forkserver_preload([__name__])
    port = tiny.free_port()
    with ProcessPoolExecutor(n, mp_context=fresh) as pool:  # each waits for the others, so each gets one
        return [f.result() for f in [pool.submit(_joined, index, n, port, work, *arguments) for index in range(n)]]


def _joined(index: int, n: int, port: int, work: Callable[..., Any], *arguments: object) -> Any:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    os.environ |= {"RANK": str(index), "LOCAL_RANK": str(index), "WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n)}
    torch.set_num_threads(1)
    try:
        with distributed.joined():
            return work(*arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # or the others would wait for it


def sampler(b: int) -> sampling.Sampler:
    return sampling.make_sampler("random", PAIRS, [], Sampling(batch_size=b), seed=1)


def dual() -> loop.Objective:
    return loop.objective(System(), SETTINGS, colbert_teacher())


def student(dropout: float = 0.0) -> BertDot:
    return BertDot(tiny.bert(dropout=dropout), "mean")


# --- one step ----------------------------------------------------------------------------------------------------


def gradients(b: int, cached_chunk: int | None = None) -> Weights:
    """The loss of a batch and its gradients."""
    model, settings = student().train(), SETTINGS.model_copy(update={"cached_chunk": cached_chunk})
    value = loop.forward_pass(model, dual(), QUERIES, PASSAGES, settings)(sampler(b).batch(0), 0)
    value.total.backward()
    distributed.sum_gradients(model)
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return grads | {"loss": value.total.detach(), "in-batch loss": value.in_batch.detach()}


@pytest.mark.parametrize(
    ("n", "b", "cached_chunk"),
    [(2, 8, 3), (3, 2, None)],
    ids=["two with gradient caching", "more processes than queries"],
)
def test_every_process_has_the_gradients_of_a_single_one(n: int, b: int, cached_chunk: int | None):
    alone, several = gradients(b), launched(n, gradients, b, cached_chunk)
    assert alone["loss"] > 0 and alone["in-batch loss"] > 0
    for each in several:
        torch.testing.assert_close(each, alone, rtol=1e-4, atol=1e-5)


def test_a_single_process_encodes_a_batch_bit_for_bit_as_without_sharing():
    model, drawn = student(), sampler(8).batch(0)
    q = models.encode_rows(model, QUERIES, drawn.queries)
    p = models.encode_rows(model, PASSAGES, np.concatenate([drawn.pos, drawn.neg]))
    assert torch.equal(loop.score_batch(model, QUERIES, PASSAGES, drawn), q @ p.T)


def shares(n: int) -> tuple[list[int], list[float]]:
    own = distributed.share(n)
    return own.tolist(), distributed.gather(torch.tensor(own)[:, None] * 1.0, n).flatten().tolist()


def test_shares_are_every_nth_index_and_are_gathered_in_order():
    assert launched(2, shares, 5) == [([0, 2, 4], [0, 1, 2, 3, 4]), ([1, 3], [0, 1, 2, 3, 4])]


# --- a training --------------------------------------------------------------------------------------------------


def training_of(folder: Path, changed: dict[str, object], dropout: float = 0.0) -> tuple[Weights, list[list[float]]]:
    """Weights and history at the end of a process's training."""
    model, settings = student(dropout), SETTINGS.model_copy(update=changed)
    history = loop.train(model, sampler(8), dual(), QUERIES, PASSAGES, agreement, settings, folder)
    return model.state_dict(), [list(h[:4]) for h in history]


def assert_close(ours: tuple[Weights, list[list[float]]], expected: tuple[Weights, list[list[float]]]) -> None:
    torch.testing.assert_close(ours[0], expected[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(ours[1], expected[1], rtol=1e-3)


def test_two_processes_train_the_student_that_one_trains(tmp_path: Path):
    alone = training_of(tmp_path / "alone", {})
    first, second = launched(2, training_of, tmp_path / "two", {"workers": 1})
    assert_close(first, alone)
    assert first[1] == second[1] and all(torch.equal(first[0][name], second[0][name]) for name in first[0])
    start = student().state_dict()
    moved = max((alone[0][name] - start[name]).abs().max() for name in start)
    assert moved > 0.005  # large against the tolerance: the last weights are the best


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_run_resumes_with_another_number_of_processes(tmp_path: Path, before: int, after: int):
    whole = training_of(tmp_path / "whole", {})
    launched(before, training_of, tmp_path / "cut", {"steps": 8})
    kept = sorted(path.name for path in (tmp_path / "cut").iterdir())
    assert kept == [f"checkpoint-{step:09d}.safetensors" for step in (4, 8)]
    assert_close(launched(after, training_of, tmp_path / "cut", {})[0], whole)


def test_all_processes_stop_early_together(tmp_path: Path):
    first, second = launched(2, training_of, tmp_path, {"steps": 400, "patience": 1, "learning_rate": 1.0})
    assert first[1] == second[1] and first[1][-1][0] < 400


def test_with_dropout_two_processes_repeat_themselves_bit_for_bit(tmp_path: Path):
    runs = [launched(2, training_of, tmp_path / str(i), {"steps": 4}, 0.3)[0][0] for i in range(2)]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    alone, _ = training_of(tmp_path / "alone", {"steps": 4}, 0.3)
    assert not all(torch.allclose(alone[name], runs[0][name], rtol=1e-3, atol=1e-4) for name in alone)  # other dropout


def own_folder(folder: Path) -> str:
    """Train where one process finds a checkpoint and the other does not."""
    try:
        training_of(folder / str(distributed.index()), {})
    except ValueError as error:
        return str(error)
    return ""


def test_processes_that_find_different_checkpoints_do_not_train(tmp_path: Path):
    training_of(tmp_path / "0", {"steps": 4})
    assert all("find different checkpoints" in message for message in launched(2, own_folder, tmp_path))


# --- artefacts and systems ---------------------------------------------------------------------------------------


def made_together(folder: Path) -> tuple[list[str], Path]:
    """Which processes took part, first in a preparation and then in an artefact, made twice."""
    calls, made = [], Store(folder)
    with distributed.main_first():
        assert distributed.number() == 1
        made.artefact("prepared", {}, {}, lambda draft: calls.append("prepared"))

    def make(draft: Path) -> None:
        calls.append("made")
        if distributed.is_main():
            store.save_arrays(draft, numbers=np.arange(3))

    for _ in range(2):
        path = distributed.make_together(lambda make: made.artefact("together", {}, {}, make), make)
    return calls, path


def test_the_main_process_prepares_and_all_make_an_artefact_once(tmp_path: Path):
    assert launched(2, made_together, tmp_path) == [
        (["prepared", "made"], tmp_path / "together"),
        (["made"], tmp_path / "together"),
    ]
    assert np.load(tmp_path / "together" / "numbers.npy").tolist() == [0, 1, 2]


def test_a_launch_trains_a_system_and_its_baseline_into_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    profile = tiny.settings(tmp_path, systems={"dual/tas_balanced": System(batch_size=6)})
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("TAS_PROFILES", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(profile.model_dump(mode="json", exclude={"name"})))
    tiny.put_shipped(profile, tiny.source())
    tiny.put_collection(profile, tiny.source())
    options = f"--cpu --num_processes 2 --num_machines 1 --main_process_port {tiny.free_port()} --mixed_precision no"
    launch = [sys.executable, "-m", "accelerate.commands.launch", *options.split(), "--dynamo_backend", "no"]
    ended = subprocess.run(
        [*launch, "-m", "tools.parallel", "tiny", "dual/tas_balanced"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    folder = profile.folder / "systems" / "dual-tas_balanced-b6"
    assert ended.stdout.split() == [str(folder)]  # printed once

    made = time.time()
    lab = Experiment(profile)
    assert lab.trained(lab.listed["dual/tas_balanced"]) == folder
    assert (folder / "provenance.json").stat().st_mtime < made  # nothing was trained again
    weights = [lab.load(system).state_dict() for system in (BASELINE, lab.listed["dual/tas_balanced"])]
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "alone"))
    tiny.put_collection(profile, tiny.source())
    alone = Experiment(profile)
    for system, theirs in zip((BASELINE, lab.listed["dual/tas_balanced"]), weights, strict=True):
        torch.testing.assert_close(theirs, alone.load(system).state_dict(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dosc", "dual/tas_balanced"], "there is no profile 'dosc'"),
        (["docs", "99"], "no system '99' to train; there are: labels, pairwise/random"),
        (["docs", "d2q"], "no system 'd2q' to train"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert parallel.main(arguments) == 2
    assert capsys.readouterr().err.startswith(message)
