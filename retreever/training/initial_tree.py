"""The tree before its first step: its rows, and their calibration, from a sample of the texts it is trained on."""

import torch

from retreever.config import Config
from retreever.model import RoutingTree
from retreever.model.rows.frame import complete_frame, find_cluster_rows
from retreever.model.splits.split_function import TextEncoding, pool_tokens


def start_tree(tree: RoutingTree, config: Config, x: TextEncoding, mask: torch.Tensor | None = None) -> None:
    """Set rows, gains and offsets of a new tree.

    Args:
        x: encodings of a sample of passages: pooled, or token states with `mask`.
    """
    generator = torch.Generator().manual_seed(config.train.seed)
    start = config.tree.start or ("frame" if config.train.steps else "clusters")
    if start != "random":
        pooled = pool_tokens(x, mask)
        rows = pooled[:0]
        if start == "clusters":
            levels = min(config.tree.start_levels, tree.tree.depth, (pooled.shape[1] + 1).bit_length() - 1)
            rows = find_cluster_rows(pooled, levels, generator)
        tree.set_rows(complete_frame(rows, tree.tree.splits, generator), pooled, generator)
    tree.calibrate(x, mask)
