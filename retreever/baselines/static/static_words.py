"""Static word vectors, distilled from the encoder as model2vec does: no transformer is run for a text.

A token's vector is its row of the encoder's embedding table, or what the encoder makes of the token alone, reduced to
principal components of the vocabulary. A text is the mean of its tokens' vectors, each weighted by a power of its
inverse document frequency in the indexed passages. Source and power are chosen on dev.
"""

from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from jaxtyping import Float, Int

from retreever.baselines import fitted_files
from retreever.baselines.baseline import FLOAT32_CODE, Form, evaluate_on_dev, read_dev_judgements
from retreever.baselines.dense.dense_baseline import DenseRanker
from retreever.baselines.static.encoder_words import EncoderWords, WordVectors
from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset
from retreever.encoding.text_encodings import Encodings
from retreever.system.progress import Track, track_silently

MAX_WORD_COMPONENTS = 256
IDF_POWERS = (0.5, 1.0, 1.5, 2.0)


class StaticWords(DenseRanker):
    """Cosine between weighted means of word vectors, at every prefix of their components.

    Args:
        words: tokens of texts and vectors of tokens.

    Attributes:
        source: of the word vectors, `table` or `alone`; chosen by `fit`.
        power: of the inverse document frequency; chosen by `fit`.
    """

    name = "static_words"
    depends: ClassVar[tuple[str, ...]] = ()

    def __init__(self, words: WordVectors):
        self._words, self.source, self.power = words, "table", 1.0

    @classmethod
    def for_config(cls, config: Config) -> Self:
        """Make the baseline with the words of the configured encoder, loaded when they are needed."""
        return cls(EncoderWords(config.encoder))

    @property
    def forms(self) -> tuple[Form, ...]:
        """Powers of two up to the number of components, from 16 where there are so many. Valid after `fit`."""
        largest = self._vectors.shape[1].bit_length() - 1
        sizes = [2**d for d in range(min(4, largest), largest + 1)]
        return tuple(Form(size, code) for code in (FLOAT32_CODE, "int8") for size in sizes)

    def fit(self, data: EncodedDataset, track: Track = track_silently) -> None:
        """Find the components of the word vectors; choose source and power by dev NDCG@10, averaged over sizes."""
        read_dev_judgements(data)
        reduced = {source: _reduce_words(vectors) for source, vectors in self._words.read_sources().items()}
        found = {}
        grid = list(product(reduced, IDF_POWERS))
        for setting in track(grid, f"tuning {self.name}", total=len(grid)):
            self.source, self.power = setting
            self._vectors = reduced[self.source]
            self.index(data)
            found[setting] = evaluate_on_dev(self, data)
        self.source, self.power = max(found, key=found.__getitem__)
        self._vectors = reduced[self.source]
        self.index(data)

    def index(self, data: EncodedDataset, track: Track = track_silently) -> None:
        """Weigh the words by the passages of `data` and index these; `search` then takes rows of its queries."""
        passages = self._count_words(data.dataset.passage_texts())
        frequency = np.bincount(passages.indices, minlength=len(self._vectors))
        rarity = np.log1p((passages.shape[0] - frequency + 0.5) / (frequency + 0.5)) ** self.power
        self._weighted = (self._vectors * rarity[:, None]).astype(np.float32)
        self._texts = data.dataset.query_texts()
        self._index_vectors(np.asarray(passages @ self._weighted), data.queries)

    def save(self, folder: Path) -> None:
        """Write the word vectors and settings to `folder`."""
        settings = {"source": self.source, "power": self.power}
        fitted_files.save_fitted_files(folder, self.name, settings, {"vectors": self._vectors})

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, instead of `fit`.

        Raises:
            BundleError: a file is missing or damaged, or the folder holds another baseline.
        """
        settings, arrays = fitted_files.load_fitted_files(folder, self.name)
        self.source, self.power, self._vectors = settings["source"], settings["power"], arrays["vectors"]

    def _compute_vectors(self, encodings: Encodings, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n components"]:
        return np.asarray(self._count_words([self._texts[row] for row in rows]) @ self._weighted)

    def _count_words(self, texts: list[str]) -> Any:
        """Count how often each token occurs in each text: sparse (texts, vocabulary), without duplicates."""
        from scipy.sparse import csr_matrix

        tokens = self._words.tokenize(texts)
        ones = np.ones(len(tokens.ids), np.float32)
        counts = csr_matrix((ones, tokens.ids, tokens.offsets), shape=(len(texts), len(self._vectors)))
        counts.sum_duplicates()
        return counts


def _reduce_words(vectors: Float[np.ndarray, "vocabulary width"]) -> Float[np.ndarray, "vocabulary components"]:
    """Principal components of the words; a word without a vector stays zero."""
    from sklearn.decomposition import PCA as Components

    known = np.abs(vectors).max(axis=1) > 0
    size = min(MAX_WORD_COMPONENTS, vectors.shape[1], int(known.sum()))
    reduced = np.zeros((len(vectors), size), np.float32)
    reduced[known] = Components(size, svd_solver="covariance_eigh").fit_transform(vectors[known])
    return reduced
