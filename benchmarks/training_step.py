"""One training step on the CPU against sentence-transformers'; notebook 07 compares two teachers with one (Table 2).

The encoder is profile docs'; texts are synthetic, as long as those of docs or of MS MARCO.
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
from transformers import PreTrainedTokenizerBase

from benchmarks import Figure, texts, verdict
from benchmarks.texts import DOCS, MSMARCO, Lengths
from tas_lib import sampling
from tas_lib.config import Profile, Sampling, System, Training, load
from tas_lib.data.tokens import load_tokenizer, tokenise
from tas_lib.losses import Dual
from tas_lib.records import Batch, Pairs, Ragged
from tas_lib.retrieval import frozen, pretrained
from tas_lib.retrieval.encode import token_vectors
from tas_lib.train import loop
from tas_lib.train.loop import Objective

QUERIES, PASSAGES, PAIRS = 640, 1_280, 4
B, STEPS, WARM_UP, ROUNDS = 32, 20, 4, 2


class Data(NamedTuple):
    """Synthetic training data: texts, the same as token ids, and a pair table."""

    query_texts: list[str]
    passage_texts: list[str]
    queries: Ragged
    passages: Ragged
    pairs: Pairs


def figures(full: bool = False) -> list[Figure]:
    """On short texts and on longer ones; and as profile docs trains, all layers but the last frozen."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    settings = load("docs")
    tokenizer = load_tokenizer(settings.encoder_path)
    short, long = synthetic(tokenizer, DOCS), synthetic(tokenizer, MSMARCO)
    return [
        pairwise_step(settings, "docs'", short),
        pairwise_step(settings, "MS MARCO's", long),
        pairwise_step(settings, "docs'", short, settings.training.frozen_layers),
    ]


def pairwise_step(settings: Profile, whose: str, data: Data, frozen_layers: int = 0) -> Figure:
    """A pairwise Margin-MSE step of ours and of theirs, which train the same parameters."""
    given = settings, kept(settings, data, frozen_layers), pairwise(settings), frozen_layers
    runs = {"ours": partial(our_steps, *given), "theirs": partial(their_steps, settings, data, frozen_layers)}
    ours, theirs = (1e3 * seconds for seconds in medians_in_turn(runs).values())
    what = f", {frozen_layers} of them frozen" if frozen_layers else ""
    why = "The lower layers' states are made once, not timed; of the last, CLS alone" if frozen_layers else "No padding"
    return Figure(
        f"a pairwise Margin-MSE step, b = {B}, {shape(settings)}{what}, texts as long as {whose}",
        f"{ours:.0f} ms",
        f"sentence-transformers {theirs:.0f} ms",
        f"{theirs / ours:.2f} ×",
        "≥ 2 ×",
        verdict(theirs >= 2 * ours),
        f"{why}: encoding and gradients limit ours. Theirs is their model, collator and loss in a plain loop: "
        "tokenised there, padded as texts come. Both in fp32, with a fused Adam where its trainer would have one.",
    )


# --- data --------------------------------------------------------------------------------------------------------


def synthetic(tokenizer: PreTrainedTokenizerBase, lengths: Mapping[str, Lengths]) -> Data:
    """Random texts and random pairs."""
    sizes = {"queries": QUERIES, "passages": PASSAGES}
    queries, passages = (texts.synthetic(tokenizer, n, lengths[name]) for name, n in sizes.items())
    caps = lengths["queries"].cap, lengths["passages"].cap
    ids = tokenise(tokenizer, queries, caps[0]), tokenise(tokenizer, passages, caps[1])
    return Data(queries, passages, *ids, random_pairs(QUERIES, PASSAGES))


def kept(settings: Profile, data: Data, layers: int) -> Data:
    """The same data, with the frozen layers' states in place of token ids."""
    if not layers:
        return data
    lower = frozen.LowerLayers(pretrained.load_dot(settings.encoder_path, settings.pooling), layers)
    both: Any = [(token_vectors(lower, part), part.offsets) for part in (data.queries, data.passages)]
    queries, passages = (Ragged(*part) for part in both)
    return data._replace(queries=queries, passages=passages)


def random_pairs(queries: int, passages: int) -> Pairs:
    """A few random pairs per query."""
    rng, n = Generator(Philox(key=[2, 0])), queries * PAIRS
    pos, neg = rng.integers(passages, size=(2, n))
    return Pairs.sort(queries, np.repeat(np.arange(queries), PAIRS), pos, neg, rng.normal(4, 3, n).astype(np.float32))


def random_sampler(pairs: Pairs, batch_size: int = B) -> sampling.Sampler:
    """Random batches of these pairs."""
    return sampling.make_sampler("random", pairs, [], Sampling(batch_size=batch_size), seed=1)


# --- steps: each function returns the seconds of every step --------------------------------------------------------


def medians_in_turn(runs: Mapping[str, Callable[[], Sequence[float]]]) -> dict[str, float]:
    """Median seconds of a step of each run, without the first steps, in the fastest round; each round runs all."""
    medians = [{name: median(run()[WARM_UP:]) for name, run in runs.items()} for _ in range(ROUNDS)]
    return {name: min(of_round[name] for of_round in medians) for name in runs}


def timed_loop(
    student: nn.Module, data: Data, loss: Objective, steps: int, batch_size: int = B, **changes: Any
) -> list[float]:
    """The real loop, from one loss to the next: batch, encoding, loss, gradients, Adam; no validation in between."""
    clock: list[float] = []

    def timed(scores: Tensor, batch: Batch) -> Dual:
        clock.append(time.perf_counter())
        return loss(scores, batch)

    settings = Training(steps=steps, validate_every=steps, learning_rate=5e-5, **changes)
    sampler = random_sampler(data.pairs, batch_size)
    with tempfile.TemporaryDirectory() as folder:
        loop.train(student, sampler, timed, data.queries, data.passages, lambda _: 0.0, settings, Path(folder))
    return np.diff(clock).tolist()


def our_steps(settings: Profile, data: Data, loss: Objective, layers: int = 0) -> list[float]:
    """Ours, with the student that every training starts from, or the part of it that is trained."""
    student = frozen.trained_part(pretrained.load_dot(settings.encoder_path, settings.pooling), layers)
    return timed_loop(student, data, loss, STEPS, frozen_layers=layers)


def their_steps(settings: Profile, data: Data, layers: int = 0) -> list[float]:
    """Their model, collator and MarginMSELoss in a loop as their trainer's: tokenising, gradients, Adam."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MarginMSELoss

    model = SentenceTransformer(settings.encoder_path, device="cpu").train()
    freeze(model, layers)
    model.max_seq_length = int(data.passages.lengths.max())
    margin_mse = MarginMSELoss(model)
    adam = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.0, fused=True)
    sampler, clock = random_sampler(data.pairs), [time.perf_counter()]
    for batch in map(sampler.batch, range(STEPS)):
        margin_mse(their_features(model, data, batch), torch.from_numpy(batch.margins)).backward()
        adam.step()
        adam.zero_grad()
        clock.append(time.perf_counter())
    return np.diff(clock).tolist()


def freeze(model: nn.Module, layers: int) -> None:
    """Let only the layer after so many be trained; without any, all."""
    for name, weight in model.named_parameters():
        weight.requires_grad_(not layers or f".layer.{layers}." in name)


def their_features(model: Any, data: Data, batch: Batch) -> list[dict[str, Tensor]]:
    """Token ids and masks of queries, positives and negatives, as their collator makes them from texts."""
    columns = [(data.query_texts, batch.queries), (data.passage_texts, batch.pos), (data.passage_texts, batch.neg)]
    return [model.preprocess([of_column[i] for i in indices]) for of_column, indices in columns]


def pairwise(settings: Profile) -> Objective:
    """Margin-MSE with the pairwise teacher's stored margins."""
    return loop.objective(System(teacher="pairwise"), settings.training, None)


def shape(settings: Profile) -> str:
    """The encoder's size."""
    config = pretrained.load_encoder(settings.encoder_path).config
    return f"{config.num_hidden_layers} layers of {config.hidden_size}"
