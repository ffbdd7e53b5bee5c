"""A routing tree as one fixed chain of operations, so that it can be exported as a graph (ours).

`RoutingTree` is made for training: logarithms throughout, and texts sorted and cut into blocks by their length. Here
are the same functions by their formulas, in probabilities, for any number of texts. What reads the graph is not known
here.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from retreever.model.propagation import LearnedPropagation, ProductPropagation, Propagation
from retreever.model.router import RoutingTree
from retreever.model.splits.attention import CrossAttentionSplit
from retreever.model.splits.split_function import TextEncoding


class TraceableTree(nn.Module):
    """Probabilities of all nodes, as `RoutingTree` computes their logarithms, to about 1e-6."""

    def __init__(self, tree: RoutingTree):
        super().__init__()
        self.tree = tree.eval()

    def forward(
        self, x: TextEncoding, mask: Bool[Tensor, "batch tokens"] | None = None
    ) -> tuple[Float[Tensor, "batch nodes"]]:
        """Probabilities of the nodes in heap order.

        Args:
            x: pooled encodings, or for cross-attention token states with `mask`.
            mask: true where a token counts.
        """
        split = self.tree.split
        if isinstance(split, CrossAttentionSplit):
            assert mask is not None
            scores = _attend(split, x, mask) + split.offset
        else:
            scores = split(x, mask)
        return (_propagate(self.tree.propagation, self.tree.spread(scores)),)


def _attend(
    split: CrossAttentionSplit, x: Float[Tensor, "batch tokens dim"], mask: Bool[Tensor, "batch tokens"]
) -> Float[Tensor, "batch scores"]:
    """Scores of cross-attention without offset; the formula stands in `splits/attention.py`."""
    queries = split.query(split.embeddings.flatten(0, 1)).unflatten(1, (split.heads, -1)).transpose(0, 1)
    queries = queries / queries.shape[2] ** 0.5
    # (heads, scores and embeddings, width)
    keys = split.key(x).unflatten(2, (split.heads, -1)).permute(0, 2, 3, 1)
    # (batch, heads, width, tokens)
    weights = (queries @ keys).masked_fill(~mask[:, None, None], -torch.inf).softmax(3)
    weights = weights.unflatten(2, (len(split.offset), -1)).mean(3)
    if split.value is None:
        values = split.readout @ x.transpose(1, 2)[:, None]
    else:
        values = split.readout @ split.value(x).unflatten(2, (split.heads, -1)).permute(0, 2, 3, 1)
    # both (batch, heads, scores, tokens)
    return (weights * values).sum((1, 3))


def _propagate(propagation: Propagation, scores: Float[Tensor, "batch scores"]) -> Float[Tensor, "batch nodes"]:
    tree = propagation.tree
    if isinstance(propagation, ProductPropagation):
        return _multiply_branches(scores, tree.depth)
    if isinstance(propagation, LearnedPropagation):
        scores = propagation.score_nodes(scores)
        if not propagation.exact_hierarchy:
            return torch.cat([scores[:, tree.level(d)].softmax(1) for d in range(tree.depth + 1)], 1)
    levels = [scores.softmax(1)]
    for _ in range(tree.depth):
        levels.insert(0, levels[0].unflatten(1, (-1, 2)).sum(2))
    return torch.cat(levels, 1)


def _multiply_branches(scores: Float[Tensor, "batch splits"], depth: int) -> Float[Tensor, "batch nodes"]:
    branches = torch.stack([scores, -scores], 2).sigmoid()
    first, *deeper = branches.split([2**d for d in range(depth)], 1)
    nodes = [first.sum(2), first.flatten(1)]
    for level in deeper:
        nodes.append((nodes[-1].unsqueeze(2) * level).flatten(1))
    return torch.cat(nodes, 1)
