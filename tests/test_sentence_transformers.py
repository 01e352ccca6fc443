"""Batches and loss for sentence-transformers, in its real trainer: interrupted, resumed, and in two processes."""

import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from test_distributed import launched
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


def dataset(order: list[int] | None = None) -> Dataset:
    query = np.repeat(np.arange(20), np.diff(PAIRS.offsets))
    labels = [list(map(float, row)) for row in zip(PAIRS.margins, query, PAIRS.pos, PAIRS.neg, strict=True)]
    labels = [labels[i] for i in order] if order else labels
    query, positive, negative = np.array(labels, int).T[1:]
    texts = {"query": [QUERIES[i] for i in query], "positive": [PASSAGES[i] for i in positive]}
    return Dataset.from_dict(texts | {"negative": [PASSAGES[i] for i in negative], "label": labels})


def student(encoder: Path) -> SentenceTransformer:
    return SentenceTransformer(modules=[Transformer(str(encoder)), Pooling(16, "mean")], device="cpu")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_encoder(tmp_path_factory.mktemp("encoder"))


class Recorded(DualTeacherLoss):
    def forward(self, sentence_features: list[dict[str, Tensor]], labels: Tensor) -> dict[str, Tensor]:
        self.seen.append(labels.tolist())
        if len(self.seen) == self.stop:
            raise KeyboardInterrupt
        return super().forward(sentence_features, labels)


def train(
    encoder: Path, folder: Path, steps: int, strategy: Strategy = "tas_balanced", stop: int = 0, split: bool = False
) -> tuple[Seen, dict[str, Tensor]]:
    """What the rest of ten steps sees, and the weights at the end; interrupted in forward pass `stop`."""
    model, resume = student(encoder), any(folder.glob("checkpoint-*"))
    loss = Recorded(model, vector_teacher(*VECS), gather_across_devices=split)
    loss.seen, loss.stop = [], stop
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        batch_sampler=TasBatches(dataset(), MEMBERS, steps, strategy),
        per_device_train_batch_size=B,
        max_steps=10,
        save_steps=3,
        seed=SEED,
        learning_rate=1e-3,
        max_grad_norm=0,
        accelerator_config={"split_batches": split},
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=dataset(), loss=loss)
    with suppress(KeyboardInterrupt):
        trainer.train(resume_from_checkpoint=resume or None)
    return loss.seen, model.state_dict()


def ours(strategy: Strategy, n: int) -> Seen:
    sampler = sampling.make_sampler(strategy, PAIRS, MEMBERS, Sampling(batch_size=B), SEED)
    batches = [sampler.batch(step) for step in range(n)]
    return [np.column_stack([b.margins, b.queries, b.pos, b.neg]).tolist() for b in batches]


@pytest.mark.parametrize("strategy", ["random", "tas", "tas_balanced"])
def test_the_trainer_sees_the_batches_of_our_sampler(encoder: Path, tmp_path: Path, strategy: Strategy):
    seen, _ = train(encoder, tmp_path / "model", 4, strategy)  # 2.5 epochs
    assert seen == ours(strategy, 10)


def test_a_resumed_training_sees_the_same_batches_and_ends_with_the_same_weights(encoder: Path, tmp_path: Path):
    whole, weights = train(encoder, tmp_path / "whole", 4)
    train(encoder, tmp_path / "cut", 4, stop=9)  # after the checkpoint of step 6, in the second epoch
    rest, resumed = train(encoder, tmp_path / "cut", 4)
    assert rest == whole[6:]
    torch.testing.assert_close(resumed, weights, rtol=0, atol=0)


def process(encoder: Path, folder: Path) -> tuple[Seen, dict[str, Tensor], Seen, str]:
    """What one of two processes does: shared batches, interrupted and resumed; batches in turn; too short an epoch."""
    train(encoder, folder / "shared", 10, stop=5, split=True)
    shared, weights = train(encoder, folder / "shared", 10, split=True)
    turns, _ = train(encoder, folder / "turns", 20)
    with pytest.raises(ValueError, match="several processes") as error:
        train(encoder, folder / "short", 4)
    return shared, weights, turns, str(error.value)


def test_two_processes_get_their_parts_and_train_what_one_trains(encoder: Path, tmp_path: Path):
    whole, weights = train(encoder, tmp_path / "whole", 10)
    (first, one, even, error), (second, two, odd, _) = launched(2, process, encoder, tmp_path)
    assert [a + b for a, b in zip(first, second, strict=True)] == whole[3:]  # resumed at the checkpoint of step 3
    torch.testing.assert_close(one, weights, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(two, one, rtol=0, atol=0)
    assert [batch for both in zip(even, odd, strict=True) for batch in both] == ours("tas_balanced", 20)
    assert "`steps` of the whole training" in error  # a second epoch could not be resumed


# --- batches without a trainer -----------------------------------------------------------------------------------


def test_any_order_of_rows_gives_batches_of_one_cluster():
    data = dataset(np.random.default_rng(1).permutation(len(PAIRS.pos)).tolist())
    cluster_of = {QUERIES[i]: k for k, cluster in enumerate(MEMBERS) for i in cluster}
    assignment = np.array([cluster_of[query] for query in queries_of(data)])
    batches = TasBatches(data, [np.flatnonzero(assignment == k) for k in range(3)], 9)
    sampler = batches(data, batch_size=3, drop_last=False, seed=0)
    assert len(sampler) == 9
    for rows in sampler:
        texts = [data[row]["query"] for row in rows]
        assert len(set(texts)) == 3 and len({cluster_of[text] for text in texts}) == 1


def test_an_evaluation_set_is_read_in_order():
    data = Dataset.from_dict({"query": ["a", "b", "c"], "positive": [""] * 3, "negative": [""] * 3, "label": [0.0] * 3})
    assert [*TasBatches(dataset(), MEMBERS, 9)(data, batch_size=2, drop_last=False, seed=0)] == [[0, 1], [2]]


def test_a_checkpoint_keeps_no_tables():
    assert len(pickle.dumps(TasBatches(dataset(), MEMBERS, 9))) < 1000


def relabelled(label: object) -> Dataset:
    return dataset().remove_columns("label").add_column("label", [label] * len(dataset()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TasBatches(dataset(), MEMBERS[:2], 9), "each of the 20 queries"),
        (lambda: TasBatches(dataset(), [], 9), "each of the 20 queries"),
        (lambda: TasBatches(relabelled(float("nan")), MEMBERS, 9), "row 0 of the dataset: its label"),
        (lambda: TasBatches(relabelled([1.0, 2.0]), MEMBERS, 9), "three texts and `label`"),
        (lambda: TasBatches(dataset(), MEMBERS, 9)(dataset().select(range(9)), 4, False), "in the same order"),
        (lambda: TasBatches(dataset(), MEMBERS, 9)(dataset(), 21, False, seed=0), "a batch has 21 different queries"),
        (lambda: vector_teacher(np.broadcast_to(0, (2**24 + 1, 1)), VECS[1]), "up to 16,777,216"),
    ],
)
def test_what_does_not_fit_is_refused(make: Callable[[], object], message: str):
    with pytest.raises(ValueError, match=message):
        make()


# --- the loss ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_batch", [losses.in_batch_margin_mse, losses.listnet])
def test_the_loss_is_equation_8(encoder: Path, in_batch: losses.InBatch):
    model, rows = student(encoder), dataset().select([0, 9, 30])
    margins, query, pos, neg = torch.tensor(rows["label"][:]).T
    features = [model.preprocess(rows[column][:]) for column in ("query", "positive", "negative")]
    passages = rows["positive"][:] + rows["negative"][:]
    scores = torch.from_numpy(model.encode(rows["query"][:]) @ model.encode(passages).T)
    stored = torch.tensor(VECS[0][query.int()] @ VECS[1][torch.cat([pos, neg]).int()].T).float()
    lengths = torch.tensor([[len(q.split()) - len(p.split()) for p in passages] for q in rows["query"]]).float()
    teachers = [
        (vector_teacher(*VECS), stored),
        (lambda q, p: q["attention_mask"].sum(1)[:, None] - p["attention_mask"].sum(1), lengths),
    ]
    for teacher, expected in teachers:
        parts = DualTeacherLoss(model, teacher, 0.5, in_batch)(features, torch.tensor(rows["label"][:]))
        value = losses.dual(scores, expected, margins, 0.5, in_batch)
        torch.testing.assert_close(parts, {"pairwise": value.pairwise, "in_batch": 0.5 * value.in_batch})


class Teacher(nn.Module):
    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, query: dict[str, Tensor], passage: dict[str, Tensor]) -> Tensor:
        assert not self.training
        return self.model(dict(query))["sentence_embedding"] @ self.model(dict(passage))["sentence_embedding"].T


def test_a_teacher_that_is_a_module_is_neither_trained_nor_replaced(encoder: Path, tmp_path: Path):
    model, theirs = student(encoder), student(encoder)
    teacher, before = Teacher(theirs), {name: value.clone() for name, value in theirs.state_dict().items()}
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path), max_steps=2, learning_rate=1e-2, use_cpu=True, report_to="none", save_strategy="no"
    )
    loss = DualTeacherLoss(model, teacher)
    SentenceTransformerTrainer(model=model, args=arguments, train_dataset=dataset(), loss=loss).train()
    assert teacher.model is theirs
    torch.testing.assert_close(dict(theirs.state_dict()), before, rtol=0, atol=0)
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
