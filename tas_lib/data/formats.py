"""The field's text formats, plain or gz: runs and judgements (TREC, MS MARCO, BEIR), passages and queries.

Whatever is wrong with a file is a ValueError with file and line.
"""

import gzip
import io
import json
import math
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from tas_lib.data.store import atomic_write
from tas_lib.records import Qrels, Run

BEIR_HEAD = ["query-id", "corpus-id", "score"]
Number = TypeVar("Number", int, float)


# --- lines and columns -------------------------------------------------------------------------------------------


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, text) of each line that is not blank; gz is known by its content, and only a line feed ends a line."""
    line = 0
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            file = gzip.GzipFile(fileobj=raw) if packed else raw
            for line, text in enumerate(io.TextIOWrapper(file, "utf-8-sig", newline="\n"), 1):
                if text.strip():
                    yield line, text.rstrip("\r\n")
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}, after line {line}: cut off or not text ({error})") from None


def columns(path: Path, formats: Mapping[int, str]) -> Iterator[tuple[int, list[str]]]:
    """(number, columns) of each line; all have as many columns as the first, and one of `formats`."""
    width = 0
    for line, text in lines(path):
        columns = text.split()
        width = width or len(columns)
        if len(columns) != width or width not in formats:
            expected = formats.get(width) or " or ".join(formats.values())
            raise ValueError(f"{path}, line {line}: {len(columns)} columns, expected {expected}")
        yield line, columns
    if not width:
        raise ValueError(f"{path} is empty")


def one_word(*words: str) -> None:
    """Refuse ids that a file of columns cannot hold."""
    for word in words:
        if len(word.split()) != 1 or word != word.strip():
            raise ValueError(f"{word!r} is empty or has a space in it, and columns are separated by spaces")


# --- runs and judgements -----------------------------------------------------------------------------------------


def read_run(path: Path, queries: Collection[str] | None = None) -> Run:
    """A run from a TREC file (query Q0 passage rank score tag) or an MS MARCO file (query passage rank).

    The score of an MS MARCO line is minus its rank. TREC's rank column is ignored: the score decides.
    queries: the ids that may occur; another one is an error.
    """
    known = None if queries is None else frozenset(queries)
    run: dict[str, dict[str, float]] = {}
    ranks: set[tuple[str, float]] = set()
    for line, columns_ in columns(path, {6: "query Q0 passage rank score tag", 3: "query passage rank"}):
        try:
            if len(columns_) == 6:
                query, _, passage, _, text, _ = columns_
                score = float(text)
            else:
                query, passage, text = columns_
                score = -int(text)
                if (query, score) in ranks:
                    raise ValueError(f"rank {text} occurs twice for query {query}")
                ranks.add((query, score))
            if not math.isfinite(score):
                raise ValueError(f"the score is {text}")
            if known is not None and query not in known:
                raise ValueError(f"query {query} is not one of the {len(known)} of this query set")
            _put(run, query, passage, score)
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}") from None
    return run


def write_run(path: Path, run: Run, tag: str) -> None:
    """Write a TREC run file, gz if the name says so: equal runs give equal bytes, and scores keep every digit.

    Queries are in the order of their ids, passages by falling score, then id.
    """
    if not any(run.values()):
        raise ValueError(f"{path.name}: an empty run is not written, since it could not be read back")
    one_word(tag, *run)
    _write(path, (_ranked_lines(query, run[query], tag) for query in sorted(run)))


def read_qrels(path: Path) -> Qrels:
    """Judgements from a TREC file (query 0 passage grade) or a BEIR file (headed query-id corpus-id score).

    A judgement may be repeated, but not contradicted.
    """
    qrels: dict[str, dict[str, int]] = {}
    headed = False
    for line, columns_ in columns(path, {4: "query 0 passage grade", 3: " ".join(BEIR_HEAD)}):
        try:
            if columns_ == BEIR_HEAD and not headed:
                headed = True
                continue
            if len(columns_) == 3 and not headed:
                raise ValueError(f"three columns need the head {' '.join(BEIR_HEAD)}")
            query, passage, grade = columns_[0], columns_[-2], int(columns_[-1])
            if qrels.get(query, {}).get(passage) != grade:
                _put(qrels, query, passage, grade)
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}") from None
    if not qrels:
        raise ValueError(f"{path} has a head and no judgements")
    return qrels


def write_qrels(path: Path, qrels: Qrels) -> None:
    """Write a TREC qrels file, gz if the name says so, in the order of the ids."""
    for query, grades in qrels.items():
        one_word(query, *grades)
    _write(
        path, (f"{query} 0 {p} {int(grade)}\n" for query in sorted(qrels) for p, grade in sorted(qrels[query].items()))
    )


def _put(table: dict[str, dict[str, Number]], query: str, passage: str, value: Number) -> None:
    passages = table.setdefault(query, {})
    if passage in passages:
        raise ValueError(f"passage {passage} occurs twice for query {query}")
    passages[passage] = value


def _ranked_lines(query: str, passages: Mapping[str, float], tag: str) -> str:
    """The lines of one query, best first."""
    one_word(*passages)
    ranked = sorted(passages.items(), key=lambda item: (-item[1], item[0]))
    for passage, score in ranked:
        if not math.isfinite(score):
            raise ValueError(f"query {query}, passage {passage}: the score is {score}")
    return "".join(f"{query} Q0 {p} {rank} {float(score)!r} {tag}\n" for rank, (p, score) in enumerate(ranked, 1))


def _write(path: Path, parts: Iterable[str]) -> None:
    """Write text, plain or gz; the gz header has no date and no name, so that equal texts give equal bytes."""
    with atomic_write(path, "wb") as f:
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", compresslevel=6, fileobj=f, mtime=0) as packed:
                packed.writelines(part.encode() for part in parts)
        else:
            f.writelines(part.encode() for part in parts)


# --- passages and queries ----------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """A passage or a query; `title` is empty if the format has none."""

    id: str
    title: str
    text: str


def read_entries(path: Path) -> Iterator[Entry]:
    """Passages or queries one at a time, from lines of `id<TAB>text` (MS MARCO) or, in a .jsonl, of objects (BEIR).

    BEIR's objects have `_id` and `text`, and may have a `title`.
    """
    parse = _from_json if ".jsonl" in path.suffixes else _from_columns
    seen = set()
    for line, text in lines(path):
        try:
            entry = parse(text)
            one_word(entry.id)
            if entry.id in seen:
                raise ValueError(f"{entry.id} occurs twice")
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}") from None
        seen.add(entry.id)
        yield entry
    if not seen:
        raise ValueError(f"{path} is empty")


def _from_columns(line: str) -> Entry:
    columns = line.split("\t")
    if len(columns) != 2:
        raise ValueError(f"{len(columns)} columns, expected id and text with a tab between them")
    return Entry(columns[0].strip(), "", columns[1].strip())


def _from_json(line: str) -> Entry:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON, or cut off: {error}") from None
    if not isinstance(value, dict):
        raise ValueError("not an object with _id and text")
    fields = {"_id": value.get("_id"), "title": value.get("title") or "", "text": value.get("text")}
    for name, field in fields.items():
        if not isinstance(field, str):
            raise ValueError(f"{name} is {'missing' if field is None else f'{field!r:.40}, not a string'}")
    return Entry(*(str(field).strip() for field in fields.values()))
