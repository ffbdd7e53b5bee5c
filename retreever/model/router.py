"""RoutingTree: a split function, then a propagation. The whole model of the paper except its frozen encoder.

It decides which modules the settings of a tree select, and how a tree starts: with scores of a given standard deviation
on a first batch, and offsets that balance the tree. It does not know how its representations are compared.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from retreever.model.arguments import require_at_least, require_one_of, require_positive, require_within
from retreever.model.propagation import (
    ConsistentPropagation,
    LeafSoftmaxPropagation,
    LearnedPerNodePropagation,
    LearnedPropagation,
    ProductPropagation,
    Propagation,
)
from retreever.model.rows.turn import TURNED_LEVELS, find_turns
from retreever.model.splits.attention import CrossAttentionSplit
from retreever.model.splits.split_function import LinearSplit, MLPSplit, SplitFunction, TextEncoding
from retreever.model.spread import Spread
from retreever.model.tree import Tree

SPLIT_FUNCTIONS = ("linear", "mlp", "cross_attention")
PROPAGATIONS = ("product", "learned", "learned_per_node", "consistent", "leaf_softmax")


class RoutingTree(nn.Module):
    """Maps encodings to log-probabilities of reaching every node. Each level is an embedding of the text.

    Args:
        dim: width of the encodings.
        depth: levels below the root.
        split: one of SPLIT_FUNCTIONS.
        propagation: one of PROPAGATIONS.
        init_std: standard deviation of the split scores on the batch given to `calibrate`.
        init_growth: of `product`: that deviation grows by 2**init_growth from a level to the next.
        level_norm: of `product`: the scores of a group of levels have the same length for every text.
        norm_levels: of `product`: so many levels below the fourth make a group.
        hidden, mlp_dropout: of the mlp split.
        heads, embeddings, d_emb, d_k, values, embedding_std, attention_dropout: of the cross-attention split.
        propagation_dropout: of the learned propagations.

    Attributes:
        arguments: rebuild the module: `RoutingTree(**tree.arguments)`.
        exact_hierarchy: every node's probability is the sum of its children's.

    Raises:
        ValueError: an argument out of range; the message names it.
    """

    def __init__(
        self,
        dim: int,
        *,
        depth: int,
        split: str,
        propagation: str,
        init_std: float,
        init_growth: float,
        level_norm: bool,
        norm_levels: int,
        hidden: int,
        mlp_dropout: float,
        heads: int,
        embeddings: int,
        d_emb: int,
        d_k: int,
        values: str,
        embedding_std: float,
        attention_dropout: float,
        propagation_dropout: float,
    ):
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.arguments: dict[str, Any] = arguments
        self.tree = Tree(require_at_least("depth", depth, 1))
        self.propagation = _build_propagation(propagation, depth, propagation_dropout)
        outputs = self.propagation.inputs
        # A unit vector in a random direction has a standard deviation of 1 / sqrt(dim).
        groups = self.propagation.groups(norm_levels) if level_norm else ()
        self.spread = Spread(outputs, require_positive("init_std", init_std) * dim**0.5, groups)
        self.split: SplitFunction
        if require_one_of("split", split, SPLIT_FUNCTIONS) == "linear":
            self.split = LinearSplit(dim, outputs)
        elif split == "mlp":
            self.split = MLPSplit(dim, outputs, hidden, mlp_dropout)
        else:
            self.split = CrossAttentionSplit(
                dim, outputs, heads, embeddings, d_emb, d_k, values, embedding_std, attention_dropout
            )

    @property
    def exact_hierarchy(self) -> bool:
        """Parents are sums of their children, so that a coarse level bounds the finer ones."""
        return self.propagation.exact_hierarchy

    def forward(
        self, x: TextEncoding, mask: Bool[Tensor, "batch tokens"] | None = None, depth: int | None = None
    ) -> Float[Tensor, "batch nodes"]:
        """Log-probabilities of the 2**(depth + 1) - 1 nodes down to a level, in heap order.

        Args:
            x: pooled encodings, or token states with `mask`.
            mask: true where a token counts.
            depth: the finest level to return; None: the last.

        Raises:
            ValueError: no such level, a text without a token, pooled encodings for cross-attention.
        """
        depth = require_within("depth", self.tree.depth if depth is None else depth, 1, self.tree.depth)
        scores = self.split(x, mask, self.spread.round_up_to_groups(self.propagation.scores_for(depth)))
        # A path multiplies a dozen probabilities, too many for half precision.
        with torch.autocast(x.device.type, enabled=False):
            scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
            return self.propagation(self.spread(scores), depth)

    def level(self, log_probs: Float[Tensor, "batch nodes"], d: int) -> Float[Tensor, "batch level"]:
        """The 2**d entries of level `d`: an embedding of its own, whose probabilities sum to one."""
        return log_probs[:, self.tree.level(d)]

    def levels(self, log_probs: Float[Tensor, "batch nodes"]) -> tuple[Float[Tensor, "batch level"], ...]:
        """All levels that `log_probs` holds, the root first; with a gradient faster than one level at a time."""
        return log_probs.split([2**d for d in range((log_probs.shape[1] + 1).bit_length() - 1)], 1)

    def set_rows(
        self, rows: Float[Tensor, "splits dim"], x: Float[Tensor, "texts dim"], generator: torch.Generator
    ) -> None:
        """Start with scores that are linear in the pooled encoding; `calibrate` comes after it (ours).

        Args:
            rows: one a split, in heap order, of length about one.
            x: pooled encodings of a sample.
            generator: draws what the rows do not decide.
        """
        self.split.set_rows(self.propagation.arrange_rows(rows, generator), x)

    @property
    def turned_groups(self) -> tuple[slice, ...]:
        """Groups of splits whose rows may be turned without a change of the ranking; none where scores are no rows."""
        levels = min(TURNED_LEVELS, self.tree.depth)
        groups = self.propagation.groups(self.arguments["norm_levels"]) if self.split.has_plain_rows else ()
        return tuple(group for group in groups if group.stop <= Tree(levels).splits)

    @torch.no_grad()
    def turn(self, queries: Float[Tensor, "pairs dim"], passages: Float[Tensor, "pairs dim"], seed: int) -> None:
        """Turn the rows of the first levels so that a query and its passage go the same way; see `rows/turn.py`.

        A tree without `turned_groups` stays as it is.

        Args:
            queries, passages: pooled encodings of training pairs.
        """
        groups = self.turned_groups
        if not groups:
            return
        count, training = groups[-1].stop, self.training
        levels = self.propagation.score_levels[:count].to(self.spread.gain.device)
        # A score counts in a similarity by its gain, and by how many texts reach its split.
        weights = self.spread.gain[:count] * 2.0 ** (-levels / 2)
        self.eval()
        q, p = ((self.split(side.to(weights), None, count) * weights).cpu() for side in (queries, passages))
        self.train(training)
        with torch.enable_grad():
            turns = find_turns(q, p, groups, torch.Generator().manual_seed(seed))
        for group, found in zip(groups, turns, strict=True):
            turn = found.to(weights) * weights[group] / weights[group, None]
            self.split.readout[group] = turn @ self.split.readout[group]
            self.split.offset[group] = turn @ self.split.offset[group]

    @torch.no_grad()
    def calibrate(self, x: TextEncoding, mask: Bool[Tensor, "batch tokens"] | None = None) -> None:
        """Set gain and offsets on a first batch: scores spread by `init_std` (mean over splits), in a balanced tree.

        Raises:
            ValueError: the batch holds fewer than two different texts.
        """
        training = self.training
        self.eval()
        self.split.offset.zero_()
        scores = self.split(x, mask)
        self.train(training)
        contrast = self.propagation.initial_contrast(self.arguments["init_growth"]).to(x.device)
        spread = (scores * contrast).std(0, correction=0).mean().item()
        if not spread > 0:
            raise ValueError(f"x: calibration needs texts that differ, the scores of {len(x)} spread by {spread}")
        gain = contrast * (self.arguments["init_std"] / spread)
        self.split.offset.copy_(self.propagation.balancing_offsets(scores * gain) / gain)
        self.spread.set_gain(gain, scores + self.split.offset)


def _build_propagation(name: str, depth: int, dropout: float) -> Propagation:
    if require_one_of("propagation", name, PROPAGATIONS) == "product":
        return ProductPropagation(depth)
    if name == "leaf_softmax":
        return LeafSoftmaxPropagation(depth)
    learned = {
        "learned": LearnedPropagation,
        "learned_per_node": LearnedPerNodePropagation,
        "consistent": ConsistentPropagation,
    }
    return learned[name](depth, dropout)
