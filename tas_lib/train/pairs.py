"""Training pairs: every query's relevant passages against BM25's negatives, with the pairwise teacher's margins."""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.random import Generator, Philox

from tas_lib.config import DocsSource, Profile, located
from tas_lib.data import shipped, store
from tas_lib.data.collection import Collection, published_pairs
from tas_lib.data.pair_files import pair_lines, read_pairs
from tas_lib.records import FloatArray, IntArray, Pairs
from tas_lib.retrieval.bm25 import Bm25Index

log = logging.getLogger(__name__)
Scorer = Callable[[IntArray, IntArray], FloatArray]
"""(query rows, passage rows) → pairwise teacher's scores"""


def open_bm25(profile: Profile, collection: Collection) -> Bm25Index:
    """The BM25 that training negatives come from; indexing is quicker than reading an index."""
    return Bm25Index(collection.passages.texts, profile.negatives)


def negatives(profile: Profile, collection: Collection) -> list[IntArray]:
    """For each training query, rows of non-relevant passages drawn without replacement from BM25's first ones.

    Passages that answer a held-out query are left out: they would be seen as negatives only.
    """
    pairing = profile.pairing
    barred = np.zeros(len(collection.passages.ids), bool)
    barred[collection.barred] = True

    def make(folder: Path) -> None:
        found, _ = open_bm25(profile, collection).search(collection.sets["train"].queries.texts, pairing.depth)
        drawn = np.full((len(found), pairing.negatives), -1, np.int32)
        for query, (rows, relevant) in enumerate(zip(found, collection.relevant("train"), strict=True)):
            usable = rows[(rows >= 0) & ~barred[rows] & ~np.isin(rows, relevant)]
            rng = Generator(Philox(key=[0, query]))
            chosen = rng.choice(usable, min(pairing.negatives, len(usable)), replace=False)
            drawn[query, : len(chosen)] = chosen
        store.save_arrays(folder, negatives=drawn)

    place = store.Store(profile.folder).artefact(
        "negatives",
        {**pairing.model_dump(exclude={"positives"}), **profile.negatives.model_dump()},
        {"collection": collection.digest},
        make,
    )
    return [row[row >= 0].astype(np.int64) for row in store.load_array(place / "negatives.npy")]


def open_pairs(profile: Profile, collection: Collection, scorer: Callable[[], Scorer]) -> Pairs:
    """The pair table of the training queries, memory-mapped; made once.

    Pairs are the published ones where the collection comes with a file of them, else mined. Their scores stand in that
    file, or are shipped, by digests of the two texts; all others (a text has changed) come from the teacher that
    `scorer` loads, and the log says how many.
    """
    known = None
    if isinstance(profile.source, DocsSource) or (profile.artefacts_folder / "scores").is_dir():
        known = shipped.folder(profile, "scores") / "scores.parquet"

    def make(folder: Path) -> None:
        train, path = collection.sets["train"].queries, published_pairs(profile)
        scored = path is not None and not math.isnan(next(pair_lines(path))[-1])
        if not scored:  # first of all: a teacher that cannot be loaded is told at once
            score = _known_first(known, scorer, train.texts, collection.passages.texts) if known else scorer()
        margins = None
        if path is None:
            positives = some(collection.relevant("train"), profile.pairing.positives)
            query, pos, neg = pair_rows(positives, negatives(profile, collection))
        else:
            query, pos, neg, margins, left_out = read_pairs(path, train.ids, collection.passages.ids)
            log.info("%s: %d pairs; %d more are of queries held out", path.name, len(query), left_out)
        if margins is None:
            margins = margins_by(score, query, pos, neg)
        store.save_arrays(folder, **Pairs.sort(len(train.ids), query, pos, neg, margins)._asdict())

    place = store.Store(profile.folder).artefact(
        "pairs",
        {**profile.pairing.model_dump(exclude_none=True), **profile.negatives.model_dump()},
        _inputs(profile, collection),
        make,
    )
    return Pairs(**{name: store.load_array(place / f"{name}.npy") for name in Pairs._fields})


def _inputs(profile: Profile, collection: Collection) -> dict[str, str]:
    """Digests of what pairs and their scores come from."""
    found = {"collection": collection.digest}
    known = profile.artefacts_folder / "scores" / "scores.parquet"
    if known.is_file():
        found["scores"] = store.digest(known)
    if not isinstance(profile.source, DocsSource):  # a file of pairs is one of the source's files
        found["source"] = store.digest(store.provenance(collection.folder)["inputs"])
    if profile.cross_encoder:
        found["cross_encoder"] = store.folder_digest(Path(located(profile.cross_encoder)))
    return found


def _known_first(known: Path, scorer: Callable[[], Scorer], queries: Sequence[str], passages: Sequence[str]) -> Scorer:
    """Shipped scores where there are any, the teacher's for the rest."""
    look_up = shipped.read_scores(known)
    keys = shipped.text_keys(queries), shipped.text_keys(passages)

    def score(query: IntArray, passage: IntArray) -> FloatArray:
        scores = look_up(keys[0][query], keys[1][passage])
        lacking = np.isnan(scores)
        if lacking.any():
            log.info("%d of %d pairs are not among the shipped scores, scored now", lacking.sum(), len(scores))
            scores[lacking] = scorer()(query[lacking], passage[lacking])
        return scores

    return score


def margins_by(score: Scorer, query: IntArray, pos: IntArray, neg: IntArray) -> FloatArray:
    """The margins (N,) of pairs; a (query, passage) that stands in several is scored once.

    >>> margins_by(lambda q, p: 10.0 * q + p, np.array([1, 1]), np.array([7, 7]), np.array([2, 3]))
    array([5., 4.], dtype=float32)
    """
    width = 1 + max(pos.max(initial=0), neg.max(initial=0)).astype(np.int64)
    asked, place = np.unique(np.concatenate([query * width + pos, query * width + neg]), return_inverse=True)
    scores = score(*np.divmod(asked, width))
    return (scores[place[: len(query)]] - scores[place[len(query) :]]).astype(np.float32)


def some(positives: list[IntArray], most: int | None) -> list[IntArray]:
    """At most so many of each query's positives, in their order, drawn by the query's row; all of them for None.

    >>> [len(rows) for rows in some([np.arange(9), np.arange(2)], 5)]
    [5, 2]
    """
    if most is None:
        return positives
    return [
        np.sort(Generator(Philox(key=[1, query])).choice(rows, most, replace=False)) if len(rows) > most else rows
        for query, rows in enumerate(positives)
    ]


def pair_rows(positives: list[IntArray], negatives: list[IntArray]) -> tuple[IntArray, IntArray, IntArray]:
    """Every positive of a query with every negative of it: rows (N,) of queries, positives and negatives.

    >>> pair_rows([np.array([7])], [np.array([1, 2])])
    (array([0, 0]), array([7, 7]), array([1, 2]))
    """
    parts = [
        (np.full(len(pos) * len(neg), query), np.repeat(pos, len(neg)), np.tile(neg, len(pos)))
        for query, (pos, neg) in enumerate(zip(positives, negatives, strict=True))
    ]
    query, pos, neg = (np.concatenate([part[side] for part in parts]) for side in range(3))
    return query, pos, neg
