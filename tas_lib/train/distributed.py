"""Several processes train one student, as `accelerate launch` starts them; all of them run the same loop.

Each process has the whole student and the same batch, and encodes its share of the batch's texts. Only the main process
writes. In a single process, these functions return their arguments.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tas_lib.records import IntArray

PATIENCE = timedelta(days=7)
"""How long processes wait for each other, since the main one may have to encode a collection."""
_ALONE = ContextVar("alone", default=False)


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes of a launch, each with its own GPU if there are any; without a launch there is one process."""
    from accelerate import PartialState  # takes a second to import, and only a launch needs it

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    yield
    state.destroy_process_group()  # not after an error: others may wait for this process, and the launcher ends them


def number() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() and not _ALONE.get() else 1


def index() -> int:
    """Which one this is, from 0; 0 is the main process."""
    return dist.get_rank() if number() > 1 else 0


def is_main() -> bool:
    """Whether this process writes files."""
    return index() == 0


def wait() -> None:
    """Wait until all processes are here."""
    if number() > 1:
        dist.barrier()


@contextmanager
def main_first() -> Iterator[bool]:
    """A block that every process runs as if alone, the main one first: the others then read what it has made.

    Yields whether this is the main process.
    """
    main = is_main()
    if not main:
        wait()
    before = _ALONE.set(True)
    try:
        yield main
    finally:
        _ALONE.reset(before)
    if main:
        wait()


def from_all(value: Any) -> list[Any]:
    """The values of all processes, in all of them."""
    values = [value] * number()
    if number() > 1:
        dist.all_gather_object(values, value)
    return values


def from_main(value: Any = None) -> Any:
    """The main process's value, in all processes."""
    return from_all(value)[0]


def make_together(artefact: Callable[[Callable[[Path], None]], Path], make: Callable[[Path], None]) -> Path:
    """An artefact that all processes make; the main one asks the store and writes.

    artefact: `Store.artefact`, given all but `make`.
    """
    path = None
    if is_main():
        path = artefact(lambda folder: make(from_main(folder)))
        from_main(None)  # nothing is left to make
    else:
        while folder := from_main():
            make(folder)
    return Path(from_main(path))


def share(n: int) -> IntArray:
    """This process's indices of n, every N-th; one with none takes index 0, which `gather` leaves out.

    >>> share(3)  # alone
    array([0, 1, 2])
    """
    own = np.arange(n)[index() :: number()]
    return own if len(own) else np.arange(1)


def gather(own: Tensor, n: int) -> Tensor:
    """The vectors (n, D) of all processes, in order; own: (`len(share(n))`, D).

    Differentiable in this process's own: all compute the same loss, so summed gradients are those of one process.
    """
    if number() == 1:
        return own
    mine = len(range(index(), n, number()))
    padded = own.new_zeros(-(-n // number()), *own.shape[1:])  # shares differ by one at the most
    padded[:mine] = own[:mine].detach()
    shares = [torch.empty_like(padded) for _ in range(number())]
    dist.all_gather(shares, padded)
    vecs = torch.stack(shares, dim=1).flatten(0, 1)[:n]
    vecs[index() :: number()] = own[:mine]
    return vecs


def sum_gradients(model: nn.Module) -> None:
    """Give every process the sum of all processes' gradients."""
    if number() > 1:
        for work in [dist.all_reduce(p.grad, async_op=True) for p in model.parameters() if p.grad is not None]:
            work.wait()
