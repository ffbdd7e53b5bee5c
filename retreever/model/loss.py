"""The contrastive loss over a similarity matrix (section 3.3 of the paper), and the pairs that count in it.

    L = 1/2 mean_i CE(scale * sim(q_i, .), i) + 1/2 mean_i CE(scale * sim(., p_i), i)

CE is the cross-entropy of a softmax in which the i-th passage is the i-th query's right answer. A coarse level may
take part of its target from the softmax of a finer one (ours), which grades the wrong answers: distillation.

Every worker scores its own rows against the rows of all workers; the mean of the workers' losses is the loss of the
whole batch, and so is its gradient where the rows were gathered with gradient. This module does not know how they
are gathered.
"""

from math import log
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from retreever.model.arguments import require_at_least, require_positive
from retreever.model.similarity import get_similarity

NEGLIGIBLE_LOGIT_GAP = 40.0  # terms of e**-40 of the largest change a sum neither in float32 nor in float64


def negatives_mask(
    passages: Int[Tensor, " batch"],
    queries: Int[Tensor, " batch"],
    negatives: int | None = None,
    generator: torch.Generator | None = None,
) -> Bool[Tensor, "batch batch"]:
    """Mask of the query-passage pairs of a batch that count, one row a query: its own passage and its negatives.

    Two rows that share the query or the passage are no negatives of each other: the answer is right as well.

    Args:
        passages, queries: the passage and the query that each row of the batch holds. Swapped, the mask's rows
            are passages.
        negatives: how many a row gets, drawn at random (all, where there are fewer); None: all.
        generator: draws the negatives.

    Raises:
        ValueError: `negatives` below one.
    """
    own = torch.eye(len(passages), dtype=torch.bool, device=passages.device)
    others = (passages[:, None] != passages) & (queries[:, None] != queries)
    if negatives is None:
        return others | own
    require_at_least("negatives", negatives, 1)
    draws = torch.rand(others.shape, generator=generator, device=passages.device)
    first = draws.masked_fill(~others, 2.0).topk(min(negatives, len(own)), dim=1, largest=False).indices
    return torch.zeros_like(own).scatter_(1, first, True) & others | own


class SoftTargets(NamedTuple):
    """A level's softmax for a worker's rows over the columns of all workers, without gradient.

    Attributes:
        queries: rows are this worker's queries, columns the passages of all workers.
        passages: rows are this worker's passages, columns the queries of all workers.
    """

    queries: Float[Tensor, "batch global_batch"]
    passages: Float[Tensor, "batch global_batch"]


class ContrastiveLoss(nn.Module):
    """Symmetric InfoNCE with a learned scale (inverse temperature).

    Args:
        similarity: `ntvd` or `bhattacharyya`.
        scale: the scale at the start, within [scale_min, scale_max].
        scale_min, scale_max: bounds of the learned scale.
        levels: number of scales, one a level; 1: all levels share one, as in the paper.

    Raises:
        ValueError: an unknown similarity, or a scale out of range.
    """

    def __init__(
        self,
        similarity: str,
        scale: float,
        scale_min: float,
        scale_max: float,
        levels: int,
    ):
        super().__init__()
        self.similarity = get_similarity(similarity)
        require_positive("scale_min", scale_min)
        require_positive("scale_max", scale_max)
        if not scale_min <= scale <= scale_max:
            raise ValueError(f"scale: must lie within [scale_min, scale_max] = [{scale_min}, {scale_max}], got {scale}")
        self.bounds = log(scale_min), log(scale_max)
        self.log_scale = nn.Parameter(torch.full((require_at_least("levels", levels, 1),), log(scale)))

    @property
    def scale(self) -> float:
        """The present inverse temperature of the last level."""
        return self._scale_of_level(len(self.log_scale)).item()

    def _scale_of_level(self, level: int) -> Tensor:
        return self.log_scale[min(level, len(self.log_scale)) - 1].clamp(*self.bounds).exp()

    @torch.no_grad()
    def clamp_(self) -> None:
        """Pull the learned scale back within its bounds after an optimiser step: outside it has no gradient."""
        self.log_scale.clamp_(*self.bounds)

    def forward(
        self,
        queries: Float[Tensor, "batch leaves"],
        passages: Float[Tensor, "batch leaves"],
        *,
        keep_queries: Bool[Tensor, "global_batch global_batch"] | None = None,
        keep_passages: Bool[Tensor, "global_batch global_batch"] | None = None,
        all_queries: Float[Tensor, "global_batch leaves"] | None = None,
        all_passages: Float[Tensor, "global_batch leaves"] | None = None,
        offset: int = 0,
        level: int = 1,
        finer_targets: SoftTargets | None = None,
        share: float = 0.0,
    ) -> tuple[Float[Tensor, ""], SoftTargets]:
        """Mean loss of this worker's rows, and this level's softmax for them: soft targets of a coarser level.

        Args:
            queries, passages: log-probabilities of a level; row i of one belongs to row i of the other.
            keep_queries: pairs of the global batch that count, rows are queries, diagonal true; None: all.
            keep_passages: the same for the direction passage to query, rows are passages; None: `keep_queries`
                transposed, which is right where no negatives were drawn, and faster.
            all_queries, all_passages: the rows of all workers in rank order, both or neither (a single worker).
            offset: index of this worker's first row among those of all workers.
            level: selects the scale, where there are several.
            finer_targets: soft targets of a finer level for the same rows, under the same masks.
            share: share of the soft targets in the target, in [0, 1].

        Raises:
            ValueError: only one of `all_queries` and `all_passages`.
        """
        if (all_queries is None) != (all_passages is None):
            raise ValueError("all_queries, all_passages: must be given together, got only one")
        there, back = self._both_directions(queries, passages, all_queries, all_passages, level)
        there, back = _mask_both_directions(there, back, keep_queries, keep_passages, offset)
        soft_targets = (None, None) if finer_targets is None or not share else finer_targets
        there, query_targets = _InfoNCE.apply(there, offset, soft_targets[0], share)
        back, passage_targets = _InfoNCE.apply(back, offset, soft_targets[1], share)
        return (there + back) / 2, SoftTargets(query_targets, passage_targets)

    def _both_directions(
        self, queries: Tensor, passages: Tensor, all_queries: Tensor | None, all_passages: Tensor | None, level: int
    ) -> tuple[Tensor, Tensor]:
        """Logits with queries as rows, and with passages as rows; alone, one matrix serves both directions."""
        if all_queries is None or all_passages is None:
            logits = self._logits(queries, passages, level)
            return logits, logits.T
        return self._logits(queries, all_passages, level), self._logits(passages, all_queries, level)

    def _logits(self, queries: Tensor, passages: Tensor, level: int) -> Tensor:
        return self.similarity(queries, passages) * self._scale_of_level(level)


class _InfoNCE(torch.autograd.Function):
    """Mean cross-entropy of rows whose right answers lie on the diagonal from column `offset`, and the rows' softmax.

    `soft_targets` make up `share` of the target. A logit further than NEGLIGIBLE_LOGIT_GAP below its row's largest is
    raised to that distance, and its gradient with it: a sum of exponentials has no digits for smaller terms, and
    numbers that small make a processor many times slower.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, offset: int, soft_targets: Tensor | None, share: float
    ) -> tuple[Tensor, Tensor]:
        shifted = logits - logits.amax(1, keepdim=True)
        likely = shifted.diagonal(offset).clone()
        shifted.clamp_(min=-NEGLIGIBLE_LOGIT_GAP)
        if soft_targets is not None:
            likely = (1 - share) * likely + share * torch.linalg.vecdot(soft_targets, shifted)
        probabilities = shifted.exp_()
        total = probabilities.sum(1, keepdim=True)
        probabilities /= total
        ctx.save_for_backward(probabilities, soft_targets)
        ctx.offset, ctx.share = offset, share
        ctx.mark_non_differentiable(probabilities)
        return (total.log().squeeze(1) - likely).mean(), probabilities

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        probabilities, soft_targets = ctx.saved_tensors
        share = 0.0 if soft_targets is None else ctx.share
        slope = probabilities.clone() if soft_targets is None else probabilities - share * soft_targets
        slope.diagonal(ctx.offset).sub_(1 - share)
        return slope.mul_(grad / len(slope)), None, None, None


def _mask_both_directions(
    there: Tensor, back: Tensor, keep_queries: Tensor | None, keep_passages: Tensor | None, offset: int
) -> tuple[Tensor, Tensor]:
    """Logits of both directions, minus infinity where a pair does not count; one matrix for both where possible."""
    rows = slice(offset, offset + len(there))
    masked = _mask_logits(there, keep_queries, rows)
    if keep_passages is None and len(there) == there.shape[1]:
        return masked, masked.T
    if keep_passages is None and keep_queries is not None:
        keep_passages = keep_queries.T
    return masked, _mask_logits(back, keep_passages, rows)


def _mask_logits(logits: Tensor, keep: Tensor | None, rows: slice) -> Tensor:
    """`logits`, minus infinity where a pair does not count.

    The mask is added, not filled in: the softmax gives those entries no gradient, so it needs no backward pass.
    """
    return logits if keep is None else logits + torch.where(keep[rows], 0.0, -torch.inf)
