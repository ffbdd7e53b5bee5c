"""What training needs to know of its peers: how many there are, which share is mine, how to gather and to agree.

Plain `torch.distributed`; with no process group there is one worker and every function is the identity. Who starts the
workers (Ray Train, torchrun, a test) is not known here.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

T = TypeVar("T")


def world_size() -> int:
    """Number of workers that train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This worker's number, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def share(total: int, worker: int | None = None) -> slice:
    """A worker's contiguous part of `total` items, this one's where none is named; parts differ by one item at most.

    >>> share(5)
    slice(0, 5, None)
    """
    size, me = world_size(), rank() if worker is None else worker
    return slice(total * me // size, total * (me + 1) // size)


def gather(rows: Tensor, total: int) -> Tensor:
    """Every worker's rows in rank order, **with** gradients to all of them.

    Args:
        rows: (share, features), this worker's `share(total)`.

    Returns:
        (total, features). A gather without gradient would give a wrong gradient of the global loss; with it, the
        workers' local losses give the exact one, each weighted by `weight(total)` and averaged.
    """
    if world_size() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows, total)
    return gathered


class _Gather(torch.autograd.Function):
    """All rows forwards; backwards the sum of what every worker wants changed of ours."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, total: int) -> Tensor:
        ctx.own = share(total)
        shares = [share(total, worker) for worker in range(world_size())]
        longest = max(own.stop - own.start for own in shares)
        padded = F.pad(rows, (0, 0, 0, longest - len(rows))).contiguous()
        parts = [torch.empty_like(padded) for _ in shares]
        dist.all_gather(parts, padded)
        return torch.cat([part[: own.stop - own.start] for part, own in zip(parts, shares, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad[ctx.own], None


def weight(total: int) -> float:
    """What this worker's mean over its `share(total)` counts in the mean of all workers: 1 where shares are equal."""
    own = share(total)
    return (own.stop - own.start) * world_size() / total


def agree(make: Callable[[], T]) -> T:
    """What `make` gives on rank 0, on every worker; where it raises, every worker raises the same error."""
    if world_size() == 1:
        return make()
    answer: list[tuple[T | None, Exception | None]] = [(None, None)]
    if rank() == 0:
        try:
            answer = [(make(), None)]
        except Exception as error:  # whatever it is, the others must not wait for an answer
            answer = [(None, error)]
    dist.broadcast_object_list(answer)
    value, failure = answer[0]
    if failure is not None:
        raise failure
    return value  # type: ignore[return-value]


def concatenate(part: np.ndarray) -> np.ndarray:
    """Every worker's `part` in rank order, on every worker; parts may differ in length. No gradient."""
    if world_size() == 1:
        return part
    parts: list[np.ndarray | None] = [None] * world_size()
    dist.all_gather_object(parts, part)
    return np.concatenate([p for p in parts if p is not None])


def mean(value: Tensor) -> Tensor:
    """The mean of every worker's `value`, on every worker. No gradient."""
    if world_size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world_size()
