"""What is published, in the field's own text formats: texts, judgements, pairs, runs; and the paper's numbers."""

import csv
import gzip
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from tas_lib import blocks
from tas_lib.columns import Held, Rows, Stored, pack
from tas_lib.profile import ROOT
from tas_lib.records import FloatArray, IntArray, Qrels, Run
from tas_lib.store import atomic_write

BEIR_HEAD = ["query-id", "corpus-id", "score"]
PAIRS = {5: "pos_score neg_score query pos neg", 3: "query pos neg"}
Number = TypeVar("Number", int, float)
Result = TypeVar("Result")
PairLine = tuple[int, str, str, str, float]


class Entry(NamedTuple):
    """A passage or a query of a file; `title` is empty where the format has none."""

    id: str
    title: str
    text: str


def read_entries(path: Path) -> Iterator[Entry]:
    """Passages or queries one at a time, from lines of `id<TAB>text` (MS MARCO) or, in a .jsonl, of objects (BEIR).

    BEIR's objects have `_id` and `text`, and may have a `title`. Plain or gz; whatever is wrong is a ValueError with
    file and line.
    """
    parse = _from_json if ".jsonl" in path.suffixes else _from_columns
    seen = set()
    for line, text in blocks.lines(path):
        try:
            entry = parse(text)
            _words(entry.id)
            if entry.id in seen:
                raise ValueError(f"{entry.id} stands twice")
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
        found = json.loads(line)
    except ValueError as error:
        raise ValueError(f"no JSON, or cut off: {error}") from None
    if not isinstance(found, dict):
        raise ValueError("no object, expected one with _id and text")
    id, title, text = found.get("_id"), found.get("title") or "", found.get("text")
    for name, part in {"_id": id, "title": title, "text": text}.items():
        if not isinstance(part, str):
            raise ValueError(f"{name} is {'missing' if part is None else f'{part!r:.40}, which is no text'}")
    return Entry(str(id).strip(), str(title).strip(), str(text).strip())


def open_entries(path: Path, size: int = 1 << 22) -> tuple[Held, Stored[Entry]]:
    """The ids of a file of passages (`read_entries`), and its entries, which stay where they are.

    The file is read once, all of it checked; an entry is read again, with `size` bytes around it, when it is asked for.
    """
    parse = _from_json if ".jsonl" in path.suffixes else _from_columns
    starts, sizes, ids = [], [], []
    try:
        for block in blocks.blocks(path, size):
            found = [parse(text).id for _, text in blocks.block_lines(path, block)]
            _words(*found)
            starts.append(block.start)
            sizes.append(len(found))
            ids.append(pa.array(found, pa.string()))
        held = Held(pa.chunked_array(ids, pa.string()))
        if not held or len(held.packed.unique()) < len(held):
            raise ValueError(f"{path} is empty, or an id stands twice")
    except ValueError:
        for _ in read_entries(path):  # says in which line
            pass
        raise
    f = blocks.open_unpacked(path)

    def read(number: int) -> list[Entry]:
        f.seek(starts[number])
        text = f.read(starts[number + 1] - starts[number] if number + 1 < len(starts) else -1)
        return [parse(line) for _, line in blocks.block_lines(path, blocks.Block(0, starts[number], text))]

    return held, Stored(sizes, read)


class Triples(NamedTuple):
    """Published training pairs, in the order of the file; `left_out` are those of queries that were not asked for.

    query, pos, neg: (N,) rows. margins: (N,) score of the positive minus the negative's, None where no scores are.
    """

    query: IntArray
    pos: IntArray
    neg: IntArray
    margins: FloatArray | None
    left_out: int


def read_triples(
    path: Path, queries: Mapping[str, int], passages: Mapping[str, int], size: int = blocks.SIZE
) -> Triples:
    """The pairs of a file (`pair_lines`) as rows; queries, passages: id → row.

    A passage that is not there is an error with file and line; a pair of another query is left out and counted.
    """
    parts = [*triple_blocks(path, queries, passages, size)]
    query, pos, neg = (np.concatenate([part[side] for part in parts]) for side in range(3))
    margins = [part.margins for part in parts if part.margins is not None]
    return Triples(query, pos, neg, np.concatenate(margins) if margins else None, sum(part.left_out for part in parts))


def triple_blocks(
    path: Path, queries: Mapping[str, int], passages: Mapping[str, int], size: int = blocks.SIZE
) -> Iterator[Triples]:
    """`read_triples`, about `size` bytes of the file at a time; what is wrong with all of it is told at its end."""
    asked, known = Rows.over(queries), Rows.over(passages)

    def look_up(block: PairBlock) -> Triples:
        query, pos, neg = block.rows(asked, known)
        mine = query >= 0
        unknown = mine & ((pos < 0) | (neg < 0))
        if unknown.any():
            first = int(unknown.argmax())
            line, _, *ids = block.pair(first)
            lacking = ids[0 if pos[first] < 0 else 1]
            raise ValueError(f"{path}, line {line}: passage {lacking} is not in the collection")
        margins = None if block.margins is None else block.margins[mine]
        return Triples(query[mine], pos[mine], neg[mine], margins, int((~mine).sum()))

    found = left_out = 0
    for part in pair_blocks(path, look_up, size):
        found, left_out = found + len(part.query), left_out + part.left_out
        yield part
    if not found:
        raise ValueError(f"{path}: none of its {left_out} pairs is of one of the {len(queries)} queries asked for")


class PairBlock(NamedTuple):
    """Some consecutive pairs of a file: ids as they stand there, and margins (N,), None without scores.

    lines: the same pairs as `pair_lines` has them.
    """

    query: pa.ChunkedArray
    pos: pa.ChunkedArray
    neg: pa.ChunkedArray
    margins: FloatArray | None
    lines: Callable[[], Iterator[PairLine]]

    def rows(self, queries: Rows, passages: Rows) -> IntArray:
        """(3, N) rows of the queries, positives and negatives, -1 for an id that is not there."""
        both = passages.of(pa.chunked_array([*self.pos.chunks, *self.neg.chunks], pa.string()))
        return np.stack([queries.of(self.query), *np.split(both, 2)])

    def pair(self, number: int) -> tuple[int, str, str, str]:
        """(line, query, positive, negative) of one of them; for a sentence on what is wrong with it."""
        return next(islice(self.lines(), number, None))[:4]


def pair_blocks(path: Path, use: Callable[[PairBlock], Result], size: int = blocks.SIZE) -> Iterator[Result]:
    """What `use` makes of each block of a file of pairs, in order, two at a time; all lines are checked.

    A block of plain lines is parsed by pyarrow; any other is read by `pair_lines`, which says what is wrong.
    """
    width = len(next(blocks.columns(path, blocks.lines(path), PAIRS))[1])

    def parse(block: blocks.Block) -> Result:
        return use(_pair_block(path, width, block))

    return blocks.ahead(parse, blocks.blocks(path, size))


def _pair_block(path: Path, width: int, block: blocks.Block) -> PairBlock:
    def lines() -> Iterator[PairLine]:
        return _pairs(path, blocks.columns(path, blocks.block_lines(path, block), PAIRS, width))

    types = dict.fromkeys(PAIRS[width].split(), pa.string())
    types |= {name: pa.float64() for name in types if name.endswith("score")}
    table = None if block.text is None else blocks.table(block.text, types)
    if table is not None:
        query, pos, neg = (table[name] for name in ("query", "pos", "neg"))
        if width == 3:
            return PairBlock(query, pos, neg, None, lines)
        margins = (table["pos_score"].to_numpy() - table["neg_score"].to_numpy()).astype(np.float32)
        if np.isfinite(margins).all():
            return PairBlock(query, pos, neg, margins, lines)
    found = [*lines()]
    query, pos, neg = (pack(pair[side] for pair in found) for side in (1, 2, 3))
    margins = np.array([pair[4] for pair in found], np.float32)
    return PairBlock(query, pos, neg, margins if width == 5 else None, lines)


def pair_lines(path: Path) -> Iterator[PairLine]:
    """(line, query, positive, negative, margin) of each pair: five columns with both scores first, or three without.

    The margin is the positive's score minus the negative's, NaN without scores. Plain or gz, spaces or tabs.
    """
    return _pairs(path, blocks.columns(path, blocks.lines(path), PAIRS))


def _pairs(path: Path, lines: Iterable[tuple[int, list[str]]]) -> Iterator[PairLine]:
    for line, columns in lines:
        query, pos, neg = columns[-3:]
        margin = math.nan
        if len(columns) == 5:
            try:
                margin = float(columns[0]) - float(columns[1])
            except ValueError as error:
                raise ValueError(f"{path}, line {line}: {error}") from None
            if not math.isfinite(margin):
                raise ValueError(f"{path}, line {line}: the scores are {columns[0]} and {columns[1]}")
        yield line, query, pos, neg, margin


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
    _words(tag, *run)
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


def independent_figures() -> dict[tuple[str, str, str], str]:
    """(source, row, column) → what others than the paper's authors measured on MS MARCO, as they printed it."""
    with open(ROOT / "data" / "paper" / "independent.csv", newline="", encoding="utf-8") as f:
        return {(cell["source"], cell["row"], cell["column"]): cell["value"] for cell in csv.DictReader(f)}


def line_of(path: Path, query: str) -> int:
    """The first line of a file of columns that begins with this query's id; for a sentence on what is wrong with it."""
    return next(line for line, text in blocks.lines(path) if text.split()[0] == query)


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
