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
from retreever.model.dropout import kept, kept_share
from retreever.model.split import Split, refuse_empty

VALUES = ("full", "projected")


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
        scores, size = [], _texts_at_once(x)
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

        Features come first, so that every product is a plain one and the softmax runs over adjacent numbers.
        """
        batch, tokens, _ = x.shape
        states = x.flatten(0, 1).T
        # (dim, batch * tokens)
        keys = self._by_head(self.key, states)
        # (heads, d_k / heads, batch * tokens)
        absent = torch.zeros(batch * tokens, dtype=x.dtype, device=x.device)
        absent.masked_fill_(~mask.flatten(), -torch.inf)
        logits = torch.baddbmm(absent, queries, keys).view(self.heads, outputs, -1, batch, tokens)
        values = self._values(states, outputs).view(self.heads, outputs, 1, batch, tokens)
        p = self.dropout if self.training else 0.0
        # (heads, outputs, embeddings, batch)
        return _Attended.apply(logits, values.expand_as(logits), p).mean(2).sum(0)

    def _values(self, states: Tensor, outputs: int) -> Tensor:
        """u_(t,h) . x_n for every node, head and token: (heads * outputs, batch * tokens)."""
        readout = self.readout[:, :outputs]
        if self.value is None:
            return readout.flatten(0, 1) @ states
        return torch.bmm(readout, self._by_head(self.value, states)).flatten(0, 1)

    def _by_head(self, linear: nn.Linear, states: Tensor) -> Tensor:
        return (linear.weight @ states).unflatten(0, (self.heads, -1))


class _Attended(torch.autograd.Function):
    """sum over tokens of dropout(softmax(logits)) values.

    By hand, since the passes over these many numbers are what takes the time, and torch makes more of them.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, values: Tensor, p: float) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):  # which would make them twice as large
            weights = logits.softmax(-1)
        share = kept_share(p)
        keep = kept(weights, p).to(weights.dtype) if share < 1 else None
        weighted = weights * values
        if keep is not None:
            weighted *= keep
        attended = weighted.sum(-1).div_(share)
        ctx.save_for_backward(weights, values, keep, attended)
        ctx.share = share
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        weights, values, keep, attended = ctx.saved_tensors
        back = weights * grad.unsqueeze(-1)
        to_logits = back * -attended.unsqueeze(-1)
        if keep is not None:
            back *= keep
            back.div_(ctx.share)
        return to_logits.addcmul_(back, values), back, None


def _texts_at_once(x: Tensor) -> int:
    """Texts that go through the attention together, sorted by length so that little is spent on padding.

    On a CPU eight keep the weights within reach of the cache: three times faster than 256 at once.
    """
    return 8 if x.device.type == "cpu" else 256
