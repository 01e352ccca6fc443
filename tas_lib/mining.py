"""Training pairs: every query's relevant passages against BM25's negatives, with the pairwise teacher's margins."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.random import Generator, Philox

from tas_lib import shipped, store
from tas_lib.collection import Collection
from tas_lib.profile import Profile
from tas_lib.records import FloatArray, IntArray, Pairs
from tas_lib.search import Bm25Index

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
        "negatives", {**pairing.model_dump(), **profile.negatives.model_dump()}, {"collection": collection.digest}, make
    )
    return [row[row >= 0].astype(np.int64) for row in store.load_array(place / "negatives.npy")]


def open_pairs(profile: Profile, collection: Collection, score: Scorer) -> Pairs:
    """The pair table of the training queries, memory-mapped; made once.

    Scores come from the shipped file, by digests of the two texts; pairs that it does not know (a text has changed)
    are scored by `score`, and the log says how many.
    """
    source = shipped.folder(profile, "scores") / "scores.parquet"

    def make(folder: Path) -> None:
        query, pos, neg = pair_rows(collection.relevant("train"), negatives(profile, collection))
        keys = shipped.text_keys(collection.sets["train"].queries.texts), shipped.text_keys(collection.passages.texts)
        known = shipped.read_scores(source)
        asked = np.unique(np.concatenate([np.stack([query, pos], 1), np.stack([query, neg], 1)]), axis=0)
        scores = known(keys[0][asked[:, 0]], keys[1][asked[:, 1]])
        lacking = np.isnan(scores)
        if lacking.any():
            log.info("%d of %d pairs are not among the shipped scores, scored now", lacking.sum(), len(asked))
            scores[lacking] = score(asked[lacking, 0], asked[lacking, 1])
        width = len(collection.passages.ids)
        place = asked[:, 0] * width + asked[:, 1]
        margins = [scores[np.searchsorted(place, query * width + side)] for side in (pos, neg)]
        table = Pairs.sort(len(keys[0]), query, pos, neg, (margins[0] - margins[1]).astype(np.float32))
        store.save_arrays(folder, **table._asdict())

    inputs = {"collection": collection.digest, "scores": store.digest(source)}
    place = store.Store(profile.folder).artefact(
        "pairs", {**profile.pairing.model_dump(), **profile.negatives.model_dump()}, inputs, make
    )
    return Pairs(**{name: store.load_array(place / f"{name}.npy") for name in Pairs._fields})


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
