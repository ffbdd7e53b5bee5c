import pytest
import torch

from retreever.model.spread import Spread

GROUPS = (slice(0, 3), slice(3, 7))


def build(groups=GROUPS):
    torch.manual_seed(0)
    spread = Spread(7, 1.0, groups).double()
    spread.gain.copy_(torch.arange(1.0, 8.0))
    return spread, torch.randn(5, 7, dtype=torch.float64)


def test_without_groups_scores_are_multiplied():
    spread, z = build(())
    torch.testing.assert_close(spread(z), z * torch.arange(1.0, 8.0, dtype=torch.float64))
    torch.testing.assert_close(spread(z[:, :4]), spread(z)[:, :4])
    assert not list(spread.parameters())


def test_level_norm_equals_the_loop():
    spread, z = build()
    torch.nn.init.normal_(spread.log_gain)
    expected = torch.empty_like(z)
    for row in range(5):
        for k, group in enumerate(([0, 1, 2], [3, 4, 5, 6])):
            rms = (sum(z[row, t] ** 2 for t in group) / len(group)) ** 0.5
            for t in group:
                expected[row, t] = spread.log_gain[k].exp() * (t + 1) * z[row, t] / rms
    torch.testing.assert_close(spread(z), expected)


def test_level_norm_ignores_the_length_of_a_texts_scores():
    spread, z = build()
    torch.testing.assert_close(spread(17.0 * z), spread(z))


def test_whole_groups_are_a_prefix():
    spread, z = build()
    assert [spread.round_up_to_groups(n) for n in (1, 3, 4, 7)] == [3, 3, 7, 7]
    assert build(())[0].round_up_to_groups(4) == 4
    torch.testing.assert_close(spread(z[:, :3]), spread(z)[:, :3])


@pytest.mark.parametrize("groups", [(), GROUPS], ids=["gain", "level norm"])
def test_it_starts_at_the_mean_square_of_a_first_batch(groups):
    spread, z = build(groups)
    gain = torch.full((7,), 0.5, dtype=torch.float64)
    spread.set_gain(gain, z)
    for group in GROUPS:
        torch.testing.assert_close(spread(z)[:, group].square().mean(), (0.5 * z)[:, group].square().mean())


def test_a_text_whose_scores_are_zero_has_a_gradient():
    spread, _ = build()
    z = torch.zeros(1, 7, dtype=torch.float64, requires_grad=True)
    spread(z).sum().backward()
    assert z.grad.isfinite().all()
