"""Matryoshka linear head on the frozen encodings: the main baseline at equal size.

It trains on the same pairs and batches as the tree, for as many steps. Short trainings choose learning rate and dropout
on dev; the best pair is then trained in full. Weight decay of 0.5 or 2, and a rate of 8e-3, differ by .001 NDCG@10 on
dev of docstrings at 300 steps, so the grid leaves them out.
"""

from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import ClassVar, Self

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
HEAD_SETTINGS_GRID = [HeadSettings(lr=lr, input_dropout=dropout) for lr, dropout in product((2e-3, 4e-3), (0.1, 0.2))]


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

    def fit(self, data: EncodedDataset, track: Track = track_silently) -> None:
        """Choose the settings on dev over trainings of an eighth of the steps, then train the head in full."""
        read_dev_judgements(data)
        found = {}
        for settings in track(self.grid, f"tuning {self.name}", total=len(self.grid)):
            self._train(data, settings, max(1, self.steps // 8), track_silently)
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
        self.settings = HeadSettings(**settings | {"scales": tuple(settings["scales"])})
        self._head = self._make_head(torch.empty(PREFIX_SIZES[-1], arrays["weight"].shape[-1]))
        self._head.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})

    def _make_head(self, weight: Float[torch.Tensor, "outputs dim"]) -> Head:
        """Make a head that starts as the linear map `weight`."""
        return LinearHead(weight)

    def _train(self, data: EncodedDataset, settings: HeadSettings, steps: int, track: Track) -> None:
        pairs = limit_pairs(read_train_pairs(data), self.max_pairs, self.seed)
        texts = np.concatenate([data.queries.pooled[pairs[:, 0]], data.passages.pooled[pairs[:, 1]]])
        draw = torch.Generator().manual_seed(self.seed)
        self._head = self._make_head(initialize_from_principal_directions(texts, PREFIX_SIZES[-1], draw))
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
