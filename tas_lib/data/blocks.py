"""Text files, plain or gz: line by line, and in blocks of whole lines that all cores parse, a few at a time."""

import codecs
import gzip
import io
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

import pyarrow as pa
from pyarrow import csv

SIZE = 1 << 26  # bytes of a block: about a million lines of teacher scores
AT_ONCE = 2  # blocks in the works; pyarrow's parser takes all cores for one, and each more costs half a gigabyte
SPACES = b"\t\r\x0b\x0c\x1c\x1d\x1e\x1f "  # of ASCII, what parts columns besides the line feed
WIDE_SPACES = re.compile("|".join(filter(str.isspace, map(chr, range(0x80, 0x3001)))).encode())
"""Beyond ASCII, what Python parts columns at."""
Item = TypeVar("Item")
Result = TypeVar("Result")


class Block(NamedTuple):
    """Whole lines of a file: how many lines and (unpacked) bytes stand before them, and their bytes.

    text: None where the file could not be read on from here; whoever reads it line by line is told why and where.
    """

    line: int
    start: int
    text: bytes | None


def open_unpacked(path: Path) -> IO[bytes]:
    """A file's bytes, plain or gz: known by its content, not by its name."""
    with open(path, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else open(path, "rb")  # type: ignore[return-value]


def blocks(path: Path, size: int = SIZE) -> Iterator[Block]:
    """The file in blocks of about `size` bytes; lines end at a line feed and nothing else."""
    line, start, rest = 0, 0, [b""]
    try:
        with open_unpacked(path) as f:
            while piece := f.read(size):
                end = piece.rfind(b"\n") + 1
                if not end:
                    rest.append(piece)
                    continue
                text = b"".join([*rest, piece[:end]])
                rest = [piece[end:]]
                yield Block(line, start, text)
                line, start = line + text.count(b"\n"), start + len(text)
            if last := b"".join(rest):
                yield Block(line, start, last)
    except (OSError, EOFError, zlib.error):
        yield Block(line, start, None)


def table(text: bytes, types: Mapping[str, pa.DataType]) -> pa.Table | None:
    """The columns of plain lines, or None: where a line has other columns, or what a library could read otherwise.

    Plain is UTF-8 with either single tabs or single spaces between the columns, no other space anywhere, no byte order
    mark, and no column empty. Of numbers, what pyarrow reads is read by Python's `float` alike.
    """
    text = text.replace(b"\r\n", b"\n") if b"\r" in text else text
    parted = {bytes([space]) for space in SPACES if space in text}
    if len(parted) != 1:
        return None
    if not text.isascii() and (text.startswith(codecs.BOM_UTF8) or WIDE_SPACES.search(text)):
        return None
    try:
        found = csv.read_csv(
            io.BytesIO(text),
            csv.ReadOptions(column_names=[*types]),
            csv.ParseOptions(delimiter=parted.pop().decode(), quote_char=False),
            csv.ConvertOptions(column_types=types),
        )
    except pa.ArrowInvalid:
        return None
    words = [found[name] for name, kind in types.items() if pa.types.is_string(kind)]
    return None if any(pa.compute.min(pa.compute.binary_length(word)).as_py() == 0 for word in words) else found


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, text) of each line that is not blank, plain or gz; lines end at a line feed and nothing else."""
    try:
        with io.TextIOWrapper(open_unpacked(path), "utf-8-sig", newline="\n") as f:
            yield from _numbered(path, f, 0)
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None


def block_lines(path: Path, block: Block) -> Iterator[tuple[int, str]]:
    """`lines` of a block; where it could not be read, of the rest of the file, which says why."""
    if block.text is None:
        return (found for found in lines(path) if found[0] > block.line)
    encoding = "utf-8" if block.start else "utf-8-sig"
    return _numbered(path, io.TextIOWrapper(io.BytesIO(block.text), encoding, newline="\n"), block.line)


def _numbered(path: Path, texts: Iterable[str], before: int) -> Iterator[tuple[int, str]]:
    line = before
    try:
        for line, text in enumerate(texts, before + 1):
            if text.strip():
                yield line, text.rstrip("\r\n")
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}, after line {line}: cut off or no text ({error})") from None


def columns(
    path: Path, numbered: Iterable[tuple[int, str]], formats: Mapping[int, str], width: int = 0
) -> Iterator[tuple[int, list[str]]]:
    """(number, columns) of each line; all have as many columns as the first, and one of `formats`.

    width: the columns of the first line, where `numbered` begins behind it.
    """
    for line, text in numbered:
        columns = text.split()
        width = width or len(columns)
        if len(columns) != width or width not in formats:
            expected = formats.get(width) or " or ".join(formats.values())
            raise ValueError(f"{path}, line {line}: {len(columns)} columns, expected {expected}")
        yield line, columns
    if not width:
        raise ValueError(f"{path} is empty")


def one_word(*words: str) -> None:
    """Refuse what would fall apart into columns when read back."""
    for word in words:
        if len(word.split()) != 1 or word != word.strip():
            raise ValueError(f"{word!r} cannot stand in a file of columns: it is empty or has a space in it")


def ahead(function: Callable[[Item], Result], items: Iterable[Item], at_once: int = AT_ONCE) -> Iterator[Result]:
    """`map` in threads, in order, never more than `at_once` items in the works.

    >>> [*ahead(len, ["a", "bc", ""])]
    [1, 2, 0]
    """
    with ThreadPoolExecutor(at_once) as pool:
        works: deque[Future[Result]] = deque()
        try:
            for item in items:
                works.append(pool.submit(function, item))
                if len(works) >= at_once:
                    yield works.popleft().result()
            while works:
                yield works.popleft().result()
        finally:
            for work in works:
                work.cancel()
