"""Downloads, and time, disk and GPU memory of each figure and table at MS MARCO's size, before anything is run.

Time: the operations of encoders and re-rankers at half the matrix rate measured here, or at the rates of `CARDS`, with
those on padding; attention, reading files, BM25's searches and the collection are left out. Disk: what stays in runs/.
Memory: of the largest training, with texts at their maximum length. The shapes are DistilBERT's and T5-base's.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import Generator, Philox

from benchmarks import texts
from tas_lib.config import MsMarcoSource, Profile, System
from tas_lib.data.sources import msmarco
from tas_lib.report.latency import roofline
from tas_lib.retrieval.encode import device
from tools import graph
from tools.progress import duration

PASSAGE, QUERY = 75, 10  # tokens: 56 and 6 words (Thakur et al. 2021, Table 1) of 1.3 pieces each, specials included
SORTED = 1.02  # tokens with padding, where a whole collection is sorted by length (chunks of 64)
ENCODER = 2 * 6 * 12 * 768**2  # operations per token: six layers of DistilBERT
T5 = 2 * 12 * 7 * 768**2  # operations per token: T5-base, 12 layers that read, or 12 that write
SHARE = 0.5  # of the measured matrix rate
COLLECTION_GB = 5.2 / graph.MSMARCO_PASSAGES  # of a passage: texts (3.2), token ids (1.4), 40M pairs (0.6)
TRAINED_GB = 3.0  # weights, two checkpoints with Adam's moments, run files
VECTORS_GB = 2e-9 * 768  # of a passage, fp16
WEIGHTS_GB, COLBERT_GB, CONTEXT_GB = 16e-9 * 66e6, 0.8, 1.0  # with gradients and Adam; with its scores; CUDA's own
KEPT_GB = 34e-9 * 768 * 6  # of a token, for the backward pass in half precision (Korthikanti et al. 2022, Eq. 2)
CORNERS = ("labels", graph.BASELINE, "dual/random", "dual/tas_balanced")  # of Table 4
AFTERNOON_S = 3 * 3_600


class Card(NamedTuple):
    """A GPU, its memory, and its TFLOP/s in such encoders; operations on padding count."""

    name: str
    memory_gb: int
    half: float  # students, their vectors and ColBERT in fp16 or bf16
    single: float  # fp32: re-rankers, and all of a profile in fp32


CARDS = (Card("T4", 16, 9, 2.2), Card("RTX 3090", 24, 28, 12), Card("H100", 80, 60, 30))
"""Nothing was measured by us. T4: published measurements; the others: expected from these (docs/gpu.md has sources)."""


def downloads(source: MsMarcoSource) -> list[str]:
    """A line per file that would be downloaded, with its size and state; needs no connection."""
    files = msmarco.downloads(source)
    missing = sum(file.size for file in files if not file.there)
    result = [f"{'present' if f.there else 'missing'}  {f}  {f.url} -> {f.path.parent}" for f in files]
    return [*result, f"To download: {missing / 1e9:.1f} GB in all; terms of use: {msmarco.TERMS}"]


def lines(profile: Profile) -> list[str]:
    """A line per figure and table, each with everything that it needs, as if nothing had been built; then cards."""
    rate = 1e9 * roofline(device()).gflop_s
    where = "the GPU" if device().type == "cuda" else f"{torch.get_num_threads()} cores"
    head = f"Estimate for {where}: half of {rate / 1e9:,.0f} GFLOP/s, measured now; without the downloads"
    cards = " ".join(f"{f'{card.name}*':>11}" for card in CARDS)
    result = [head, f"{'target':16} {'time':>12} {'disk':>9} {cards} {'memory':>9}"]
    jobs, targets = graph.jobs(profile), graph.targets(profile)

    def needed(names: Iterable[str]) -> set[str]:
        return set(names).union(*(needed(jobs[name].needs) for name in names))

    for target, names in sorted(targets.items()):
        made = target.startswith(("figure", "table")) and target.isalnum() and not jobs[names[0]].on_request
        if made or target == "everything":
            every = [jobs[name] for name in needed(names)]
            trained, other, disk = total(profile, every)
            seconds = [(trained / card.half + other / card.single) / 1e12 for card in CARDS]
            memory = max(memory_gb(profile, profile.systems.get(job.trains)) for job in every)
            time = f"{duration((trained + other) / (SHARE * rate)):>12} {disk:6,.0f} GB"
            result.append(f"{target:16} {time} {' '.join(f'{duration(s):>11}' for s in seconds)} {memory:6,.0f} GB")
    return [*result, *afternoon(profile)]


def total(profile: Profile, jobs: Iterable[graph.Job]) -> tuple[float, float, float]:
    """Operations of trainings, other operations, gigabytes on disk: of all jobs, what several need once."""
    parts = {part: cost for job in jobs for part, *cost in costs(profile, job)}
    trained, other, disk = map(sum, zip(*parts.values(), strict=True))
    return (trained, other, disk) if profile.training.precision != "fp32" else (0, trained + other, disk)


def afternoon(profile: Profile) -> list[str]:
    """How long the four corners of Table 4 take on each card, and how many steps three hours allow."""
    result = [f"* expected, not measured; memory: {', '.join(f'{c.name} {c.memory_gb} GB' for c in CARDS)}"]
    corners = [job for job in graph.jobs(profile).values() if job.trains in CORNERS]
    trained, other, _ = total(profile, corners) if profile.reduction else (0, 0, 0)
    for card in CARDS if trained else ():
        rest, training_s = other / card.single / 1e12, trained / card.half / 1e12
        steps = profile.training.steps * max(AFTERNOON_S - rest, 0) / training_s
        time = duration(rest + training_s)
        result.append(f"{', '.join(CORNERS)} on {card.name}: {time}; three hours allow {steps:,.0f} steps each")
    return result


def memory_gb(profile: Profile, system: System | None) -> float:
    """GPU memory of a training, or of encoding; at most what is free is used for search, and is not counted."""
    if system is None:
        return 2 * CONTEXT_GB
    settings, caps = profile.of(system).training, profile.tokens
    texts = min(settings.cached_chunk or 2 * system.batch_size, 2 * system.batch_size)
    kept = KEPT_GB * (texts * caps.passage + system.batch_size * caps.query)
    colbert = COLBERT_GB if system.teacher in ("in_batch", "dual") else 0
    return CONTEXT_GB + WEIGHTS_GB + colbert + kept * (2 if settings.precision == "fp32" else 1)


def costs(profile: Profile, job: graph.Job) -> Iterator[tuple[str, float, float, float]]:
    """What a job computes: a name (shared by jobs that need the same), operations of students, others, disk in GB."""
    n = passages(profile)
    yield "collection", 0, 0, n * COLLECTION_GB
    keys = {job.trains} if job.trains else {*(graph.NOTEBOOKS[job.notebook].systems or ())}
    for key, system in profile.systems.items():
        if key in keys and (job.trains or system.kind in ("untrained", "checkpoint")):
            yield f"{key}, vectors", n * PASSAGE * SORTED * ENCODER, 0, n * VECTORS_GB
        if key == job.trains:
            yield key, training(profile, system), 0, TRAINED_GB
            if system.teacher in ("in_batch", "dual") and kept(profile):
                yield "ColBERT's vectors", n * PASSAGE * SORTED * ENCODER, 0, n * PASSAGE * VECTORS_GB
        elif system.kind in ("reranked", "expanded") and job.name == graph.PIPELINES:
            yield key, 0, pipeline(profile, system), 4.0 if system.kind == "expanded" else 0.1


def passages(profile: Profile) -> int:
    """How many passages are searched."""
    return profile.reduction.passages if profile.reduction else graph.MSMARCO_PASSAGES


def kept(profile: Profile) -> bool:
    """Whether ColBERT's vectors of all passages are kept; else it encodes every batch."""
    return passages(profile) * PASSAGE * VECTORS_GB <= profile.kept_vectors_gb


def training(profile: Profile, system: System) -> float:
    """Operations of a training, validation included; forward and backward pass are three forward ones."""
    settings, stop = profile.of(system).training, profile.stop
    batch = step_tokens(system.batch_size, settings.cached_chunk or settings.chunk) * (
        4 if settings.cached_chunk else 3
    )
    if system.teacher in ("in_batch", "dual") and not kept(profile):
        batch += step_tokens(system.batch_size, 16) + system.batch_size * profile.query_masks
    validation = stop.queries * (QUERY + stop.depth * PASSAGE) * SORTED
    return (settings.steps * batch + settings.steps // settings.validate_every * validation) * ENCODER


@cache
def step_tokens(b: int, chunk: int) -> float:
    """Tokens of b queries and 2b passages, each sorted by length and padded in chunks: the mean of 100 batches."""
    rng = Generator(Philox(key=[0, 0]))
    draws = [
        (texts.sizes(b, texts.MSMARCO["queries"], rng), texts.sizes(2 * b, texts.MSMARCO["passages"], rng))
        for _ in range(100)
    ]
    return float(np.mean([sum(texts.padded(np.sort(sizes), chunk) for sizes in draw) for draw in draws]))


def pipeline(profile: Profile, system: System) -> float:
    """Operations of writing queries for all passages, or of a re-ranker over all test queries."""
    if system.kind == "expanded":
        return passages(profile) * (PASSAGE + profile.expansion.queries * QUERY) * T5
    k = profile.candidates(system)
    searched = 97 + (profile.reduction.dev if profile.reduction else 6_980)  # queries of the three test sets
    if system.by == "duo":
        return searched * k * (k - 1) * (QUERY + 2 * PASSAGE) * T5
    return searched * k * (QUERY + PASSAGE) * (ENCODER if system.by == "cat" else T5)
