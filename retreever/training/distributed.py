"""Work shared between training workers: their number, their shares, gathering and agreement.

It uses plain `torch.distributed`. Without a process group there is one worker, and every function is the identity. It
does not know who starts the workers (Ray Train, torchrun, a test).
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Shared = TypeVar("Shared")


def world_size() -> int:
    """Number of workers; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This worker's number, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def worker_slice(total: int, worker: int | None = None) -> slice:
    """A worker's contiguous share of `total` items; None: this worker's. Shares differ by at most one item.

    >>> worker_slice(5)
    slice(0, 5, None)
    """
    size, me = world_size(), rank() if worker is None else worker
    return slice(total * me // size, total * (me + 1) // size)


def gather_rows(rows: Tensor, total: int) -> Tensor:
    """Gather the rows of all workers in rank order, **with** gradients to all of them.

    Args:
        rows: (share, features), this worker's rows, `worker_slice(total)`.

    Returns:
        (total, features). With this gradient the mean of the workers' local losses, each weighted by
        `worker_weight(total)`, has the exact gradient of the global loss; a gather without gradient has not.
    """
    if world_size() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows, total)
    return gathered


class _Gather(torch.autograd.Function):
    """Forward: the rows of all workers. Backward: the sum of all workers' gradients of this worker's rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, total: int) -> Tensor:
        ctx.own = worker_slice(total)
        shares = [worker_slice(total, worker) for worker in range(world_size())]
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


def worker_weight(total: int) -> float:
    """Weight of this worker's mean in the mean over all workers: 1 where all shares of `total` are equal."""
    own = worker_slice(total)
    return (own.stop - own.start) * world_size() / total


def run_on_rank_zero(make: Callable[[], Shared]) -> Shared:
    """Call `make` on rank 0 and return its result on every worker; where it raises, all workers raise its error."""
    if world_size() == 1:
        return make()
    answer: list[tuple[Shared | None, Exception | None]] = [(None, None)]
    if rank() == 0:
        try:
            answer = [(make(), None)]
        except Exception as error:  # of any kind: the other workers must not wait for an answer
            answer = [(None, error)]
    dist.broadcast_object_list(answer)
    value, failure = answer[0]
    if failure is not None:
        raise failure
    return value  # type: ignore[return-value]


@torch.no_grad()
def copy_from_rank_zero(module: nn.Module) -> None:
    """Give every worker the parameters and buffers of rank 0's `module`."""
    if world_size() > 1:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, 0)


def gather_arrays(part: np.ndarray) -> np.ndarray:
    """Concatenate the parts of all workers in rank order, on every worker; parts may differ in length. No gradient."""
    if world_size() == 1:
        return part
    parts: list[np.ndarray | None] = [None] * world_size()
    dist.all_gather_object(parts, part)
    return np.concatenate([p for p in parts if p is not None])


def average_over_workers(value: Tensor) -> Tensor:
    """The mean of `value` over all workers, on every worker. No gradient."""
    if world_size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world_size()
