"""A Matryoshka linear head on the frozen encodings: the rival to beat, size by size.

It sees the same pairs, batches and steps as the tree. Learning rate and dropout are chosen on dev over
short trainings; the best are then used for the whole length. Weight decay of 0.5 or 2, and a rate of 8e-3, differ by
.001 NDCG@10 on dev of docstrings at 300 steps, so they are no part of the grid.
"""

from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from jaxtyping import Float, Int

from retreever.baselines import fitted_files
from retreever.baselines.baseline import Form, dev_judgements, dev_ndcg, train_pairs
from retreever.baselines.dense.dense_baseline import Dense
from retreever.baselines.matryoshka.prefix_head import Head, HeadSettings, LinearHead, principal_start, train_head
from retreever.config import Config
from retreever.data.training_pairs import limit
from retreever.encoding.encoding_store import EncodedDataset, Encodings
from retreever.system.progress import Track, silent

SIZES = tuple(2**d for d in range(4, 11))
TRAINED = (16, 64, 256, 1024)  # all seven take twice as long and rank no better
QUANTISED = (Form(256, "pq64"), Form(1024, "pq256"))
CHUNK = 1024  # texts put through the head at once
GRID = [HeadSettings(lr=lr, input_dropout=dropout) for lr, dropout in product((2e-3, 4e-3), (0.1, 0.2))]


class Matryoshka(Dense):
    """Cosine between prefixes of a linear head's outputs, in float32, in bytes and by product quantisers.

    Args:
        steps, batch_size, seed: training budget, and what draws the batches.
        max_pairs: train on at most this many pairs, drawn by seed; None: all.

    Attributes:
        settings: those of the head; chosen by `fit`.
    """

    name = "matryoshka"
    depends: ClassVar[tuple[str, ...]] = ("train.steps", "train.batch_size", "train.seed", "data.max_pairs")
    forms: tuple[Form, ...] = (*map(Form, SIZES), *(Form(size, "int8") for size in TRAINED), *QUANTISED)
    grid: ClassVar[list[HeadSettings]] = GRID

    def __init__(self, steps: int = 600, batch_size: int = 1024, seed: int = 0, max_pairs: int | None = None):
        self.steps, self.batch_size, self.seed, self.max_pairs = steps, batch_size, seed, max_pairs
        self.settings = HeadSettings()

    @classmethod
    def for_config(cls, config: Config) -> Self:
        """With the budget and the pairs that a tree of this configuration is trained with."""
        return cls(config.train.steps, config.train.batch_size, config.train.seed, config.data.max_pairs)

    def fit(self, data: EncodedDataset, track: Track = silent) -> None:
        """Choose the settings on dev over trainings of an eighth of the steps, then train the head in full."""
        dev_judgements(data)
        found = {}
        for settings in track(self.grid, f"tuning {self.name}", total=len(self.grid)):
            self._train(data, settings, max(1, self.steps // 8), silent)
            self.index(data)
            found[settings] = dev_ndcg(self, data)
        self.settings = max(found, key=found.__getitem__)
        self._train(data, self.settings, self.steps, track)
        self.index(data)

    def save(self, folder: Path) -> None:
        """Write settings and weights to `folder`."""
        weights = {name: value.detach().numpy() for name, value in self._head.state_dict().items()}
        fitted_files.save(folder, self.name, asdict(self.settings), weights)

    def load(self, folder: Path) -> None:
        """Take over the settings and weights that `save` wrote.

        Raises:
            BundleError: a file is missing or damaged, or the folder holds another rival.
        """
        settings, arrays = fitted_files.load(folder, self.name)
        self.settings = HeadSettings(**settings | {"scales": tuple(settings["scales"])})
        self._head = self._built(torch.empty(SIZES[-1], arrays["weight"].shape[-1]))
        self._head.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})

    def _built(self, weight: Float[torch.Tensor, "outputs dim"]) -> Head:
        """A head that starts as the linear map `weight`."""
        return LinearHead(weight)

    def _train(self, data: EncodedDataset, settings: HeadSettings, steps: int, track: Track) -> None:
        pairs = limit(train_pairs(data), self.max_pairs, self.seed)
        texts = np.concatenate([data.queries.pooled[pairs[:, 0]], data.passages.pooled[pairs[:, 1]]])
        draw = torch.Generator().manual_seed(self.seed)
        self._head = self._built(principal_start(texts, SIZES[-1], draw))
        train_head(
            self._head, data, pairs, settings,
            prefixes=TRAINED, steps=steps, batch_size=self.batch_size, seed=self.seed, track=track,
        )  # fmt: skip

    def _vectors(self, encodings: Encodings, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n outputs"]:
        outputs = np.empty((len(rows), SIZES[-1]), np.float32)
        with torch.inference_mode():
            for start in range(0, len(rows), CHUNK):
                batch = encodings.batch(rows[start : start + CHUNK], self._head.tokens)
                outputs[start : start + CHUNK] = self._head(*batch).numpy()
        return outputs
