"""Several processes train one student: the group that `accelerate launch` started, and what is said in it.

Rank 0 decides, holds the optimiser and writes; the others take their share of a step and wait for the next. A share is
dealt like cards: of n texts in a row, rank r has texts r, r + N, r + 2N, ... In a process alone the functions that
share, gather, spread and sum give back what they got.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tas_lib.records import IntArray


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes of a launch, each with a GPU of its own where there are any; alone where none was launched."""
    from accelerate import PartialState  # a second to import, and only a launch needs it

    state = PartialState(cpu=not torch.cuda.is_available())
    if number() > 1:
        _words()
    yield
    state.destroy_process_group()  # not after an error: others may still be waiting in it, and the launcher ends them


def number() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which one this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


@functools.cache
def _words() -> Any:
    """A group for words: on the CPU, and patient, for rank 0 may encode a collection before it says the next one."""
    return dist.new_group(backend="gloo", timeout=timedelta(days=365))


def tell(word: object) -> None:
    """Rank 0 says a word to all others, who are waiting for it in `told`."""
    if number() > 1:
        dist.broadcast_object_list([word], src=0, group=_words())


def told() -> Any:
    """The next word of rank 0."""
    heard = [None]
    dist.broadcast_object_list(heard, src=0, group=_words())
    return heard[0]


def share(n: int) -> IntArray:
    """This process's places among n; where there are more processes than places, the first: `gather` leaves it out.

    >>> share(3)  # alone
    array([0, 1, 2])
    """
    dealt = np.arange(n)[rank() :: number()]
    return dealt if len(dealt) else np.arange(1)


def gather(own: Tensor, n: int) -> Tensor:
    """The rows of all processes, (n, D), each from whom it was dealt to; own: (`len(share(n))`, D).

    Differentiable: all processes compute one loss from these rows, so each takes of its gradient what is its own.
    """
    return own if number() == 1 else _Gather.apply(own, n)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, n: int) -> Tensor:
        ctx.shape, ctx.dealt = own.shape, len(range(rank(), n, number()))
        hand = own.new_zeros(-(-n // number()), *own.shape[1:])  # shares differ by one row at the most
        hand[: ctx.dealt] = own[: ctx.dealt]
        hands = [torch.empty_like(hand) for _ in range(number())]
        dist.all_gather(hands, hand)
        return torch.stack(hands, dim=1).flatten(0, 1)[:n]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        own = gradients[0].new_zeros(ctx.shape)
        own[: ctx.dealt] = gradients[0][rank() :: number()]
        return own, None


def spread(model: nn.Module) -> None:
    """Give everybody rank 0's weights."""
    if number() > 1:
        _all(dist.broadcast(p.detach(), src=0, async_op=True) for p in model.parameters())


def sum_gradients(model: nn.Module) -> None:
    """Sum the gradients of all processes into rank 0's; those of the others mean nothing afterwards."""
    if number() > 1:
        _all(dist.reduce(p.grad, dst=0, async_op=True) for p in model.parameters() if p.grad is not None)


def _all(begun: Iterator[Any]) -> None:
    for work in list(begun):
        work.wait()
