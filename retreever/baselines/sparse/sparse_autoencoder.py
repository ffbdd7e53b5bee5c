"""A sparse autoencoder of encodings, trained to reconstruct them and to tell pairs apart (CSR, Wen 2025).

    z = W (x - b) + c,   code_k = the k largest of z that are above 0,   x_k = D code_k + b
    L = mean over sizes k of [ C_k + r E_k ] + r A / 32

C_k is the symmetric InfoNCE over scale_k * cos(code_k(q), code_k(p)). E_k is the squared error of the reconstruction
by k features, relative to the variance. A is the relative error with which features that no recent text activates
reconstruct what the others left over, so that they come alive again.
Departures: all sizes are trained in one autoencoder, so the reconstruction by 4 k features, which CSR adds, is that of
the next size. The similarity is a cosine with a learned scale for each size, as of the Matryoshka head, and the start
is drawn from the encodings. Dropout hides parts of an encoding from the features, as for the head. Products are in
bfloat16 where the processor multiplies that faster.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from retreever.baselines.matryoshka.prefix_head import compute_lr_factor, drop_inputs, info_nce
from retreever.data.training_pairs import draw_batch_rows
from retreever.encoding.encoding_store import EncodedDataset
from retreever.model.loss import negatives_mask
from retreever.system.precision import bfloat16_is_fast
from retreever.system.progress import Track, track_silently

FEATURES_PER_DIMENSION = 4
REVIVED_FEATURES, REVIVAL_SHARE = 512, 1 / 32
STEPS_UNTIL_DEAD = 30
INITIAL_SCALE = 20.0


@dataclass(frozen=True)
class AutoencoderSettings:
    """Settings of the training.

    Attributes:
        lr: peak learning rate of Adam, after linear warm-up and before linear decay to zero.
        reconstruction: weight of all reconstruction errors, r, beside the contrastive loss.
        input_dropout: dropout rate on encodings, in [0, 1).
    """

    lr: float = 2e-3
    reconstruction: float = 1.0
    input_dropout: float = 0.1


class SparseAutoencoder(nn.Module):
    """Features of encodings; `forward` returns how active each is, before the largest are chosen.

    Args:
        dim: width of the encodings.
        width: number of features.
    """

    def __init__(self, dim: int, width: int):
        super().__init__()
        self.encoder = nn.Parameter(torch.zeros(width, dim))
        self.decoder = nn.Parameter(torch.zeros(width, dim))
        self.input_bias = nn.Parameter(torch.zeros(dim))
        self.feature_bias = nn.Parameter(torch.zeros(width))

    @torch.no_grad()
    def start_from(self, encodings: Float[Tensor, "n dim"], draw: torch.Generator) -> None:
        """Start each feature as the direction from the mean to a random encoding; decoder as encoder."""
        self.input_bias.copy_(encodings.mean(0))
        rows = torch.randint(len(encodings), (len(self.encoder),), generator=draw)
        directions = encodings[rows] - self.input_bias
        directions += directions.std() / 2 * torch.randn(directions.shape, generator=draw)
        self.encoder.copy_(F.normalize(directions, dim=1))
        self.decoder.copy_(self.encoder)

    def forward(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch width"]:
        """Activity of every feature."""
        return F.linear(x - self.input_bias, self.encoder, self.feature_bias)

    def reconstruct(self, code: Float[Tensor, "batch width"]) -> Float[Tensor, "batch dim"]:
        """Encodings that codes stand for."""
        return code @ self.decoder + self.input_bias


def keep_largest(activity: Float[Tensor, "batch width"], k: int) -> Float[Tensor, "batch width"]:
    """Keep the k largest activities of each text, as far as they are above 0; the others become 0.

    >>> keep_largest(torch.tensor([[3.0, -1.0, 2.0, 1.0]]), 2).tolist()
    [[3.0, 0.0, 2.0, 0.0]]
    """
    values, features = activity.topk(min(k, activity.shape[1]), dim=1)
    return torch.zeros_like(activity).scatter(1, features, values.relu())


def train_autoencoder(
    model: SparseAutoencoder,
    data: EncodedDataset,
    pairs: Int[np.ndarray, "pairs 2"],
    settings: AutoencoderSettings,
    *,
    sizes: Sequence[int],
    steps: int,
    batch_size: int,
    seed: int,
    track: Track = track_silently,
) -> None:
    """Train `model` in place, all sizes in each step.

    Args:
        pairs: query row and passage row of each training pair.
        sizes: numbers of active features, ascending.
    """
    draw = torch.Generator().manual_seed(seed)
    scales = torch.full((len(sizes),), INITIAL_SCALE).log().requires_grad_()
    optimizer = torch.optim.Adam([*model.parameters(), scales], lr=settings.lr, fused=True)
    idle = torch.zeros(len(model.encoder), dtype=torch.int64)  # steps since a text activated the feature
    for step in track(range(steps), "training the autoencoder", total=steps):
        rows = pairs[draw_batch_rows(len(pairs), batch_size, step, seed)]
        x = torch.cat([part.batch(rows[:, i])[0] for i, part in enumerate((data.queries, data.passages))])
        keep = negatives_mask(torch.from_numpy(rows[:, 1].copy()), torch.from_numpy(rows[:, 0].copy()))
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_is_fast("cpu")):
            activity = model(drop_inputs(x, settings.input_dropout, draw))
            codes = [keep_largest(activity, k) for k in sizes]
            found = [model.reconstruct(code) for code in codes]
            losses = [
                info_nce(code[: len(rows)], code[len(rows) :], scale, keep)
                + settings.reconstruction * _relative_error(own, x)
                for code, own, scale in zip(codes, found, scales.exp(), strict=True)
            ]
            revival = _measure_revival(model, activity, x - found[-1], idle > STEPS_UNTIL_DEAD)
            loss = torch.stack(losses).mean() + settings.reconstruction * REVIVAL_SHARE * revival
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * compute_lr_factor(step, steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        idle = torch.where((codes[-1] > 0).any(dim=0), 0, idle + 1)


def _relative_error(found: Tensor, wanted: Tensor) -> Tensor:
    return F.mse_loss(found, wanted) / wanted.var(dim=0).mean().clamp_min(1e-12)


def _measure_revival(model: SparseAutoencoder, activity: Tensor, rest: Tensor, dead: Tensor) -> Tensor:
    """Error with which dead features alone reconstruct what is left over; 0 where none is dead."""
    if not dead.any():
        return activity.new_zeros(())
    candidates = activity.masked_fill(~dead, -torch.inf)
    code = keep_largest(candidates, min(REVIVED_FEATURES, int(dead.sum())))
    return _relative_error(code @ model.decoder, rest.detach())
