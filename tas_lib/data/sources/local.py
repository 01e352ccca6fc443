"""A user's own collection: a folder of files in the layout of MS MARCO or of BEIR.

| | MS MARCO | BEIR |
|---|---|---|
| passages | `collection.tsv` | `corpus.jsonl`, title and text joined |
| queries | `queries.<set>.tsv` | `queries.jsonl` |
| judgements | `qrels.<set>.tsv` or `.txt` | `qrels/<set>.tsv` |
| training pairs (optional) | `pairs.tsv` | `pairs.tsv` |

Each file may be gzipped: `collection.tsv.gz`.

The set `train` is for training, `stop` for early stopping, `tune` for choosing settings; the latter two are sets of the
folder, or training queries held out. Every other set with judgements can be a test set of the profile.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tas_lib.config import LocalSource
from tas_lib.data import formats, store
from tas_lib.data.formats import Entry
from tas_lib.data.pair_files import pair_lines, read_pairs
from tas_lib.data.texts import PASSAGES, Rows, open_passages, write_passages
from tas_lib.records import QuerySet, Source, Texts

log = logging.getLogger(__name__)
LAYOUTS = (
    "MS MARCO's layout (collection.tsv, queries.<set>.tsv, qrels.<set>.tsv) or "
    "BEIR's (corpus.jsonl, queries.jsonl, qrels/<set>.tsv)"
)
NO_TRAINING = (
    "no training queries (a set `train`, or pairs.tsv with queries): only BM25, published checkpoints and run files "
    "can be rows of its tables, and a table of trained systems says `not run`"
)


class Files(NamedTuple):
    """What a folder holds: queries and judgements by set; `train` may have pairs in place of judgements."""

    passages: Path
    queries: dict[str, Path]
    qrels: dict[str, Path]
    pairs: Path | None


def files(settings: LocalSource) -> Files:
    """The files that make the collection, found by their names; ValueError says what is missing."""
    folder = settings.place
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: put a collection there, in {LAYOUTS}")
    beir = _plain_or_gz(folder / "corpus.jsonl")
    passages = [path for path in (_plain_or_gz(folder / "collection.tsv"), beir) if path.is_file()]
    if len(passages) != 1:
        raise ValueError(f"{folder} holds {'both' if passages else 'neither'} of two layouts; expected {LAYOUTS}")
    qrels: dict[str, Path] = {}
    for path in sorted((folder / "qrels").glob("*.tsv*") if passages[0] == beir else folder.glob("qrels.*")):
        name, ending = re.sub(r"\.gz$", "", path.name).removeprefix("qrels.").rpartition(".")[::2]
        if ending not in ("tsv", "txt") or qrels.setdefault(name, path) != path:
            raise ValueError(f"{path} is neither qrels.<set>.tsv nor .txt, or the set has two files")
    names = [*qrels, "train"]
    texts = {name: "queries.jsonl" if passages[0] == beir else f"queries.{name}.tsv" for name in names}
    queries = {name: _plain_or_gz(folder / file) for name, file in texts.items()}
    if not qrels:
        raise ValueError(f"{folder} holds no judgements; expected {LAYOUTS}")
    pairs = _plain_or_gz(folder / "pairs.tsv")
    return Files(passages[0], queries, qrels, pairs if pairs.is_file() else None)


def _plain_or_gz(path: Path) -> Path:
    """The file, or its gzipped version if only that exists."""
    packed = path.with_name(f"{path.name}.gz")
    return packed if packed.is_file() and not path.is_file() else path


def inputs(settings: LocalSource) -> dict[str, str]:
    """The digest of every file that the collection is made from."""
    paths = files(settings)
    used = {paths.passages, *(paths.queries[name] for name in paths.qrels), *paths.qrels.values()}
    if paths.pairs:
        used |= {paths.pairs, paths.queries["train"]}
    return {str(path.relative_to(settings.place)): store.digest(path) for path in sorted(used) if path.is_file()}


def read(settings: LocalSource, folder: Path) -> Source:
    """The collection with its sets; its passages are copied to `folder`."""
    paths = files(settings)
    write_passages(folder / PASSAGES, map(_titled, formats.read_entries(paths.passages)))
    passages, titles = open_passages(folder / PASSAGES)
    row = Rows(passages.ids)
    sets, report = {}, {"read": {"passages": len(row)}}
    unknown = {}
    for name, path in paths.qrels.items():
        sets[name] = formats.read_set(name, paths.queries[name], path)
        judged = [passage for grades in sets[name].qrels.values() for passage in grades]
        unknown[name] = sum(passage not in row for passage in judged)
        if unknown[name] == len(judged):
            raise ValueError(f"{path}: of its {len(judged)} judged passages, none is in {paths.passages.name}")
    if n := sum(unknown.values()):
        log.warning("%s: %d judged passages are not in the collection", settings.place, n)
    if paths.pairs:
        sets["train"], report["read"]["pairs"] = _paired(paths.pairs, paths.queries["train"], passages.ids, sets)
    sets, report["dropped"] = _split(sets, row, settings)
    report["judged, not in the collection"] = unknown
    return Source(passages, titles, sets, np.array([], np.int64), report)


def _titled(entry: Entry) -> Entry:
    """A passage as stored: title and text joined; without a title, its id is one for people."""
    return Entry(entry.id, entry.title or entry.id, f"{entry.title} {entry.text}".strip())


def _paired(path: Path, queries: Path, passages: Sequence[str], sets: Mapping[str, QuerySet]) -> tuple[QuerySet, int]:
    """The queries of the training pairs, judged by positives and training judgements; and the number of pairs."""
    texts = {entry.id: entry.text for entry in formats.read_entries(queries)}
    ids = [*texts]
    pairs = read_pairs(path, ids, passages)
    if pairs.left_out:
        line, query = next((line, query) for line, (query, *_) in pair_lines(path) if query not in texts)
        raise ValueError(f"{path}, line {line}: query {query} has no text in {queries.name}")
    _, first = np.unique(pairs.query.astype(np.int64) * len(passages) + pairs.pos, return_index=True)
    first.sort()
    qrels: dict[str, dict[str, int]] = {}
    for query, pos in zip(pairs.query[first].tolist(), pairs.pos[first].tolist(), strict=True):
        qrels.setdefault(ids[query], {})[passages[pos]] = 1
    for query, grades in sets["train"].qrels.items() if "train" in sets else ():
        if query in qrels:
            qrels[query] |= grades
    kept = [query for query in ids if query in qrels]
    paired = QuerySet("train", Texts(kept, [texts[query] for query in kept]), {query: qrels[query] for query in kept})
    return paired, len(pairs.query)


def _split(
    sets: Mapping[str, QuerySet], passages: Rows, settings: LocalSource
) -> tuple[dict[str, QuerySet], dict[str, int]]:
    """The sets with `stop` and `tune`, without training queries of other sets; and what was dropped."""
    sets = dict(sets)
    for name, source in (("stop", settings.stop), ("tune", settings.tune)):
        if source:
            if source not in sets or source == "train":
                raise ValueError(f"source.{name}: there is no set {source!r} to take; there are: {', '.join(sets)}")
            sets[name] = sets.pop(source)._replace(name=name)
    if "train" not in sets:
        return sets, {}
    train = sets.pop("train")
    answered = train.only(
        {query for query, grades in train.qrels.items() if any(g > 0 and p in passages for p, g in grades.items())}
    )
    rest = _unasked(answered, sets)
    dropped = {
        "a training query without a relevant passage": len(train.qrels) - len(answered.qrels),
        "a training query that another set asks": len(answered.qrels) - len(rest.qrels),
    }
    for name, size in (("stop", settings.stop_queries), ("tune", settings.tune_queries)):
        if name in sets:
            continue
        if len(rest.qrels) <= size:
            raise ValueError(
                f"{settings.place}: {len(rest.qrels)} training queries are too few to hold {size} out as the set "
                f"{name!r}; make source.{name}_queries smaller, or name a set of the folder as source.{name}"
            )
        shuffled = sorted(rest.queries.ids, key=lambda query: store.digest(settings.seed, query))
        sets[name] = rest.only({*shuffled[:size]}, name)
        rest = _unasked(rest, sets)
    if not rest.qrels:
        raise ValueError(f"{settings.place}: no training query is left that no other set asks")
    return sets | {"train": rest}, dropped


def _unasked(train: QuerySet, sets: Mapping[str, QuerySet]) -> QuerySet:
    """The training queries that no other set contains, under the same id or in the same words."""
    ids = {query for other in sets.values() for query in other.queries.ids}
    wordings = {text.lower() for other in sets.values() for text in other.queries.texts}
    texts = zip(*train.queries, strict=True)
    return train.only({query for query, text in texts if query not in ids and text.lower() not in wordings})
