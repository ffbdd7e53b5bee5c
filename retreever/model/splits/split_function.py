"""Split functions: from the encoding of a text to one score per split node, all at once (section 3.1 of the paper).

    linear           s_t = u_t . x + o_t
    mlp              s_t = u_t . relu(dropout(W x + b)) + o_t
    cross_attention  s_t = sum_h sum_n a_(t,h,n) (u_(t,h) . x_n) + o_t    (`attention.py`)

x is the pooled encoding of a text, x_n the state of its n-th token. Every u_t starts at a length of about one, so that
one learning rate and one weight decay fit them all. `spread.py` decides how far scores are spread; the propagation
decides what a score means (a branch, a node, a leaf).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from retreever.model.arguments import require_at_least, require_fraction, require_within

TextEncoding = Float[Tensor, "batch dim"] | Float[Tensor, "batch tokens dim"]


class SplitFunction(nn.Module, ABC):
    """A map from encodings to scores that is linear in `readout`, plus `offset`.

    Args:
        dim: width of the encodings.
        outputs: number of scores.

    Attributes:
        readout: the last linear map, of length about one for each output.
        offset: (outputs,), added to the scores; zero until calibrated.
        has_plain_rows: the scores are linear in the rows of `readout`, (outputs, ...).
        output_axes: the axis that belongs to the outputs, of each parameter that has one, by name.
    """

    readout: nn.Parameter
    has_plain_rows: ClassVar[bool] = True
    output_axes: ClassVar[Mapping[str, int]] = {"readout": 0}

    def __init__(self, dim: int, outputs: int):
        super().__init__()
        require_at_least("dim", dim, 1)
        require_at_least("outputs", outputs, 1)
        self.offset = nn.Parameter(torch.zeros(outputs))

    def forward(
        self, x: TextEncoding, mask: Bool[Tensor, "batch tokens"] | None = None, outputs: int | None = None
    ) -> Float[Tensor, "batch scores"]:
        """Scores of every text.

        Args:
            x: pooled encodings, or token states together with `mask`.
            mask: true where a token counts; needed with token states, whose mean `linear` and `mlp` take.
            outputs: number of scores to return, the first in heap order (a coarser tree); None: all.

        Raises:
            ValueError: token states without mask, a text without a token that counts, or too many outputs.
        """
        total = len(self.offset)
        outputs = require_within("outputs", total if outputs is None else outputs, 1, total)
        return self._linear(x, mask, outputs) + self.offset[:outputs]

    @abstractmethod
    def _linear(self, x: Tensor, mask: Tensor | None, outputs: int) -> Tensor: ...

    @abstractmethod
    def set_rows(self, rows: Float[Tensor, "outputs dim"], x: Float[Tensor, "texts dim"]) -> None:
        """Start as the linear map `rows` of pooled encodings, or as near to it as the split function can (ours).

        Args:
            x: pooled encodings of a sample; a narrow split function keeps their main directions.
        """


class LinearSplit(SplitFunction):
    """One linear score per split, on pooled encodings."""

    def __init__(self, dim: int, outputs: int):
        super().__init__(dim, outputs)
        self.readout = nn.Parameter(torch.randn(outputs, dim) / dim**0.5)

    def _linear(self, x: Tensor, mask: Tensor | None, outputs: int) -> Tensor:
        return F.linear(pool_tokens(x, mask), self.readout[:outputs])

    @torch.no_grad()
    def set_rows(self, rows: Float[Tensor, "outputs dim"], x: Float[Tensor, "texts dim"]) -> None:
        self.readout.copy_(rows)


class MLPSplit(SplitFunction):
    """One hidden layer shared by all splits, on pooled encodings.

    Args:
        hidden: width of the hidden layer.
        dropout: on the hidden layer, before the activation, in [0, 1).
    """

    def __init__(self, dim: int, outputs: int, hidden: int, dropout: float):
        super().__init__(dim, outputs)
        require_at_least("hidden", hidden, 1)
        require_fraction("mlp_dropout", dropout)
        first = nn.Linear(dim, hidden)
        # Rows of length about one, like those of the readout, so that the same learning rate fits them.
        nn.init.normal_(first.weight, std=dim**-0.5)
        nn.init.zeros_(first.bias)
        self.hidden = nn.Sequential(first, nn.Dropout(dropout), nn.ReLU())
        self.readout = nn.Parameter(torch.randn(outputs, hidden) / hidden**0.5)

    def _linear(self, x: Tensor, mask: Tensor | None, outputs: int) -> Tensor:
        return F.linear(self.hidden(pool_tokens(x, mask)), self.readout[:outputs])

    @torch.no_grad()
    def set_rows(self, rows: Float[Tensor, "outputs dim"], x: Float[Tensor, "texts dim"]) -> None:
        """Half of the hidden units take the main directions of `x`, half their opposites: relu(a) - relu(-a) = a."""
        first = self.hidden[0]
        directions = find_main_directions(x, first.out_features // 2)
        opposites = torch.cat([directions, -directions])
        first.weight.zero_()[: len(opposites)] = opposites
        self.readout.zero_()[:, : len(opposites)] = rows @ opposites.T


def find_main_directions(x: Float[Tensor, "texts dim"], count: int) -> Float[Tensor, "directions dim"]:
    """Orthonormal directions of the largest variance of `x` about its mean, at most `count` and at most `dim`."""
    return torch.linalg.eigh(torch.cov(x.T)).eigenvectors.T.flip(0)[:count].contiguous()


def pool_tokens(x: TextEncoding, mask: Bool[Tensor, "batch tokens"] | None) -> Float[Tensor, "batch dim"]:
    """The mean state of the tokens that count; pooled encodings pass through.

    Raises:
        ValueError: token states without mask, or a text without a token that counts.
    """
    if x.ndim == 2:
        return x
    if mask is None:
        raise ValueError(f"mask: token states of shape {tuple(x.shape)} need a mask, got None")
    refuse_texts_without_tokens(mask)
    weights = mask.to(x.dtype) / mask.sum(1, keepdim=True)
    return torch.bmm(weights.unsqueeze(1), x).squeeze(1)


def refuse_texts_without_tokens(mask: Bool[Tensor, "batch tokens"]) -> None:
    """Raise ValueError where no token of a text counts: its mean or softmax would be NaN."""
    kept = mask.any(1)
    if not kept.all():
        rows = (~kept).nonzero().flatten().tolist()
        raise ValueError(f"mask: every text must keep at least one token, rows {rows[:5]} keep none")
