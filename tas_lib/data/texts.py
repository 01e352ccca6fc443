"""Texts in Arrow arrays, in memory or memory-mapped, and their indices by id."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from operator import eq
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tas_lib.data.store import atomic_write
from tas_lib.records import Texts

PASSAGES = "passages.arrow"
PASSAGE = pa.schema([("id", pa.string()), ("title", pa.string()), ("text", pa.string())])
BATCH = 1 << 14  # passages in a batch of the file, some 6 MB


class Column(Sequence[str]):
    """Strings of an Arrow array as a sequence; a slice is a list. 8.8M ids take a tenth of a gigabyte.

    >>> Column(["a", "b", "c"])[1:], Column(["a", "b", "c"])[-1]
    (['b', 'c'], 'c')
    """

    def __init__(self, strings: pa.ChunkedArray | Iterable[str]) -> None:
        """strings: (N,) of them."""
        if not isinstance(strings, pa.ChunkedArray):
            strings = pa.chunked_array([pa.array(strings, pa.string())])
        self.packed: pa.ChunkedArray = strings

    def __len__(self) -> int:
        """How many."""
        return len(self.packed)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: Any) -> Any:
        """The string at an index, or a list of those in a slice."""
        return self.packed[index].to_pylist() if isinstance(index, slice) else self.packed[index].as_py()

    def __iter__(self) -> Iterator[str]:
        """All of them, a chunk at a time."""
        for chunk in self.packed.chunks:
            yield from chunk.to_pylist()

    def __eq__(self, other: object) -> bool:
        """Whether `other` is a sequence of the same strings."""
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]


class Rows(Mapping[str, int]):
    """id → index. `of` looks many ids up at once; a single look-up makes a dictionary of all.

    >>> rows = Rows(["a", "b", "c"])
    >>> rows.of(["c", "x"]), rows["b"], "x" in rows
    (array([ 2, -1], dtype=int32), 1, False)
    """

    def __init__(self, ids: Sequence[str]) -> None:
        """ids: (N,) distinct strings."""
        self.ids = ids if isinstance(ids, Column) else Column(ids)

    def of(self, ids: Sequence[str]) -> NDArray[np.int32]:
        """(M,) the index of each id, -1 for an unknown one."""
        indices: NDArray[np.int32] = pc.fill_null(
            pc.index_in(Column(ids).packed, value_set=self.ids.packed), -1
        ).to_numpy()
        return indices

    @cached_property
    def _by_id(self) -> dict[str, int]:
        return {id: index for index, id in enumerate(self.ids)}

    def __getitem__(self, id: str) -> int:
        """The index of one id; KeyError if it is unknown."""
        return self._by_id[id]

    def __len__(self) -> int:
        """How many ids."""
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        """The ids."""
        return iter(self.ids)


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
