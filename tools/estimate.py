"""Time, memory and disk of each target at MS MARCO's size, on this machine, before anything is fetched or run.

Time: the operations of encoders and re-rankers over half the matrix rate that is measured here (a GPU's, if there is
one); attention between tokens, reading files and BM25's searches are left out. The shapes are DistilBERT's and
T5-base's. Disk: what stays under runs/. Memory: of the process; vectors are mapped from disk and not counted.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from tas_lib.config import Profile, System
from tas_lib.report.latency import roofline
from tas_lib.retrieval.encode import device
from tools import graph

PASSAGES = graph.MSMARCO_PASSAGES
SEARCHED = 6_980 + 43 + 54  # queries of the three test sets
PASSAGE, QUERY = 75, 10  # tokens: 56 and 6 words (Thakur et al. 2021, Table 1) of 1.3 pieces each, specials included
ENCODER = 2 * 6 * 12 * 768**2  # operations a token: six layers of DistilBERT
T5 = 2 * 2 * 12 * 7 * 768**2  # likewise: T5-base, 12 layers that read and, for a word of the answer, 12 that write
WIDTH = 768
SHARE = 0.5  # of the measured matrix rate
COLLECTION_GB = 5.2  # texts (3.2), token ids (1.4), 40M pairs (0.6)
TRAINED_GB = 3.0  # weights, two checkpoints with Adam's moments, run files
VECTORS_GB = 2e-9 * PASSAGES * WIDTH  # of one system, fp16
BM25_GB = 20.0  # at its highest, while the index is made: 2.1 KB a passage more from 100,000 to 200,000 synthetic ones
MEMORY_GB = 8.0  # without BM25


class Cost(NamedTuple):
    """Operations of encoders, gigabytes that stay on disk, gigabytes of memory."""

    operations: float
    disk_gb: float
    memory_gb: float = MEMORY_GB


def lines(profile: Profile) -> list[str]:
    """A table of the profile's figures and tables; each with all that it needs, as if nothing were there."""
    rate = 1e9 * roofline(device()).gflop_s
    where = "the GPU" if device().type == "cuda" else f"{torch.get_num_threads()} cores"
    found = [
        f"Estimated for {where}, {rate / 1e9:,.0f} GFLOP/s measured now, half of it counted on; without the downloads:",
        f"{'target':16} {'time':>12} {'disk':>9} {'memory':>8}",
    ]
    for target, names in targets(profile).items():
        parts = {part: cost for name in names for part, cost in costs(profile, name)}
        seconds = sum(cost.operations for cost in parts.values()) / (SHARE * rate)
        disk, memory = sum(cost.disk_gb for cost in parts.values()), max(cost.memory_gb for cost in parts.values())
        found.append(f"{target:16} {span(seconds):>12} {disk:6,.0f} GB {memory:5,.0f} GB")
    return found


def targets(profile: Profile) -> dict[str, set[str]]:
    """Each figure and table, and everything, with the jobs that it needs, near and far."""
    jobs = graph.jobs(profile)

    def needed(names: list[str]) -> set[str]:
        return set(names).union(*(needed(list(jobs[name].needs)) for name in names))

    known = graph.aliases(profile)
    shown = sorted(target for target in known if target.startswith(("figure", "table")) and target.isalnum())
    wanted = [target for target in shown if not jobs[known[target][0]].asked]
    return {target: needed(known[target]) for target in (*wanted, "everything")}


def costs(profile: Profile, name: str) -> Iterator[tuple[str, Cost]]:
    """What a job computes, by a name that is the same where two jobs need the same."""
    yield "collection", Cost(0, COLLECTION_GB, BM25_GB)
    job = graph.jobs(profile)[name]
    if job.notebook == graph.TRAINING:
        system = next(s for s in profile.systems.values() if name.endswith(f"-{s.name}"))
        yield system.name, Cost(training(profile, system), TRAINED_GB)
        yield f"{system.name}, vectors", Cost(PASSAGES * PASSAGE * ENCODER, VECTORS_GB)
        return
    asked = ["pairwise/random" if need == "baseline" else need for need in graph.NOTEBOOKS[job.notebook].needs]
    for key, system in profile.systems.items():
        if system.kind == "checkpoint" and key in asked:
            yield f"{system.name}, vectors", Cost(PASSAGES * PASSAGE * ENCODER, VECTORS_GB)
        elif system.kind in ("reranked", "expanded") and "table7.md" in job.makes:
            yield from pipeline(profile, system)


def training(profile: Profile, system: System) -> float:
    """Operations of a training, validation included; forward and backward pass are three forward ones."""
    settings, stop = profile.of(system).training, profile.stop
    teacher = system.teacher in ("in_batch", "dual")
    batch = system.batch_size * (QUERY + 2 * PASSAGE) * ENCODER * (4 if teacher else 3)
    validation = stop.queries * (QUERY + stop.depth * PASSAGE) * ENCODER
    return settings.steps * batch + settings.steps // settings.validate_every * validation


def pipeline(profile: Profile, system: System) -> Iterator[tuple[str, Cost]]:
    """Operations of an expansion, or of a re-ranker over all test queries."""
    if system.kind == "expanded":
        yield "expansion", Cost(PASSAGES * (PASSAGE + profile.expansion.queries * QUERY) * T5 / 2, 4.0)
        return
    k = profile.candidates(system)
    if system.by == "duo":
        yield system.name, Cost(SEARCHED * k * (k - 1) * (QUERY + 2 * PASSAGE) * T5 / 2, 0.1)
    else:
        each = ENCODER if system.by == "cat" else T5 / 2
        yield system.name, Cost(SEARCHED * k * (QUERY + PASSAGE) * each, 0.1)


def span(seconds: float) -> str:
    """A time in the unit that suits it.

    >>> span(90), span(7_200), span(500_000), span(1e9)
    ('2 minutes', '2.0 hours', '5.8 days', '31.7 years')
    """
    for unit, length in (("years", 3.15576e7), ("days", 86_400), ("hours", 3_600)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds / 60:.0f} minutes"
