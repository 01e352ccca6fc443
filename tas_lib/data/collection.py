"""A collection on disk: texts and judgements, made once from a source and memory-mapped from then on."""

import logging
import math
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tas_lib.config import ROOT, DocsSource, LocalSource, MsMarcoSource, Profile
from tas_lib.data import store, versions
from tas_lib.data.pair_files import pair_lines
from tas_lib.data.sources import docs, local, msmarco
from tas_lib.data.texts import PASSAGES, Rows, open_passages, write_passages
from tas_lib.records import IntArray, Named, QuerySet, Source, Texts

log = logging.getLogger(__name__)


class Collection:
    """Passages and query sets of one profile."""

    def __init__(self, folder: Path) -> None:
        """Open the artefact `collection`."""
        self.folder = folder
        self.digest = store.digest_of(folder)
        self.passages, self.titles = open_passages(folder / PASSAGES)
        paths = sorted((folder / "queries").glob("*.parquet"))
        self.sets = Named({path.stem: _read_set(path) for path in paths}, "query set")
        self.barred: IntArray = np.array(store.load_array(folder / "barred.npy"))
        self.report: dict[str, dict[str, int]] = store.read_json(folder / "report.json")

    @cached_property
    def row(self) -> Rows:
        """Passage id → index."""
        return Rows(self.passages.ids)

    def relevant(self, name: str, grade: int = 1) -> list[IntArray]:
        """For each query of a set, the indices of its passages judged `grade` or higher."""
        ids, _ = self.sets[name].queries
        judged = [[p for p, g in self.sets[name].qrels[query].items() if g >= grade] for query in ids]
        indices = self.row.of([p for passages in judged for p in passages]).astype(np.int64)
        ends = np.cumsum([len(passages) for passages in judged])
        return [of_one[of_one >= 0] for of_one in np.split(indices, ends[:-1])] if judged else []


def open_collection(profile: Profile) -> Collection:
    """The collection of a profile, made from its source if it is not in the store."""
    settings = profile.source
    inputs, read = _source(profile)
    collection = Collection(
        store.Store(profile.folder).artefact(
            "collection", settings.model_dump(), inputs, lambda folder: write(read(folder), folder)
        )
    )
    if "train" not in collection.sets:
        log.warning("profile %s has %s", profile.name, local.NO_TRAINING)
    return collection


def _source(profile: Profile) -> tuple[dict[str, str], Callable[[Path], Source]]:
    """The digests of what a collection is made from, and the function that reads it into a folder."""
    settings = profile.source
    if isinstance(settings, LocalSource):
        return local.inputs(settings), partial(local.read, settings)
    if not isinstance(settings, DocsSource):
        return msmarco.inputs(settings), partial(msmarco.read, settings)
    if others := versions.off_pins(settings.packages, ROOT / "requirements.txt"):
        log.warning(
            "versions differ from the pins in requirements.txt: %s; their texts are used as they are, and the shipped "
            "model scores what is not among the shipped scores",
            ", ".join(others),
        )
    digests = {
        "packages": store.digest(versions.installed(settings.packages)),
        "opened": store.digest(sorted(docs.opened(settings))),
    }
    return digests, lambda _: docs.read(settings)


def published_pairs(profile: Profile) -> Path | None:
    """The file of training pairs that a collection comes with, downloaded if necessary; or None."""
    settings = profile.source
    if isinstance(settings, LocalSource):
        return local.files(settings).pairs
    return None if isinstance(settings, DocsSource) else msmarco.pairs(settings)


def pairs_are_scored(profile: Profile) -> bool:
    """Whether a collection comes with training pairs that have scores."""
    if isinstance(profile.source, MsMarcoSource):  # not downloaded for this
        return profile.source.scores != "none"
    path = published_pairs(profile)
    return path is not None and not math.isnan(next(pair_lines(path))[1][-1])


def write(source: Source, folder: Path) -> None:
    """Write a source as Arrow (passages), parquet (queries), npy and JSON; equal sources give equal bytes."""
    write_passages(folder / PASSAGES, zip(source.passages.ids, source.titles, source.passages.texts, strict=True))
    (folder / "queries").mkdir(exist_ok=True)
    for name, queries in source.sets.items():
        qrels = [[{"id": p, "grade": g} for p, g in queries.qrels[q].items()] for q in queries.queries.ids]
        columns: dict[str, Sequence] = {"id": queries.queries.ids, "text": queries.queries.texts, "qrels": qrels}
        if queries.families:
            columns["family"] = [queries.families[q] for q in queries.queries.ids]
        pq.write_table(pa.table(columns), folder / "queries" / f"{name}.parquet")
    store.save_arrays(folder, barred=np.asarray(source.barred))
    store.write_json(folder / "report.json", source.report)


def _read_set(path: Path) -> QuerySet:
    table = pq.read_table(path)
    ids = table["id"].to_pylist()
    judged = table["qrels"].to_pylist()
    qrels = {query: {j["id"]: j["grade"] for j in grades} for query, grades in zip(ids, judged, strict=True)}
    families = dict(zip(ids, table["family"].to_pylist(), strict=True)) if "family" in table.column_names else {}
    return QuerySet(path.stem, Texts(ids, table["text"].to_pylist()), qrels, families)
