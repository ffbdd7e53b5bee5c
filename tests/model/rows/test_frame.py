"""A start's rows keep the distances between encodings, and its first ones are directions between clusters."""

import pytest
import torch
import torch.nn.functional as F

from retreever.model.rows.frame import complete_frame, find_cluster_rows, make_orthonormal
from tests.support.trees import build_tree

DIM = 24


def topics(texts: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Encodings around eight centres, off the origin, and the centre of each."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(8, DIM, generator=generator)
    own = torch.arange(texts) % 8
    return centres[own] + 0.3 * torch.randn(texts, DIM, generator=generator) + 1.0, own


@pytest.mark.parametrize("first", [0, 7, 15])
def test_a_frame_keeps_all_distances(first):
    x, _ = topics()
    levels, generator = first.bit_length(), torch.Generator().manual_seed(0)
    rows = find_cluster_rows(x, levels, generator) if levels else x[:0]
    frame = complete_frame(rows, 127, torch.Generator().manual_seed(1))
    assert frame.shape == (127, DIM) and torch.equal(frame[:first], rows)
    torch.testing.assert_close(frame.T @ frame, torch.eye(DIM), atol=1e-5, rtol=0)


def test_fewer_rows_than_dimensions_are_a_part_of_a_frame():
    frame = complete_frame(torch.empty(0, DIM), 7, torch.Generator().manual_seed(0))
    torch.testing.assert_close(frame @ frame.T, torch.eye(7), atol=1e-5, rtol=0)


def test_cluster_rows_are_orthonormal_and_separate_the_topics():
    x, own = topics()
    rows = find_cluster_rows(x, 3, torch.Generator().manual_seed(0))
    torch.testing.assert_close(rows @ rows.T, torch.eye(7), atol=1e-4, rtol=0)
    sides = F.normalize(x - x.mean(0), dim=1) @ rows[0] > 0
    shares = torch.stack([sides[own == topic].float().mean() for topic in range(8)])
    assert ((shares < 0.05) | (shares > 0.95)).float().mean() >= 0.75


def test_orthonormal_rows_are_the_nearest():
    rows = F.normalize(torch.eye(5, DIM) + 0.2, dim=1)
    near = make_orthonormal(rows)
    other = torch.linalg.qr(rows.T)[0].T
    other = other * (other * rows).sum(1, keepdim=True).sign()
    assert (near - rows).norm() < (other - rows).norm()


def test_an_untrained_tree_ranks_as_its_encodings():
    x, _ = topics()
    x = F.normalize(x, dim=1)
    tree = build_tree(DIM, depth=9, init_std=0.05, level_norm=False)
    generator = torch.Generator().manual_seed(0)
    tree.set_rows(complete_frame(torch.empty(0, DIM), tree.tree.splits, generator), x, generator)
    tree.calibrate(x)
    tree.eval()
    roots = (tree.level(tree(x), 9) / 2).exp()
    ours, cosine = (roots @ roots.T)[0, 1:], (x @ x.T)[0, 1:]
    assert torch.corrcoef(torch.stack([ours.detach(), cosine]))[0, 1] > 0.99
