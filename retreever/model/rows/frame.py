"""Rows for all splits of a tree that rank as the encoder does, before any training (ours).

Near even splits the similarity of a level is 1 - c |W (q - p)|^2, so rows W with W'W = I keep the distances between
encodings: a tight frame. The rows of the first levels may be chosen: where they are the directions between clusters,
nodes are clusters. The rows below make up for what the first ones lack. A turn of the rows within a level changes the
nodes, but not the ranking.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from retreever.model.rows.two_means import cluster_hierarchically

SMALLEST_VARIANCE = 1e-3  # eigenvalues below count as this much, so that nearly equal rows can be told apart
SHORTEST_DIRECTION = 1e-6  # a shorter one separates nothing


def find_cluster_rows(
    x: Float[Tensor, "texts dim"], levels: int, generator: torch.Generator
) -> Float[Tensor, "splits dim"]:
    """Orthonormal rows near the directions of hierarchical 2-means of centred encodings, in heap order.

    Where a node has nothing to split, the row is random.

    Args:
        levels: levels of splits, 2**levels - 1 rows, no more than `dim`.
    """
    rows = torch.cat([*cluster_hierarchically(F.normalize(x - x.mean(0), dim=1), levels, generator)])
    random = torch.randn(rows.shape, generator=generator)
    return make_orthonormal(F.normalize(torch.where(rows.norm(dim=1, keepdim=True) > SHORTEST_DIRECTION, rows, random)))


def make_orthonormal(rows: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows dim"]:
    """The nearest orthonormal rows, (W W')^(-1/2) W."""
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    return (vectors * values.clamp_min(SMALLEST_VARIANCE).rsqrt()) @ vectors.T @ rows


def complete_frame(
    rows: Float[Tensor, "first dim"], splits: int, generator: torch.Generator
) -> Float[Tensor, "splits dim"]:
    """`rows`, and random ones after them, with W'W = I as near as `rows` allows.

    Args:
        rows: the first rows, any number; directions in which their W'W exceeds I stay as they are.
    """
    dim, missing = rows.shape[1], splits - len(rows)
    values, vectors = torch.linalg.eigh(torch.eye(dim) - rows.T @ rows)
    rest = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    if missing >= dim:
        frame = torch.linalg.qr(torch.randn(missing, dim, generator=generator))[0]
    else:
        frame = torch.linalg.qr(torch.randn(dim, missing, generator=generator))[0].T
    return torch.cat([rows, frame @ rest])
