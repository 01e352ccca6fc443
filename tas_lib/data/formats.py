"""Standard text formats, plain or gzipped: runs and judgements (TREC, MS MARCO, BEIR), passages and queries.

Whatever is wrong with a file is a ValueError with file and line.
"""

import gzip
import io
import json
import math
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import NamedTuple, TypeVar

from tas_lib.data.store import atomic_write
from tas_lib.records import Qrels, QuerySet, Run, Texts, ranking

BEIR_HEAD = ["query-id", "corpus-id", "score"]
Number = TypeVar("Number", int, float)
Parsed = TypeVar("Parsed")


# --- lines -------------------------------------------------------------------------------------------------------


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, text) of each line that is not blank; gz is known by its content, and only a line feed ends a line."""
    line = 0
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            for line, raw_text in enumerate(io.BufferedReader(gzip.GzipFile(fileobj=raw)) if packed else raw, 1):
                text = raw_text.decode("utf-8-sig" if line == 1 else "utf-8")
                if "\0" in text:
                    raise ValueError(f"{path}, line {line}: a NUL character; is this a text file?")
                if text.strip():
                    yield line, text.rstrip("\r\n")
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, line {line}: not UTF-8 ({error}); if it is Latin-1 or UTF-16, convert it") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}, after line {line}: cut off or not text ({error})") from None


def parsed(path: Path, parse: Callable[[str], Parsed]) -> Iterator[tuple[int, Parsed]]:
    """(number, what `parse` makes of it) of each line; its ValueError gets file and line. An empty file is an error."""
    empty = True
    for line, text in lines(path):
        try:
            value = parse(text)
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}") from None
        empty = False
        yield line, value
    if empty:
        raise ValueError(f"{path} is empty")


def splitter(formats: Mapping[int, str]) -> Callable[[str], list[str]]:
    """A function from a line to its columns; all lines have as many as the first, and one of `formats`."""
    width = 0

    def split(text: str) -> list[str]:
        nonlocal width
        columns = text.split()
        width = width or len(columns)
        if len(columns) != width or width not in formats:
            raise ValueError(f"{len(columns)} columns, expected {formats.get(width) or ' or '.join(formats.values())}")
        return columns

    return split


def one_word(*words: str) -> None:
    """Refuse ids that a file of columns cannot hold."""
    for word in words:
        if len(word.split()) != 1 or word != word.strip():
            raise ValueError(f"{word!r} is empty or has a space in it, and columns are separated by spaces")


# --- runs and judgements -----------------------------------------------------------------------------------------


def read_run(path: Path, queries: Collection[str] | None = None) -> Run:
    """A run from a TREC file (query Q0 passage rank score tag) or an MS MARCO file (query passage rank).

    The score of an MS MARCO line is minus its rank. TREC's rank column is ignored: the score decides.
    queries: the ids whose lines are kept, since TREC's runs also have topics without judgements; none is an error.
    """
    split = splitter({6: "query Q0 passage rank score tag", 3: "query passage rank"})
    known = None if queries is None else frozenset(queries)
    run: dict[str, dict[str, float]] = {}
    others: dict[str, dict[str, float]] = {}
    ranks: set[tuple[str, float]] = set()

    def add(text: str) -> None:
        columns = split(text)
        if len(columns) == 6:
            query, _, passage, _, value, _ = columns
            score = float(value)
        else:
            query, passage, value = columns
            score = -int(value)
            if (query, score) in ranks:
                raise ValueError(f"rank {value} occurs twice for query {query}")
            ranks.add((query, score))
        if not math.isfinite(score):
            raise ValueError(f"the score is {value}")
        _put(run if known is None or query in known else others, query, passage, score)

    for _ in parsed(path, add):
        pass
    if not run:
        some = ", ".join([*others][:3])
        raise ValueError(f"{path}: none of its {len(others)} queries ({some}, ...) is in this query set")
    return run


def write_run(path: Path, run: Run, tag: str) -> None:
    """Write a TREC run file, gz if the name says so: equal runs give equal bytes, and scores keep every digit.

    Queries are in the order of their ids, passages in that of `ranking`.
    """
    one_word(tag, *run)
    with atomic_write(path, "wb") as f:
        if path.suffix == ".gz":  # without a date and a name in its header, equal texts give equal bytes
            with gzip.GzipFile("", "wb", compresslevel=6, fileobj=f, mtime=0) as packed:
                packed.writelines(_ranked_lines(query, run[query], tag) for query in sorted(run))
        else:
            f.writelines(_ranked_lines(query, run[query], tag) for query in sorted(run))


def read_qrels(path: Path) -> Qrels:
    """Judgements from a TREC file (query 0 passage grade) or a BEIR file (headed query-id corpus-id score).

    A judgement may be repeated, but not contradicted.
    """
    split = splitter({4: "query 0 passage grade", 3: " ".join(BEIR_HEAD)})
    qrels: dict[str, dict[str, int]] = {}
    headed = False

    def add(text: str) -> None:
        nonlocal headed
        columns = split(text)
        if columns == BEIR_HEAD and not headed:
            headed = True
            return
        if len(columns) == 3 and not headed:
            raise ValueError(f"three columns need the head {' '.join(BEIR_HEAD)}")
        query, passage, grade = columns[0], columns[-2], int(columns[-1])
        if qrels.get(query, {}).get(passage) != grade:
            _put(qrels, query, passage, grade)

    for _ in parsed(path, add):
        pass
    if not qrels:
        raise ValueError(f"{path} has a head and no judgements")
    return qrels


def _put(table: dict[str, dict[str, Number]], query: str, passage: str, value: Number) -> None:
    passages = table.setdefault(query, {})
    if passage in passages:
        raise ValueError(f"passage {passage} occurs twice for query {query}")
    passages[passage] = value


def _ranked_lines(query: str, passages: Mapping[str, float], tag: str) -> bytes:
    """The lines of one query, best first."""
    one_word(*passages)
    for passage, score in passages.items():
        if not math.isfinite(score):
            raise ValueError(f"query {query}, passage {passage}: the score is {score}")
    ranked = enumerate(ranking(passages), 1)
    lines = (f"{query} Q0 {p} {rank} {float(passages[p])!r} {tag}\n" for rank, p in ranked)
    return "".join(lines).encode()


# --- passages and queries ----------------------------------------------------------------------------------------


HEADS = {*product(("id", "_id", "pid", "qid", "docid", "query_id", "passage_id"), ("text", "passage", "query"))}
"""Names of two columns: a line of them is the head of a file, and no passage or query."""


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
    seen = set[str]()

    def checked(line: str) -> Entry:
        entry = parse(line)
        one_word(entry.id)
        try:
            "".join(entry).encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"half a surrogate pair, {error.object[error.start]!r}, is no character") from None
        if "\0" in "".join(entry):
            raise ValueError("a NUL character in a text")
        if entry.id in seen:
            raise ValueError(f"{entry.id} occurs twice")
        seen.add(entry.id)
        return entry

    entries = (entry for _, entry in parsed(path, checked))
    return (entry for entry in entries if (entry.id.lower(), entry.text.lower()) not in HEADS)


def read_set(name: str, queries: Path, qrels: Path) -> QuerySet:
    """The judged queries of a set, in the order of the file of queries."""
    grades = read_qrels(qrels)
    texts = {entry.id: entry.text for entry in read_entries(queries) if entry.id in grades}
    if missing := [query for query in grades if query not in texts]:
        line = next(line for line, text in lines(qrels) if text.split()[0] == missing[0])
        raise ValueError(f"{qrels}, line {line}: query {missing[0]} has no text in {queries.name}")
    return QuerySet(name, Texts([*texts], [*texts.values()]), {query: grades[query] for query in texts})


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
