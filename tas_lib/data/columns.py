"""Sequences of texts that are not lists: ids packed in memory, texts left where they lie and read a block at a time."""

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import accumulate
from operator import eq, index
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

CACHED = 4  # blocks that are remembered
Item = TypeVar("Item")
Other = TypeVar("Other")


class Column(Sequence[Item]):
    """What both kinds share: a slice is a list, and a column equals any sequence of the same items."""

    @overload
    def __getitem__(self, row: int) -> Item: ...
    @overload
    def __getitem__(self, row: slice) -> list[Item]: ...
    def __getitem__(self, row: Any) -> Any:
        """The item of a row, or those of a slice as a list."""
        if isinstance(row, slice):
            return [self.at(place) for place in range(*row.indices(len(self)))]
        place = index(row) + (len(self) if row < 0 else 0)
        if not 0 <= place < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return self.at(place)

    def __eq__(self, other: object) -> bool:
        """Whether `other` is a sequence of the same items."""
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    @abstractmethod
    def at(self, row: int) -> Item:
        """The item of a row from 0 on."""


class Held(Column[str]):
    """Strings packed end to end in memory: 8.8M ids take a tenth of a gigabyte, a list of them six times that.

    >>> Held(["a", "b", "c"])[1:], Held(["a", "b", "c"])[-1]
    (['b', 'c'], 'c')
    """

    def __init__(self, strings: pa.ChunkedArray | Iterable[str]) -> None:
        """strings: (N,) of them."""
        whole = pack(strings).combine_chunks()  # in one piece, so that any of them is found at once
        self.packed = whole if isinstance(whole, pa.ChunkedArray) else pa.chunked_array([whole])

    def __len__(self) -> int:
        """How many."""
        return len(self.packed)

    def __iter__(self) -> Iterator[str]:
        """All of them, a piece at a time."""
        for start in range(0, len(self), 1 << 16):
            yield from self.packed[start : start + (1 << 16)].to_pylist()

    def at(self, row: int) -> str:
        """The string of a row from 0 on."""
        return str(self.packed[row].as_py())


class Stored(Column[Item]):
    """Items that lie in blocks on disk, of which the last few that were asked for are remembered.

    In the order of their rows they are read at the speed of the disk; one in any place costs its whole block.
    """

    def __init__(self, sizes: Sequence[int], read: Callable[[int], Sequence[Item]]) -> None:
        """sizes: items in each block. read: the items of one block."""
        self.sizes, self.read = sizes, lru_cache(CACHED)(read)
        self.starts = [0, *accumulate(sizes)]

    def __len__(self) -> int:
        """How many."""
        return self.starts[-1]

    def __iter__(self) -> Iterator[Item]:
        """All of them, block by block."""
        for block in range(len(self.sizes)):
            yield from self.read(block)

    def at(self, row: int) -> Item:
        """The item of a row from 0 on."""
        block = bisect_right(self.starts, row) - 1
        return self.read(block)[row - self.starts[block]]

    def map(self, change: Callable[[Item], Other]) -> "Stored[Other]":
        """The same with every item changed when it is read.

        >>> Stored([1, 2], [["a"], ["b", "c"]].__getitem__).map(str.upper)[:]
        ['A', 'B', 'C']
        """
        return Stored(self.sizes, lambda block: [change(item) for item in self.read(block)])


class Rows(Mapping[str, int]):
    """id → row. Many ids are looked up at once by `of`; asked for a single one, it makes a dictionary of all.

    >>> rows = Rows(["a", "b", "c"])
    >>> rows.of(["c", "x"]), rows["b"], "x" in rows
    (array([ 2, -1], dtype=int32), 1, False)
    """

    def __init__(self, ids: pa.ChunkedArray | Iterable[str], rows: Iterable[int] | None = None) -> None:
        """ids: (N,) distinct strings. rows: (N,) the row of each, its place by default."""
        self.ids = pack(ids)
        self.rows = None if rows is None else np.array([*rows, -1], np.int32)

    @classmethod
    def over(cls, rows: Mapping[str, int]) -> "Rows":
        """The same, of any dictionary."""
        return rows if isinstance(rows, Rows) else cls(rows, rows.values())

    def of(self, ids: pa.ChunkedArray | Sequence[str]) -> NDArray[np.int32]:
        """(M,) the row of each id, -1 for one that is not there."""
        place = pc.fill_null(pc.index_in(pack(ids), value_set=self.ids), -1).to_numpy()
        return place if self.rows is None else self.rows[place]

    @cached_property
    def _by_id(self) -> dict[str, int]:
        rows = range(len(self.ids)) if self.rows is None else self.rows[:-1].tolist()
        return dict(zip(self.ids.to_pylist(), rows, strict=True))

    def __getitem__(self, id: str) -> int:
        """The row of one id; KeyError if it is not there."""
        return self._by_id[id]

    def __len__(self) -> int:
        """How many ids."""
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        """The ids."""
        return iter(Held(self.ids))


def pack(strings: pa.ChunkedArray | Iterable[str]) -> pa.ChunkedArray:
    """Strings (N,) as pyarrow keeps them."""
    if isinstance(strings, Held):
        return strings.packed
    return strings if isinstance(strings, pa.ChunkedArray) else pa.chunked_array([pa.array(strings, pa.string())])


def take(items: Sequence[Item], rows: Sequence[int]) -> list[Item]:
    """The items of these rows, in their order; looked up by rising row, so that of a `Stored` each block is read once.

    >>> take(["a", "b", "c"], [2, 0, 2])
    ['c', 'a', 'c']
    """
    found = {row: items[row] for row in sorted({*rows})}
    return [found[row] for row in rows]


def stored(path: Path, name: str) -> Stored[str]:
    """A column of texts of a parquet file, read a row group at a time."""
    file = pq.ParquetFile(path, memory_map=True)
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    return Stored(sizes, lambda group: file.read_row_group(group, [name])[name].to_pylist())
