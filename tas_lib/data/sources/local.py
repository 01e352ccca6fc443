"""Anybody's own collection: a folder of files in the layout of MS MARCO or of BEIR.

| | MS MARCO | BEIR |
|---|---|---|
| passages | `collection.tsv` | `corpus.jsonl`, title and text joined |
| queries | `queries.<set>.tsv` | `queries.jsonl` |
| judgements | `qrels.<set>.tsv` or `.txt` | `qrels/<set>.tsv` |
| training pairs, where there are any | `pairs.tsv` | `pairs.tsv` |

The set `train` is trained on; what decides when training ends (`stop`) and what is chosen on (`tune`) are sets of the
folder, or training queries held out. Every other set with judgements can be a test set of the profile.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tas_lib.config import LocalSource
from tas_lib.data import store, trec
from tas_lib.data.columns import Rows
from tas_lib.data.entries import open_entries, read_entries
from tas_lib.data.triples import PairBlock, pair_blocks
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
        raise ValueError(f"there is no folder {folder}: lay a collection there, in {LAYOUTS}")
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
    found = files(settings)
    used = {found.passages, *(found.queries[name] for name in found.qrels), *found.qrels.values()}
    if found.pairs:
        used |= {found.pairs, found.queries["train"]}
    return {str(path.relative_to(settings.place)): store.digest(path) for path in sorted(used) if path.is_file()}


def pairs(settings: LocalSource) -> Path | None:
    """The published training pairs, where the folder has them."""
    return files(settings).pairs


def read(settings: LocalSource) -> Source:
    """The collection with its sets; whatever is wrong is one ValueError with file and line."""
    found = files(settings)
    ids, entries = open_entries(found.passages)
    asked = {path: {e.id: e.text for e in read_entries(path)} for path in _query_files(found)}
    passages = Rows(ids)
    sets, report = {}, {"read": {"passages": len(ids)}}
    unknown: Counter[str] = Counter()
    for name, path in found.qrels.items():
        sets[name] = _query_set(name, path, asked[found.queries[name]], found.queries[name])
        judged = passages.of([passage for grades in sets[name].qrels.values() for passage in grades]) >= 0
        if not judged.any():
            raise ValueError(f"{path}: of its {len(judged)} judged passages, none is in {found.passages.name}")
        unknown[name] = int((~judged).sum())
    if found.pairs:
        sets["train"], report["read"]["pairs"] = _paired(found, asked[found.queries["train"]], passages, sets)
    if unknown.total():
        log.warning("%s: %d judged passages are not in the collection", settings.place, unknown.total())
    sets, report["dropped"] = _split(sets, passages, settings)
    report["judged, not in the collection"] = dict(unknown)
    texts = entries.map(lambda entry: f"{entry.title} {entry.text}".strip())
    titles = entries.map(lambda entry: entry.title or entry.id)
    return Source(Texts(ids, texts), titles, sets, np.array([], np.int64), report)


def _query_files(found: Files) -> set[Path]:
    return {found.queries[name] for name in [*found.qrels, *(["train"] if found.pairs else [])]}


def _query_set(name: str, path: Path, texts: Mapping[str, str], queries: Path) -> QuerySet:
    """The judged queries of a set, in the order of the file of queries."""
    qrels = trec.read_qrels(path)
    if missing := [query for query in qrels if query not in texts]:
        line = trec.line_of(path, missing[0])
        raise ValueError(f"{path}, line {line}: query {missing[0]} has no text in {queries.name}")
    return _of(name, [query for query in texts if query in qrels], texts, qrels)


def _of(name: str, ids: list[str], texts: Mapping[str, str], qrels: Qrels) -> QuerySet:
    return QuerySet(name, Texts(ids, [texts[query] for query in ids]), {query: qrels[query] for query in ids})


def _paired(
    found: Files, texts: Mapping[str, str], passages: Rows, sets: Mapping[str, QuerySet]
) -> tuple[QuerySet, int]:
    """The queries that have training pairs, with their positives and what judgements say besides; how many pairs."""
    assert found.pairs is not None
    asked = Rows(texts)

    def positives(block: PairBlock) -> tuple[list[tuple[str, str]], int]:
        query, pos, neg = rows = block.rows(asked, passages)
        lacking = rows.min(axis=0) < 0
        if lacking.any():
            first = int(lacking.argmax())
            line, *ids = block.pair(first)
            if query[first] < 0:
                file = found.queries["train"].name
                raise ValueError(f"{found.pairs}, line {line}: query {ids[0]} has no text in {file}")
            passage = ids[1 if pos[first] < 0 else 2]
            raise ValueError(f"{found.pairs}, line {line}: passage {passage} is not in {found.passages.name}")
        _, distinct = np.unique(query.astype(np.int64) * len(passages) + pos, return_index=True)
        distinct.sort()
        return [*zip(*(side.take(distinct).to_pylist() for side in (block.query, block.pos)), strict=True)], len(query)

    qrels: dict[str, dict[str, int]] = {}
    n_pairs = 0
    for pairs, n in pair_blocks(found.pairs, positives):
        n_pairs += n
        for query, pos in pairs:
            qrels.setdefault(query, {})[pos] = 1
    for query, grades in sets["train"].qrels.items() if "train" in sets else ():
        if query in qrels:
            qrels[query] |= grades
    return _of("train", [query for query in texts if query in qrels], texts, qrels), n_pairs


def _split(
    sets: dict[str, QuerySet], passages: Rows, settings: LocalSource
) -> tuple[dict[str, QuerySet], dict[str, int]]:
    """The sets with `stop` and `tune`, and training queries that no other set asks; and what was dropped."""
    sets = dict(sets)
    for name, wanted in (("stop", settings.stop), ("tune", settings.tune)):
        if wanted:
            if wanted not in sets or wanted == "train":
                raise ValueError(f"source.{name}: there is no set {wanted!r} to take; there are: {', '.join(sets)}")
            sets[name] = sets.pop(wanted)._replace(name=name)
    if "train" not in sets:
        return sets, {}
    train = sets.pop("train")
    texts = dict(zip(*train.queries, strict=True))

    def free(queries: list[str]) -> list[str]:
        ids = {query for other in sets.values() for query in other.queries.ids}
        said = {text.lower() for other in sets.values() for text in other.queries.texts}
        return [query for query in queries if query not in ids and texts[query].lower() not in said]

    relevant = [(q, p) for q, grades in train.qrels.items() for p, g in grades.items() if g > 0]
    there = passages.of([p for _, p in relevant]) >= 0
    with_answer = {q for (q, _), known in zip(relevant, there.tolist(), strict=True) if known}
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
