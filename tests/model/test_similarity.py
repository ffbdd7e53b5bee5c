from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from retreever.model import ProductPropagation, Tree, bhattacharyya, get_similarity, ntvd

NAMES = ["ntvd", "bhattacharyya"]


def distributions(count, leaves, seed, std=3.0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(count, leaves, generator=generator, dtype=torch.float64) * std).log_softmax(1)


def test_worked_example():
    a, b = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.8, 0.2]]).log()
    assert ntvd(a, b).item() == pytest.approx(-0.1)
    assert bhattacharyya(a, b).item() == pytest.approx(0.72**0.5 + 0.02**0.5)


@settings(deadline=None, max_examples=40)
@given(leaves=st.integers(1, 33), seed=st.integers(0, 999), std=st.sampled_from([0.1, 3.0, 100.0]))
def test_against_every_pair(leaves, seed, std):
    a, b = distributions(4, leaves, seed, std), distributions(5, leaves, seed + 1, std)
    p, q = a.exp()[:, None], b.exp()[None]
    torch.testing.assert_close(ntvd(a, b), -(p - q).abs().sum(2) / 2)
    torch.testing.assert_close(ntvd(a, b), torch.minimum(p, q).sum(2) - 1)
    torch.testing.assert_close(bhattacharyya(a, b), (p * q).sqrt().sum(2))


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 5, 3), (40, 70, 600)])
def test_ntvd_equals_cdist_with_its_gradients(shape):
    """A GPU runs `cdist`."""
    m, n, leaves = shape
    a, b = distributions(m, leaves, 0).requires_grad_(), distributions(n, leaves, 1).requires_grad_()
    weight = torch.randn(m, n, dtype=torch.float64)
    fast, slow = ntvd(a, b), torch.cdist(a.exp(), b.exp(), p=1.0) * -0.5
    torch.testing.assert_close(fast, slow)
    found, expected = (torch.autograd.grad((weight * value).sum(), [a, b]) for value in (fast, slow))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("name", "low", "high"), [("ntvd", -1.0, 0.0), ("bhattacharyya", 0.0, 1.0)])
def test_range_and_the_maximum_at_oneself(name, low, high):
    a = distributions(20, 16, 0)
    matrix = get_similarity(name)(a, a)
    assert (matrix > low - 1e-12).all() and (matrix < high + 1e-12).all()
    torch.testing.assert_close(matrix.diagonal(), torch.full((20,), high, dtype=torch.float64))
    assert (matrix.argmax(1) == torch.arange(20)).all()
    torch.testing.assert_close(matrix, matrix.T)


def test_disjoint_distributions():
    a, b = torch.tensor([[1.0, 0.0]]).log(), torch.tensor([[0.0, 1.0]]).log()
    assert ntvd(a, b).item() == -1 and bhattacharyya(a, b).item() == 0


@settings(deadline=None, max_examples=40)
@given(depth=st.integers(1, 6), seed=st.integers(0, 999), std=st.sampled_from([0.05, 1.0, 20.0]))
@pytest.mark.parametrize("name", NAMES)
def test_a_coarse_level_bounds_the_finer_ones(name, depth, seed, std):
    tree, module = Tree(depth), ProductPropagation(depth)
    generator = torch.Generator().manual_seed(seed)
    a, b = (module(torch.randn(5, tree.splits, generator=generator, dtype=torch.float64) * std) for _ in range(2))
    levels = [get_similarity(name)(a[:, tree.level(d)], b[:, tree.level(d)]) for d in range(depth + 1)]
    for coarse, fine in pairwise(levels):
        assert (coarse >= fine - 1e-12).all()


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name):
    a, b = distributions(3, 4, 0).requires_grad_(), distributions(2, 4, 1).requires_grad_()
    assert gradcheck(get_similarity(name), (a, b))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("smallest", [-1e4, -torch.inf])
def test_gradients_stay_finite_where_a_probability_is_zero(name, smallest):
    a = torch.tensor([[0.0, smallest], [-0.7, -0.7]], requires_grad=True)
    get_similarity(name)(a, a.detach().flip(0)).sum().backward()
    assert a.grad.isfinite().all()


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"^similarity: must be one of ntvd, bhattacharyya; got 'cosine'"):
        get_similarity("cosine")
