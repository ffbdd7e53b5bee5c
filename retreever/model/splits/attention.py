"""The cross-attention split function: every node attends to the tokens of a text (section 3.1 of the paper).

Node t holds n_e embeddings e_(t,j). With q = W_Q e + b_Q, k_n = W_K x_n and H heads of width d_k / H,

    a_(t,j,h,n) = softmax over the text's tokens n of (q_(t,j,h) . k_(h,n)) / sqrt(d_k / H)
    s_t = 1/n_e sum_j sum_h sum_n a_(t,j,h,n) (u_(t,h) . x_n) + o_t

The paper concatenates the heads' values W_V x_n and gives each node a linear map w_t of its own to a scalar;
that is u_(t,h) = W_V,h^T w_(t,h), and `values="projected"` keeps it so. `values="full"` (ours) makes u_(t,h)
free at the encoder's width, which lifts the limit on its rank. A sum over tokens of a_n (u . x_n) needs no
a-weighted value vectors, so nothing of size (batch, nodes, d_k) is built.

Two departures change nothing: keys have no bias (it cancels in the softmax), and values have none (the offset
o_t holds it).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from retreever.model.arguments import require_at_least, require_fraction, require_one_of, require_positive
from retreever.model.dropout import apply_dropout, keep_probability
from retreever.model.splits.split_function import SplitFunction, find_main_directions, refuse_texts_without_tokens

VALUE_MODES = ("full", "projected")
TEXTS_PER_ATTENTION_ON_CPU = 32
"""Texts that go through the attention together, sorted by length so that padding costs little.

Numbers of 32 texts lie side by side: torch's loops over bfloat16 numbers are eight times slower where the numbers do
not fill whole registers of 32, and tokens seldom do.
"""

TEXTS_PER_ATTENTION_ON_GPU = 256
DROPOUT_PATTERNS = 256  # keep masks drawn for a group of texts
MAX_ATTENTION_WEIGHTS_ON_CPU = 2**22  # attention weights at a time, few enough for the cache


class CrossAttentionSplit(SplitFunction):
    """Attention of every split node over the tokens of a text; pooled encodings are refused.

    With small embeddings the attention starts almost uniform, so the split starts as a linear one on the mean
    token.

    Args:
        dim: width of the token states.
        outputs: scores, one a node.
        heads: attention heads.
        embeddings: embeddings of a node (n_e), whose scores are averaged.
        d_emb: their width.
        d_k: width of queries and keys over all heads, a multiple of `heads`.
        values: `full` (width of the encoder) or `projected` (width d_k, as in the paper).
        embedding_std: standard deviation of the embeddings at the start (paper: 1).
        dropout: on the attention weights.

    Raises:
        ValueError: an argument out of range; the message names it.
    """

    has_plain_rows: ClassVar[bool] = False  # each node attends in its own way
    output_axes: ClassVar[Mapping[str, int]] = {"readout": 1, "embeddings": 0}

    def __init__(
        self,
        dim: int,
        outputs: int,
        heads: int,
        embeddings: int,
        d_emb: int,
        d_k: int,
        values: str,
        embedding_std: float,
        dropout: float,
    ):
        super().__init__(dim, outputs)
        for name, value in (("heads", heads), ("embeddings", embeddings), ("d_emb", d_emb), ("d_k", d_k)):
            require_at_least(name, value, 1)
        if d_k % heads:
            raise ValueError(f"d_k: must be a multiple of heads ({heads}), got {d_k}")
        self.heads, self.dropout = heads, require_fraction("attention_dropout", dropout)
        scale = require_positive("embedding_std", embedding_std)
        self.embeddings = nn.Parameter(torch.randn(outputs, embeddings, d_emb) * scale)
        self.query = nn.Linear(d_emb, d_k)
        nn.init.zeros_(self.query.bias)  # or it would outweigh small embeddings, the same for every node
        self.key = nn.Linear(dim, d_k, bias=False)
        projected = require_one_of("values", values, VALUE_MODES) == "projected"
        self.value = nn.Linear(dim, d_k, bias=False) if projected else None
        width = d_k // heads if projected else dim
        self.readout = nn.Parameter(torch.randn(heads, outputs, width) / (heads * width) ** 0.5)

    @torch.no_grad()
    def set_rows(self, rows: Float[Tensor, "outputs dim"], x: Float[Tensor, "texts dim"]) -> None:
        """Every head reads its share of `rows`; attention starts near uniform, so that they meet the mean token.

        With projected values the heads share out the main directions of `x`.
        """
        if self.value is None:
            self.readout.copy_((rows / self.heads).expand_as(self.readout))
            return
        directions = find_main_directions(x, self.value.out_features)
        self.value.weight.zero_()[: len(directions)] = directions
        by_head = (rows @ self.value.weight.T).unflatten(1, (self.heads, -1))
        self.readout.copy_(by_head.transpose(0, 1))

    def _linear(self, x: Tensor, mask: Tensor | None, outputs: int) -> Tensor:
        if x.ndim != 3 or mask is None:
            raise ValueError(
                f"x: cross_attention needs token states (batch, tokens, dim) and a mask, got shape "
                f"{tuple(x.shape)} and {'no mask' if mask is None else 'a mask'}; "
                "on one pooled vector it would be a linear split"
            )
        refuse_texts_without_tokens(mask)
        queries = self._project_queries(outputs)
        last = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1)
        order = last.argsort()
        lengths = last[order].tolist()
        size = TEXTS_PER_ATTENTION_ON_CPU if x.device.type == "cpu" else TEXTS_PER_ATTENTION_ON_GPU
        scores = []
        for start in range(0, len(x), size):
            rows = order[start : start + size]
            length = lengths[start + len(rows) - 1]
            scores.append(self._attend(queries, x[rows, :length], mask[rows, :length], outputs))
        return torch.cat(scores, 1)[:, order.argsort()].T

    def _project_queries(self, outputs: int) -> Tensor:
        """(heads, outputs * embeddings, d_k / heads), scaled for the softmax."""
        queries = self.query(self.embeddings[:outputs].flatten(0, 1))
        queries = queries.unflatten(1, (self.heads, -1)).transpose(0, 1)
        return queries / queries.shape[2] ** 0.5

    def _attend(self, queries: Tensor, x: Tensor, mask: Tensor, outputs: int) -> Tensor:
        """Scores (outputs, batch) without offset.

        Features come first, so that every product is a plain one. Then come texts and their tokens, or tokens and their
        texts on a CPU (see TEXTS_PER_ATTENTION_ON_CPU).
        """
        token_axis = -2 if x.device.type == "cpu" and len(x) % TEXTS_PER_ATTENTION_ON_CPU == 0 else -1
        if token_axis == -2:
            x, mask = x.transpose(0, 1), mask.T
        states = x.flatten(0, 1).T
        # (dim, texts and tokens)
        keys = self._project_by_head(self.key, states)
        # (heads, d_k / heads, texts and tokens)
        absent = None if mask.all() else torch.zeros_like(mask, dtype=x.dtype).masked_fill_(~mask, -torch.inf).flatten()
        patterns = self._draw_patterns(keys)
        projected = None if self.value is None else self._project_by_head(self.value, states)
        rows, columns = queries.shape[1], keys.shape[2]
        heads_at_once = (
            max(1, MAX_ATTENTION_WEIGHTS_ON_CPU // (rows * columns)) if x.device.type == "cpu" else self.heads
        )
        scores: list[Tensor] = []
        for first in range(0, self.heads, heads_at_once):
            own = slice(first, first + heads_at_once)
            logits = queries[own] @ keys[own] if absent is None else torch.baddbmm(absent, queries[own], keys[own])
            logits = logits.unflatten(2, mask.shape).unflatten(1, (outputs, -1))
            values = self._project_values(states if projected is None else projected[own], own, outputs)
            values = values.unflatten(2, mask.shape).unsqueeze(2).expand_as(logits)
            # (heads, outputs, embeddings, batch)
            scores.append(_AttentionSum.apply(logits, values, token_axis, patterns).mean(2).sum(0))
        total = torch.stack(scores).sum(0)
        return total if patterns is None else total / keep_probability(self.dropout)

    def _draw_patterns(self, keys: Tensor) -> Tensor | None:
        """Keep masks of dropout, (patterns, texts and tokens); each serves some of the nodes. None without dropout.

        They hold ones and zeros: ones divided by the kept share would all be rounded the same way in bfloat16.
        """
        if not self.training or keep_probability(self.dropout) == 1:
            return None
        return apply_dropout(
            keys.new_ones(min(DROPOUT_PATTERNS, self.readout.shape[:2].numel()), keys.shape[2]), self.dropout
        ).sign()

    def _project_values(self, states: Tensor, heads: slice, outputs: int) -> Tensor:
        """u_(t,h) . x_n for every node and token, of some heads: (heads, outputs, tokens * batch)."""
        readout = self.readout[heads, :outputs]
        if self.value is None:
            return (readout.flatten(0, 1) @ states).unflatten(0, (-1, outputs))
        return torch.bmm(readout, states)

    def _project_by_head(self, linear: nn.Linear, states: Tensor) -> Tensor:
        return (linear.weight @ states).unflatten(0, (self.heads, -1))


class _AttentionSum(torch.autograd.Function):
    """sum over tokens, along `token_axis`, of dropout(softmax(logits)) values.

    Written by hand, since passes over this many numbers take most of the time, and torch makes more of them. Every node
    uses one of a few keep masks: drawing one for every weight takes longer than all the rest.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, values: Tensor, token_axis: int, patterns: Tensor | None) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):  # autocast would make the weights twice as large
            weights = logits.softmax(token_axis)
        weighted, drawn = weights * values, None
        if patterns is not None:
            drawn = torch.randint(len(patterns), (weights.shape[:3].numel(),), device=weights.device)
            weighted *= patterns.index_select(0, drawn).view_as(weights)
        attended = weighted.sum(token_axis)
        ctx.save_for_backward(weights, values, attended, patterns, drawn)
        ctx.token_axis = token_axis
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        weights, values, attended, patterns, drawn = ctx.saved_tensors
        to_values = weights * grad.unsqueeze(ctx.token_axis)
        to_logits = to_values * -attended.unsqueeze(ctx.token_axis)
        if patterns is not None:
            to_values *= patterns.index_select(0, drawn).view_as(weights)
        return to_logits.addcmul_(to_values, values), to_values, None, None
