"""Spherical 2-means, all nodes of a level at once; repeated level by level it clusters texts hierarchically."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

TWO_MEANS_ITERATIONS = 12  # of assignment and update


def fit_two_means(
    vectors: Float[Tensor, "n dim"], node: Int[Tensor, " n"], nodes: int, generator: torch.Generator
) -> Float[Tensor, "nodes dim"]:
    """Left centroid minus right centroid of every node; zero where a node has fewer than two vectors.

    Starts from a random member of the node and the member least similar to it.

    Args:
        vectors: of length one.
        node: the node, in [0, nodes), that holds each vector.
    """
    counts = torch.bincount(node, minlength=nodes)
    starts = (counts.cumsum(0) - counts).clamp_max(len(node) - 1)
    members = node.argsort(stable=True)
    drawn = (torch.rand(nodes, generator=generator) * counts).long()
    first = members[(starts + drawn).clamp_max(len(node) - 1)]
    nearest_last = project_on_own_node(vectors, vectors[first], node).argsort(stable=True)
    second = nearest_last[node[nearest_last].argsort(stable=True)][starts]
    left, right = vectors[first], vectors[second]
    for _ in range(TWO_MEANS_ITERATIONS):
        child = 2 * node + (project_on_own_node(vectors, left - right, node) < 0)
        sums = vectors.new_zeros(2 * nodes, vectors.shape[1]).index_add_(0, child, vectors)
        centroids = F.normalize(sums, dim=1)
        empty = (torch.bincount(child, minlength=2 * nodes) == 0)[:, None]
        left = torch.where(empty[0::2], left, centroids[0::2])
        right = torch.where(empty[1::2], right, centroids[1::2])
    return (left - right).masked_fill((counts < 2)[:, None], 0.0)


def cluster_hierarchically(
    vectors: Float[Tensor, "n dim"], levels: int, generator: torch.Generator
) -> Iterator[Float[Tensor, "nodes dim"]]:
    """The 2-means directions of the nodes of each level, from the root to `levels` - 1.

    A vector goes left where its product with the direction of its node is at least zero.
    """
    node = torch.zeros(len(vectors), dtype=torch.long)
    for level in range(levels):
        directions = fit_two_means(vectors, node, 2**level, generator)
        yield directions
        node = 2 * node + (project_on_own_node(vectors, directions, node) < 0)


def project_on_own_node(
    vectors: Float[Tensor, "n dim"], directions: Float[Tensor, "nodes dim"], node: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Inner product of each vector with the direction of its own node."""
    return torch.linalg.vecdot(vectors, directions[node])
