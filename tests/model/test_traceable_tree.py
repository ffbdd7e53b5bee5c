"""The tree as a fixed chain of operations equals the tree that is trained."""

import pytest
import torch

from retreever.model.router import PROPAGATIONS
from retreever.model.traceable_tree import TraceableTree
from tests.support.trees import build_tree

ATTENTION = {"split": "cross_attention", "d_emb": 6, "d_k": 8, "heads": 2, "embeddings": 3}


@pytest.mark.parametrize("propagation", PROPAGATIONS)
@pytest.mark.parametrize(
    "settings",
    [{"split": "linear"}, {"split": "mlp"}, ATTENTION, {**ATTENTION, "values": "projected"}],
    ids=["linear", "mlp", "attention", "projected"],
)
def test_its_probabilities_are_those_of_the_tree(propagation: str, settings: dict[str, object]) -> None:
    torch.manual_seed(0)
    tree = build_tree(12, depth=5, propagation=propagation, init_std=3.0, **settings).eval()
    attends = settings["split"] == "cross_attention"
    x = torch.randn(40, *([9] if attends else []), 12)
    mask = torch.arange(9) < torch.arange(40)[:, None] % 9 + 1 if attends else None
    tree.calibrate(x, mask)
    with torch.no_grad():
        expected = tree(x, mask).exp()
        (found,) = TraceableTree(tree)(x, mask)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_a_branch_that_is_nearly_certain_has_no_nan() -> None:
    tree = build_tree(4, depth=3, split="linear", propagation="product", level_norm=False)
    (found,) = TraceableTree(tree)(torch.randn(5, 4) * 1e4)
    assert found.isfinite().all()
    torch.testing.assert_close(found[:, 7:].sum(1), torch.ones(5))
