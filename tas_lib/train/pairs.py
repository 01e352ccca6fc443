"""Training pairs: every query's relevant passages against negatives, with the pairwise teacher's margins."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator, Philox

from tas_lib.config import DocsSource, Profile
from tas_lib.data import shipped, store
from tas_lib.data.collection import Collection, pairs_are_scored, published_pairs
from tas_lib.data.pair_files import read_pairs
from tas_lib.records import FloatArray, IntArray, Pairs
from tas_lib.retrieval import pretrained
from tas_lib.retrieval.bm25 import Bm25Index
from tas_lib.retrieval.cross_encoder import STRETCH

log = logging.getLogger(__name__)
Scorer = Callable[[IntArray, IntArray], FloatArray]
"""(query indices, passage indices) → the pairwise teacher's scores"""


def open_pairs(profile: Profile, collection: Collection, load_scorer: Callable[[], Scorer]) -> Pairs:
    """The pair table of the training queries, memory-mapped; made once.

    A collection may come with a file of pairs, with or without scores; otherwise they are made here. Other scores are
    the shipped ones, by digests of the texts, and for changed texts those of the teacher that `load_scorer` loads.
    """
    scored = pairs_are_scored(profile)

    def make(folder: Path) -> None:
        train, path = collection.sets["train"].queries, published_pairs(profile)
        if not scored:  # first, so that a teacher that cannot be loaded is reported early
            score = _shipped_first(profile, collection, lambda: in_parts(load_scorer(), folder))
        margins = None
        if path is None:
            positives = some(collection.relevant("train"), profile.pairing.positives)
            query, pos, neg = every_pair(positives, negatives(profile, collection))
        else:
            partial = profile.reduction is not None
            query, pos, neg, margins, left_out = read_pairs(path, train.ids, collection.passages.ids, partial)
            log.info("%s: %d pairs; %d more are of queries or passages left out", path.name, len(query), left_out)
        if not len(query):
            raise ValueError(
                "there are no training pairs: for no training query does BM25 find a passage that is not relevant; "
                "raise `pairing.depth`, or add a file of pairs"
            )
        if margins is None:
            margins = margins_by(score, query, pos, neg)
        store.save_arrays(folder, **Pairs.sort(len(train.ids), query, pos, neg, margins)._asdict())
        for part in folder.glob("scored-*.npy"):
            part.unlink()

    inputs = {"collection": collection.digest}
    scores = profile.artefacts_folder / "scores" / "scores.parquet"
    if scores.is_file():
        inputs["scores"] = store.digest(scores)
    if not isinstance(profile.source, DocsSource):  # a file of pairs is one of the source's files
        inputs["source"] = store.digest(store.provenance(collection.folder)["inputs"])
    parameters: dict[str, Any] = {**profile.pairing.model_dump(exclude_none=True), **profile.negatives.model_dump()}
    if not scored:
        parameters["tokens"] = profile.tokens.model_dump()
        if shipped.has(profile, "cat"):
            inputs["cross_encoder"] = pretrained.digest(profile, shipped.model(profile, "cat"))
    folder = store.Store(profile.folder).artefact("pairs", parameters, inputs, make)
    return Pairs(**{name: store.load_array(folder / f"{name}.npy") for name in Pairs._fields})


def negatives(profile: Profile, collection: Collection) -> list[IntArray]:
    """For each training query, non-relevant passages: those of the shipped scores, else some of BM25's top ones.

    BM25's are sampled without replacement, for queries with fewer than `pairing.negatives` shipped ones. Passages that
    answer a held-out query are left out: training would see them as negatives only.
    """
    pairing, texts = profile.pairing, collection.sets["train"].queries.texts
    inputs, scores = {"collection": collection.digest}, profile.artefacts_folder / "scores" / "scores.parquet"
    if scores.is_file():
        inputs["scores"] = store.digest(scores)

    def make(folder: Path) -> None:
        lists = _shipped_negatives(profile, collection) if scores.is_file() else [np.arange(0)] * len(texts)
        banned = [np.union1d(collection.barred, relevant) for relevant in collection.relevant("train")]
        lists = [own[~np.isin(own, out)] for own, out in zip(lists, banned, strict=True)]
        few = [query for query, own in enumerate(lists) if len(own) < pairing.negatives]
        bm25 = Bm25Index(collection.passages.texts, profile.negatives)
        ranked, _ = bm25.search([texts[query] for query in few], pairing.depth)
        for query, passages in zip(few, ranked, strict=True):
            usable = passages[(passages >= 0) & ~np.isin(passages, banned[query])]
            n = min(pairing.negatives, len(usable))
            lists[query] = Generator(Philox(key=[0, query])).choice(usable, n, replace=False)
        table = np.full((len(lists), max(map(len, lists), default=0)), -1, np.int32)
        for row, own in zip(table, lists, strict=True):
            row[: len(own)] = own
        store.save_arrays(folder, negatives=table)

    parameters = {**pairing.model_dump(exclude={"positives"}), **profile.negatives.model_dump()}
    folder = store.Store(profile.folder).artefact("negatives", parameters, inputs, make)
    return [row[row >= 0].astype(np.int64) for row in store.load_array(folder / "negatives.npy")]


def _shipped_negatives(profile: Profile, collection: Collection) -> list[IntArray]:
    """The passages of every training query that the shipped scores pair it with, its relevant ones among them."""
    path = shipped.folder(profile, "scores") / "scores.parquet"
    keys = (shipped.text_keys(texts) for texts in (collection.sets["train"].queries.texts, collection.passages.texts))
    query, passage = shipped.scored_pairs(path, *keys)
    return np.split(passage, np.searchsorted(query, np.arange(1, len(collection.sets["train"].queries.ids))))


def some(positives: list[IntArray], most: int | None) -> list[IntArray]:
    """At most `most` of each query's positives, sampled by the query's index and in their order; all of them for None.

    >>> [len(rows) for rows in some([np.arange(9), np.arange(2)], 5)]
    [5, 2]
    """
    if most is None:
        return positives
    return [
        np.sort(Generator(Philox(key=[1, query])).choice(rows, most, replace=False)) if len(rows) > most else rows
        for query, rows in enumerate(positives)
    ]


def every_pair(positives: list[IntArray], negatives: list[IntArray]) -> tuple[IntArray, IntArray, IntArray]:
    """Every positive of a query with each of its negatives: indices (N,) of queries, positives and negatives.

    >>> every_pair([np.array([7])], [np.array([1, 2])])
    (array([0, 0]), array([7, 7]), array([1, 2]))
    """
    parts = [
        (np.full(len(pos) * len(neg), query), np.repeat(pos, len(neg)), np.tile(neg, len(pos)))
        for query, (pos, neg) in enumerate(zip(positives, negatives, strict=True))
    ]
    query, pos, neg = (np.concatenate([part[side] for part in parts]) for side in range(3))
    return query, pos, neg


def margins_by(score: Scorer, query: IntArray, pos: IntArray, neg: IntArray) -> FloatArray:
    """The margins (N,) of pairs; each distinct (query, passage) is scored once.

    >>> margins_by(lambda q, p: 10.0 * q + p, np.array([1, 1]), np.array([7, 7]), np.array([2, 3]))
    array([5., 4.], dtype=float32)
    """
    width = 1 + max(pos.max(initial=0), neg.max(initial=0)).astype(np.int64)
    distinct, inverse = np.unique(np.concatenate([query * width + pos, query * width + neg]), return_inverse=True)
    scores = score(*np.divmod(distinct, width))
    return (scores[inverse[: len(query)]] - scores[inverse[len(query) :]]).astype(np.float32)


def in_parts(score: Scorer, folder: Path, size: int = 2 * STRETCH) -> Scorer:
    """The same scorer, which stores every `size` scores in `folder`; after a kill, it reads what was stored."""

    def scored(query: IntArray, passage: IntArray) -> FloatArray:
        parts = []
        for start in range(0, len(query), size):
            path, these = folder / f"scored-{start}-{start + size}.npy", slice(start, start + size)
            if not path.exists():
                log.info("%d of %d pairs scored", start, len(query))
                store.save_arrays(folder, **{path.stem: score(query[these], passage[these])})
            parts.append(store.load_array(path))
        return np.concatenate(parts)

    return scored


def _shipped_first(profile: Profile, collection: Collection, load_scorer: Callable[[], Scorer]) -> Scorer:
    """The shipped scores, and the teacher's for pairs without one; the teacher's alone if no scores are shipped."""
    if not (isinstance(profile.source, DocsSource) or (profile.artefacts_folder / "scores").is_dir()):
        return load_scorer()
    look_up = shipped.read_scores(shipped.folder(profile, "scores") / "scores.parquet")
    queries = shipped.text_keys(collection.sets["train"].queries.texts)
    passages = shipped.text_keys(collection.passages.texts)

    def score(query: IntArray, passage: IntArray) -> FloatArray:
        scores = look_up(queries[query], passages[passage])
        missing = np.isnan(scores)
        if missing.any():
            log.info("%d of %d pairs are not among the shipped scores, scored now", missing.sum(), len(scores))
            scores[missing] = load_scorer()(query[missing], passage[missing])
        return scores

    return score
