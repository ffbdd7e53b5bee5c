"""BM25 over words, by bm25s: the baseline without training and without an encoder.

Chooses k1, b and the removal of stop words on dev. No stemming.
"""

from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from jaxtyping import Float, Int

from retreever.baselines import fitted_files
from retreever.baselines.baseline import Form, Ranking, evaluate_on_dev, search_in_batches
from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset
from retreever.system.progress import Track, track_silently

K1_B = ((0.9, 0.4), (1.2, 0.75), (1.5, 0.75), (2.0, 0.9))
STOPWORDS = ("en", None)


class BM25:
    """Lucene's BM25; a passage's score is a sum over the words of the query, repeated ones included.

    Attributes:
        settings: k1, b and the removed stop words ("en" or None); after `fit`, its choice.
    """

    name = "bm25"
    depends: ClassVar[tuple[str, ...]] = ()
    forms = (Form(),)

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {"k1": 1.5, "b": 0.75, "stopwords": "en"}

    @classmethod
    def for_config(cls, config: Config) -> Self:
        """Make the baseline; no setting of a tree changes it."""
        return cls()

    def fit(self, data: EncodedDataset, track: Track = track_silently) -> None:
        """Choose the settings with the best NDCG@10 on dev; `data` stays indexed with them."""
        tokens = {stopwords: _tokenize(data.dataset.passage_texts(), stopwords) for stopwords in STOPWORDS}
        found = {}
        grid = [(k1, b, stopwords) for (k1, b), stopwords in product(K1_B, STOPWORDS)]
        for setting in track(grid, "tuning bm25", total=len(grid)):
            self._set_parameters(setting)
            self._index_tokens(data, tokens[setting[2]])
            found[setting] = evaluate_on_dev(self, data)
        setting = max(found, key=found.__getitem__)
        self._set_parameters(setting)
        self._index_tokens(data, tokens[setting[2]])

    def index(self, data: EncodedDataset, track: Track = track_silently) -> None:
        """Index the passages of `data`; `search` then takes rows of its queries."""
        self._index_tokens(data, _tokenize(data.dataset.passage_texts(), self.settings["stopwords"]))

    def search(self, query_rows: Int[np.ndarray, " queries"], k: int, form: Form) -> Ranking:
        """Find passage rows and scores of the best k, equal scores by row; passages without a common word score 0."""
        return search_in_batches(lambda part: self.score_all(part, form), query_rows, self._scores.shape[1], k)

    def score_all(self, query_rows: Int[np.ndarray, " queries"], form: Form) -> Float[np.ndarray, "queries passages"]:
        """Score every passage for every query; `search` ranks by the same scores."""
        scores: Any = self._count_words([self._texts[row] for row in query_rows]) @ self._scores
        return np.asarray(scores.toarray())

    def measure_scale(self, form: Form) -> float:
        """Unit of the scores in this corpus: the rarity of a word that no passage has."""
        return float(np.log1p((self._scores.shape[1] + 0.5) / 0.5))

    def bytes_per_document(self, form: Form) -> float:
        """Bytes of postings and their offsets, per passage."""
        arrays = (self._scores.data, self._scores.indices, self._scores.indptr)
        return sum(array.nbytes for array in arrays) / self._scores.shape[1]

    def save(self, folder: Path) -> None:
        """Write the settings to `folder`."""
        fitted_files.save_fitted_files(folder, self.name, self.settings)

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, instead of `fit`.

        Raises:
            BundleError: a file is missing or damaged, or the folder holds another baseline.
        """
        self.settings, _ = fitted_files.load_fitted_files(folder, self.name)

    def _set_parameters(self, setting: tuple[float, float, str | None]) -> None:
        self.settings = dict(zip(("k1", "b", "stopwords"), setting, strict=True))

    def _index_tokens(self, data: EncodedDataset, tokens: Any) -> None:
        import bm25s
        from scipy.sparse import csr_matrix

        retriever = bm25s.BM25(k1=self.settings["k1"], b=self.settings["b"], method="lucene")
        retriever.index(tokens, create_empty_token=False, show_progress=False)
        postings = [retriever.scores[part] for part in ("data", "indices", "indptr")]
        shape = (len(postings[2]) - 1, retriever.scores["num_docs"])
        self._scores = csr_matrix(tuple(postings), shape=shape)  # words x passages
        self._vocabulary, self._texts = retriever.vocab_dict, data.dataset.query_texts()

    def _count_words(self, texts: list[str]) -> Any:
        """Count how often each word of the vocabulary occurs in each text: sparse (texts, words)."""
        from scipy.sparse import csr_matrix

        tokens = _tokenize(texts, self.settings["stopwords"], ids=False)
        words = [[self._vocabulary[word] for word in text if word in self._vocabulary] for text in tokens]
        columns = np.array([word for text in words for word in text], dtype=np.int32)
        offsets = np.cumsum([0, *map(len, words)])
        ones = np.ones(len(columns), np.float32)
        return csr_matrix((ones, columns, offsets), shape=(len(texts), self._scores.shape[0]))


def _tokenize(texts: list[str], stopwords: str | None, ids: bool = True) -> Any:
    import bm25s

    return bm25s.tokenize(texts, stopwords=stopwords or [], return_ids=ids, show_progress=False)
