"""A tree with BM25, and with the frozen encoder where its index keeps encodings, ranked by the index as it is served.

Weights are chosen as for a bundle, once for all levels. Bytes are those that a level would take: its vectors, the
posting lists, and the encodings.
"""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int

from retreever.baselines import fitted_files
from retreever.baselines.baseline import Form, Ranking
from retreever.bundle.build_index import build_index
from retreever.bundle.fit_hybrid import TRIED_WITH_ENCODINGS, TRIED_WORDS, fit_hybrid
from retreever.bundle.fit_relevance import make_dataset_hybrid
from retreever.bundle.hybrid_weights import HybridWeights, WeightCurve, choose_usual_weights
from retreever.encoding.encoding_store import EncodedDataset
from retreever.model import default_levels
from retreever.system.progress import Track, track_silently
from retreever.trained_tree import TrainedTree, route_encodings

TREE_HYBRID = "tree+bm25"
HYBRID_TUNING = [TRIED_WORDS, TRIED_WITH_ENCODINGS, "one standard error"]
"""What decides the weights, besides tree and data; a hybrid that was tuned otherwise is another one."""


class TreeHybrid:
    """The reported levels of a tree, each with the same companions."""

    name = TREE_HYBRID

    def __init__(self, trained: TrainedTree):
        self.trained = trained
        self.weights = choose_usual_weights(trained.config.keeps_encodings)
        self._depth = trained.config.tree.depth

    @property
    def forms(self) -> tuple[Form, ...]:
        """The reported levels."""
        code = f"{self.trained.config.index.dtype} sum"
        return tuple(Form(2**level, code) for level in default_levels(self._depth))

    def tune(self, data: EncodedDataset, track: Track = track_silently) -> None:
        """Choose the weights on dev; `data` stays indexed."""
        self.index(data, track)
        self.weights = fit_hybrid(self.trained, data, self._index, track=track) or self.weights

    def index(self, data: EncodedDataset, track: Track = track_silently) -> None:
        """Index the passages of `data`; `search` then takes rows of its queries, and a passage's number is its row."""
        self._data, self._index = data, build_index(self.trained, data, track)

    def search(self, query_rows: Int[np.ndarray, " queries"], k: int, form: Form) -> Ranking:
        """Find passage rows and sums of the best k, equal sums by id."""
        routed = route_encodings(self.trained.tree, self.trained.config, self._data.queries, query_rows)
        hybrid = make_dataset_hybrid(self._data, query_rows, self.weights)
        level, threads = _find_level(form), 1 if len(query_rows) == 1 else None
        return self._index.search(np.concatenate(list(routed)), k, level, hybrid=hybrid, threads=threads)

    def bytes_per_document(self, form: Form) -> float:
        """Bytes of a level's vector, of the passage's share of the posting lists, and of its encoding."""
        stats, layout = self._index.stats(), self._index.layout
        encoding = layout.encoding_dim * np.dtype(layout.dtype).itemsize
        level = stats["bytes_per_document_by_level"][_find_level(form)]
        return float(level + stats["bytes_of_words_per_document"] + encoding)

    def save(self, folder: Path) -> None:
        """Write the weights to `folder`; the tree has a folder of its own."""
        curve = None if self.weights.curve is None else self.weights.curve.model_dump(mode="json")
        fitted_files.save_fitted_files(folder, self.name, asdict(replace(self.weights, curve=None)) | {"curve": curve})

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, instead of `tune`.

        Raises:
            BundleError: a file is missing or damaged, or the folder holds another system.
        """
        values, _ = fitted_files.load_fitted_files(folder, self.name)
        curve = None if values["curve"] is None else WeightCurve.model_validate(values["curve"])
        self.weights = HybridWeights(values["words"], values["encodings"], curve)


def _find_level(form: Form) -> int:
    return (form.dims or 1).bit_length() - 1
