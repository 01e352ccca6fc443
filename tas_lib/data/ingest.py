"""Training pairs of any number: from a file to the table on disk, with a bounded part of them in memory at a time."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from tas_lib.data import store
from tas_lib.data.growing import Growing
from tas_lib.data.triples import Triples, triple_blocks
from tas_lib.records import FloatArray, IntArray, Pairs

PART = 1 << 22  # pairs that are sorted at a time, about 200 MB


def spool_triples(path: Path, queries: Mapping[str, int], passages: Mapping[str, int], folder: Path) -> Triples:
    """`read_triples`, memory-mapped: 16 bytes a pair in a folder that can go when they are sorted."""
    folder.mkdir(exist_ok=True)
    left_out, scored = 0, False
    with ExitStack() as stack:
        kinds = {"query": np.int32, "pos": np.int32, "neg": np.int32, "margins": np.float32}
        spools = {name: stack.enter_context(Growing(folder / f"{name}.npy", kind)) for name, kind in kinds.items()}
        for spool in spools.values():
            spool.cut(0)
        for part in triple_blocks(path, queries, passages):
            left_out, scored = left_out + part.left_out, part.margins is not None
            for name, spool in spools.items():
                column = getattr(part, name)
                if column is not None:
                    spool.append(column)
    query, pos, neg, margins = (store.load_array(folder / f"{name}.npy") for name in spools)
    return Triples(query, pos, neg, margins if scored else None, left_out)


def write_pairs(
    n_queries: int, query: IntArray, pos: IntArray, neg: IntArray, margins: FloatArray, folder: Path, part: int = PART
) -> None:
    """What `Pairs.sort` makes of these pairs (N,), as one .npy a field; sorted a range of queries at a time.

    part: pairs in a range, more only where a single query has more.
    """
    counts = np.zeros(n_queries, np.int64)
    for start in range(0, len(query), part):
        counts += np.bincount(query[start : start + part], minlength=n_queries)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    with ExitStack() as stack:
        columns = {"pos": pos, "neg": neg, "margins": margins}
        grown = {name: stack.enter_context(Growing(folder / f"{name}.npy", c.dtype)) for name, c in columns.items()}
        for array in grown.values():
            array.cut(0)
        for first, end in _ranges(offsets, part):
            rows = np.flatnonzero((first <= query) & (query < end))  # in the order of the file: the sort is stable
            table = Pairs.sort(end - first, query[rows] - first, pos[rows], neg[rows], margins[rows])
            for name, array in grown.items():
                array.append(getattr(table, name))
    store.save_arrays(folder, offsets=offsets)


def _ranges(offsets: IntArray, part: int) -> Iterator[tuple[int, int]]:
    """Ranges of queries with at most `part` pairs, or of a single one.

    >>> [*_ranges(np.array([0, 3, 5, 6, 20]), 6)]
    [(0, 3), (3, 4)]
    """
    first, last = 0, len(offsets) - 1
    while first < last:
        end = int(np.searchsorted(offsets, offsets[first] + part, "right")) - 1
        end = max(end, first + 1)
        yield first, end
        first = end
