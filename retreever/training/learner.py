"""What is trained: tree and loss as one module, its optimiser and its learning rate."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as checkpointed

from retreever.config import Config
from retreever.model import Beliefs, ContrastiveLoss, RoutingTree, level_shares, level_weights
from retreever.system.precision import bfloat16_is_fast
from retreever.training import distributed

Batch = tuple[Tensor, Tensor | None]
"""Encodings in the memory of the host, and which of them are tokens (None: pooled)."""

Masks = tuple[Tensor, Tensor | None]
"""Pairs of the global batch that count, query -> passage and passage -> query (None: the first, transposed)."""


class Learner(nn.Module):
    """Tree and loss as one module, so that data parallelism wraps a single forward pass."""

    def __init__(
        self,
        tree: RoutingTree,
        loss: ContrastiveLoss,
        input_dropout: float,
        autocast: bool,
        micro_batch: int | None = None,
        decay: float = 0.0,
        distill: float = 0.0,
    ):
        super().__init__()
        self.decay, self.distill = decay, distill
        self.tree, self.loss = tree, loss
        self.dropout = nn.Dropout(input_dropout)
        self.autocast, self.micro_batch = autocast, micro_batch

    def forward(self, queries: Batch, passages: Batch, levels: tuple[int, ...], keep: Masks) -> Tensor:
        """Mean loss over `levels`, weighted by `level_weights`, of this worker's rows against the rows of all workers;
        coarse ones learn from finer ones by `level_shares`.

        Weighted by its share too, so that the mean of the workers' losses is the loss of the global batch.
        """
        depth, total = max(levels), len(keep[0])
        q, p = (self.tree.levels(self._route(side, depth)) for side in (queries, passages))
        offset = distributed.share(total).start
        losses: list[Tensor] = []
        finer: Beliefs | None = None
        for level, share in reversed([*zip(levels, level_shares(levels, self.distill), strict=True)]):
            ql, pl = q[level], p[level]
            everyone = {}
            if distributed.world_size() > 1:
                everyone = {"all_queries": distributed.gather(ql, total), "all_passages": distributed.gather(pl, total)}
            masks = {"keep_queries": keep[0], "keep_passages": keep[1]}
            lesson = {"finer": finer, "share": share}
            loss, finer = self.loss(ql, pl, **masks, **everyone, offset=offset, level=level, **lesson)
            losses.insert(0, loss)
        mean = torch.stack(losses) @ losses[0].new_tensor(level_weights(levels, self.decay))
        return mean * distributed.weight(total)

    def _route(self, batch: Batch, depth: int) -> Tensor:
        """Log-probabilities of the nodes; activations of one micro-batch are held at once, computed again on the way
        back (gradient caching). A micro-batch holds texts of similar length and is padded to the longest of them."""
        x, mask = batch
        if self.micro_batch is None or len(x) <= self.micro_batch:
            return self._nodes(x, mask, depth)
        order = torch.arange(len(x)) if mask is None else mask.sum(1).argsort()
        parts = [(x[rows], None if mask is None else mask[rows]) for rows in order.split(self.micro_batch)]
        nodes = [checkpointed(self._nodes, *_trimmed(*part), depth, use_reentrant=False) for part in parts]
        return torch.cat(nodes)[order.argsort().to(nodes[0].device)]

    def _nodes(self, x: Tensor, mask: Tensor | None, depth: int) -> Tensor:
        device = self.loss.log_scale.device
        x = x.to(device, self.loss.log_scale.dtype, non_blocking=True)
        mask = None if mask is None else mask.to(device, non_blocking=True)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.autocast):
            return self.tree(self.dropout(x), mask, depth)


def autocasts(config: Config, device: str) -> bool:
    """Whether the split function computes in bfloat16: for tokens it pays on a CPU too, for pooled encodings not."""
    if config.train.precision != "auto":
        return config.train.precision == "bfloat16"
    return device != "cpu" or (config.tree.split == "cross_attention" and bfloat16_is_fast(device))


def learner_of(config: Config, dim: int, device: str = "cpu") -> Learner:
    """The tree of a configuration over encodings of width `dim`, not calibrated, and its loss, still on the CPU.

    Args:
        device: on which it will compute.
    """
    tree = RoutingTree(dim, **config.tree.model_dump())
    scales = config.tree.depth if config.loss.scale_per_level else 1
    loss = ContrastiveLoss(**config.loss.model_dump(exclude={"negatives", "scale_per_level"}), levels=scales)
    train, depth, autocast = config.train, config.depth, autocasts(config, device)
    return Learner(tree, loss, train.input_dropout, autocast, train.micro_batch, depth.decay, depth.distill)


def _trimmed(x: Tensor, mask: Tensor | None) -> Batch:
    """Without the columns in which no text has a token."""
    if mask is None:
        return x, mask
    length = int(mask.sum(1).max())
    return x[:, :length], mask[:, :length]


def optimizer_of(learner: Learner, config: Config) -> torch.optim.AdamW:
    """AdamW; offsets, biases and the scale are not decayed, since their size is no sign of over-fitting."""
    train = config.train
    named = list(learner.named_parameters())
    decayed = [p for _, p in named if p.ndim > 1]
    others = [p for _, p in named if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": train.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=train.lr, betas=(train.beta1, train.beta2), eps=train.eps, fused=True)


def learning_rate(step: int, config: Config) -> float:
    """Linear warm-up to `train.lr`, then linear decay to zero at the last step.

    >>> config = Config().with_overrides({"train.steps": 100, "train.lr": 1.0, "train.warmup_fraction": 0.1})
    >>> learning_rate(4, config), learning_rate(9, config), learning_rate(55, config)
    (0.5, 1.0, 0.5)
    """
    train = config.train
    warmup = round(train.steps * train.warmup_fraction)
    if step < warmup:
        return train.lr * (step + 1) / warmup
    return train.lr * (train.steps - step) / max(1, train.steps - warmup)
