"""Matryoshka linear head on the frozen encodings: the main baseline at equal size.

It trains on the same pairs and batches as the tree, for as many steps. Short trainings choose learning rate, dropout
and anchor on dev; the best settings are then trained in full. As for the tree, an anchor may hold the outputs near
their start. Dev NDCG@10 at 16 / 64 / 256 / 1,024 and its mean over all prefixes, 600 steps of 1,024, seed 0
(`python -m benchmarks.head_settings DATA 600`):

| anchor by prefix | docstrings | mean | qa-mix | mean |
|---|---|---|---|---|
| none | .246 .494 .561 .563 | .473 | .364 .596 .659 .665 | .580 |
| 0, 0, 0, 6 | .246 .495 .557 .580 | .475 | .364 .597 .658 .684 | .582 |
| 1.6, 1.6, 3, 6 | .243 .488 .556 .576 | .473 | .366 .599 .665 .682 | .585 |

The grid has the first two: an eighth of the steps prefers the second on both sets (.4440 against .4433, .5668 against
.5662), as all steps do. It leaves out the third, which an eighth or a quarter of the steps never choose. It also leaves
out dropout of .3 (docstrings .467, 600 steps) and the frame as a start (below principal directions by .004 to .007
after 75 steps).
"""

from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from jaxtyping import Float, Int

from retreever.baselines import fitted_files
from retreever.baselines.baseline import Form, evaluate_on_dev, read_dev_judgements, read_train_pairs
from retreever.baselines.dense.dense_baseline import DenseRanker
from retreever.baselines.matryoshka.prefix_head import (
    Head,
    HeadSettings,
    LinearHead,
    initialize_as_frame,
    initialize_from_principal_directions,
    train_head,
)
from retreever.config import Config
from retreever.data.training_pairs import limit_pairs
from retreever.encoding.encoding_store import EncodedDataset
from retreever.encoding.text_encodings import Encodings
from retreever.system.progress import Track, track_silently

PREFIX_SIZES = tuple(2**d for d in range(4, 11))
TRAINED_PREFIX_SIZES = (16, 64, 256, 1024)  # training all seven takes twice as long and ranks no better
QUANTIZED_FORMS = (Form(256, "pq64"), Form(1024, "pq256"))
TEXTS_PER_HEAD_BATCH = 1024
TUNING_SHARE = 1 / 8  # of the steps; it chooses the settings that are best after all steps
STARTS = {"principal": initialize_from_principal_directions, "frame": initialize_as_frame}
ANCHORS = ((0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 6.0))
HEAD_SETTINGS_GRID = [
    HeadSettings(lr=lr, input_dropout=dropout, anchor=anchor)
    for lr, dropout, anchor in product((2e-3, 4e-3), (0.1, 0.2), ANCHORS)
]


class Matryoshka(DenseRanker):
    """Cosine between prefixes of a linear head's outputs, in float32, int8 and by product quantisers.

    Args:
        steps, batch_size: training budget.
        seed: of everything random.
        max_pairs: train on at most this many pairs, drawn by `seed`; None: all.

    Attributes:
        settings: of the head's training; chosen by `fit`.
    """

    name = "matryoshka"
    depends: ClassVar[tuple[str, ...]] = ("train.steps", "train.batch_size", "train.seed", "data.max_pairs")
    forms: tuple[Form, ...] = (
        *map(Form, PREFIX_SIZES),
        *(Form(size, "int8") for size in TRAINED_PREFIX_SIZES),
        *QUANTIZED_FORMS,
    )
    grid: ClassVar[list[HeadSettings]] = HEAD_SETTINGS_GRID

    def __init__(self, steps: int = 600, batch_size: int = 1024, seed: int = 0, max_pairs: int | None = None):
        self.steps, self.batch_size, self.seed, self.max_pairs = steps, batch_size, seed, max_pairs
        self.settings = HeadSettings()

    @classmethod
    def for_config(cls, config: Config) -> Self:
        """Make the baseline with the training budget and the pairs of a tree of this configuration."""
        return cls(config.train.steps, config.train.batch_size, config.train.seed, config.data.max_pairs)

    @classmethod
    def describe_tuning(cls) -> dict[str, Any]:
        """What `fit` tries; a head that was tuned otherwise is another head, and is fitted anew."""
        return {"grid": [asdict(settings) for settings in cls.grid], "share_of_steps": TUNING_SHARE}

    def fit(self, data: EncodedDataset, track: Track = track_silently) -> None:
        """Choose the settings on dev over trainings of a share of the steps, then train the head in full."""
        read_dev_judgements(data)
        found = {}
        for settings in track(self.grid, f"tuning {self.name}", total=len(self.grid)):
            self._train(data, settings, max(1, round(self.steps * TUNING_SHARE)), track_silently)
            self.index(data)
            found[settings] = evaluate_on_dev(self, data)
        self.settings = max(found, key=found.__getitem__)
        self._train(data, self.settings, self.steps, track)
        self.index(data)

    def save(self, folder: Path) -> None:
        """Write settings and weights to `folder`."""
        weights = {name: value.detach().numpy() for name, value in self._head.state_dict().items()}
        fitted_files.save_fitted_files(folder, self.name, asdict(self.settings), weights)

    def load(self, folder: Path) -> None:
        """Restore the settings and weights that `save` wrote, instead of `fit`.

        Raises:
            BundleError: a file is missing or damaged, or the folder holds another baseline.
        """
        settings, arrays = fitted_files.load_fitted_files(folder, self.name)
        self.settings = HeadSettings(**settings | {k: tuple(v) for k, v in settings.items() if isinstance(v, list)})
        self._head = self._make_head(torch.empty(PREFIX_SIZES[-1], arrays["weight"].shape[-1]))
        self._head.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})

    def _make_head(self, weight: Float[torch.Tensor, "outputs dim"]) -> Head:
        """Make a head that starts as the linear map `weight`."""
        return LinearHead(weight)

    def _train(self, data: EncodedDataset, settings: HeadSettings, steps: int, track: Track) -> None:
        pairs = limit_pairs(read_train_pairs(data), self.max_pairs, self.seed)
        texts = np.concatenate([data.queries.pooled[pairs[:, 0]], data.passages.pooled[pairs[:, 1]]])
        draw = torch.Generator().manual_seed(self.seed)
        self._head = self._make_head(STARTS[settings.start](texts, PREFIX_SIZES[-1], draw))
        train_head(
            self._head, data, pairs, settings,
            prefixes=TRAINED_PREFIX_SIZES, steps=steps, batch_size=self.batch_size, seed=self.seed, track=track,
        )  # fmt: skip

    def _compute_vectors(self, encodings: Encodings, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n outputs"]:
        outputs = np.empty((len(rows), PREFIX_SIZES[-1]), np.float32)
        with torch.inference_mode():
            for start in range(0, len(rows), TEXTS_PER_HEAD_BATCH):
                batch = encodings.batch(rows[start : start + TEXTS_PER_HEAD_BATCH], self._head.tokens)
                outputs[start : start + TEXTS_PER_HEAD_BATCH] = self._head(*batch).numpy()
        return outputs
