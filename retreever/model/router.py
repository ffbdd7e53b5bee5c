"""RoutingTree: a split function, then a propagation. The whole model of the paper but for its frozen encoder.

It decides what is built from the settings of a tree and how it starts: scores of a given standard deviation on a
first batch, offsets that balance the tree. It does not know what its representations are compared with.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from retreever.model.arguments import at_least, one_of, positive, within
from retreever.model.attention import CrossAttention
from retreever.model.propagation import Consistent, LeafSoftmax, Learned, LearnedPerNode, Product, Propagation
from retreever.model.split import MLP, Encoding, Linear, Split
from retreever.model.spread import Spread
from retreever.model.tree import Tree

SPLITS = ("linear", "mlp", "cross_attention")
PROPAGATIONS = ("product", "learned", "learned_per_node", "consistent", "leaf_softmax")


class RoutingTree(nn.Module):
    """Encodings in, log-probabilities of reaching every node out. Each level is an embedding of the text.

    Args:
        dim: width of the encodings.
        depth: levels below the root.
        init_std: standard deviation of the split scores on the batch given to `calibrate`.
        init_growth: of `product`: that deviation grows by 2**init_growth from a level to the next.
        level_norm: of `product`: the scores of a level have the same length for every text.
        hidden, mlp_dropout: of the mlp split.
        heads, embeddings, d_emb, d_k, values, embedding_std, attention_dropout: of the cross-attention split.
        propagation_dropout: of the learned propagations.

    Attributes:
        arguments: what rebuilds the module: `RoutingTree(**tree.arguments)`.
        exact_hierarchy: every node's probability is the sum of its children's.

    Raises:
        ValueError: an argument out of range; the message names it.
    """

    def __init__(
        self,
        dim: int,
        depth: int = 10,
        split: str = "linear",
        propagation: str = "product",
        init_std: float = 0.4,
        init_growth: float = 0.5,
        level_norm: bool = True,
        hidden: int = 128,
        mlp_dropout: float = 0.2,
        heads: int = 4,
        embeddings: int = 1,
        d_emb: int = 128,
        d_k: int = 128,
        values: str = "full",
        embedding_std: float = 0.02,
        attention_dropout: float = 0.1,
        propagation_dropout: float = 0.1,
    ):
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.arguments: dict[str, Any] = arguments
        self.tree = Tree(at_least("depth", depth, 1))
        self.propagation = _propagation(propagation, depth, propagation_dropout)
        outputs = self.propagation.inputs
        # A unit vector in a random direction has a standard deviation of 1 / sqrt(dim).
        groups = self.propagation.groups if level_norm else ()
        self.spread = Spread(outputs, positive("init_std", init_std) * dim**0.5, groups)
        self.split: Split
        if one_of("split", split, SPLITS) == "linear":
            self.split = Linear(dim, outputs)
        elif split == "mlp":
            self.split = MLP(dim, outputs, hidden, mlp_dropout)
        else:
            self.split = CrossAttention(
                dim,
                outputs,
                heads,
                embeddings,
                d_emb,
                d_k,
                values,
                embedding_std,
                attention_dropout,
            )

    @property
    def exact_hierarchy(self) -> bool:
        """Parents are sums of their children, so that a coarse level bounds the finer ones."""
        return self.propagation.exact_hierarchy

    def forward(
        self, x: Encoding, mask: Bool[Tensor, "batch tokens"] | None = None, depth: int | None = None
    ) -> Float[Tensor, "batch nodes"]:
        """Log-probabilities of the 2**(depth + 1) - 1 nodes down to a level, in heap order.

        Args:
            x: pooled encodings, or token states with `mask`.
            mask: true where a token counts.
            depth: the finest level asked for; None: the last.

        Raises:
            ValueError: no such level, a text without a token, pooled encodings for cross-attention.
        """
        depth = within("depth", self.tree.depth if depth is None else depth, 1, self.tree.depth)
        scores = self.split(x, mask, self.spread.whole(self.propagation.scores_for(depth)))
        # A path multiplies a dozen probabilities: never in half precision.
        with torch.autocast(x.device.type, enabled=False):
            scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
            return self.propagation(self.spread(scores), depth)

    def level(self, log_probs: Float[Tensor, "batch nodes"], d: int) -> Float[Tensor, "batch level"]:
        """The 2**d entries of level `d`: an embedding of its own, whose probabilities sum to one."""
        return log_probs[:, self.tree.level(d)]

    def levels(self, log_probs: Float[Tensor, "batch nodes"]) -> tuple[Float[Tensor, "batch level"], ...]:
        """Every level that is there, the root first: faster than one at a time where a gradient is to come back."""
        return log_probs.split([2**d for d in range((log_probs.shape[1] + 1).bit_length() - 1)], 1)

    @torch.no_grad()
    def calibrate(self, x: Encoding, mask: Bool[Tensor, "batch tokens"] | None = None) -> None:
        """Start on a first batch: scores of standard deviation `init_std` (mean over splits), a balanced tree.

        Raises:
            ValueError: the batch holds fewer than two different texts.
        """
        training = self.training
        self.eval()
        self.split.offset.zero_()
        scores = self.split(x, mask)
        self.train(training)
        contrast = self.propagation.contrast(self.arguments["init_growth"]).to(x.device)
        spread = (scores * contrast).std(0, correction=0).mean().item()
        if not spread > 0:
            raise ValueError(f"x: calibration needs texts that differ, the scores of {len(x)} spread by {spread}")
        gain = contrast * (self.arguments["init_std"] / spread)
        self.split.offset.copy_(self.propagation.balance(scores * gain) / gain)
        self.spread.start(gain, scores + self.split.offset)


def _propagation(name: str, depth: int, dropout: float) -> Propagation:
    if one_of("propagation", name, PROPAGATIONS) == "product":
        return Product(depth)
    if name == "leaf_softmax":
        return LeafSoftmax(depth)
    learned = {"learned": Learned, "learned_per_node": LearnedPerNode, "consistent": Consistent}
    return learned[name](depth, dropout)
