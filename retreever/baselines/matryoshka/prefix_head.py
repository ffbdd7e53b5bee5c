"""Training of a head whose every prefix is an embedding: Matryoshka Representation Learning (Kusupati 2022).

    L = mean over prefixes m of symmetric InfoNCE over scale_m * cos(h(q)[:m], h(p)[:m])

where h is a linear map of the pooled encoding, or attention pooling of the token states and then a linear map. Same
pairs, batches and number of steps as the tree's. Which settings are best is not decided here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from retreever.data.training_pairs import batch_rows
from retreever.encoding.encoding_store import EncodedDataset
from retreever.model.loss import negatives_mask
from retreever.system.progress import Track, silent

WARMUP = 0.05  # share of the steps


@dataclass(frozen=True)
class HeadSettings:
    """How a head is trained.

    Attributes:
        lr: peak learning rate of AdamW, reached by linear warm-up, then linear decay to zero.
        input_dropout: on encodings.
        scales: inverse temperature of each prefix at the start, learned from there.
    """

    lr: float = 4e-3
    input_dropout: float = 0.1
    weight_decay: float = 2.0
    scales: tuple[float, ...] = (10.0, 16.0, 20.0, 25.0)


class LinearHead(nn.Module):
    """W x, for pooled encodings."""

    tokens = False

    def __init__(self, weight: Float[Tensor, "outputs dim"]):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Float[Tensor, "batch dim"], mask: None = None) -> Float[Tensor, "batch outputs"]:
        """Outputs of texts given as pooled encodings."""
        return x @ self.weight.T


class AttentionHead(nn.Module):
    """sum_h W_h sum_n a_(h,n) x_n with a_h = softmax over tokens of u_h . x_n: what cross-attention sees, as a vector.

    With u = 0 the attention is uniform, so it starts as a linear head on the mean token.
    """

    tokens = True

    def __init__(self, weight: Float[Tensor, "outputs dim"], heads: int):
        super().__init__()
        self.attention = nn.Parameter(torch.zeros(heads, weight.shape[1]))
        self.weight = nn.Parameter(weight.repeat(heads, 1, 1) / heads)

    def forward(
        self, x: Float[Tensor, "batch tokens dim"], mask: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch outputs"]:
        """Outputs of texts given as token states."""
        logits = (x @ self.attention.T).masked_fill(~mask[:, :, None], -torch.inf)
        pooled = logits.softmax(dim=1).transpose(1, 2) @ x
        # (batch, heads, dim)
        return pooled.flatten(1) @ self.weight.transpose(1, 2).flatten(0, 1)


Head = LinearHead | AttentionHead


def train_head(
    head: Head,
    data: EncodedDataset,
    pairs: Int[np.ndarray, "pairs 2"],
    settings: HeadSettings,
    *,
    prefixes: Sequence[int],
    steps: int,
    batch_size: int,
    seed: int,
    track: Track = silent,
) -> None:
    """Train `head` in place; all prefixes are trained in each step.

    Args:
        pairs: query row and passage row of each training pair.
        prefixes: as many as `settings.scales`, the largest no more than the head's outputs.
    """
    draw = torch.Generator().manual_seed(seed)
    scales = torch.tensor(settings.scales).log().requires_grad_()
    groups = [
        {"params": list(head.parameters()), "weight_decay": settings.weight_decay},
        {"params": [scales], "weight_decay": 0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, fused=True)
    for step in track(range(steps), "training the head", total=steps):
        rows = pairs[batch_rows(len(pairs), batch_size, step, seed)]
        q, p = (
            _outputs(head, encodings.batch(rows[:, column], head.tokens), settings.input_dropout, draw)
            for column, encodings in enumerate((data.queries, data.passages))
        )
        keep = negatives_mask(torch.from_numpy(rows[:, 1].copy()), torch.from_numpy(rows[:, 0].copy()))
        losses = [info_nce(q[:, :m], p[:, :m], scale, keep) for m, scale in zip(prefixes, scales.exp(), strict=True)]
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * _schedule(step, steps)
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()


def _outputs(head: Head, batch: tuple[Tensor, Tensor | None], dropout: float, draw: torch.Generator) -> Tensor:
    x, mask = batch
    outputs: Tensor = head(_dropped(x, dropout, draw), mask)
    return outputs


def principal_start(
    encodings: Float[np.ndarray, "n dim"], outputs: int, draw: torch.Generator
) -> Float[Tensor, "outputs dim"]:
    """Principal directions first, so that prefixes start as PCA's; outputs beyond `dim` are drawn at random."""
    vectors = torch.from_numpy(encodings)
    _, directions = torch.linalg.eigh(torch.cov(vectors.T))
    extra = torch.randn(max(0, outputs - vectors.shape[1]), vectors.shape[1], generator=draw) / vectors.shape[1] ** 0.5
    return torch.cat([directions.T.flip(0), extra])[:outputs].contiguous()


def info_nce(
    queries: Float[Tensor, "batch dim"],
    passages: Float[Tensor, "batch dim"],
    scale: Float[Tensor, ""],
    keep: Bool[Tensor, "batch batch"],
) -> Float[Tensor, ""]:
    """Half the cross-entropy query to passage, half passage to query, over scaled cosines.

    Args:
        keep: pairs that count; the diagonal, which holds the right answers, is true.
    """
    logits = scale * F.normalize(queries, dim=1) @ F.normalize(passages, dim=1).T
    logits = logits + torch.where(keep, 0.0, -torch.inf)  # added, so that the mask needs no backward pass
    spread = logits.logsumexp(dim=0) + logits.logsumexp(dim=1)
    return (spread / 2 - logits.diagonal()).mean()


def _dropped(x: Tensor, share: float, draw: torch.Generator) -> Tensor:
    """Dropout with a generator of its own, so that nothing global is touched."""
    return x * (torch.rand(x.shape, generator=draw) >= share) / (1 - share)


def _schedule(step: int, steps: int) -> float:
    warmup = max(1, round(steps * WARMUP))
    return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
