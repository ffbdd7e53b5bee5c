"""Inverted lists of sparse codes: for each feature, the passages that have it and by how much.

A passage's entry is two bytes for its place in a block of 65,536 passages and two for its value, a fraction of the
largest value. So k active features take 4 k bytes, as k numbers in float32 do. What is ranked by the values is not
known here.
"""

import numba
import numpy as np
from jaxtyping import Float, Int

PASSAGES_PER_BLOCK_OF_LISTS = 1 << 16
LARGEST_VALUE = (1 << 16) - 1
BYTES_PER_ENTRY = 4


class InvertedLists:
    """Sparse codes of passages, by feature.

    Args:
        features: numbers of each passage's active features, (passages, active).
        values: how active each is, at least 0; an entry of 0 is not stored.
        width: number of features.
    """

    def __init__(
        self, features: Int[np.ndarray, "passages active"], values: Float[np.ndarray, "passages active"], width: int
    ):
        self.passages, self._unit = len(features), float(values.max(initial=0)) / LARGEST_VALUE or 1.0
        step = PASSAGES_PER_BLOCK_OF_LISTS
        self._blocks = [
            self._list_block(features[start : start + step], values[start : start + step], width)
            for start in range(0, len(features), step)
        ]

    @property
    def bytes_per_passage(self) -> float:
        """Bytes of the entries, without the offsets that all passages of a block share."""
        return BYTES_PER_ENTRY * sum(len(places) for _, places, _ in self._blocks) / max(1, self.passages)

    def score_all(
        self, features: Int[np.ndarray, "queries active"], values: Float[np.ndarray, "queries active"]
    ) -> Float[np.ndarray, "queries passages"]:
        """Compute the inner product of every query's sparse code with every passage's."""
        scores = np.zeros((len(features), self.passages), np.float32)
        scaled = (values * self._unit).astype(np.float32)
        for i, (offsets, places, amounts) in enumerate(self._blocks):
            start = i * PASSAGES_PER_BLOCK_OF_LISTS
            block = scores[:, start : start + PASSAGES_PER_BLOCK_OF_LISTS]
            _add_lists(features, scaled, offsets, places, amounts, block)
        return scores

    def _list_block(
        self, features: np.ndarray, values: np.ndarray, width: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Offsets of the features' lists, and the entries' places and values, feature after feature."""
        quantized = np.rint(values / self._unit).astype(np.uint16)
        places, slots = np.nonzero(quantized)
        own = features[places, slots]
        order = np.argsort(own, kind="stable")
        offsets = np.searchsorted(own[order], np.arange(width + 1))
        return offsets, places[order].astype(np.uint16), quantized[places, slots][order]


@numba.njit(cache=True, nogil=True, fastmath=True)
def _add_lists(features, values, offsets, places, amounts, scores):
    """Add, for each active feature of each query, its list to the scores of the block's passages."""
    for query in range(features.shape[0]):
        own = scores[query]
        for slot in range(features.shape[1]):
            value = values[query, slot]
            if value > 0:
                feature = features[query, slot]
                for entry in range(offsets[feature], offsets[feature + 1]):
                    own[places[entry]] += value * np.float32(amounts[entry])
