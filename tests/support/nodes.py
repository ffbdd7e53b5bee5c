"""Synthetic node probabilities, drawn from a seed."""

import numpy as np


def add_levels(leaves):
    """Leaf probabilities (rows, 2**depth) with all levels above them, in heap order."""
    levels = [leaves]
    while levels[0].shape[1] > 1:
        levels.insert(0, levels[0][:, ::2] + levels[0][:, 1::2])
    return np.concatenate(levels, axis=1).astype(np.float32)


def draw_nodes(rows, depth=4, seed=0, shape=0.3):
    """Node probabilities in heap order, every parent the sum of its children; smaller `shape`, sharper."""
    leaves = np.random.default_rng(seed).gamma(shape, size=(rows, 2**depth)) + 1e-9
    return add_levels(leaves / leaves.sum(axis=1, keepdims=True))


def draw_clustered(rows, depth=7, seed=0, centres=12):
    """Node probabilities of passages that lie around some centres, as the texts of a corpus do."""
    draw = np.random.default_rng(seed)
    middle = np.random.default_rng(99).standard_normal((centres, 2**depth))
    logits = middle[draw.integers(centres, size=rows)] + 0.6 * draw.standard_normal((rows, 2**depth))
    leaves = np.exp(logits)
    return add_levels(leaves / leaves.sum(axis=1, keepdims=True))
