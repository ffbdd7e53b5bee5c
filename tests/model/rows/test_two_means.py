"""Hierarchical 2-means: blobs are told apart, and a node without two vectors is left alone."""

import torch
import torch.nn.functional as F

from retreever.model.rows.two_means import cluster_hierarchically, fit_two_means, project_on_own_node


def blobs() -> torch.Tensor:
    """Four tight clusters on a circle, two near each other and two opposite."""
    angles = torch.tensor([0.0, 0.6, 3.1, 3.7]).repeat_interleave(25)
    angles = angles + 0.02 * torch.randn(100, generator=torch.Generator().manual_seed(0))
    return torch.stack([angles.cos(), angles.sin()], 1)


def test_two_means_splits_opposite_blobs_then_neighbours():
    x, generator = blobs(), torch.Generator().manual_seed(1)
    levels = list(cluster_hierarchically(x, 2, generator))
    assert [len(rows) for rows in levels] == [1, 2]
    side = (x @ levels[0][0] < 0).long()
    assert len(set(side[:50].tolist())) == len(set(side[50:].tolist())) == 1 and side[0] != side[99]
    leaf = 2 * side + (project_on_own_node(x, levels[1], side) < 0)
    assert len(set(leaf.tolist())) == 4 and all(len(set(leaf[i : i + 25].tolist())) == 1 for i in (0, 25, 50, 75))


def test_a_node_of_one_vector_or_none_is_not_split():
    directions = fit_two_means(torch.eye(3), torch.tensor([0, 0, 2]), 4, torch.Generator())
    assert directions[0].any() and not directions[1:].any()


def test_a_direction_is_the_difference_of_the_centroids():
    x = blobs()
    (direction,) = cluster_hierarchically(x, 1, torch.Generator())
    left = x @ direction[0] >= 0
    centroids = [F.normalize(part.sum(0), dim=0) for part in (x[left], x[~left])]
    torch.testing.assert_close(direction[0], centroids[0] - centroids[1])
