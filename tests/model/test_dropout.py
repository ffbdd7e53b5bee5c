import pytest
import torch
from torch.autograd import gradcheck

from retreever.model.dropout import apply_dropout, keep_probability


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_given_share_is_dropped_and_the_mean_kept(p):
    torch.manual_seed(0)
    values = torch.full((3, 50_001), 0.5)
    found = apply_dropout(values, p)
    assert (found == 0).float().mean().item() == pytest.approx(p, abs=0.005)
    torch.testing.assert_close(found.unique(), torch.tensor([0.0, 0.5 / keep_probability(p)]))


def test_neighbours_are_dropped_independently():
    torch.manual_seed(0)
    kept = (apply_dropout(torch.ones(400_000), 0.5) > 0).float()
    for lag in range(1, 9):
        assert (kept[lag:] * kept[:-lag]).mean().item() == pytest.approx(0.25, abs=0.005)


def test_none_are_dropped_at_zero():
    assert torch.equal(apply_dropout(torch.ones(9), 0.0), torch.ones(9))


def test_repeats_with_the_seed():
    first, again = (torch.manual_seed(s) and apply_dropout(torch.ones(100), 0.5) for s in (3, 3))
    assert torch.equal(first, again)


def test_gradients():
    values = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda v: torch.manual_seed(0) and apply_dropout(v, 0.3), values)
