"""Batches and loss for sentence-transformers, in its real trainer: interrupted, resumed, and in two processes."""

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from accelerate import PartialState
from datasets import Dataset, concatenate_datasets
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import Tensor, nn

from tas_lib import losses, sampling
from tas_lib.config import Sampling, Strategy
from tas_lib.train.trainer import DualTeacherLoss, TasBatches, queries_of, vector_teacher

B, SEED = 4, 3
RNG = np.random.default_rng(7)
QUERIES = [f"{' '.join(RNG.choice(tiny.WORDS, 3))} {tiny.WORDS[i % 13]} {tiny.WORDS[i // 13]}" for i in range(20)]
PASSAGES = [" ".join(RNG.choice(tiny.WORDS, RNG.integers(4, 12))) for _ in range(30)]
VECS = RNG.normal(size=(20, 5)), RNG.normal(size=(30, 5)).astype(np.float16)
PAIRS = tiny.pairs(20, 30)
MEMBERS = [np.arange(9), np.arange(9, 12), np.arange(12, 20)]  # the second has fewer queries than a batch
Seen = list[list[list[float]]]
"""The labels of every step, which say what the rows are: [margin, query, positive, negative]."""


def dataset() -> Dataset:
    query = np.repeat(np.arange(20), np.diff(PAIRS.offsets))
    labels = np.column_stack([PAIRS.margins, query, PAIRS.pos, PAIRS.neg]).tolist()
    texts = {"query": [QUERIES[q] for q in query], "positive": [PASSAGES[p] for p in PAIRS.pos]}
    return Dataset.from_dict(texts | {"negative": [PASSAGES[n] for n in PAIRS.neg], "label": labels})


def student(encoder: Path) -> SentenceTransformer:
    torch.manual_seed(0)  # BERT's unused pooler starts random
    return SentenceTransformer(modules=[Transformer(str(encoder)), Pooling(16, "mean")], device="cpu")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_encoder(tmp_path_factory.mktemp("encoder"))


def train(
    encoder: Path, folder: Path, steps: int, strategy: Strategy = "tas_balanced", stop: int = 0, split: bool = False
) -> tuple[Seen, dict[str, Tensor]]:
    """What the rest of ten steps sees, and the weights at the end; interrupted in forward pass `stop`."""
    model, resume = student(encoder), any(folder.glob("checkpoint-*"))
    loss, seen = DualTeacherLoss(model, vector_teacher(*VECS), gather_across_devices=split), []

    def look(_: nn.Module, inputs: tuple[object, Tensor]) -> None:
        seen.append(inputs[1].tolist())
        if len(seen) == stop:
            raise KeyboardInterrupt

    loss.register_forward_pre_hook(look)
    with suppress(KeyboardInterrupt):
        trainer(loss, folder, TasBatches(dataset(), MEMBERS, steps, strategy), split).train(resume or None)
    return seen, model.state_dict()


def trainer(loss: DualTeacherLoss, folder: Path, batches: TasBatches, split: bool) -> SentenceTransformerTrainer:
    settings = {"per_device_train_batch_size": B, "max_steps": 10, "save_steps": 3, "learning_rate": 1e-3, "seed": SEED}
    settings |= {"use_cpu": True, "report_to": "none", "accelerator_config": {"split_batches": split}}
    arguments = SentenceTransformerTrainingArguments(str(folder), batch_sampler=batches, max_grad_norm=0, **settings)
    return SentenceTransformerTrainer(loss.model, arguments, train_dataset=dataset(), loss=loss)


def ours(strategy: Strategy, n: int) -> Seen:
    sampler = sampling.make_sampler(strategy, PAIRS, MEMBERS, Sampling(batch_size=B), SEED)
    batches = [sampler.batch(step) for step in range(n)]
    return [np.column_stack([b.margins, b.queries, b.pos, b.neg]).tolist() for b in batches]


@pytest.mark.parametrize("strategy", ["random", "tas", "tas_balanced"])
def test_the_trainer_sees_our_sampler_s_batches_interrupted_or_not(encoder: Path, tmp_path: Path, strategy: Strategy):
    whole, weights = train(encoder, tmp_path / "whole", 4, strategy)  # 2.5 epochs
    assert whole == ours(strategy, 10)
    train(encoder, tmp_path / "cut", 4, strategy, stop=9)  # after the checkpoint of step 6, in the second epoch
    rest, resumed = train(encoder, tmp_path / "cut", 4, strategy)
    assert rest == whole[6:]
    torch.testing.assert_close(resumed, weights, rtol=0, atol=0)


def launched(n: int, work: Callable[..., Any], *arguments: object) -> list[Any]:
    """What `work` returns in each of n processes, started with what `accelerate launch` would tell them."""
    fresh = multiprocessing.get_context("forkserver")
    fresh.set_forkserver_preload([__name__])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with ProcessPoolExecutor(n, mp_context=fresh) as pool:  # each waits for the others, so each gets one
        return [f.result() for f in [pool.submit(_joined, index, n, port, work, *arguments) for index in range(n)]]


def _joined(index: int, n: int, port: int, work: Callable[..., Any], *arguments: object) -> Any:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    os.environ |= {"RANK": str(index), "LOCAL_RANK": str(index), "WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n)}
    torch.set_num_threads(1)
    try:
        state = PartialState(cpu=True)
        result = work(*arguments)
        state.destroy_process_group()
        return result
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # or the others would wait for it


def process(encoder: Path, folder: Path) -> tuple[Seen, dict[str, Tensor], Seen]:
    """What one of two processes sees: shared batches, interrupted and resumed; batches in turn."""
    train(encoder, folder / "shared", 10, stop=5, split=True)
    shared, weights = train(encoder, folder / "shared", 10, split=True)
    turns, _ = train(encoder, folder / "turns", 20)
    with pytest.raises(ValueError, match="`steps` must be those of the whole training"):
        train(encoder, folder / "short", 4)  # a resumed second epoch would repeat the first
    return shared, weights, turns


def test_two_processes_get_their_parts_and_train_what_one_trains(encoder: Path, tmp_path: Path):
    whole, weights = train(encoder, tmp_path / "whole", 10)
    (first, one, even), (second, two, odd) = launched(2, process, encoder, tmp_path)
    assert [a + b for a, b in zip(first, second, strict=True)] == whole[3:]  # resumed at the checkpoint of step 3
    torch.testing.assert_close(one, weights, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(two, one, rtol=0, atol=0)
    assert [batch for both in zip(even, odd, strict=True) for batch in both] == ours("tas_balanced", 20)


def test_any_order_of_rows_gives_batches_of_one_cluster():
    data = dataset().shuffle(seed=1)
    cluster_of = {QUERIES[i]: k for k, cluster in enumerate(MEMBERS) for i in cluster}
    assignment = np.array([cluster_of[query] for query in queries_of(data)])
    batches = TasBatches(data, [np.flatnonzero(assignment == k) for k in range(3)], 9)
    seen = [data[rows]["query"] for rows in batches(data, batch_size=3, drop_last=False, seed=0)]
    assert [(len({*texts}), len({cluster_of[text] for text in texts})) for texts in seen] == [(3, 1)] * 9
    evaluation = concatenate_datasets([one_row(0.0)] * 3)  # of other queries: in order
    assert [*batches(evaluation, batch_size=2, drop_last=False, seed=0)] == [[0, 1], [2]]
    assert len(pickle.dumps(batches)) < 1000  # in every checkpoint: no tables


def one_row(label: object) -> Dataset:
    return Dataset.from_dict({"query": ["a"], "positive": ["b"], "negative": ["c"], "label": [label]})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TasBatches(dataset(), MEMBERS[:2], 9), "each of the 20 queries"),
        (lambda: TasBatches(one_row(float("nan")), [], 9), "row 0 of the dataset: its label"),
        (lambda: TasBatches(one_row([5.0, 3.0]), [], 9), "three texts and `label`"),
        (lambda: TasBatches(dataset(), MEMBERS, 9)(dataset().select(range(9)), 4, False), "in the same order"),
        (lambda: vector_teacher(np.broadcast_to(0, (2**24 + 1, 1)), VECS[1]), "up to 16,777,216"),
    ],
)
def test_what_does_not_fit_is_refused(make: Callable[[], object], message: str):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_loss_is_equation_8(encoder: Path):
    model, rows = student(encoder), dataset().select([0, 9, 30])
    margins, query, pos, neg = torch.tensor(rows["label"][:]).T
    features = [model.preprocess(rows[column][:]) for column in ("query", "positive", "negative")]
    passages = rows["positive"][:] + rows["negative"][:]
    scores = torch.from_numpy(model.encode(rows["query"][:]) @ model.encode(passages).T)
    stored = torch.tensor(VECS[0][query.int()] @ VECS[1][torch.cat([pos, neg]).int()].T).float()
    lengths = torch.tensor([[len(q.split()) - len(p.split()) for p in passages] for q in rows["query"]]).float()
    longer = lambda q, p: q["attention_mask"].sum(1)[:, None] - p["attention_mask"].sum(1)  # noqa: E731
    for teacher, expected in ((vector_teacher(*VECS), stored), (longer, lengths)):
        parts = DualTeacherLoss(model, teacher, 0.5, losses.listnet)(features, torch.tensor(rows["label"][:]))
        value = losses.dual(scores, expected, margins, 0.5, losses.listnet)
        torch.testing.assert_close(parts, {"pairwise": value.pairwise, "in_batch": 0.5 * value.in_batch})


class Teacher(nn.Module):
    def forward(self, query: dict[str, Tensor], passage: dict[str, Tensor]) -> Tensor:
        assert not self.training
        return self.model(dict(query))["sentence_embedding"] @ self.model(dict(passage))["sentence_embedding"].T


def test_a_teacher_that_is_a_module_is_neither_trained_nor_replaced(encoder: Path, tmp_path: Path):
    model, theirs, teacher = student(encoder), student(encoder), Teacher()
    teacher.model, before = theirs, deepcopy(dict(theirs.state_dict()))
    trainer(DualTeacherLoss(model, teacher), tmp_path, TasBatches(dataset(), MEMBERS, 10), False).train()
    assert teacher.model is theirs
    torch.testing.assert_close(dict(theirs.state_dict()), before, rtol=0, atol=0)
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
