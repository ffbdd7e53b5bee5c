"""The trained module (tree and loss), its optimiser, and its learning rate.

It decides how a batch becomes a loss. It does not know which pairs a batch holds (`training_batches.py`), nor when to
validate (`training_loop.py`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as checkpointed

from retreever.config import Config
from retreever.model import ContrastiveLoss, RoutingTree, SoftTargets, level_shares, level_weights
from retreever.system.precision import bfloat16_is_fast
from retreever.training import distributed
from retreever.training.anchor import Anchor

EncodingBatch = tuple[Tensor, Tensor | None]
"""Encodings in host memory, and the mask of their tokens (None: pooled encodings)."""

PairMasks = tuple[Tensor, Tensor | None]
"""Masks of the pairs of the global batch that count, query -> passage and passage -> query (None: transposed)."""


class Learner(nn.Module):
    """Tree and loss as one module, so that data parallelism wraps a single forward pass.

    Args:
        input_dropout: dropout on encodings.
        autocast: compute the split function in bfloat16.
        micro_batch: texts whose activations are held at once; None: all.
        decay: the loss of level d weighs 1 / d**decay.
        distill: share of soft targets at the first level, see `level_shares`.
        anchor: strengths of the decay to the start, see `Anchor`; None: weights decay to zero in the optimiser.
        decay_to_zero: strength of that decay where an anchor's own is 0.
    """

    def __init__(
        self,
        tree: RoutingTree,
        loss: ContrastiveLoss,
        *,
        input_dropout: float,
        autocast: bool,
        micro_batch: int | None,
        decay: float,
        distill: float,
        anchor: Sequence[float] | None,
        decay_to_zero: float = 0.0,
    ):
        super().__init__()
        self.decay, self.distill = decay, distill
        self.tree, self.loss = tree, loss
        self.dropout = nn.Dropout(input_dropout)
        self.autocast, self.micro_batch = autocast, micro_batch
        self.anchor = Anchor(tree, anchor, decay_to_zero) if anchor else None

    def forward(
        self, queries: EncodingBatch, passages: EncodingBatch, levels: tuple[int, ...], keep: PairMasks
    ) -> Tensor:
        """Loss of this worker's rows against the rows of all workers: the mean over `levels` by `level_weights`.

        Coarse levels learn from finer ones by `level_shares`. The loss is also weighted by this worker's share, so that
        the mean of the workers' losses is the loss of the global batch.
        """
        depth, total = max(levels), len(keep[0])
        q, p = (self.tree.levels(self._route(side, depth)) for side in (queries, passages))
        offset = distributed.worker_slice(total).start
        losses: list[Tensor] = []
        finer: SoftTargets | None = None
        for level, share in reversed([*zip(levels, level_shares(levels, self.distill), strict=True)]):
            ql, pl = q[level], p[level]
            all_rows = {}
            if distributed.world_size() > 1:
                all_rows = {
                    "all_queries": distributed.gather_rows(ql, total),
                    "all_passages": distributed.gather_rows(pl, total),
                }
            masks = {"keep_queries": keep[0], "keep_passages": keep[1]}
            distillation = {"finer_targets": finer, "share": share}
            loss, finer = self.loss(ql, pl, **masks, **all_rows, offset=offset, level=level, **distillation)
            losses.insert(0, loss)
        mean = torch.stack(losses) @ losses[0].new_tensor(level_weights(levels, self.decay))
        return mean * distributed.worker_weight(total)

    def _route(self, batch: EncodingBatch, depth: int) -> Tensor:
        """Log-probabilities of the nodes, with gradient caching where `micro_batch` is set.

        Memory then holds the activations of one micro-batch, and the backward pass computes them again. A micro-batch
        holds texts of similar length and is padded to the longest of them.
        """
        x, mask = batch
        if self.micro_batch is None or len(x) <= self.micro_batch:
            return self._nodes(x, mask, depth)
        order = torch.arange(len(x)) if mask is None else mask.sum(1).argsort()
        parts = [(x[rows], None if mask is None else mask[rows]) for rows in order.split(self.micro_batch)]
        nodes = [checkpointed(self._nodes, *_trim_padding(*part), depth, use_reentrant=False) for part in parts]
        return torch.cat(nodes)[order.argsort().to(nodes[0].device)]

    def _nodes(self, x: Tensor, mask: Tensor | None, depth: int) -> Tensor:
        device = self.loss.log_scale.device
        x = x.to(device, self.loss.log_scale.dtype, non_blocking=True)
        mask = None if mask is None else mask.to(device, non_blocking=True)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.autocast):
            return self.tree(self.dropout(x), mask, depth)


def uses_autocast(config: Config, device: str) -> bool:
    """Whether the split function computes in bfloat16; on a CPU it pays for tokens, not for pooled encodings."""
    if config.train.precision != "auto":
        return config.train.precision == "bfloat16"
    return device != "cpu" or (config.tree.split == "cross_attention" and bfloat16_is_fast(device))


def build_learner(config: Config, dim: int, device: str = "cpu") -> Learner:
    """The tree of a configuration over encodings of width `dim`, not calibrated, and its loss; both on the CPU.

    Args:
        device: the device of the training, which decides on bfloat16.
    """
    tree = RoutingTree(dim, **config.tree.architecture())
    scales = config.tree.depth if config.loss.scale_per_level else 1
    loss = ContrastiveLoss(**config.loss.model_dump(exclude={"negatives", "scale_per_level"}), levels=scales)
    return Learner(
        tree,
        loss,
        input_dropout=config.train.input_dropout,
        autocast=uses_autocast(config, device),
        micro_batch=config.train.micro_batch,
        decay=config.depth.decay,
        distill=config.depth.distill,
        anchor=config.tree.anchor_strengths,
        decay_to_zero=config.train.weight_decay,
    )


def _trim_padding(x: Tensor, mask: Tensor | None) -> EncodingBatch:
    """Drop the columns in which no text has a token."""
    if mask is None:
        return x, mask
    length = int(mask.sum(1).max())
    return x[:, :length], mask[:, :length]


def build_optimizer(learner: Learner, config: Config) -> torch.optim.AdamW:
    """AdamW without weight decay on offsets, biases and scale, whose size is no sign of over-fitting.

    Weights with an anchor do not decay either: `Anchor.pull` moves them to their start.
    """
    train = config.train
    anchored = set(learner.tree.split.parameters()) if learner.anchor else set()
    decayed = [p for p in learner.parameters() if p.ndim > 1 and p not in anchored]
    others = [p for p in learner.parameters() if p.ndim <= 1 or p in anchored]
    groups = [
        {"params": decayed, "weight_decay": train.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=train.lr, betas=(train.beta1, train.beta2), eps=train.eps, fused=True)


def learning_rate_at_step(step: int, config: Config) -> float:
    """Linear warm-up to `train.lr`, then linear decay to zero at the last step.

    >>> config = Config().with_overrides({"train.steps": 100, "train.lr": 1.0, "train.warmup_fraction": 0.1})
    >>> [learning_rate_at_step(step, config) for step in (4, 9, 55)]
    [0.5, 1.0, 0.5]
    """
    train = config.train
    warmup = round(train.steps * train.warmup_fraction)
    if step < warmup:
        return train.lr * (step + 1) / warmup
    return train.lr * (train.steps - step) / max(1, train.steps - warmup)
