"""Downloads, and time and disk of each figure and table at MS MARCO's size, before anything is run on this machine.

Time: the operations of encoders and re-rankers at half the matrix rate measured here; attention, reading files and
BM25's searches are left out. Disk: what stays in runs/. The shapes are DistilBERT's and T5-base's.
"""

from collections.abc import Iterable, Iterator

import torch

from tas_lib.config import MsMarcoSource, Profile, System
from tas_lib.data.sources import msmarco
from tas_lib.report.latency import roofline
from tas_lib.retrieval.encode import device
from tools import graph
from tools.progress import duration

PASSAGES = graph.MSMARCO_PASSAGES
SEARCHED = 6_980 + 43 + 54  # queries of the three test sets
PASSAGE, QUERY = 75, 10  # tokens: 56 and 6 words (Thakur et al. 2021, Table 1) of 1.3 pieces each, specials included
ENCODER = 2 * 6 * 12 * 768**2  # operations per token: six layers of DistilBERT
T5 = 2 * 12 * 7 * 768**2  # operations per token: T5-base, 12 layers that read, or 12 that write
SHARE = 0.5  # of the measured matrix rate
COLLECTION_GB = 5.2  # texts (3.2), token ids (1.4), 40M pairs (0.6)
TRAINED_GB = 3.0  # weights, two checkpoints with Adam's moments, run files
VECTORS_GB = 2e-9 * PASSAGES * 768  # of one system, fp16


def downloads(source: MsMarcoSource) -> list[str]:
    """A line per file that would be downloaded, with its size and state; needs no connection."""
    files = msmarco.downloads(source)
    missing = sum(file.size for file in files if not file.there)
    result = [f"{'present' if f.there else 'missing'}  {f}  {f.url} -> {f.path.parent}" for f in files]
    return [*result, f"To download: {missing / 1e9:.1f} GB in all; terms of use: {msmarco.TERMS}"]


def lines(profile: Profile) -> list[str]:
    """A line per figure and table, each with everything that it needs, as if nothing had been built."""
    rate = 1e9 * roofline(device()).gflop_s
    where = "the GPU" if device().type == "cuda" else f"{torch.get_num_threads()} cores"
    head = f"Estimate for {where}: half of {rate / 1e9:,.0f} GFLOP/s, measured now; without the downloads"
    result = [head, f"{'target':16} {'time':>12} {'disk':>9}"]
    jobs, targets = graph.jobs(profile), graph.targets(profile)

    def needed(names: Iterable[str]) -> set[str]:
        return set(names).union(*(needed(jobs[name].needs) for name in names))

    for target, names in sorted(targets.items()):
        made = target.startswith(("figure", "table")) and target.isalnum() and not jobs[names[0]].on_request
        if made or target == "everything":
            parts = {part: cost for name in needed(names) for part, *cost in costs(profile, jobs[name])}
            operations, disk = map(sum, zip(*parts.values(), strict=True))
            result.append(f"{target:16} {duration(operations / (SHARE * rate)):>12} {disk:6,.0f} GB")
    return result


def costs(profile: Profile, job: graph.Job) -> Iterator[tuple[str, float, float]]:
    """What a job computes: a name (shared by jobs that need the same), operations, gigabytes that stay on disk."""
    yield "collection", 0, COLLECTION_GB
    keys = {job.trains} if job.trains else {*(graph.NOTEBOOKS[job.notebook].systems or ())}
    for key, system in profile.systems.items():
        if key in keys and (job.trains or system.kind in ("untrained", "checkpoint")):
            yield f"{key}, vectors", PASSAGES * PASSAGE * ENCODER, VECTORS_GB
        if key == job.trains:
            yield key, training(profile, system), TRAINED_GB
        elif system.kind in ("reranked", "expanded") and job.name == graph.PIPELINES:
            yield key, pipeline(profile, system), 4.0 if system.kind == "expanded" else 0.1


def training(profile: Profile, system: System) -> float:
    """Operations of a training, validation included; forward and backward pass are three forward ones."""
    settings, stop = profile.of(system).training, profile.stop
    passes = 4 if system.teacher in ("in_batch", "dual") else 3
    batch = system.batch_size * (QUERY + 2 * PASSAGE) * ENCODER * passes
    validation = stop.queries * (QUERY + stop.depth * PASSAGE) * ENCODER
    return settings.steps * batch + settings.steps // settings.validate_every * validation


def pipeline(profile: Profile, system: System) -> float:
    """Operations of writing queries for all passages, or of a re-ranker over all test queries."""
    if system.kind == "expanded":
        return PASSAGES * (PASSAGE + profile.expansion.queries * QUERY) * T5
    k = profile.candidates(system)
    if system.by == "duo":
        return SEARCHED * k * (k - 1) * (QUERY + 2 * PASSAGE) * T5
    return SEARCHED * k * (QUERY + PASSAGE) * (ENCODER if system.by == "cat" else T5)
