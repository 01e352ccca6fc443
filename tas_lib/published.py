"""What is published: runs and judgements in the field's own text formats, and the numbers of the paper's tables."""

import csv
import gzip
import math
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from tas_lib.profile import ROOT
from tas_lib.records import Qrels, Run
from tas_lib.store import atomic_write

BEIR_HEAD = ["query-id", "corpus-id", "score"]
Number = TypeVar("Number", int, float)


def read_run(path: Path, queries: Collection[str] | None = None) -> Run:
    """A run from a TREC file (query Q0 passage rank score tag) or an MS MARCO file (query passage rank), plain or gz.

    The score of an MS MARCO line is minus its rank. TREC's rank column is not looked at: the score decides.
    queries: the ids that may occur; another one is an error. Whatever is wrong is a ValueError with file and line.
    """
    known = None if queries is None else frozenset(queries)
    run: dict[str, dict[str, float]] = {}
    ranks: set[tuple[str, float]] = set()
    for line, columns in _lines(path, {6: "query Q0 passage rank score tag", 3: "query passage rank"}):
        try:
            if len(columns) == 6:
                query, _, passage, _, text, _ = columns
                score = float(text)
            else:
                query, passage, text = columns
                score = -int(text)
                if (query, score) in ranks:
                    raise ValueError(f"rank {text} stands twice for query {query}")
                ranks.add((query, score))
            if not math.isfinite(score):
                raise ValueError(f"the score is {text}")
            if known is not None and query not in known:
                raise ValueError(f"query {query} is not one of the {len(known)} that are asked")
            _put(run, query, passage, score)
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}") from None
    return run


def write_run(path: Path, run: Run, tag: str) -> None:
    """A TREC run file, gz where the name says so; the same run gives the same bytes, and reads back to the digit.

    Queries in the order of their ids, passages by falling score, then id.
    """
    if not any(run.values()):
        raise ValueError(f"{path.name}: an empty run is not written, since it could not be read back")
    _words(tag, *run)
    _write(path, (_ranked_lines(query, run[query], tag) for query in sorted(run)))


def read_qrels(path: Path) -> Qrels:
    """Judgements from a TREC file (query 0 passage grade) or a BEIR file (headed query-id corpus-id score)."""
    qrels: dict[str, dict[str, int]] = {}
    headed = False
    for line, columns in _lines(path, {4: "query 0 passage grade", 3: " ".join(BEIR_HEAD)}):
        try:
            if columns == BEIR_HEAD and not headed:
                headed = True
                continue
            if len(columns) == 3 and not headed:
                raise ValueError(f"three columns want the head {' '.join(BEIR_HEAD)}")
            _put(qrels, columns[0], columns[-2], int(columns[-1]))
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}") from None
    if not qrels:
        raise ValueError(f"{path} is empty but for its head")
    return qrels


def write_qrels(path: Path, qrels: Qrels) -> None:
    """A TREC qrels file, gz where the name says so, in the order of the ids."""
    for query, grades in qrels.items():
        _words(query, *grades)
    _write(
        path, (f"{query} 0 {p} {int(grade)}\n" for query in sorted(qrels) for p, grade in sorted(qrels[query].items()))
    )


class Printed(NamedTuple):
    """A cell of a table in the paper: the text as printed and the letters of the systems that it is better than."""

    value: str
    markers: str

    @property
    def number(self) -> float | None:
        """The value as a number; None where the cell is a word, a dash or lost.

        >>> Printed(".712", "bt").number, Printed("2,515 ms", "").number, Printed("–", "").number
        (0.712, 2515.0, None)
        """
        try:
            return float(self.value.removesuffix(" ms").replace(",", ""))
        except ValueError:
            return None


def paper_table(number: int) -> dict[tuple[str, str], Printed]:
    """(row, column) → cell of one of the paper's seven tables."""
    path = ROOT / "data" / "paper" / f"table{number}.csv"
    with open(path, newline="", encoding="utf-8") as f:
        return {(cell["row"], cell["column"]): Printed(cell["value"], cell["markers"]) for cell in csv.DictReader(f)}


def _lines(path: Path, formats: dict[int, str]) -> Iterator[tuple[int, list[str]]]:
    """(number, columns) of each line that is not blank; all have as many columns as the first, and one of `formats`."""
    line, width = 0, 0
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rt", encoding="utf-8") if packed else open(path, encoding="utf-8") as f:
            for line, text in enumerate(f, 1):  # noqa: B007
                columns = text.split()
                if not columns:
                    continue
                width = width or len(columns)
                if len(columns) != width or width not in formats:
                    expected = formats.get(width) or " or ".join(formats.values())
                    raise ValueError(f"{path}, line {line}: {len(columns)} columns, expected {expected}")
                yield line, columns
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}, after line {line}: cut off or no text ({error})") from None
    if not width:
        raise ValueError(f"{path} is empty")


def _put(table: dict[str, dict[str, Number]], query: str, passage: str, value: Number) -> None:
    passages = table.setdefault(query, {})
    if passage in passages:
        raise ValueError(f"passage {passage} stands twice for query {query}")
    passages[passage] = value


def _words(*words: str) -> None:
    """Refuse what would fall apart into columns when read back."""
    for word in words:
        if len(word.split()) != 1 or word != word.strip():
            raise ValueError(f"{word!r} cannot stand in a file of columns: it is empty or has a space in it")


def _ranked_lines(query: str, passages: Mapping[str, float], tag: str) -> str:
    """The lines of one query, best first."""
    _words(*passages)
    ranked = sorted(passages.items(), key=lambda item: (-item[1], item[0]))
    for passage, score in ranked:
        if not math.isfinite(score):
            raise ValueError(f"query {query}, passage {passage}: the score is {score}")
    return "".join(f"{query} Q0 {p} {rank} {float(score)!r} {tag}\n" for rank, (p, score) in enumerate(ranked, 1))


def _write(path: Path, parts: Iterable[str]) -> None:
    """The text, plain or gz, whole or not at all; no date and no name in the gz header, so that bytes can be equal."""
    with atomic_write(path, "wb") as f:
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", compresslevel=6, fileobj=f, mtime=0) as packed:
                packed.writelines(part.encode() for part in parts)
        else:
            f.writelines(part.encode() for part in parts)
