"""Training of a head whose prefixes are embeddings: Matryoshka Representation Learning.

After Kusupati 2022:

    L = mean over prefixes m of symmetric InfoNCE over scale_m * cos(h(q)[:m], h(p)[:m])

where h is a linear map of the pooled encoding, or attention pooling of the token states and then a linear map. Pairs,
batches and number of steps are the tree's, and so are the kinds of start and anchor: the map starts where it ranks as
the encoder does, and may be held there. `matryoshka_head.py` chooses the settings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from retreever.data.training_pairs import draw_batch_rows
from retreever.encoding.encoding_store import EncodedDataset
from retreever.model.loss import negatives_mask
from retreever.model.rows.frame import complete_frame
from retreever.system.progress import Track, track_silently

WARMUP_FRACTION = 0.05
DIRECTIONS_OF_FRAME = 64


@dataclass(frozen=True)
class HeadSettings:
    """Settings of a head's training.

    Attributes:
        lr: peak learning rate of AdamW, after linear warm-up and before linear decay to zero.
        input_dropout: dropout rate on encodings, in [0, 1).
        weight_decay: decay to zero of the weights without anchor, as a share times the learning rate.
        scales: initial inverse temperature of each prefix; learned from there.
        start: of the linear map. `principal`: all principal directions, then random rows; `frame`: principal directions
            for the first `DIRECTIONS_OF_FRAME` outputs, then random rows with W'W = I, so that the whole vector ranks
            as the encoding.
        anchor: decay of the linear map towards its start, as a share times the learning rate: of the outputs of the
            first prefix, of those that the second adds, and so on; 0: these decay to zero.
    """

    lr: float = 4e-3
    input_dropout: float = 0.1
    weight_decay: float = 2.0
    scales: tuple[float, ...] = (10.0, 16.0, 20.0, 25.0)
    start: Literal["principal", "frame"] = "principal"
    anchor: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)


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
    """sum_h W_h sum_n a_(h,n) x_n with a_h = softmax over tokens of u_h . x_n: attention pooling, then a linear map.

    It starts with u = 0, so with uniform attention: as a linear head on the mean token.
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
    track: Track = track_silently,
) -> None:
    """Train `head` in place, all prefixes in each step.

    Args:
        pairs: query row and passage row of each training pair.
        prefixes: ascending sizes, as many as `settings.scales` and as the strengths of an anchor; the last is the
            number of the head's outputs.

    Raises:
        ValueError: the anchor has another number of strengths.
    """
    draw = torch.Generator().manual_seed(seed)
    scales = torch.tensor(settings.scales).log().requires_grad_()
    weight, others = head.weight, [p for p in head.parameters() if p is not head.weight]
    anchor = _list_strengths(settings.anchor, prefixes)
    strength = torch.where(anchor > 0, anchor, settings.weight_decay).expand_as(weight)
    target = weight.detach() * (anchor > 0)
    groups = [
        {"params": [weight, scales], "weight_decay": 0},
        {"params": others, "weight_decay": settings.weight_decay},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, fused=True)
    for step in track(range(steps), "training the head", total=steps):
        rows = pairs[draw_batch_rows(len(pairs), batch_size, step, seed)]
        q, p = (
            _compute_outputs(head, encodings.batch(rows[:, column], head.tokens), settings.input_dropout, draw)
            for column, encodings in enumerate((data.queries, data.passages))
        )
        keep = negatives_mask(torch.from_numpy(rows[:, 1].copy()), torch.from_numpy(rows[:, 0].copy()))
        losses = [info_nce(q[:, :m], p[:, :m], scale, keep) for m, scale in zip(prefixes, scales.exp(), strict=True)]
        lr = settings.lr * compute_lr_factor(step, steps)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
        with torch.no_grad():
            weight.lerp_(target, (lr * strength).clamp_max(1))


def _list_strengths(anchor: Sequence[float], prefixes: Sequence[int]) -> Float[Tensor, "outputs 1"]:
    """The anchor's strength for each output, from one for each prefix."""
    if len(anchor) != len(prefixes):
        raise ValueError(f"anchor: {len(anchor)} strengths; must be one for each of {len(prefixes)} prefixes")
    added = torch.tensor(prefixes).diff(prepend=torch.tensor([0]))
    return torch.tensor(anchor).repeat_interleave(added)[:, None]


def _compute_outputs(head: Head, batch: tuple[Tensor, Tensor | None], dropout: float, draw: torch.Generator) -> Tensor:
    x, mask = batch
    outputs: Tensor = head(drop_inputs(x, dropout, draw), mask)
    return outputs


def initialize_from_principal_directions(
    encodings: Float[np.ndarray, "n dim"], outputs: int, draw: torch.Generator
) -> Float[Tensor, "outputs dim"]:
    """Make weights of the principal directions, so that prefixes start as PCA; rows beyond `dim` are random."""
    vectors = torch.from_numpy(encodings)
    _, directions = torch.linalg.eigh(torch.cov(vectors.T))
    extra = torch.randn(max(0, outputs - vectors.shape[1]), vectors.shape[1], generator=draw) / vectors.shape[1] ** 0.5
    return torch.cat([directions.T.flip(0), extra])[:outputs].contiguous()


def initialize_as_frame(
    encodings: Float[np.ndarray, "n dim"], outputs: int, draw: torch.Generator
) -> Float[Tensor, "outputs dim"]:
    """Make weights with W'W = I, so that all outputs together rank as the encodings; the first ones start as PCA."""
    first = initialize_from_principal_directions(encodings, min(DIRECTIONS_OF_FRAME, encodings.shape[1]), draw)
    return complete_frame(first[:outputs], outputs, draw)


def info_nce(
    queries: Float[Tensor, "batch dim"],
    passages: Float[Tensor, "batch dim"],
    scale: Float[Tensor, ""],
    keep: Bool[Tensor, "batch batch"],
) -> Float[Tensor, ""]:
    """Compute half the cross-entropy from query to passage, half from passage to query, over scaled cosines.

    Args:
        keep: pairs that count; true on the diagonal, which holds the positives.
    """
    logits = scale * F.normalize(queries, dim=1) @ F.normalize(passages, dim=1).T
    logits = logits + torch.where(keep, 0.0, -torch.inf)  # added, so that the mask needs no backward pass
    spread = logits.logsumexp(dim=0) + logits.logsumexp(dim=1)
    return (spread / 2 - logits.diagonal()).mean()


def drop_inputs(x: Tensor, share: float, draw: torch.Generator) -> Tensor:
    """Apply dropout with its own generator, so that the global one stays as it is."""
    return x * (torch.rand(x.shape, generator=draw) >= share) / (1 - share)


def compute_lr_factor(step: int, steps: int) -> float:
    """Compute the share of the peak learning rate in a step: linear warm-up, then linear decay to zero."""
    warmup = max(1, round(steps * WARMUP_FRACTION))
    return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
