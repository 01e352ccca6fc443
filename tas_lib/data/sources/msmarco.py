"""MS MARCO's passages with TREC-DL '19 and '20 (§4.1), through ir_datasets; and the published teacher scores.

`ir_datasets` fetches the files, checks their digests and mends the collection's encoding; they are read from where it
keeps them ($IR_DATASETS_HOME, or .ir_datasets in the home folder). The scores are kept beside them.
"""

import contextlib
import hashlib
import http.client
import io
import logging
import os
import textwrap
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tas_lib.config import MsMarcoSource
from tas_lib.data import store, trec
from tas_lib.data.entries import open_entries, read_entries
from tas_lib.data.triples import pair_blocks
from tas_lib.records import Qrels, QuerySet, Source, Texts

log = logging.getLogger(__name__)
NAME = "msmarco-passage"
TERMS = "http://www.msmarco.org/dataset.aspx"
COLLECTION = "31644046b18952c1386cd4564ba2ae69"  # md5 of the archive that holds the passages
PARTS = {  # what ir_datasets fetches: the name in its list of downloads → what it keeps of it
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
TRIES = 5  # of one address, each going on where the last broke off
BLOCK = 1 << 20


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
    """A file that the profile needs: where it comes from and goes to, how large it is, whether that is done."""

    url: str
    path: Path
    size: int
    there: bool

    def __str__(self) -> str:
        """As a sentence names it."""
        return f"{self.path.name} ({max(self.size / 1e6, 0.1):,.1f} MB)"


def downloads(settings: MsMarcoSource) -> list[Download]:
    """All that is fetched for this source, found out without a connection."""
    from ir_datasets.util import DownloadConfig  # not above: it makes a folder in the home folder

    listed, home = DownloadConfig.contents()[NAME], _home()
    found = []
    for part, kept in PARTS.items():
        note = listed[part]
        path = home / note.get("cache_path", kept[0])
        there = path.is_file() or all((home / name).is_file() for name in kept)
        found.append(Download(note["url"], path, note["size_hint"], there))
    if settings.scores != "none":
        path = _scores_path(settings)
        found.append(Download(_urls(settings)[0], path, SCORES_SIZE, path.is_file()))
    return found


def inputs(settings: MsMarcoSource) -> dict[str, str]:
    """What the collection is made from, by the digests under which it is published."""
    return {NAME: COLLECTION} | ({} if settings.scores == "none" else {"scores": SCORES[settings.scores].md5})


def pairs(settings: MsMarcoSource) -> Path | None:
    """The file of teacher scores, fetched if it is not there; None where the profile wants none."""
    if settings.scores == "none":
        return None
    return fetch(_urls(settings), _scores_path(settings), SCORES[settings.scores].md5)


def read(settings: MsMarcoSource) -> Source:
    """The collection with its sets; whatever could not be fetched, or is cut off, is one ValueError."""
    collection = _file(settings, NAME, "docs_path")
    ids, entries = open_entries(collection)
    _count(collection, "passages", len(ids), settings.passages)
    sets = {}
    for name, part in SETS.items():
        sets[name] = _judged(settings, name, part)
        wanted = {"dev": settings.dev, "dl19": settings.dl19, "dl20": settings.dl20}[name]
        _count(_file(settings, f"{NAME}/{part}", "qrels_path"), "judged queries", len(sets[name].qrels), wanted)
    rest = _without(_judged(settings, "stop", "dev"), set(sets["dev"].qrels))
    order = sorted(rest.queries.ids, key=lambda query: store.digest(settings.seed, query))
    sets["stop"] = _without(rest, set(order[: settings.tune_queries]))
    sets["tune"] = _without(rest, set(order[settings.tune_queries :]))._replace(name="tune")
    train = _judged(settings, "train", "train")
    n_judged, n_pairs = len(train.qrels), 0
    if scores := pairs(settings):
        paired: set[str] = set()
        for queries, n in pair_blocks(scores, lambda block: (block.query.unique(), len(block.query))):
            paired.update(queries.to_pylist())
            n_pairs += n
        train = _without(train, set(train.qrels) - paired)
    sets["train"] = train
    report = {
        "read": {"passages": len(ids), "pairs": n_pairs},
        "dropped": {"a training query without a pair": n_judged - len(train.qrels)},
    }
    return Source(Texts(ids, entries.map(lambda entry: entry.text)), ids, sets, np.array([], np.int64), report)


def _judged(settings: MsMarcoSource, name: str, part: str) -> QuerySet:
    """The queries of a part that have judgements, in the order of its file."""
    qrels = trec.read_qrels(_file(settings, f"{NAME}/{part}", "qrels_path"))
    path = _file(settings, f"{NAME}/{part}", "queries_path")
    texts = {entry.id: entry.text for entry in read_entries(path) if entry.id in qrels}
    if missing := [query for query in qrels if query not in texts]:
        raise ValueError(f"{path} is cut off: {len(missing)} judged queries are not in it, {missing[0]} among them")
    return _of(name, texts, qrels)


def _of(name: str, texts: Mapping[str, str], qrels: Qrels) -> QuerySet:
    return QuerySet(name, Texts([*texts], [*texts.values()]), {query: qrels[query] for query in texts})


def _without(queries: QuerySet, left_out: set[str]) -> QuerySet:
    texts = {q: text for q, text in zip(*queries.queries, strict=True) if q not in left_out}
    return _of(queries.name, texts, queries.qrels)


def _count(path: Path, what: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise ValueError(f"{path} has {found:,} {what}, as published it has {wanted:,}: cut off or changed")


def _home() -> Path:
    """Where ir_datasets keeps what belongs to MS MARCO."""
    return Path(os.environ.get("IR_DATASETS_HOME", Path.home() / ".ir_datasets")) / NAME


def _file(settings: MsMarcoSource, dataset: str, kind: str) -> Path:
    """A file of a dataset where ir_datasets keeps it, fetched if need be: `docs_path`, `queries_path`, `qrels_path`."""
    import ir_datasets

    missing = [d for d in downloads(settings)[: len(PARTS)] if not d.there]
    if missing:
        log.info("MS MARCO is fetched to %s; its terms of use: %s", _home(), TERMS)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars and log lines of its own
            path: Callable[[], Path] = getattr(ir_datasets.load(dataset), kind)
            return Path(path())
    except Exception as error:  # requests, tarfile and ir_datasets raise their own kinds
        why = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
        lacking = f"; not there yet: {', '.join(map(str, missing))}" if missing else ""
        raise ValueError(f"{dataset} could not be fetched to {_home()} ({why}){lacking}") from error


# --- teacher scores ----------------------------------------------------------------------------------------------


def _scores_path(settings: MsMarcoSource) -> Path:
    return _home() / "train" / SCORES[settings.scores].file


def _urls(settings: MsMarcoSource) -> list[str]:
    return [url.format(file=SCORES[settings.scores].file) for url in settings.urls]


def fetch(urls: Sequence[str], path: Path, md5: str) -> Path:
    """The file at `path`, from the first address that gives it whole; what was cut off goes on where it ended.

    Until its md5 is right it is called `<name>.part`. ValueError says what could not be fetched, why, and where it
    would go; and of a file that stands there already, that it is not the one.
    """
    if path.exists():
        if _md5(path) != md5:
            raise ValueError(f"{path} is not the published file (md5 {md5}): cut off or changed; remove it")
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    reasons = []
    for url in urls:
        log.info("fetching %s to %s", url, path)
        for _ in range(TRIES):
            before = part.stat().st_size if part.exists() else 0
            try:
                _go_on(url, part, before)
            except (OSError, http.client.HTTPException) as error:
                reasons.append(f"{url}: {error}")
                if part.exists() and part.stat().st_size > before:
                    continue  # it got further: once more from there
                break
            if _md5(part) == md5:
                os.replace(part, path)
                return path
            part.unlink()
            reasons.append(f"{url}: the file there has another md5 than {md5}")
            if not before:
                break  # not for what another address had begun
    raise ValueError(f"could not fetch {path.name}, which goes to {path.parent} ({'; '.join(dict.fromkeys(reasons))})")


def _go_on(url: str, part: Path, start: int) -> None:
    """Fetch the rest of a file from byte `start`, or all of it where the server cannot; OSError if it breaks off."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            resumed = answer.status == 206
            total = int(answer.headers.get("Content-Length", -1)) + (start if resumed else 0)
            with open(part, "ab" if resumed else "wb") as f:
                while block := answer.read(BLOCK):
                    f.write(block)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # nothing is left to fetch
            return
        raise
    if part.stat().st_size < total:
        raise OSError(f"broke off after {part.stat().st_size:,} of {total:,} bytes")


def _md5(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "md5").hexdigest()
