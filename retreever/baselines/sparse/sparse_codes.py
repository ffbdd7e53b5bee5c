"""Sparse codes (CSR, Wen 2025): the few most active of many features of an autoencoder on the frozen encodings.

It reads what the tree and the Matryoshka head read, and trains on the same pairs and batches, for as many steps. Short
trainings choose its settings on dev. A code of k active features takes 4 k bytes, as a level of k nodes does in
float32.
"""

from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from jaxtyping import Float, Int

from retreever.baselines import fitted_files
from retreever.baselines.baseline import Form, Ranking, read_dev_judgements, read_train_pairs, search_in_batches
from retreever.baselines.sparse.inverted_lists import InvertedLists
from retreever.baselines.sparse.sparse_autoencoder import (
    FEATURES_PER_DIMENSION,
    AutoencoderSettings,
    SparseAutoencoder,
    train_autoencoder,
)
from retreever.config import Config
from retreever.data.training_pairs import limit_pairs
from retreever.encoding.encoding_store import EncodedDataset
from retreever.encoding.text_encodings import Encodings
from retreever.evaluation.metrics import evaluate_rankings
from retreever.system.progress import Track, track_silently

SPARSE_CODE = "sparse"
ACTIVE_FEATURES = (16, 64, 256)
TEXTS_PER_AUTOENCODER_BATCH = 1024
AUTOENCODER_TUNING_SHARE = 1 / 8  # of the steps
AUTOENCODER_GRID = [AutoencoderSettings(lr, weight) for lr, weight in product((2e-3, 4e-3), (0.03, 0.3))]


class SparseCodes:
    """Cosine between sparse codes of 16, 64 and 256 active features.

    Args:
        steps, batch_size: training budget.
        seed: of everything random.
        max_pairs: train on at most this many pairs, drawn by `seed`; None: all.

    Attributes:
        settings: of the training; chosen by `fit`.
    """

    name = "sparse_codes"
    depends: ClassVar[tuple[str, ...]] = ("train.steps", "train.batch_size", "train.seed", "data.max_pairs")
    forms = tuple(Form(active, SPARSE_CODE) for active in ACTIVE_FEATURES)

    def __init__(self, steps: int = 600, batch_size: int = 1024, seed: int = 0, max_pairs: int | None = None):
        self.steps, self.batch_size, self.seed, self.max_pairs = steps, batch_size, seed, max_pairs
        self.settings = AutoencoderSettings()

    @classmethod
    def for_config(cls, config: Config) -> Self:
        """Make the baseline with the training budget and the pairs of a tree of this configuration."""
        return cls(config.train.steps, config.train.batch_size, config.train.seed, config.data.max_pairs)

    @classmethod
    def describe_tuning(cls) -> dict[str, Any]:
        """What `fit` tries; an autoencoder that was tuned otherwise is fitted anew."""
        return {"grid": [asdict(own) for own in AUTOENCODER_GRID], "share_of_steps": AUTOENCODER_TUNING_SHARE}

    def fit(self, data: EncodedDataset, track: Track = track_silently) -> None:
        """Choose the settings on dev over trainings of a share of the steps, then train in full."""
        queries, relevant = read_dev_judgements(data)
        found = {}
        for settings in track(AUTOENCODER_GRID, f"tuning {self.name}", total=len(AUTOENCODER_GRID)):
            self._train(data, settings, max(1, round(self.steps * AUTOENCODER_TUNING_SHARE)), track_silently)
            self.index(data)
            scores = [evaluate_rankings(self.search(queries, 10, form)[0], relevant) for form in self.forms]
            found[settings] = sum(own["ndcg_at_10"] for own in scores)
        self.settings = max(found, key=found.__getitem__)
        self._train(data, self.settings, self.steps, track)
        self.index(data)

    def index(self, data: EncodedDataset, track: Track = track_silently) -> None:
        """List the passages of `data` by feature; `search` then takes rows of its queries."""
        self._queries = data.queries
        features, values = self._encode(data.passages, np.arange(len(data.passages)))
        self._lists = {
            form: InvertedLists(*_shorten(features, values, form), len(self._model.encoder)) for form in self.forms
        }

    def search(self, query_rows: Int[np.ndarray, " queries"], k: int, form: Form) -> Ranking:
        """Find passage rows and cosines of the best k, equal cosines by row."""
        lists = self._lists[form]

        def score(part: Int[np.ndarray, " some"]) -> Float[np.ndarray, "some passages"]:
            return lists.score_all(*_shorten(*self._encode(self._queries, part), form))

        return search_in_batches(score, query_rows, lists.passages, k)

    def bytes_per_document(self, form: Form) -> float:
        """Bytes of a passage's entries: at most four for each active feature."""
        return self._lists[form].bytes_per_passage

    def save(self, folder: Path) -> None:
        """Write settings and weights to `folder`."""
        weights = {name: value.detach().numpy() for name, value in self._model.state_dict().items()}
        fitted_files.save_fitted_files(folder, self.name, asdict(self.settings), weights)

    def load(self, folder: Path) -> None:
        """Restore the settings and weights that `save` wrote, instead of `fit`.

        Raises:
            BundleError: a file is missing or damaged, or the folder holds another baseline.
        """
        settings, arrays = fitted_files.load_fitted_files(folder, self.name)
        self.settings = AutoencoderSettings(**settings)
        width, dim = arrays["encoder"].shape
        self._model = SparseAutoencoder(dim, width)
        self._model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})

    def _train(self, data: EncodedDataset, settings: AutoencoderSettings, steps: int, track: Track) -> None:
        pairs = limit_pairs(read_train_pairs(data), self.max_pairs, self.seed)
        texts = np.concatenate([data.queries.pooled[pairs[:, 0]], data.passages.pooled[pairs[:, 1]]])
        self._model = SparseAutoencoder(data.dim, FEATURES_PER_DIMENSION * data.dim)
        self._model.start_from(torch.from_numpy(texts), torch.Generator().manual_seed(self.seed))
        train_autoencoder(
            self._model, data, pairs, settings,
            sizes=ACTIVE_FEATURES, steps=steps, batch_size=self.batch_size, seed=self.seed, track=track,
        )  # fmt: skip

    def _encode(self, encodings: Encodings, rows: Int[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and activities of each text's most active features, the most active first."""
        features, values = [], []
        with torch.inference_mode():
            for start in range(0, len(rows), TEXTS_PER_AUTOENCODER_BATCH):
                activity = self._model(encodings.batch(rows[start : start + TEXTS_PER_AUTOENCODER_BATCH])[0])
                largest = activity.topk(min(ACTIVE_FEATURES[-1], activity.shape[1]), dim=1)
                features.append(largest.indices.numpy())
                values.append(largest.values.relu().numpy())
        return np.concatenate(features), np.concatenate(values)


def _shorten(features: np.ndarray, values: np.ndarray, form: Form) -> tuple[np.ndarray, np.ndarray]:
    """The most active features of a form, with values scaled to length one."""
    kept = values[:, : form.dims]
    lengths = np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-12)
    return np.ascontiguousarray(features[:, : form.dims]), kept / lengths
