"""Propagation: from split scores to the probability of reaching every node (section 3.2 of the paper).

    product           z_left(t) = sigmoid(s_t), z_right(t) = 1 - z_left(t); p(t) = product of z along the path to t
    learned           c_t = MLP(s_t, s_parent(t), ..., s_root, 0, ...); p(level d) = softmax(e^tau c over level d)
    learned_per_node  the same with an MLP of its own for every node
    consistent        p(leaves) = softmax(e^tau c over the leaves); p(parent) = sum of p(children)     (ours)
    leaf_softmax      p(leaves) = softmax(s over the leaves); p(parent) = sum of p(children)           (ours)

Everything is in logarithms, so that a path of small probabilities keeps its gradient. Every level's
probabilities sum to one. Where a parent is the sum of its children (`exact_hierarchy`), a coarse level bounds
the finer ones, as certified search needs. This module does not know where the scores come from.
"""

from abc import ABC, abstractmethod
from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from retreever.model.arguments import require_at_least, require_fraction, require_within
from retreever.model.dropout import apply_dropout
from retreever.model.tree import Tree

TEMPERATURE_RANGE = (1e-4, 30.0)  # range of e^tau, from the paper's release
TEXTS_PER_PATH_BLOCK = 256  # texts whose paths are looked up at once: more do not fit a CPU's cache


class Propagation(nn.Module, ABC):
    """Log-probabilities of all nodes in heap order.

    Attributes:
        inputs: scores that a full tree takes.
        exact_hierarchy: every parent is the sum of its children.
    """

    exact_hierarchy = True

    def __init__(self, depth: int):
        super().__init__()
        self.tree = Tree(require_at_least("depth", depth, 1))

    @property
    def inputs(self) -> int:
        """Scores that the full tree takes."""
        return self.scores_for(self.tree.depth)

    @abstractmethod
    def scores_for(self, depth: int) -> int:
        """Number of scores, counted from the first, that the levels down to `depth` take."""

    def forward(self, scores: Float[Tensor, "batch scores"], depth: int | None = None) -> Float[Tensor, "batch nodes"]:
        """Log-probabilities of the nodes down to level `depth` (None: the last), the root first.

        Args:
            scores: at least `scores_for(depth)` of them.

        Raises:
            ValueError: no such level, or too few scores.
        """
        depth = require_within("depth", self.tree.depth if depth is None else depth, 1, self.tree.depth)
        needed = self.scores_for(depth)
        if scores.shape[1] < needed:
            raise ValueError(f"scores: level {depth} needs at least {needed}, got {scores.shape[1]}")
        return self._propagate(scores[:, :needed], depth)

    @abstractmethod
    def _propagate(self, scores: Tensor, depth: int) -> Tensor: ...

    def groups(self, levels: int) -> tuple[slice, ...]:
        """Slices of scores that level norm scales together, so that each has one length for all texts; none here."""
        return ()

    def initial_contrast(self, growth: float) -> Float[Tensor, " scores"]:
        """Spread of each score at the start, relative to their mean: equal for all."""
        return torch.ones(self.inputs)

    def arrange_rows(
        self, rows: Float[Tensor, "splits dim"], generator: torch.Generator
    ) -> Float[Tensor, "scores dim"]:
        """The rows of all scores, from those of the splits in heap order; leaves get random rows of length 1 (ours)."""
        more = torch.randn(self.inputs - len(rows), rows.shape[1], generator=generator)
        return torch.cat([rows, F.normalize(more, dim=1)])

    @property
    def score_levels(self) -> Int[Tensor, " scores"]:
        """The level of the split, or of the node, that each score belongs to."""
        return torch.arange(1, self.inputs + 1).log2().floor().long()

    def balancing_offsets(self, scores: Float[Tensor, "batch scores"]) -> Float[Tensor, " scores"]:
        """Offsets that start the tree balanced on a first batch: minus the mean of each score."""
        return -scores.mean(0)


class ProductPropagation(Propagation):
    """The product of branch probabilities along the path; 2**depth - 1 scores, one a split."""

    def scores_for(self, depth: int) -> int:
        return Tree(depth).splits

    def _propagate(self, scores: Tensor, depth: int) -> Tensor:
        left = F.logsigmoid(scores)
        right = left - scores  # log(1 - sigmoid(s)) = log sigmoid(s) - s
        widths = [2**d for d in range(depth)]
        nodes = [scores.new_zeros(len(scores), 1)]
        for go_left, go_right in zip(left.split(widths, 1), right.split(widths, 1), strict=True):
            nodes.append(torch.stack([nodes[-1] + go_left, nodes[-1] + go_right], 2).flatten(1))
        return torch.cat(nodes, 1)

    def groups(self, levels: int) -> tuple[slice, ...]:
        """The splits above level 4 together, too few to be scaled level by level; below, `levels` levels together.

        Two levels make a group whose last level is one that is trained and reported.
        """
        depth = self.tree.depth
        ends = [min(4, depth), *(min(d + levels, depth) for d in range(4, depth, levels))]
        starts = [0, *(Tree(end).splits for end in ends)]
        return tuple(slice(start, Tree(end).splits) for start, end in zip(starts, ends, strict=False))

    def initial_contrast(self, growth: float) -> Float[Tensor, " scores"]:
        """2**(growth * level of the split), divided by the mean (ours).

        Each of the 2**d splits of a level is reached with probability 2**-d. With equal spread the one split at the
        root therefore weighs as much in a similarity as all 512 of level 9. With a growth of 1/2 every split weighs the
        same, and a random tree starts near the quality of its encoder.
        """
        spread = torch.cat([torch.full((2**d,), 2.0 ** (growth * d)) for d in range(self.tree.depth)])
        return spread / spread.mean()

    def balancing_offsets(self, scores: Float[Tensor, "batch scores"]) -> Float[Tensor, " scores"]:
        """Minus the mean score of each split, texts weighted by their probability of reaching it."""
        offsets = torch.zeros_like(scores[0])
        reach = torch.ones_like(scores[:, :1])
        for d in range(self.tree.depth):
            splits = self.tree.level(d)
            here = scores[:, splits]
            offsets[splits] = -(reach * here).sum(0) / reach.sum(0)
            left = torch.sigmoid(here + offsets[splits])
            reach = torch.stack([reach * left, reach * (1 - left)], 2).flatten(1)
        return offsets


class LeafSoftmaxPropagation(Propagation):
    """One softmax over 2**depth leaf scores; parents are sums. Every level needs all scores."""

    def scores_for(self, depth: int) -> int:
        return self.tree.leaves

    def arrange_rows(
        self, rows: Float[Tensor, "splits dim"], generator: torch.Generator
    ) -> Float[Tensor, "scores dim"]:
        """The sum of the rows along each leaf's path, with the sign of the branch, deeper ones weighing more.

        Near even splits a leaf's logarithm is half the sum of the scores along its path, so these leaves route as the
        splits would.
        """
        leaves = torch.zeros(1, rows.shape[1])
        for level in range(self.tree.depth):
            step = rows[self.tree.level(level)] * 2 ** (level / 2)
            leaves = torch.stack([leaves + step, leaves - step], 1).flatten(0, 1)
        return leaves / leaves.norm(dim=1).mean()

    @property
    def score_levels(self) -> Int[Tensor, " scores"]:
        return torch.full((self.inputs,), self.tree.depth - 1)

    def _propagate(self, scores: Tensor, depth: int) -> Tensor:
        return _sum_upwards(scores.log_softmax(1), depth)


class LearnedPropagation(Propagation):
    """An MLP over the scores of a node and its ancestors, then a softmax over each level; one score a node.

    Args:
        dropout: on the hidden units of the MLP, in [0, 1).
    """

    exact_hierarchy = False
    per_node = False

    def __init__(self, depth: int, dropout: float):
        super().__init__(depth)
        require_fraction("propagation_dropout", dropout)
        self.mlp = PathMLP(self.tree, self.tree.nodes if self.per_node else 1, dropout)
        self.tau = nn.Parameter(torch.zeros(()))

    def scores_for(self, depth: int) -> int:
        return Tree(depth).nodes

    def _propagate(self, scores: Tensor, depth: int) -> Tensor:
        logits = self.mlp(scores, slice(0, scores.shape[1])) * self._temperature()
        levels = logits.split([2**d for d in range(depth + 1)], 1)
        return torch.cat([level.log_softmax(1) for level in levels], 1)

    def score_nodes(self, scores: Float[Tensor, "batch scores"]) -> Float[Tensor, "batch nodes"]:
        """Logits of all nodes, or of the leaves where parents are sums, of few enough texts to need no blocks."""
        return self.mlp.score_paths(scores, self._softmax_nodes) * self._temperature()

    @property
    def _softmax_nodes(self) -> slice:
        """Nodes whose logits a softmax takes."""
        return slice(0, self.tree.nodes)

    def _temperature(self) -> Tensor:
        """e^tau within its range. The gradient ignores the clamp, so that tau can come back from outside."""
        clamped = self.tau.clamp(log(TEMPERATURE_RANGE[0]), log(TEMPERATURE_RANGE[1]))
        return (self.tau + (clamped - self.tau).detach()).exp()


class LearnedPerNodePropagation(LearnedPropagation):
    """As `LearnedPropagation`, with an MLP of its own for every node."""

    per_node = True


class ConsistentPropagation(LearnedPropagation):
    """One softmax over learned logits of the leaves; parents are sums. Every level needs all scores."""

    exact_hierarchy = True

    def scores_for(self, depth: int) -> int:
        return self.tree.nodes

    def _propagate(self, scores: Tensor, depth: int) -> Tensor:
        leaves = self.mlp(scores, self._softmax_nodes) * self._temperature()
        return _sum_upwards(leaves.log_softmax(1), depth)

    @property
    def _softmax_nodes(self) -> slice:
        return self.tree.level(self.tree.depth)


class PathMLP(nn.Module):
    """Linear(D + 1 -> (D + 1) // 2), ReLU, dropout, Linear(-> 1) over a node's own and its ancestors' scores.

    The path is ordered self, parent, ..., root and padded with zeros to D + 1.

    Args:
        mlps: number of MLPs: 1, shared by all nodes, or one for each node.
    """

    def __init__(self, tree: Tree, mlps: int, dropout: float):
        super().__init__()
        length = tree.depth + 1
        hidden = length // 2
        self.inner = nn.Parameter(_init_uniform((mlps, hidden, length), length))
        self.inner_bias = nn.Parameter(_init_uniform((mlps, hidden, 1), length))
        self.outer = nn.Parameter(_init_uniform((mlps, 1, hidden), hidden))
        self.outer_bias = nn.Parameter(_init_uniform((mlps, 1, 1), hidden))
        self.dropout = dropout
        self.register_buffer("paths", _build_paths(tree), persistent=False)

    def forward(self, scores: Float[Tensor, "batch scores"], nodes: slice) -> Float[Tensor, "batch nodes"]:
        """One logit for each of `nodes`, whose paths must lie within `scores`."""
        return torch.cat([self.score_paths(part, nodes) for part in scores.split(TEXTS_PER_PATH_BLOCK)])

    def score_paths(self, scores: Float[Tensor, "batch scores"], nodes: slice) -> Float[Tensor, "batch nodes"]:
        """As `forward`, of texts whose paths are looked up at once."""
        padded = F.pad(scores, (1, 0)).T.contiguous()
        # (1 + scores, batch): row 0 is the padding
        path = F.embedding(self.paths[nodes], padded)
        # (nodes, D + 1, batch)
        inner, inner_bias, outer, outer_bias = (
            weight[nodes] if len(weight) > 1 else weight.expand(len(path), -1, -1)
            for weight in (self.inner, self.inner_bias, self.outer, self.outer_bias)
        )
        hidden = torch.baddbmm(inner_bias, inner, path).relu()
        # (nodes, hidden, batch)
        hidden = apply_dropout(hidden, self.dropout if self.training else 0.0)
        return torch.baddbmm(outer_bias, outer, hidden).squeeze(1).T


def _init_uniform(shape: tuple[int, ...], inputs: int) -> Tensor:
    """Uniform in (-1, 1) / sqrt(inputs), the usual start of a linear layer."""
    return (torch.rand(shape) * 2 - 1) / inputs**0.5


def _build_paths(tree: Tree) -> Tensor:
    """1 + the nodes on the path from each node to the root, then zeros: (nodes, depth + 1)."""
    columns = [torch.arange(1, tree.nodes + 1)]
    for _ in range(tree.depth):
        columns.append(columns[-1] // 2)  # counted from 1, the parent of t is t // 2 and of the root 0
    return torch.stack(columns, 1)


def _sum_upwards(leaves: Tensor, depth: int) -> Tensor:
    """Log-probabilities of all nodes down to `depth` from those of the leaves."""
    levels = [leaves]
    while levels[-1].shape[1] > 1:
        levels.append(torch.logaddexp(levels[-1][:, 0::2], levels[-1][:, 1::2]))
    return torch.cat(levels[::-1][: depth + 1], 1)
