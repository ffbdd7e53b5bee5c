"""What the words of an index are worth: BM25 in Lucene's form, and the unit in which similarities are compared with it.

A word's score in a passage is its rarity times its impact. Rarity, log(1 + (N - n + 1/2) / (n + 1/2)), is taken at each
search from the segments as they are: N passages, n of which have the word. So added passages count at once, and deleted
ones until their segment is rewritten. The impact, c / (c + k1 (1 - b + b length / mean length)) for a word that occurs
c times, is fixed when the passage is added; so are all constants here, when the index is built.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any, Self

import numpy as np

from retreever.index.index_layout import ENCODINGS, Layout
from retreever.index.lexical.postings import LARGEST_IMPACT, PassageWords, join_words
from retreever.index.lexical.words import LexicalSettings, digest_words, split_words

MEAN_LENGTH_SAMPLE = 16_384  # passages that the mean length is taken from, at most
DEVIATION_SAMPLE = 256  # passages whose similarities tell the deviation
DEVIATION_OF_FEW = (
    0.015  # deviation assumed where there are fewer passages than `MIN_DEVIATION_SAMPLE`; that of a usual tree
)
MIN_DEVIATION_SAMPLE = 16
TEXTS_PER_PART = 8_192  # passages whose words are held as Python objects at once


@dataclass(frozen=True)
class LexicalSide:
    """Constants of an index with words.

    Attributes:
        mean_length: words of an average passage.
        rarest: rarity of a word that no passage had when the index was built.
        deviations: standard deviation of similarities between passages, by level; at 0, of their encodings' cosines.
    """

    settings: LexicalSettings
    mean_length: float
    rarest: float
    deviations: tuple[float, ...]

    @classmethod
    def fit(cls, texts: Sequence[str], settings: LexicalSettings, layout: Layout) -> Self:
        """Constants for the texts of a corpus; the deviations are not measured yet.

        Raises:
            ValueError: there are no such stop words, or no such stemmer.
            MissingExtraError: PyStemmer is not installed.
        """
        sample = np.linspace(0, len(texts) - 1, min(len(texts), MEAN_LENGTH_SAMPLE)).astype(int)
        words, _ = split_words([texts[i] for i in sample], settings)
        mean = max(1.0, sum(map(len, words)) / max(1, len(words)))
        deviations = (DEVIATION_OF_FEW,) * (layout.depth + 1)
        return cls(settings, mean, float(compute_rarity(len(texts), 0)), deviations)

    def measure_deviations(self, vectors: Mapping[int, np.ndarray], layout: Layout) -> Self:
        """The same with deviations measured on some passages: vectors in stored form, (passages, nodes), by level."""
        deviations = list(self.deviations)
        for level, own in vectors.items():
            if len(own) >= MIN_DEVIATION_SAMPLE:
                deviation = _measure_deviation(own, level == ENCODINGS or layout.similarity == "bhattacharyya")
                deviations[level] = deviation or DEVIATION_OF_FEW
        return replace(self, deviations=tuple(deviations))

    def weigh_passages(self, texts: Sequence[str]) -> PassageWords:
        """Terms of passages with their impacts."""
        starts = range(0, len(texts), TEXTS_PER_PART)
        parts = [self._weigh_part(texts[start : start + TEXTS_PER_PART], start) for start in starts]
        return join_words(parts) if parts else self._weigh_part([], 0)

    def _weigh_part(self, texts: Sequence[str], first: int) -> PassageWords:
        words, vocabulary = split_words(texts, self.settings)
        lengths = np.array([len(own) for own in words], np.int64)
        numbers = np.fromiter(chain.from_iterable(words), np.int64, int(lengths.sum()))
        rows = np.repeat(np.arange(len(texts)), lengths)
        keys, counts = np.unique(rows * max(1, len(vocabulary)) + numbers, return_counts=True)
        rows, numbers = np.divmod(keys, max(1, len(vocabulary)))
        own = self.settings
        held_back = own.k1 * (1 - own.b + own.b * lengths[rows] / self.mean_length)
        impacts = np.rint(LARGEST_IMPACT * counts / (counts + held_back)).clip(min=1)
        return PassageWords(digest_words(vocabulary)[numbers], rows + first, impacts.astype(np.uint8))

    def to_json(self) -> dict[str, Any]:
        """The constants as a manifest holds them."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: the values are no such constants.
        """
        settings = LexicalSettings(**values["settings"])
        return cls(
            settings, float(values["mean_length"]), float(values["rarest"]), tuple(map(float, values["deviations"]))
        )


def compute_rarity(passages: int, frequency: np.ndarray | int) -> Any:
    """Rarity of words that so many of the passages have."""
    return np.log1p((passages - frequency + 0.5) / (np.asarray(frequency) + 0.5))


def _measure_deviation(vectors: np.ndarray, roots: bool) -> float:
    """Average standard deviation of a passage's similarities to the others."""
    rows = (vectors @ own if roots else np.minimum(own, vectors).sum(axis=1) for own in vectors)
    similarities = np.stack(list(rows))
    others = similarities[~np.eye(len(vectors), dtype=bool)].reshape(len(vectors), -1)
    return float(others.std(axis=1, dtype=np.float64).mean())
