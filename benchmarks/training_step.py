"""One training step on the CPU: ours against sentence-transformers' trainer, and two teachers against one.

`python -m benchmarks.training_step`. The encoder is profile docs'; queries and passages are made-up rows of words of
its vocabulary, as long as those of docs or of MS MARCO, so that nothing needs to be built first.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.random import Generator, Philox
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments

from benchmarks import Figure
from benchmarks.fresh import ROOT
from tas_lib import models, sampling
from tas_lib.config import Profile, Sampling, System, Training, load
from tas_lib.data.tokens import load_tokenizer, tokenise
from tas_lib.losses import Dual
from tas_lib.models import BertDot
from tas_lib.records import Batch, Pairs, Ragged
from tas_lib.retrieval import pretrained
from tas_lib.train import loop as training
from tas_lib.train.loop import InBatchTeacher, Objective
from tas_lib.train.teachers import FreshVectors, TokenVectors, token_vectors

QUERIES, PASSAGES, PAIRS = 640, 1_280, 4
B, STEPS, WARM_UP = 32, 60, 10


# --- what is trained on --------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """How long texts are: tokens on average of queries and passages, the spread of their logarithm, and caps."""

    name: str
    means: tuple[float, float]
    spreads: tuple[float, float]
    caps: tuple[int, int]


DOCS = Kind("texts as long as docs'", (16, 53), (0.38, 0.22), (30, 64))
MSMARCO = Kind("texts as long as MS MARCO's", (9, 75), (0.3, 0.45), (30, 200))
"""Lognormal, cut at the cap. DOCS: as measured; MSMARCO: our approximation (56 words a passage on average, BEIR)."""


class Rows(NamedTuple):
    """Made-up training data: texts, the same as token ids, and a pair table."""

    query_texts: list[str]
    passage_texts: list[str]
    queries: Ragged
    passages: Ragged
    pairs: Pairs


def made_up(tokenizer: PreTrainedTokenizerBase, kind: Kind, seed: int = 0) -> Rows:
    """Rows of random whole words of the vocabulary, a token each."""
    rng = Generator(Philox(key=[seed, 0]))
    words = np.array(sorted(word for word in tokenizer.get_vocab() if word.isalpha() and len(word) > 2))
    texts = []
    for n, mean, spread, cap in zip((QUERIES, PASSAGES), *kind[1:], strict=True):
        lengths = rng.lognormal(np.log(mean) - spread**2 / 2, spread, n).round().astype(int).clip(4, cap) - 2
        texts.append([" ".join(rng.choice(words, length)) for length in lengths])
    n = QUERIES * PAIRS
    pos, neg = rng.integers(PASSAGES, size=(2, n))
    pairs = Pairs.sort(QUERIES, np.repeat(np.arange(QUERIES), PAIRS), pos, neg, rng.normal(4, 3, n).astype(np.float32))
    queries, passages = (tokenise(tokenizer, of_one, cap) for of_one, cap in zip(texts, kind.caps, strict=True))
    return Rows(texts[0], texts[1], queries, passages, pairs)


def padded(rows: Rows, sorted_by_length: bool, steps: int = 100, chunk: int = 32) -> float:
    """Tokens of the passages of a step, padding included: in chunks by length as ours, or positives and negatives."""
    sampler = sampling.make_sampler("random", rows.pairs, [], Sampling(batch_size=B), seed=1)
    found = []
    for batch in map(sampler.batch, range(steps)):
        lengths = rows.passages.lengths_of(np.concatenate([batch.pos, batch.neg]))
        lengths = np.sort(lengths) if sorted_by_length else lengths
        found.append(sum(len(part) * part.max() for part in np.split(lengths, range(chunk, len(lengths), chunk))))
    return float(np.mean(found))


# --- ours ----------------------------------------------------------------------------------------------------------


def our_steps(student: BertDot, rows: Rows, loss: Objective, settings: Training, batch_size: int = B) -> list[float]:
    """Seconds of each step of the real loop, from one loss to the next: batch, encoding, loss, gradients, Adam."""
    clock: list[float] = []

    def timed(scores: Tensor, batch: Batch) -> Dual:
        clock.append(time.perf_counter())
        return loss(scores, batch)

    sampler = sampling.make_sampler("random", rows.pairs, [], Sampling(batch_size=batch_size), seed=1)
    with tempfile.TemporaryDirectory() as folder:
        training.train(student, sampler, timed, rows.queries, rows.passages, lambda _: 0.0, settings, Path(folder))
    return np.diff(clock).tolist()


def for_steps(n: int, **changes: Any) -> Training:
    """Settings of a run that only takes n steps: nothing is validated before the last."""
    return Training(steps=n, validate_every=n, learning_rate=5e-5, **changes)


# --- sentence-transformers -----------------------------------------------------------------------------------------


class Trained(Trainer):
    """What SentenceTransformerTrainer does in a step, in the Trainer that it is a subclass of.

    That one wants the package `datasets` for what it is given to train on; a list of rows serves as well, and faster.
    """

    margin_mse: nn.Module

    def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Tensor:
        """The loss is a module of theirs that holds the model: features of each column in, a scalar out."""
        label = inputs.pop("label")
        names = dict.fromkeys(name.partition("_")[0] for name in inputs)
        features = [
            {name.removeprefix(f"{column}_"): value for name, value in inputs.items() if name.startswith(f"{column}_")}
            for column in names
        ]
        return self.margin_mse(features, label)


class Ticking(TrainerCallback):
    """Notes the time after each step."""

    def __init__(self) -> None:
        """No step yet."""
        self.clock: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """After the optimiser."""
        self.clock.append(time.perf_counter())


def their_steps(encoder: Path, rows: Rows, steps: int, cap: int, workers: int) -> list[float]:
    """Seconds of each step of their loop, from text: tokenising and collating, MarginMSELoss, Adam.

    cap: tokens of a text. workers: processes that tokenise ahead; theirs is none.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
    from sentence_transformers.sentence_transformer.losses import MarginMSELoss

    model = SentenceTransformer(str(encoder), device="cpu")
    model.max_seq_length = cap
    query = np.repeat(np.arange(QUERIES), PAIRS).tolist()
    data = [
        {"query": rows.query_texts[q], "pos": rows.passage_texts[p], "neg": rows.passage_texts[n], "label": float(m)}
        for q, p, n, m in zip(query, rows.pairs.pos, rows.pairs.neg, rows.pairs.margins, strict=True)
    ]
    ticking = Ticking()
    with tempfile.TemporaryDirectory() as folder:
        asked = TrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=B, learning_rate=5e-5, lr_scheduler_type="constant",
            max_grad_norm=0, use_cpu=True, report_to="none", save_strategy="no", logging_strategy="no",
            disable_tqdm=True, remove_unused_columns=False, dataloader_num_workers=workers,
            dataloader_pin_memory=False,
        )  # fmt: skip
        collator = SentenceTransformerDataCollator(preprocess_fn=model.preprocess)
        trainer = Trained(model, asked, data_collator=collator, train_dataset=data, callbacks=[ticking])
        trainer.margin_mse = MarginMSELoss(model)
        trainer.train()
    return np.diff(ticking.clock).tolist()


# --- measuring -----------------------------------------------------------------------------------------------------


def in_turns(runs: Mapping[str, Callable[[], Sequence[float]]], rounds: int = 3) -> dict[str, float]:
    """Median seconds of a step of each run, the first steps left out; in the fastest of the rounds, taken in turns.

    A machine that does other things slows all down in turn; the fastest round saw least of it.
    """
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(median(run()[WARM_UP:]))
    return {name: min(medians) for name, medians in found.items()}


def teacher_of(settings: Profile, rows: Rows) -> tuple[InBatchTeacher, models.ColBert]:
    """The shipped ColBERT with its vectors of the made-up rows, as a training keeps them, and itself."""
    colbert = pretrained.load_colbert(str(settings.artefacts_folder / "colbert"))
    kept = [TokenVectors(token_vectors(colbert, tokens), tokens) for tokens in (rows.queries, rows.passages)]
    return InBatchTeacher(*kept), colbert


def rows(steps: int = STEPS, rounds: int = 3) -> list[Figure]:
    """Against sentence-transformers, on short texts and on longer ones; and the dual step against the pairwise one."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    settings = load("docs")
    short, long = (made_up(load_tokenizer(settings.encoder_path), kind) for kind in (DOCS, MSMARCO))
    return [
        against_theirs(settings, DOCS, short, steps, rounds),
        against_theirs(settings, MSMARCO, long, steps, rounds),
        dual(settings, short, steps, rounds),
    ]


def against_theirs(settings: Profile, kind: Kind, data: Rows, steps: int, rounds: int) -> Figure:
    """A pairwise Margin-MSE step of ours and of theirs."""
    found = in_turns(
        {
            "ours": lambda: student_steps(settings, data, pairwise(settings), steps),
            "theirs": lambda: their_steps(ROOT / settings.encoder, data, steps, kind.caps[1], 0),
            "ahead": lambda: their_steps(ROOT / settings.encoder, data, steps, kind.caps[1], 1),
        },
        rounds,
    )
    ours, theirs, ahead = (1e3 * seconds for seconds in found.values())
    return Figure(
        f"a pairwise Margin-MSE step, b = {B}, {start_of(settings)}, {kind.name}",
        f"{ours:.0f} ms",
        f"sentence-transformers {theirs:.0f} ms",
        f"{theirs / ours:.2f} ×",
        "≥ 1.5 ×",
        "met" if theirs / ours >= 1.5 else "missed",
        f"Encoding and gradients take {1e3 * encoding_seconds(settings, data):.0f} ms of ours, and bound it: the "
        f"passages of a step are {padded(data, True):,.0f} tokens with their padding, sorted by length, and "
        f"{padded(data, False):,.0f} for theirs. Theirs tokenises in the loop; with one process that does it ahead, "
        f"{ahead:.0f} ms. Theirs is its loss, collator and model in transformers' Trainer: its own subclass needs the "
        "package datasets, which requirements.txt does not have. Medians of the fastest of several turns.",
    )


def dual(settings: Profile, data: Rows, steps: int, rounds: int) -> Figure:
    """A step with both teachers against one with the pairwise teacher."""
    teacher, colbert = teacher_of(settings, data)
    both = training.objective(System(teacher="dual"), settings.training, teacher)
    anew = training.InBatchTeacher(FreshVectors(colbert, data.queries), FreshVectors(colbert, data.passages))

    def fresh(scores: Tensor, batch: Batch) -> Dual:
        with torch.inference_mode():  # as in the paper: the teacher reads every batch anew
            anew.scores(batch, next(colbert.parameters()).device)
        return both(scores, batch)

    losses = {"pairwise": pairwise(settings), "dual": both, "fresh": fresh}
    runs = {name: partial(student_steps, settings, data, loss, steps) for name, loss in losses.items()}
    found = in_turns(runs, rounds)
    return Figure(
        f"a dual step, b = {B}, {start_of(settings)}, {DOCS.name}",
        f"{1e3 * found['dual']:.0f} ms",
        f"a pairwise step {1e3 * found['pairwise']:.0f} ms",
        f"× {found['dual'] / found['pairwise']:.2f}",
        "report (paper: × 1-4)",
        "–",
        "The frozen ColBERT's vectors are kept (D29), so its scores are one product. Where it reads every batch "
        f"anew, as in the paper, a step is × {found['fresh'] / found['pairwise']:.2f}.",
    )


def pairwise(settings: Profile) -> Objective:
    """Margin-MSE with the pairwise teacher's stored margins."""
    return training.objective(System(teacher="pairwise"), settings.training, None)


def student_steps(settings: Profile, data: Rows, loss: Objective, steps: int) -> list[float]:
    """`our_steps` of a student that starts where all start."""
    return our_steps(pretrained.load_dot(settings.encoder_path, settings.pooling), data, loss, for_steps(steps))


def encoding_seconds(settings: Profile, data: Rows, n: int = 20) -> float:
    """Seconds of the encoder alone, forwards and backwards, for the texts of a step: what no trainer could save."""
    student = pretrained.load_dot(settings.encoder_path, settings.pooling).train()
    sampler = sampling.make_sampler("random", data.pairs, [], Sampling(batch_size=B), seed=1)
    seconds = []
    for step in range(n):
        batch = sampler.batch(step)
        start = time.perf_counter()
        training.score_batch(student, data.queries, data.passages, batch).sum().backward()
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def start_of(settings: Profile) -> str:
    """The encoder in words."""
    config = pretrained.load_encoder(settings.encoder_path).config
    return f"{config.num_hidden_layers} layers of {config.hidden_size}"


if __name__ == "__main__":
    for figure in rows():
        print(*figure, sep=" | ")
