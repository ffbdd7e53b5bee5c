"""Training pairs of a step, as pure functions of seed and step.

So ranks agree, and a resumed run repeats itself, without any state to save.
"""

from functools import lru_cache

import numpy as np

from retreever.errors import DataError

NOT_AN_EPOCH = 2**32 - 1  # second part of a seed; no epoch has this number


def draw_batch_rows(n_pairs: int, batch_size: int, step: int, seed: int) -> np.ndarray:
    """Rows of the pairs in the global batch of a step, int64 (batch,), without repeats.

    Every epoch is a new permutation; its last, incomplete batch is dropped. With fewer pairs than
    `batch_size` a batch holds all of them.

    Args:
        step: counted from 0.

    Raises:
        DataError: there is no pair, or the batch size is not positive.
    """
    if n_pairs < 1 or batch_size < 1:
        raise DataError(f"a batch needs at least one pair and a size above 0, got {n_pairs} pairs, size {batch_size}")
    size = min(n_pairs, batch_size)
    epoch, place = divmod(step, n_pairs // size)
    return _permute_pairs(n_pairs, seed, epoch)[place * size : (place + 1) * size].copy()


@lru_cache(maxsize=4)
def _permute_pairs(n_pairs: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(n_pairs)


def limit_pairs(pairs: np.ndarray, max_pairs: int | None, seed: int) -> np.ndarray:
    """At most `max_pairs` of the pairs, drawn by seed, in their old order; None keeps all.

    >>> limit_pairs(np.arange(8).reshape(4, 2), None, seed=0).shape
    (4, 2)
    """
    if max_pairs is None or len(pairs) <= max_pairs:
        return pairs
    rows = np.random.default_rng((seed, NOT_AN_EPOCH)).choice(len(pairs), max_pairs, replace=False)
    return pairs[np.sort(rows)]
