"""Training by several gloo workers in double precision, one process each, started without Ray.

Rounding differs between one worker and many, and Adam amplifies it where a gradient is near zero. In double precision
the remaining difference is far below the effect of a mistake in the mathematics.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset
from retreever.encoding.text_encodings import Encodings
from retreever.training import training_loop


class Doubles(Encodings):
    """Encodings of the store in double precision."""

    def batch(
        self, rows: np.ndarray, tokens: bool = False, dtype: torch.dtype = torch.float64
    ) -> tuple[Tensor, Tensor | None]:
        """As the store's `batch`, in double precision; `dtype` is ignored."""
        x, mask = super().batch(rows, tokens)
        return x.double(), mask


@contextmanager
def doubles() -> Iterator[None]:
    """Create new tensors and modules in double precision during the body."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def train_alone(config: Config, data: EncodedDataset, folder: Path, guard: EncodedDataset | None = None) -> None:
    """Train in this process; `guard` serves every guard set of the configuration."""
    guards = {name: _in_double_precision(guard) for name in config.guards if guard is not None}
    with doubles():
        list(training_loop.epochs(config, _in_double_precision(data), folder, guards=guards))


def _in_double_precision(data: EncodedDataset) -> EncodedDataset:
    return EncodedDataset(data.dataset, Doubles(data.queries.folder), Doubles(data.passages.folder))


def train_together(
    workers: int, jobs: dict[str, Config], data: EncodedDataset, folder: Path, guard: EncodedDataset | None = None
) -> None:
    """Train every job in `folder/NAME`, one after the other, with one group of workers."""
    mp.spawn(_work, (workers, jobs, data, folder, guard), nprocs=workers)


def _work(
    rank: int,
    workers: int,
    jobs: dict[str, Config],
    data: EncodedDataset,
    folder: Path,
    guard: EncodedDataset | None,
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=workers)
    try:
        for name, config in jobs.items():
            train_alone(config, data, folder / name, guard)
    finally:
        dist.destroy_process_group()
