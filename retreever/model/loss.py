"""The contrastive loss over a similarity matrix (section 3.3 of the paper), and which pairs count in it.

    L = 1/2 mean_i CE(scale * sim(q_i, .), i) + 1/2 mean_i CE(scale * sim(., p_i), i)

CE is the cross-entropy of a softmax in which the i-th passage is the i-th query's right answer. A coarse level may
learn part of its target from the softmax of a finer one (ours), which knows how wrong the wrong answers are.

Every worker scores its own rows against the rows of all workers; the mean of the workers' losses is the loss of the
whole batch, and so is its gradient where the rows were gathered with gradient. How they are gathered is not known
here.
"""

from math import log
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from retreever.model.arguments import at_least, positive
from retreever.model.similarity import similarity as named_similarity

LOST = 40.0  # e**-40 of the largest term is nothing to a sum in float32 nor in float64


def negatives_mask(
    contexts: Int[Tensor, " batch"],
    queries: Int[Tensor, " batch"],
    negatives: int | None = None,
    generator: torch.Generator | None = None,
) -> Bool[Tensor, "batch batch"]:
    """Which query-passage pairs of a batch count, one row a query: its own passage and its negatives.

    A pair of two rows is no negative where they share the query or the passage: its answer is right as well.

    Args:
        contexts, queries: which passage and which query each row of the batch holds. Swapped, the mask's rows
            are passages.
        negatives: so many a row, drawn at random, or all there are where they are fewer; None: all.
        generator: draws the negatives.

    Raises:
        ValueError: `negatives` below one.
    """
    own = torch.eye(len(contexts), dtype=torch.bool, device=contexts.device)
    others = (contexts[:, None] != contexts) & (queries[:, None] != queries)
    if negatives is None:
        return others | own
    at_least("negatives", negatives, 1)
    draws = torch.rand(others.shape, generator=generator, device=contexts.device)
    first = draws.masked_fill(~others, 2.0).topk(min(negatives, len(own)), dim=1, largest=False).indices
    return torch.zeros_like(own).scatter_(1, first, True) & others | own


class Beliefs(NamedTuple):
    """Where a level expects the right answers of a worker's rows: softmax over everyone's columns, without gradient.

    Attributes:
        queries: rows are this worker's queries, columns everyone's passages.
        passages: rows are this worker's passages, columns everyone's queries.
    """

    queries: Float[Tensor, "batch everyone"]
    passages: Float[Tensor, "batch everyone"]


class ContrastiveLoss(nn.Module):
    """Symmetric InfoNCE with a learned scale (inverse temperature).

    Args:
        similarity: `ntvd` or `bhattacharyya`.
        scale: where the scale starts, within [scale_min, scale_max].
        levels: how many scales there are, a level each; 1: all levels share one, as in the paper.

    Raises:
        ValueError: an unknown similarity, or a scale out of range.
    """

    def __init__(
        self,
        similarity: str = "bhattacharyya",
        scale: float = 800.0,
        scale_min: float = 1e-4,
        scale_max: float = 10_000.0,
        levels: int = 1,
    ):
        super().__init__()
        self.similarity = named_similarity(similarity)
        positive("scale_min", scale_min)
        positive("scale_max", scale_max)
        if not scale_min <= scale <= scale_max:
            raise ValueError(f"scale: must lie within [scale_min, scale_max] = [{scale_min}, {scale_max}], got {scale}")
        self.bounds = log(scale_min), log(scale_max)
        self.log_scale = nn.Parameter(torch.full((at_least("levels", levels, 1),), log(scale)))

    @property
    def scale(self) -> float:
        """The inverse temperature as it is used now, of the last level."""
        return self._factor(len(self.log_scale)).item()

    def _factor(self, level: int) -> Tensor:
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
        keep_queries: Bool[Tensor, "everyone everyone"] | None = None,
        keep_passages: Bool[Tensor, "everyone everyone"] | None = None,
        all_queries: Float[Tensor, "everyone leaves"] | None = None,
        all_passages: Float[Tensor, "everyone leaves"] | None = None,
        offset: int = 0,
        level: int = 1,
        finer: Beliefs | None = None,
        share: float = 0.0,
    ) -> tuple[Float[Tensor, ""], Beliefs]:
        """Mean loss of this worker's rows, and what this level believes of them.

        Args:
            queries, passages: log-probabilities of a level; row i of one belongs to row i of the other.
            keep_queries: pairs of the global batch that count, rows are queries, diagonal true; None: all.
            keep_passages: the same for the direction passage to query, rows are passages; None: `keep_queries`
                transposed, which is right where no negatives were drawn, and faster.
            all_queries, all_passages: every worker's rows in rank order, both or none (a single worker).
            offset: where this worker's rows begin among everyone's.
            level: whose scale counts, where there are several.
            finer: what a finer level believes of the same rows, under the same masks, to learn from.
            share: of the target that is theirs.

        Raises:
            ValueError: only one of `all_queries` and `all_passages`.
        """
        if (all_queries is None) != (all_passages is None):
            raise ValueError("all_queries, all_passages: must be given together, got only one")
        there, back = self._both(queries, passages, all_queries, all_passages, level)
        there, back = _masked_both(there, back, keep_queries, keep_passages, offset)
        lessons = (None, None) if finer is None or not share else finer
        there, queries_beliefs = _InfoNCE.apply(there, offset, lessons[0], share)
        back, passages_beliefs = _InfoNCE.apply(back, offset, lessons[1], share)
        return (there + back) / 2, Beliefs(queries_beliefs, passages_beliefs)

    def _both(
        self, queries: Tensor, passages: Tensor, all_queries: Tensor | None, all_passages: Tensor | None, level: int
    ) -> tuple[Tensor, Tensor]:
        """Logits with queries as rows, and with passages as rows; alone, one matrix serves both directions."""
        if all_queries is None or all_passages is None:
            logits = self._logits(queries, passages, level)
            return logits, logits.T
        return self._logits(queries, all_passages, level), self._logits(passages, all_queries, level)

    def _logits(self, queries: Tensor, passages: Tensor, level: int) -> Tensor:
        return self.similarity(queries, passages) * self._factor(level)


class _InfoNCE(torch.autograd.Function):
    """Mean cross-entropy of rows whose right answers lie on the diagonal that begins at column `offset`, and the
    rows' softmax; `share` of the target is `taught`.

    What lies further than `LOST` below a row's largest logit counts as if it lay there, and gets no more gradient
    than that: a sum of exponentials has no digits left for it, and numbers that small make a processor many times
    slower.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, offset: int, taught: Tensor | None, share: float) -> tuple[Tensor, Tensor]:
        shifted = logits - logits.amax(1, keepdim=True)
        likely = shifted.diagonal(offset).clone()
        shifted.clamp_(min=-LOST)
        if taught is not None:
            likely = (1 - share) * likely + share * torch.linalg.vecdot(taught, shifted)
        beliefs = shifted.exp_()
        total = beliefs.sum(1, keepdim=True)
        beliefs /= total
        ctx.save_for_backward(beliefs, taught)
        ctx.offset, ctx.share = offset, share
        ctx.mark_non_differentiable(beliefs)
        return (total.log().squeeze(1) - likely).mean(), beliefs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        beliefs, taught = ctx.saved_tensors
        share = 0.0 if taught is None else ctx.share
        slope = beliefs.clone() if taught is None else beliefs - share * taught
        slope.diagonal(ctx.offset).sub_(1 - share)
        return slope.mul_(grad / len(slope)), None, None, None


def _masked_both(
    there: Tensor, back: Tensor, keep_queries: Tensor | None, keep_passages: Tensor | None, offset: int
) -> tuple[Tensor, Tensor]:
    """Logits of both directions, minus infinity where a pair does not count; one matrix for both where it serves."""
    rows = slice(offset, offset + len(there))
    masked = _masked(there, keep_queries, rows)
    if keep_passages is None and len(there) == there.shape[1]:
        return masked, masked.T
    if keep_passages is None and keep_queries is not None:
        keep_passages = keep_queries.T
    return masked, _masked(back, keep_passages, rows)


def _masked(logits: Tensor, keep: Tensor | None, rows: slice) -> Tensor:
    """`logits`, minus infinity where a pair does not count.

    Added, not filled in: the softmax gives those entries no gradient, so the mask needs no backward pass.
    """
    return logits if keep is None else logits + torch.where(keep[rows], 0.0, -torch.inf)
