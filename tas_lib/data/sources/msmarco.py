"""MS MARCO's passages with TREC-DL '19 and '20 (§4.1) and the published teacher scores, by way of ir_datasets.

`ir_datasets` downloads the files, checks their digests and repairs the collection's encoding; they are read from its
folder ($IR_DATASETS_HOME, or .ir_datasets in the home folder). The scores are kept beside them.
"""

import contextlib
import hashlib
import io
import logging
import os
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.random import Generator, Philox
from numpy.typing import NDArray

from tas_lib.config import MsMarcoSource, Reduction
from tas_lib.data import formats, store
from tas_lib.data.formats import Entry, read_entries
from tas_lib.data.pair_files import FilePairs, read_pairs
from tas_lib.data.texts import PASSAGES, Rows, open_passages, write_passages
from tas_lib.records import IntArray, QuerySet, Source

log = logging.getLogger(__name__)
NAME = "msmarco-passage"
TERMS = "http://www.msmarco.org/dataset.aspx"
COLLECTION = "31644046b18952c1386cd4564ba2ae69"  # md5 of the archive that holds the passages
PARTS = {  # the name of a file in ir_datasets' list of downloads → what it keeps of it
    "collectionandqueries": ("collection.tsv", "dev/small/queries.tsv", "dev/small/qrels"),
    "queries": ("train/queries.tsv", "dev/queries.tsv"),
    "train/qrels": ("train/qrels",),
    "dev/qrels": ("dev/qrels",),
    "trec-dl-2019/queries": ("trec-dl-2019/queries.tsv",),
    "trec-dl-2019/qrels": ("trec-dl-2019/qrels",),
    "trec-dl-2020/queries": ("trec-dl-2020/queries.tsv.gz",),
    "trec-dl-2020/qrels": ("trec-dl-2020/qrels",),
}
SETS = {"dev": "dev/small", "dl19": "trec-dl-2019", "dl20": "trec-dl-2020"}
CANDIDATES = {f"{part}/scoreddocs": (f"{part}/ms.run",) for part in ("dev", "trec-dl-2019", "trec-dl-2020")}


class Scores(NamedTuple):
    """A file of teacher scores on Zenodo, record 4068216: five columns, positive's and negative's score first."""

    file: str
    md5: str


SCORES = {
    "t2": Scores("bert_cat_ensemble_msmarcopassage_train_scores_ids.tsv", "4d99696386f96a7f1631076bcc53ac3c"),
    "t1": Scores("bertbase_cat_msmarcopassage_train_scores_ids.tsv", "a2575af08a19b47c2041e67c9efcd917"),
}
SCORES_SIZE = 2_400_000_000  # about: 39.78M lines of some 60 bytes


class Download(NamedTuple):
    """A file that the profile needs: its address, path and size, and whether it is there."""

    url: str
    path: Path
    size: int
    there: bool

    def __str__(self) -> str:
        """Its name and size."""
        return f"{self.path.name} ({max(self.size / 1e6, 0.1):,.1f} MB)"


def downloads(settings: MsMarcoSource) -> list[Download]:
    """Every file that this source downloads; needs no connection."""
    from ir_datasets.util import DownloadConfig  # not above: it makes a folder in the home folder

    listed, home = DownloadConfig.contents()[NAME], _home()
    files = []
    for part, kept in _parts(settings).items():
        note = listed[part]
        path = home / note.get("cache_path", kept[0])
        there = path.is_file() or all((home / name).is_file() for name in kept)
        files.append(Download(note["url"], path, note["size_hint"], there))
    if settings.scores != "none":
        path = _scores_path(settings)
        files.append(Download(_urls(settings)[0], path, SCORES_SIZE, path.is_file()))
    return files


def _parts(settings: MsMarcoSource) -> dict[str, tuple[str, ...]]:
    """What ir_datasets downloads; the candidates of test queries only if a reduction keeps some."""
    return PARTS | (CANDIDATES if settings.reduce and settings.reduce.candidates else {})


def inputs(settings: MsMarcoSource) -> dict[str, str]:
    """What the collection is made from, by the digests under which it is published."""
    return {NAME: COLLECTION} | ({} if settings.scores == "none" else {"scores": SCORES[settings.scores].md5})


def pairs(settings: MsMarcoSource) -> Path | None:
    """The file of teacher scores, downloaded if it is missing; None if the profile uses none."""
    if settings.scores == "none":
        return None
    return fetch(_urls(settings), _scores_path(settings), SCORES[settings.scores].md5)


def read(settings: MsMarcoSource, folder: Path) -> Source:
    """The collection with its sets; its passages are copied to `folder`. ValueError says what is missing or cut off."""
    path, reduce = _file(settings, NAME, "docs_path"), settings.reduce
    if reduce:  # texts are read again when it is known which are kept
        ids: Sequence[str] = [entry.id for entry in _passages(path, settings.passages)]
    else:
        write_passages(folder / PASSAGES, _passages(path, settings.passages))
        ids = open_passages(folder / PASSAGES)[0].ids
    sets = {}
    for name, part in SETS.items():
        sets[name] = _judged(settings, name, part)
        file = _file(settings, f"{NAME}/{part}", "qrels_path")
        _count(file, "judged queries", len(sets[name].qrels), getattr(settings, name))
    held_out = _judged(settings, "stop", "dev")
    rest = _shuffled(settings, (query for query in held_out.queries.ids if query not in sets["dev"].qrels))
    last = settings.tune_queries + reduce.stop if reduce else None
    sets["stop"] = held_out.only({*rest[settings.tune_queries : last]})
    sets["tune"] = held_out.only({*rest[: settings.tune_queries]}, "tune")
    train = _judged(settings, "train", "train")
    n_pairs, kept = 0, set(train.queries.ids)
    triples: FilePairs | None = None
    if scores := pairs(settings):
        triples = read_pairs(scores, train.queries.ids, ids)
        n_pairs = len(triples.query) + triples.left_out
        kept = {train.queries.ids[index] for index in np.unique(triples.query)}
    report = {
        "read": {"passages": len(ids), "pairs": n_pairs},
        "dropped": {"a training query without a pair": len(train.qrels) - len(kept)},
    }
    if reduce:
        sets["dev"] = sets["dev"].only({*_shuffled(settings, sets["dev"].queries.ids)[: reduce.dev]})
        kept = {*_shuffled(settings, kept)[: reduce.train]}
    sets["train"] = train.only(kept)
    if reduce:
        chosen = np.array([query in kept for query in train.queries.ids])
        mask, report["kept"] = _reduced(settings, reduce, sets, ids, triples, chosen)
        texts = _passages(path, settings.passages)
        write_passages(folder / PASSAGES, (entry for entry, keep in zip(texts, mask, strict=True) if keep))
    passages, titles = open_passages(folder / PASSAGES)
    return Source(passages, titles, sets, np.array([], np.int64), report)


def _reduced(
    settings: MsMarcoSource,
    reduce: Reduction,
    sets: Mapping[str, QuerySet],
    ids: Sequence[str],
    triples: FilePairs | None,
    chosen: NDArray[np.bool_],
) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """(P,) whether a passage is kept, and how many for each reason; chosen: (Q,) whether a query of a triple is."""
    row, keep, rng = Rows(ids), np.zeros(len(ids), bool), Generator(Philox(key=[settings.seed, 0]))
    counts: dict[str, int] = {}

    def add(reason: str, indices: IntArray) -> None:
        before = np.count_nonzero(keep)
        keep[indices[indices >= 0]] = True
        counts[reason] = int(np.count_nonzero(keep) - before)

    add("judged", row.of([p for of_set in sets.values() for grades in of_set.qrels.values() for p in grades]))
    for name, part in SETS.items() if reduce.candidates else ():
        add(f"candidates of {name}", row.of(_candidates(settings, part, sets[name].qrels, reduce.candidates)))
    if triples is not None:
        order = rng.permutation(np.flatnonzero(chosen[triples.query]))
        order = order[np.argsort(triples.query[order], kind="stable")]  # by query, in random order
        _, starts, sizes = np.unique(triples.query[order], return_index=True, return_counts=True)
        some = order[np.arange(len(order)) - np.repeat(starts, sizes) < reduce.negatives]
        add("in a pair", np.concatenate([triples.pos[some], triples.neg[some]]))
    needed = np.count_nonzero(keep)
    if not needed <= reduce.passages <= len(ids):
        raise ValueError(f"source.reduce.passages is {reduce.passages:,}, but {needed:,} of {len(ids):,} are needed")
    add("at random", rng.choice(np.flatnonzero(~keep), reduce.passages - needed, replace=False))
    return keep, counts


def _candidates(settings: MsMarcoSource, part: str, queries: Collection[str], most: int) -> list[str]:
    """Passages published for re-ranking, BM25's first 1,000 of each query in random order; the first `most` of each."""
    left = dict.fromkeys(queries, most)
    found = []
    for _, line in formats.lines(_file(settings, f"{NAME}/{part}", "scoreddocs_path")):
        query, passage = line.split()[:2]
        if left.get(query):
            left[query] -= 1
            found.append(passage)
    return found


def _shuffled(settings: MsMarcoSource, queries: Iterable[str]) -> list[str]:
    """Queries in an order that depends on the seed and on nothing else."""
    return sorted(queries, key=lambda query: store.digest(settings.seed, query))


def _passages(path: Path, published: int) -> Iterator[Entry]:
    """The passages, with their ids as titles; ValueError at the end if there are not as many as were published."""
    n = 0
    for n, (id, _, text) in enumerate(read_entries(path), 1):  # noqa: B007
        yield Entry(id, id, text)
    _count(path, "passages", n, published)


def _judged(settings: MsMarcoSource, name: str, part: str) -> QuerySet:
    """The queries of a part that have judgements."""
    paths = (_file(settings, f"{NAME}/{part}", kind) for kind in ("queries_path", "qrels_path"))
    return formats.read_set(name, *paths)


def _count(path: Path, what: str, n: int, published: int) -> None:
    if n != published:
        raise ValueError(f"{path} has {n:,} {what}, as published it has {published:,}: cut off or changed")


# --- downloads ---------------------------------------------------------------------------------------------------


def _home() -> Path:
    """Where ir_datasets keeps MS MARCO."""
    return Path(os.environ.get("IR_DATASETS_HOME", Path.home() / ".ir_datasets")) / NAME


def _file(settings: MsMarcoSource, dataset: str, kind: str) -> Path:
    """A file of a dataset, downloaded by ir_datasets if necessary: `docs_path`, `queries_path`, `qrels_path`."""
    import ir_datasets

    missing = [d for d in downloads(settings)[: len(_parts(settings))] if not d.there]
    if missing:
        log.info("MS MARCO is fetched to %s; its terms of use: %s", _home(), TERMS)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its own progress bars and log lines
            path: Callable[[], Path] = getattr(ir_datasets.load(dataset), kind)
            return Path(path())
    except Exception as error:  # requests, tarfile and ir_datasets raise their own errors
        lacking = f"; still missing: {', '.join(map(str, missing))}" if missing else ""
        raise ValueError(f"{dataset} could not be fetched to {_home()} ({_why(error)}){lacking}") from error


def _why(error: Exception) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {error}", 200)


def _scores_path(settings: MsMarcoSource) -> Path:
    return _home() / "train" / SCORES[settings.scores].file


def _urls(settings: MsMarcoSource) -> list[str]:
    return [url.format(file=SCORES[settings.scores].file) for url in settings.urls]


def fetch(urls: Sequence[str], path: Path, md5: str) -> Path:
    """The file at `path`, downloaded from the first address that gives it whole.

    ir_datasets resumes a broken connection, not a killed process. A file that is there already must have this md5.
    """
    from ir_datasets.util import Download as Fetcher
    from ir_datasets.util import RequestsDownload

    if path.exists():
        with open(path, "rb") as f:
            if hashlib.file_digest(f, "md5").hexdigest() != md5:
                raise ValueError(f"{path} is not the published file (md5 {md5}): cut off or changed; remove it")
        return path
    reasons = []
    for url in urls:
        log.info("fetching %s to %s", url, path)
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                return Path(Fetcher([RequestsDownload(url)], path, md5).path())
        except Exception as error:
            reasons.append(f"{url}: {_why(error)}")
    raise ValueError(f"could not fetch {path.name}, which goes to {path.parent} ({'; '.join(reasons)})")
