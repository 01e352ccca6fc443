"""Texts in memory-mapped Arrow arrays, and their indices by id."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from operator import eq
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tas_lib.data.store import atomic_write
from tas_lib.records import Texts

PASSAGES = "passages.arrow"
PASSAGE = pa.schema([("id", pa.string()), ("title", pa.string()), ("text", pa.string())])
BATCH = 1 << 14  # passages in a batch of the file, some 6 MB


class Column(Sequence[str]):
    """Strings of an Arrow array as a sequence; a slice is a list."""

    def __init__(self, strings: pa.ChunkedArray) -> None:
        """strings: (N,) of them."""
        self.strings = strings

    def __len__(self) -> int:
        """How many."""
        return len(self.strings)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: Any) -> Any:
        """The string at an index, or a list of those in a slice."""
        return self.strings[index].to_pylist() if isinstance(index, slice) else self.strings[index].as_py()

    def __iter__(self) -> Iterator[str]:
        """All of them, a chunk at a time."""
        for chunk in self.strings.chunks:
            yield from chunk.to_pylist()

    def __eq__(self, other: object) -> bool:
        """Whether `other` is a sequence of the same strings."""
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]


class Rows(dict[str, int]):
    """id → index.

    >>> Rows(["a", "b", "c"]).of(["c", "x"])
    array([ 2, -1], dtype=int32)
    """

    def __init__(self, ids: Sequence[str]) -> None:
        """ids: (N,) distinct strings."""
        super().__init__(zip(ids, range(len(ids)), strict=True))

    def of(self, ids: Sequence[str]) -> NDArray[np.int32]:
        """(M,) the index of each id, -1 for an unknown one."""
        return np.fromiter((self.get(id, -1) for id in ids), np.int32, len(ids))


def write_passages(path: Path, passages: Iterable[tuple[str, str, str]]) -> None:
    """Write (id, title, text) of each passage to an Arrow file, a batch at a time; an existing file is kept."""
    if path.exists():  # written before the run was interrupted, or by the source
        return
    with atomic_write(path, "wb") as f, pa.ipc.new_file(f, PASSAGE) as file:
        rest = iter(passages)
        while batch := [*islice(rest, BATCH)]:
            file.write_batch(pa.record_batch([*zip(*batch, strict=True)], PASSAGE))


def open_passages(path: Path) -> tuple[Texts, Column]:
    """The passages of an Arrow file and their titles, memory-mapped."""
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    ids, titles, texts = (Column(column) for column in table.columns)
    return Texts(ids, texts), titles
