"""Passages and queries, from the field's own text formats: MS MARCO's two columns and BEIR's JSON lines."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from tas_lib.data import blocks
from tas_lib.data.columns import Held, Stored


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
            blocks.one_word(entry.id)
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
            blocks.one_word(*found)
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
