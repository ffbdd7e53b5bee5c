"""The cross-attention split function: every node asks the tokens of a text (section 3.1 of the paper).

Node t holds n_e embeddings e_(t,j). With q = W_Q e + b_Q, k_n = W_K x_n and H heads of width d_k / H,

    a_(t,j,h,n) = softmax over the text's tokens n of (q_(t,j,h) . k_(h,n)) / sqrt(d_k / H)
    s_t = 1/n_e sum_j sum_h sum_n a_(t,j,h,n) (u_(t,h) . x_n) + o_t

The paper concatenates the heads' values W_V x_n and gives each node a linear map w_t of its own to a scalar;
that is u_(t,h) = W_V,h^T w_(t,h), and `values="projected"` keeps it so. `values="full"` (ours) makes u_(t,h)
free at the encoder's width, which lifts the limit on its rank. Since a sum over tokens of a_n (u . x_n) needs
no a-weighted value vectors, nothing of size (batch, nodes, d_k) is built.

Departures that change nothing: no bias on keys (it cancels in the softmax), none on values (the offset o_t
holds it).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from retreever.model.arguments import at_least, fraction, one_of, positive
from retreever.model.dropout import dropped, kept_share
from retreever.model.split import Split, refuse_empty

VALUES = ("full", "projected")
TEXTS_ON_CPU = 32
"""Texts that go through the attention together, sorted by length so that little is spent on padding.

Numbers of 32 texts lie side by side: torch's loops over bfloat16 numbers are eight times slower where they do not come
in whole registers of 32, as tokens seldom do.
"""

TEXTS_ON_GPU = 256
PATTERNS = 256  # of what dropout keeps, for a group of texts
NUMBERS_ON_CPU = 2**22  # attention weights at a time, which keeps them within reach of the cache


class CrossAttention(Split):
    """Attention of every split node over the tokens of a text; pooled encodings are refused.

    With small embeddings the attention starts almost uniform, so the split starts as a linear one on the mean
    token.

    Args:
        embeddings: embeddings of a node (n_e), whose scores are averaged.
        d_emb: their width.
        d_k: width of queries and keys over all heads, a multiple of `heads`.
        embedding_std: standard deviation of the embeddings at the start (paper: 1).
        dropout: on the attention weights.
    """

    def __init__(
        self,
        dim: int,
        outputs: int,
        heads: int = 4,
        embeddings: int = 1,
        d_emb: int = 128,
        d_k: int = 128,
        values: str = "full",
        embedding_std: float = 0.02,
        dropout: float = 0.1,
    ):
        super().__init__(dim, outputs)
        for name, value in (("heads", heads), ("embeddings", embeddings), ("d_emb", d_emb), ("d_k", d_k)):
            at_least(name, value, 1)
        if d_k % heads:
            raise ValueError(f"d_k: must be a multiple of heads ({heads}), got {d_k}")
        self.heads, self.dropout = heads, fraction("attention_dropout", dropout)
        scale = positive("embedding_std", embedding_std)
        self.embeddings = nn.Parameter(torch.randn(outputs, embeddings, d_emb) * scale)
        self.query = nn.Linear(d_emb, d_k)
        nn.init.zeros_(self.query.bias)  # or it would outweigh small embeddings, the same for every node
        self.key = nn.Linear(dim, d_k, bias=False)
        projected = one_of("values", values, VALUES) == "projected"
        self.value = nn.Linear(dim, d_k, bias=False) if projected else None
        width = d_k // heads if projected else dim
        self.readout = nn.Parameter(torch.randn(heads, outputs, width) / (heads * width) ** 0.5)

    def _linear(self, x: Tensor, mask: Tensor | None, outputs: int) -> Tensor:
        if x.ndim != 3 or mask is None:
            raise ValueError(
                f"x: cross_attention needs token states (batch, tokens, dim) and a mask, got shape "
                f"{tuple(x.shape)} and {'no mask' if mask is None else 'a mask'}; "
                "on one pooled vector it would be a linear split"
            )
        refuse_empty(mask)
        queries = self._queries(outputs)
        last = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1)
        order = last.argsort()
        lengths = last[order].tolist()
        size = TEXTS_ON_CPU if x.device.type == "cpu" else TEXTS_ON_GPU
        scores = []
        for start in range(0, len(x), size):
            rows = order[start : start + size]
            length = lengths[start + len(rows) - 1]
            scores.append(self._attend(queries, x[rows, :length], mask[rows, :length], outputs))
        return torch.cat(scores, 1)[:, order.argsort()].T

    def _queries(self, outputs: int) -> Tensor:
        """(heads, outputs * embeddings, d_k / heads), scaled for the softmax."""
        queries = self.query(self.embeddings[:outputs].flatten(0, 1))
        queries = queries.unflatten(1, (self.heads, -1)).transpose(0, 1)
        return queries / queries.shape[2] ** 0.5

    def _attend(self, queries: Tensor, x: Tensor, mask: Tensor, outputs: int) -> Tensor:
        """Scores (outputs, batch) without offset.

        Features come first, so that every product is a plain one. Then come texts and their tokens, or on a CPU tokens
        and their texts, see TEXTS_ON_CPU.
        """
        along = -2 if x.device.type == "cpu" and len(x) % TEXTS_ON_CPU == 0 else -1
        if along == -2:
            x, mask = x.transpose(0, 1), mask.T
        states = x.flatten(0, 1).T
        # (dim, texts and tokens)
        keys = self._by_head(self.key, states)
        # (heads, d_k / heads, texts and tokens)
        absent = None if mask.all() else torch.zeros_like(mask, dtype=x.dtype).masked_fill_(~mask, -torch.inf).flatten()
        kept = self._patterns(keys)
        projected = None if self.value is None else self._by_head(self.value, states)
        rows, columns = queries.shape[1], keys.shape[2]
        together = max(1, NUMBERS_ON_CPU // (rows * columns)) if x.device.type == "cpu" else self.heads
        scores: list[Tensor] = []
        for first in range(0, self.heads, together):
            own = slice(first, first + together)
            logits = queries[own] @ keys[own] if absent is None else torch.baddbmm(absent, queries[own], keys[own])
            logits = logits.unflatten(2, mask.shape).unflatten(1, (outputs, -1))
            values = self._values(states if projected is None else projected[own], own, outputs)
            values = values.unflatten(2, mask.shape).unsqueeze(2).expand_as(logits)
            # (heads, outputs, embeddings, batch)
            scores.append(_Attended.apply(logits, values, along, kept).mean(2).sum(0))
        total = torch.stack(scores).sum(0)
        return total if kept is None else total / kept_share(self.dropout)

    def _patterns(self, keys: Tensor) -> Tensor | None:
        """What dropout keeps of a node's weights, (patterns, texts and tokens); each is used by some of the nodes.

        Ones and zeros: divided by the share that is kept, all of them would be rounded the same way in bfloat16.
        """
        if not self.training or kept_share(self.dropout) == 1:
            return None
        return dropped(keys.new_ones(min(PATTERNS, self.readout.shape[:2].numel()), keys.shape[2]), self.dropout).sign()

    def _values(self, states: Tensor, heads: slice, outputs: int) -> Tensor:
        """u_(t,h) . x_n for every node and token, of some heads: (heads, outputs, tokens * batch)."""
        readout = self.readout[heads, :outputs]
        if self.value is None:
            return (readout.flatten(0, 1) @ states).unflatten(0, (-1, outputs))
        return torch.bmm(readout, states)

    def _by_head(self, linear: nn.Linear, states: Tensor) -> Tensor:
        return (linear.weight @ states).unflatten(0, (self.heads, -1))


class _Attended(torch.autograd.Function):
    """sum over tokens, which are `along` a dimension, of dropout(softmax(logits)) values.

    By hand, since the passes over these many numbers are what takes the time, and torch makes more of them. Every node
    uses one of a few patterns of what is kept: to draw for every weight takes longer than all the rest.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, values: Tensor, along: int, patterns: Tensor | None) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):  # which would make them twice as large
            weights = logits.softmax(along)
        weighted, drawn = weights * values, None
        if patterns is not None:
            drawn = torch.randint(len(patterns), (weights.shape[:3].numel(),), device=weights.device)
            weighted *= patterns.index_select(0, drawn).view_as(weights)
        attended = weighted.sum(along)
        ctx.save_for_backward(weights, values, attended, patterns, drawn)
        ctx.along = along
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        weights, values, attended, patterns, drawn = ctx.saved_tensors
        to_values = weights * grad.unsqueeze(ctx.along)
        to_logits = to_values * -attended.unsqueeze(ctx.along)
        if patterns is not None:
            to_values *= patterns.index_select(0, drawn).view_as(weights)
        return to_logits.addcmul_(to_values, values), to_values, None, None
