"""The contrastive loss over a similarity matrix (section 3.3 of the paper), and which pairs count in it.

    L = 1/2 mean_i CE(scale * sim(q_i, .), i) + 1/2 mean_i CE(scale * sim(., p_i), i)

CE is the cross-entropy of a softmax in which the i-th passage is the i-th query's right answer. Every worker
scores its own rows against the rows of all workers; the mean of the workers' losses is the loss of the whole
batch, and so is its gradient where the rows were gathered with gradient. How they are gathered is not known
here.
"""

from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from retreever.model.arguments import at_least, positive
from retreever.model.similarity import similarity as named_similarity


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
    ) -> Float[Tensor, ""]:
        """Mean loss of this worker's rows.

        Args:
            queries, passages: log-probabilities of a level; row i of one belongs to row i of the other.
            keep_queries: pairs of the global batch that count, rows are queries, diagonal true; None: all.
            keep_passages: the same for the direction passage to query, rows are passages; None: `keep_queries`
                transposed, which is right where no negatives were drawn, and faster.
            all_queries, all_passages: every worker's rows in rank order, both or none (a single worker).
            offset: where this worker's rows begin among everyone's.
            level: whose scale counts, where there are several.

        Raises:
            ValueError: only one of `all_queries` and `all_passages`.
        """
        if (all_queries is None) != (all_passages is None):
            raise ValueError("all_queries, all_passages: must be given together, got only one")
        if all_queries is None or all_passages is None:
            return self._whole(queries, passages, keep_queries, keep_passages, level)
        if keep_passages is None and keep_queries is not None:
            keep_passages = keep_queries.T
        rows = slice(offset, offset + len(queries))
        target = torch.arange(rows.start, rows.stop, device=queries.device)
        forward = _masked(self._logits(queries, all_passages, level), keep_queries, rows)
        backward = _masked(self._logits(passages, all_queries, level), keep_passages, rows)
        return (F.cross_entropy(forward, target) + F.cross_entropy(backward, target)) / 2

    def _whole(
        self,
        queries: Tensor,
        passages: Tensor,
        keep_queries: Tensor | None,
        keep_passages: Tensor | None,
        level: int,
    ) -> Tensor:
        """One similarity matrix for both directions: a softmax along its rows and one down its columns."""
        logits, rows = self._logits(queries, passages, level), slice(0, len(queries))
        target = torch.arange(len(queries), device=queries.device)
        forward = _masked(logits, keep_queries, rows)
        backward = forward if keep_passages is None else _masked(logits.T, keep_passages, rows).T
        down = (backward.logsumexp(0) - backward.diagonal()).mean()
        return (F.cross_entropy(forward, target) + down) / 2

    def _logits(self, queries: Tensor, passages: Tensor, level: int) -> Tensor:
        return self.similarity(queries, passages) * self._factor(level)


def _masked(logits: Tensor, keep: Tensor | None, rows: slice) -> Tensor:
    """`logits`, minus infinity where a pair does not count.

    Added, not filled in: the softmax gives those entries no gradient, so the mask needs no backward pass.
    """
    return logits if keep is None else logits + torch.where(keep[rows], 0.0, -torch.inf)
