"""One training step on the CPU: ours against sentence-transformers' trainer, and two teachers against one.

`python -m benchmarks.training_step`. The encoder is profile docs'; queries and passages are made-up rows of words of
its vocabulary, as long as those of docs, so that nothing needs to be built first.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
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
from tas_lib import latency, models, sampling, training
from tas_lib.collection import load_tokenizer, tokenise
from tas_lib.losses import Dual
from tas_lib.models import BertDot
from tas_lib.profile import Profile, Sampling, System, Training, load
from tas_lib.records import Batch, Pairs, Ragged
from tas_lib.teachers import TokenVectors, token_vectors
from tas_lib.training import InBatchTeacher, Objective

QUERIES, PASSAGES, PAIRS = 640, 1_280, 4
B, STEPS, WARM_UP = 32, 60, 10
WORDS = {"query": (8, 21), "passage": (34, 65)}  # from, to: some 16 and 50 tokens on average, as in docs


# --- what is trained on --------------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """Made-up training data: texts, the same as token ids, and a pair table."""

    query_texts: list[str]
    passage_texts: list[str]
    queries: Ragged
    passages: Ragged
    pairs: Pairs


def made_up(tokenizer: PreTrainedTokenizerBase, caps: Mapping[str, int], seed: int = 0) -> Rows:
    """Rows of random whole words of the vocabulary. caps: tokens at most of a query and of a passage."""
    rng = Generator(Philox(key=[seed, 0]))
    words = sorted(word for word in tokenizer.get_vocab() if word.isalpha() and len(word) > 2)
    texts = {}
    for kind, n in (("query", QUERIES), ("passage", PASSAGES)):
        texts[kind] = [" ".join(rng.choice(words, length)) for length in rng.integers(*WORDS[kind], n)]
    n = QUERIES * PAIRS
    pos, neg = rng.integers(PASSAGES, size=(2, n))
    pairs = Pairs.sort(QUERIES, np.repeat(np.arange(QUERIES), PAIRS), pos, neg, rng.normal(4, 3, n).astype(np.float32))
    tokens = {kind: tokenise(tokenizer, texts[kind], caps[kind]) for kind in texts}
    return Rows(texts["query"], texts["passage"], tokens["query"], tokens["passage"], pairs)


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
    colbert = models.load_colbert(str(settings.artefacts_folder / "colbert"))
    kept = [TokenVectors(token_vectors(colbert, tokens), tokens) for tokens in (rows.queries, rows.passages)]
    return InBatchTeacher(*kept), colbert


def rows(steps: int = STEPS, rounds: int = 3) -> list[Figure]:
    """Against sentence-transformers; and the dual step against the pairwise one."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    settings = load("docs")
    caps = {"query": settings.tokens.query, "passage": settings.tokens.passage}
    data = made_up(load_tokenizer(settings.encoder_path), caps)
    pairwise = training.objective(System(teacher="pairwise"), settings.training, None)
    teacher, colbert = teacher_of(settings, data)
    dual = training.objective(System(teacher="dual"), settings.training, teacher)

    def fresh(scores: Tensor, batch: Batch) -> Dual:
        with torch.inference_mode():  # as in the paper: the teacher reads every batch anew
            latency.fresh_scores(colbert, data.queries, data.passages, batch)
        return dual(scores, batch)

    def ours(loss: Objective) -> list[float]:
        student = models.load_dot(settings.encoder_path, settings.pooling)
        return our_steps(student, data, loss, for_steps(steps))

    def theirs(workers: int) -> list[float]:
        return their_steps(ROOT / settings.encoder, data, steps, caps["passage"], workers)

    found = in_turns(
        {
            "pairwise": lambda: ours(pairwise),
            "theirs": lambda: theirs(0),
            "theirs, ahead": lambda: theirs(1),
            "dual": lambda: ours(dual),
            "dual, fresh": lambda: ours(fresh),
        },
        rounds,
    )
    ms = {name: 1e3 * seconds for name, seconds in found.items()}
    ratio = ms["theirs"] / ms["pairwise"]
    encoding = 1e3 * encoding_seconds(settings, data)
    kind = f"b = {B}, {start_of(settings)}"
    return [
        Figure(
            f"a pairwise Margin-MSE step, {kind}",
            f"{ms['pairwise']:.0f} ms",
            f"sentence-transformers {ms['theirs']:.0f} ms",
            f"{ratio:.2f} ×",
            "≥ 1.5 ×",
            "met" if ratio >= 1.5 else "missed",
            f"Both encode and differentiate the same texts; that alone takes {encoding:.0f} ms, and bounds a step. "
            f"Theirs tokenises in the loop; with one process that does it ahead, {ms['theirs, ahead']:.0f} ms. Theirs "
            "is its loss, its collator and its model in transformers' Trainer: its own subclass needs the package "
            "datasets, which requirements.txt does not have. Medians of the fastest of several turns.",
        ),
        Figure(
            f"a dual step, {kind}",
            f"{ms['dual']:.0f} ms",
            f"a pairwise step {ms['pairwise']:.0f} ms",
            f"× {ms['dual'] / ms['pairwise']:.2f}",
            "report (paper: × 1-4)",
            "–",
            "The frozen ColBERT's vectors are kept (D29), so its scores are one product. Where it reads every batch "
            f"anew, as in the paper, a step is × {ms['dual, fresh'] / ms['pairwise']:.2f}.",
        ),
    ]


def encoding_seconds(settings: Profile, data: Rows, n: int = 20) -> float:
    """Seconds of the encoder alone, forwards and backwards, for the texts of a step: what no trainer could save."""
    student = models.load_dot(settings.encoder_path, settings.pooling).train()
    sampler = sampling.make_sampler("random", data.pairs, [], Sampling(batch_size=B), seed=1)
    seconds = []
    for step in range(n):
        batch = sampler.batch(step)
        start = time.perf_counter()
        training.score_batch(student, data.queries, data.passages, batch).sum().backward()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def start_of(settings: Profile) -> str:
    """The encoder in words."""
    config = models.load_encoder(settings.encoder_path).config
    return f"{config.num_hidden_layers} layers of {config.hidden_size}"


if __name__ == "__main__":
    for figure in rows():
        print(*figure, sep=" | ")
