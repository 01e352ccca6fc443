"""An array that is written piece by piece into a .npy, and goes on after a kill where it ended."""

import os
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike


class Growing:
    """A one-dimensional array on disk; closed, it is the file that `np.save` would have written.

    Until then its head says that it is empty. What was appended stays when the process is killed: opened again, the
    length is that of the items which stand there whole.

    with Growing(folder / "ids.npy", np.uint16) as ids: ids.append(...)
    """

    def __init__(self, path: Path, dtype: DTypeLike) -> None:
        """path: a .npy that is there already is gone on with."""
        self.dtype = np.dtype(dtype)
        self._file = open(path, "r+b" if path.exists() else "w+b")  # noqa: SIM115, closed by close
        self._head(0)
        self._start = self._file.tell()
        size = max(os.fstat(self._file.fileno()).st_size - self._start, 0)
        self.cut(size // self.dtype.itemsize)

    def _head(self, length: int) -> None:
        """Its length in bytes does not depend on the array's."""
        self._file.seek(0)
        described = {"descr": npy.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (length,)}
        npy.write_array_header_1_0(self._file, described)

    def __len__(self) -> int:
        """Items so far."""
        return self._length

    def cut(self, length: int) -> None:
        """Forget all items from `length` on."""
        self._length = length
        self._file.seek(self._start + length * self.dtype.itemsize)
        self._file.truncate()

    def append(self, items: np.ndarray) -> None:
        """Add items (N,), on disk when this returns."""
        self._file.write(np.ascontiguousarray(items, self.dtype).data)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._length += len(items)

    def last(self) -> int | float:
        """The last item; ValueError if there is none."""
        if not self._length:
            raise ValueError("an empty array has no last item")
        self._file.seek(-self.dtype.itemsize, os.SEEK_END)
        return np.frombuffer(self._file.read(self.dtype.itemsize), self.dtype)[0].item()

    def close(self) -> None:
        """Write how long it is."""
        self._head(self._length)
        self._file.close()

    def __enter__(self) -> "Growing":
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closed, whatever happened."""
        self.close()
