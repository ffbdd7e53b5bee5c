"""What a hybrid search adds to similarities: exact scores of words, and cosines of encodings with their bounds.

Scores of words are known for all places before the scan. Cosines are bounded for all places by a code of their own; the
survivors' bounds are tightened by its lower digits, and the cosines of those that remain are computed. Similarities are
not known here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retreever.index.codes.passage_code import NOTHING_ADDED, ROUNDING_SLACK, CandidateBuffer, PassageCode
from retreever.index.index_layout import ENCODINGS, scale_to_unit_length
from retreever.index.kernels.posting_kernels import find_block_maxima
from retreever.index.kernels.similarity_kernels import BLOCK_PASSAGES
from retreever.index.lexical.hybrid_query import HybridQuery, count_places
from retreever.index.segment import SegmentView, as_kernel_array

ADDED_SCORE_ERROR = 2.0**-20  # relative error of sums with added scores: more than ten roundings of float32
NO_BLOCK_SCORES = np.zeros((1, 1), np.float32)


@dataclass(frozen=True)
class AddedParts:
    """What is added for some queries, by view of an index.

    Attributes:
        added: scores of words by place, float32 (queries, places); `NOTHING_ADDED` where nothing is.
        bounds: the same with upper bounds of what encodings add; equal to `added` where they add nothing.
        block_scores: what is added at most, or on average, in each block, (queries, blocks).
        slack: more than the rounding errors of sums with what is added, float32 (queries,).
        encodings: scaled encodings of the queries, float32 (queries, dim); no columns where nothing is added.
        code: of encodings; None where they add nothing or no segment has codes.
        encoded: the queries as the code refines by them.
    """

    added: list[np.ndarray]
    bounds: list[np.ndarray]
    block_scores: list[np.ndarray]
    slack: np.ndarray
    encodings: np.ndarray
    code: Any = None
    encoded: Any = None

    def refine(self, view: SegmentView, thresholds: np.ndarray, buffer: CandidateBuffer) -> None:
        """Tighten the bounds of survivors by the lower digits of encodings."""
        if self.code is not None:
            self.code.refine(self.encoded, view.segment.codes[ENCODINGS], thresholds, buffer)

    def get_kernel_encodings(self, view: SegmentView) -> np.ndarray:
        """A segment's encodings as the scoring kernel takes them; no columns where they add nothing."""
        vectors = view.segment.vectors
        return as_kernel_array(vectors[ENCODINGS] if self.encodings.shape[1] else vectors[max(vectors)][:0, :0])


def add_parts(
    parts: Sequence[HybridQuery] | None, codes: Mapping[int, PassageCode], views: Sequence[SegmentView], queries: int
) -> AddedParts:
    """Compute what is added to the scores of all passages; nothing where `parts` is None."""
    slack = np.zeros(queries, np.float32)
    if parts is None:
        count = len(views)
        nothing, no_scores = [NOTHING_ADDED] * count, [NO_BLOCK_SCORES] * count
        return AddedParts(nothing, nothing, no_scores, slack, np.empty((queries, 0), np.float32))
    added = [_add_words(parts, view) for view in views]
    block_scores = [_find_maxima(own) for own in added]
    largest = [own.max(axis=1) for own in block_scores if own.size]
    slack = np.max(largest, axis=0, initial=0) * np.float32(ADDED_SCORE_ERROR)
    encodings = np.stack([part.encoding for part in parts])
    if not encodings.shape[1]:
        return AddedParts(added, added, block_scores, slack, encodings)
    # A bound's own slack is meant for vectors of length one, and is added once for the tree and once for encodings.
    factors = np.linalg.norm(encodings, axis=1)
    slack += factors * np.float32(ADDED_SCORE_ERROR + ROUNDING_SLACK)
    code: Any = codes.get(ENCODINGS)
    if code is None:
        return AddedParts(added, added, block_scores, slack, encodings)
    encoded, bounds = code.encode_queries(scale_to_unit_length(encodings)), []
    for i, view in enumerate(views):
        bounds.append(added[i])
        if view.segment.codes:
            own = view.segment.codes[ENCODINGS]
            bounds[i] = added[i].copy()
            code.add_bounds(encoded, own, factors, bounds[i])
            block_scores[i] = block_scores[i] + factors[:, None] * code.score_blocks(encoded, own.centres)
    return AddedParts(added, bounds, block_scores, slack, encodings, code, code.scale_queries(encoded, factors))


def _add_words(parts: Sequence[HybridQuery], view: SegmentView) -> np.ndarray:
    added = np.zeros((len(parts), count_places(len(view.segment))), np.float32)
    postings = view.segment.postings
    if postings is not None:
        for part, scores in zip(parts, added, strict=True):
            part.words.add_scores(postings, scores)
    return added


def _find_maxima(added: np.ndarray) -> np.ndarray:
    maxima = np.empty((len(added), added.shape[1] // BLOCK_PASSAGES), np.float32)
    find_block_maxima(added, maxima)
    return maxima
