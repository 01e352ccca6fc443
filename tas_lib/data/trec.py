"""Runs and judgements in the field's own text formats: TREC's, MS MARCO's and BEIR's."""

import gzip
import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from tas_lib.data import blocks
from tas_lib.data.store import atomic_write
from tas_lib.records import Qrels, Run

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
    for line, columns in blocks.columns(
        path, blocks.lines(path), {6: "query Q0 passage rank score tag", 3: "query passage rank"}
    ):
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
    blocks.one_word(tag, *run)
    _write(path, (_ranked_lines(query, run[query], tag) for query in sorted(run)))


def read_qrels(path: Path) -> Qrels:
    """Judgements from a TREC file (query 0 passage grade) or a BEIR file (headed query-id corpus-id score).

    A judgement that is repeated is read once; one that is contradicted is an error, with file and line.
    """
    qrels: dict[str, dict[str, int]] = {}
    headed = False
    for line, columns in blocks.columns(path, blocks.lines(path), {4: "query 0 passage grade", 3: " ".join(BEIR_HEAD)}):
        try:
            if columns == BEIR_HEAD and not headed:
                headed = True
                continue
            if len(columns) == 3 and not headed:
                raise ValueError(f"three columns want the head {' '.join(BEIR_HEAD)}")
            query, passage, grade = columns[0], columns[-2], int(columns[-1])
            if qrels.get(query, {}).get(passage) != grade:
                _put(qrels, query, passage, grade)
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}") from None
    if not qrels:
        raise ValueError(f"{path} is empty but for its head")
    return qrels


def write_qrels(path: Path, qrels: Qrels) -> None:
    """A TREC qrels file, gz where the name says so, in the order of the ids."""
    for query, grades in qrels.items():
        blocks.one_word(query, *grades)
    _write(
        path, (f"{query} 0 {p} {int(grade)}\n" for query in sorted(qrels) for p, grade in sorted(qrels[query].items()))
    )


def line_of(path: Path, query: str) -> int:
    """The first line of a file of columns that begins with this query's id; for a sentence on what is wrong with it."""
    return next(line for line, text in blocks.lines(path) if text.split()[0] == query)


def _put(table: dict[str, dict[str, Number]], query: str, passage: str, value: Number) -> None:
    passages = table.setdefault(query, {})
    if passage in passages:
        raise ValueError(f"passage {passage} stands twice for query {query}")
    passages[passage] = value


def _ranked_lines(query: str, passages: Mapping[str, float], tag: str) -> str:
    """The lines of one query, best first."""
    blocks.one_word(*passages)
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
