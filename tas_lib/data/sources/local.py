"""Anybody's own collection: a folder of files in the layout of MS MARCO or of BEIR.

| | MS MARCO | BEIR |
|---|---|---|
| passages | `collection.tsv` | `corpus.jsonl`, title and text joined |
| queries | `queries.<set>.tsv` | `queries.jsonl` |
| judgements | `qrels.<set>.tsv` or `.txt` | `qrels/<set>.tsv` |
| training pairs (optional) | `pairs.tsv` | `pairs.tsv` |

The set `train` is for training, `stop` for early stopping, `tune` for choosing settings; the latter two are sets of the
folder, or training queries held out. Every other set with judgements can be a test set of the profile.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tas_lib.config import LocalSource
from tas_lib.data import formats, store
from tas_lib.data.formats import Entry, read_entries
from tas_lib.data.pair_files import pair_lines, read_pairs
from tas_lib.data.texts import PASSAGES, Rows, open_passages, write_passages
from tas_lib.records import Qrels, QuerySet, Source, Texts

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
    beir = folder / "corpus.jsonl"
    passages = [path for path in (folder / "collection.tsv", beir) if path.is_file()]
    if len(passages) != 1:
        raise ValueError(f"{folder} holds {'both' if passages else 'neither'} of two layouts; expected {LAYOUTS}")
    if passages[0] == beir:
        qrels = {path.stem: path for path in sorted((folder / "qrels").glob("*.tsv"))}
        queries = dict.fromkeys([*qrels, "train"], folder / "queries.jsonl")
    else:
        qrels = {}
        for path in sorted(folder.glob("qrels.*")):
            name = path.stem.removeprefix("qrels.")
            if path.suffix not in (".tsv", ".txt") or qrels.setdefault(name, path) != path:
                raise ValueError(f"{path} is neither qrels.<set>.tsv nor .txt, or the set has both")
        queries = {name: folder / f"queries.{name}.tsv" for name in [*qrels, "train"]}
    if not qrels:
        raise ValueError(f"{folder} holds no judgements; expected {LAYOUTS}")
    pairs = folder / "pairs.tsv"
    return Files(passages[0], queries, qrels, pairs if pairs.is_file() else None)


def inputs(settings: LocalSource) -> dict[str, str]:
    """The digest of every file that the collection is made from."""
    paths = files(settings)
    used = {paths.passages, *(paths.queries[name] for name in paths.qrels), *paths.qrels.values()}
    if paths.pairs:
        used |= {paths.pairs, paths.queries["train"]}
    return {str(path.relative_to(settings.place)): store.digest(path) for path in sorted(used) if path.is_file()}


def pairs(settings: LocalSource) -> Path | None:
    """The published training pairs, if the folder has them."""
    return files(settings).pairs


def read(settings: LocalSource, folder: Path) -> Source:
    """The collection with its sets; its passages are copied to `folder`."""
    paths = files(settings)
    write_passages(folder / PASSAGES, map(_titled, read_entries(paths.passages)))
    passages, titles = open_passages(folder / PASSAGES)
    row = Rows(passages.ids)
    used = {paths.queries[name] for name in [*paths.qrels, *(["train"] if paths.pairs else [])]}
    texts = {path: {entry.id: entry.text for entry in read_entries(path)} for path in used}
    sets, report = {}, {"read": {"passages": len(passages.ids)}}
    unknown: Counter[str] = Counter()
    for name, path in paths.qrels.items():
        sets[name] = _query_set(name, path, texts[paths.queries[name]], paths.queries[name])
        judged = row.of([passage for grades in sets[name].qrels.values() for passage in grades]) >= 0
        if not judged.any():
            raise ValueError(f"{path}: of its {len(judged)} judged passages, none is in {paths.passages.name}")
        unknown[name] = int((~judged).sum())
    if paths.pairs:
        sets["train"], report["read"]["pairs"] = _paired(paths, texts[paths.queries["train"]], passages.ids, sets)
    if unknown.total():
        log.warning("%s: %d judged passages are not in the collection", settings.place, unknown.total())
    sets, report["dropped"] = _split(sets, row, settings)
    report["judged, not in the collection"] = dict(unknown)
    return Source(passages, titles, sets, np.array([], np.int64), report)


def _titled(entry: Entry) -> Entry:
    """A passage as it is stored: title and text joined; without a title, its id is one for people."""
    return Entry(entry.id, entry.title or entry.id, f"{entry.title} {entry.text}".strip())


def _query_set(name: str, path: Path, texts: Mapping[str, str], queries: Path) -> QuerySet:
    """The judged queries of a set, in the order of the file of queries."""
    qrels = formats.read_qrels(path)
    if missing := [query for query in qrels if query not in texts]:
        line = next(line for line, text in formats.lines(path) if text.split()[0] == missing[0])
        raise ValueError(f"{path}, line {line}: query {missing[0]} has no text in {queries.name}")
    return _of(name, [query for query in texts if query in qrels], texts, qrels)


def _of(name: str, ids: list[str], texts: Mapping[str, str], qrels: Qrels) -> QuerySet:
    return QuerySet(name, Texts(ids, [texts[query] for query in ids]), {query: qrels[query] for query in ids})


def _paired(
    paths: Files, texts: Mapping[str, str], passages: Sequence[str], sets: Mapping[str, QuerySet]
) -> tuple[QuerySet, int]:
    """The queries of the training pairs, judged by positives and training judgements; and the number of pairs."""
    assert paths.pairs is not None
    ids = [*texts]
    pairs = read_pairs(paths.pairs, ids, passages)
    if pairs.left_out:
        line, query = next((line, query) for line, query, *_ in pair_lines(paths.pairs) if query not in texts)
        raise ValueError(f"{paths.pairs}, line {line}: query {query} has no text in {paths.queries['train'].name}")
    _, first = np.unique(pairs.query.astype(np.int64) * len(passages) + pairs.pos, return_index=True)
    first.sort()
    qrels: dict[str, dict[str, int]] = {}
    for query, pos in zip(pairs.query[first].tolist(), pairs.pos[first].tolist(), strict=True):
        qrels.setdefault(ids[query], {})[passages[pos]] = 1
    for query, grades in sets["train"].qrels.items() if "train" in sets else ():
        if query in qrels:
            qrels[query] |= grades
    return _of("train", [query for query in texts if query in qrels], texts, qrels), len(pairs.query)


def _split(
    sets: dict[str, QuerySet], passages: Rows, settings: LocalSource
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
    texts = dict(zip(*train.queries, strict=True))

    def free(queries: list[str]) -> list[str]:
        ids = {query for other in sets.values() for query in other.queries.ids}
        wordings = {text.lower() for other in sets.values() for text in other.queries.texts}
        return [query for query in queries if query not in ids and texts[query].lower() not in wordings]

    relevant = [(q, p) for q, grades in train.qrels.items() for p, g in grades.items() if g > 0]
    known = passages.of([p for _, p in relevant]) >= 0
    with_answer = {q for (q, _), is_known in zip(relevant, known.tolist(), strict=True) if is_known}
    answered = [query for query in train.queries.ids if query in with_answer]
    usable = free(answered)
    dropped = {
        "a training query without a relevant passage": len(texts) - len(answered),
        "a training query that another set asks": len(answered) - len(usable),
    }
    held_out = {"stop": settings.stop_queries, "tune": settings.tune_queries}
    for name, size in held_out.items():
        if name in sets:
            continue
        rest = free(usable)
        if len(rest) <= size:
            raise ValueError(
                f"{settings.place}: {len(rest)} training queries are too few to hold {size} out as the set {name!r}; "
                f"make source.{name}_queries smaller, or name a set of the folder as source.{name}"
            )
        chosen = set(sorted(rest, key=lambda query: store.digest(settings.seed, query))[:size])
        sets[name] = _of(name, [query for query in rest if query in chosen], texts, train.qrels)
    rest = free(usable)
    if not rest:
        raise ValueError(f"{settings.place}: no training query is left that no other set asks")
    return sets | {"train": _of("train", rest, texts, train.qrels)}, dropped
