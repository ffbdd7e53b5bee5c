"""What a hybrid search adds to similarities: the words of each query, and its frozen encoding.

The score of a hybrid search is

    similarity  +  weight * deviation * sum over the query's words of  rarity * impact / (255 * rarest)
                +  encoding_weight * deviation * cosine of the encodings / deviation of such cosines

Deviations and rarest are constants of the index, so that a weight means the same for every query, and a passage's score
does not depend on what else was found. A word counts as often as the query has it. How scores are searched is not known
here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from retreever.index.index_layout import ENCODINGS, scale_to_unit_length
from retreever.index.kernels.similarity_kernels import BLOCK_PASSAGES
from retreever.index.lexical.lexical_side import LexicalSide, compute_rarity
from retreever.index.lexical.postings import LARGEST_IMPACT, Postings
from retreever.index.lexical.words import digest_words, split_words

LARGEST_HYBRID_WEIGHT = 1_000.0


@dataclass(frozen=True)
class Hybrid:
    """What a search adds to similarities.

    Attributes:
        texts: of the queries, one for each.
        weight: of BM25, in [0, 1000]. At 1 the rarest word adds as much as one standard deviation of similarities.
        encodings: of the queries by the frozen encoder, (queries, dim); None: only words are added.
        encoding_weight: of their cosines, in [0, 1000]. At 1 cosines vary as much as similarities do.
        by_ranks: no sum, but reciprocal rank fusion of similarity and BM25, see `rank_fusion`; weights are not read.
    """

    texts: Sequence[str]
    weight: float
    encodings: Float[np.ndarray, "queries dim"] | None = None
    encoding_weight: float = 0.0
    by_ranks: bool = False

    def check(self, queries: int, encoding_dim: int) -> None:
        """Check the parts against the number of queries, and the width of an index's encodings.

        Raises:
            ValueError: a text is missing or no text, encodings have another shape, or a weight is out of range.
        """
        if isinstance(self.texts, str) or not all(isinstance(text, str) for text in self.texts):
            raise ValueError("hybrid.texts: must be a list of texts")
        if len(self.texts) != queries:
            raise ValueError(f"hybrid.texts: must be one for each of {queries} queries, got {len(self.texts)}")
        for name in ("weight", "encoding_weight"):
            if not 0 <= getattr(self, name) <= LARGEST_HYBRID_WEIGHT:
                rule = f"must lie within [0, {LARGEST_HYBRID_WEIGHT:g}]"
                raise ValueError(f"hybrid.{name}: {rule}, got {getattr(self, name)}")
        if self.encodings is None:
            if self.encoding_weight:
                raise ValueError(f"hybrid.encoding_weight: needs encodings, got {self.encoding_weight} without")
        elif not encoding_dim:
            raise ValueError("hybrid.encodings: this index keeps no encodings; build it anew with them")
        elif self.encodings.shape != (queries, encoding_dim) or not np.isfinite(self.encodings).all():
            raise ValueError(
                f"hybrid.encodings: must be {(queries, encoding_dim)} finite numbers, got {self.encodings.shape}"
            )


@dataclass(frozen=True)
class WeighedWords:
    """The words of a query that some passage of the index has, in the order in which the query names them first.

    Attributes:
        words: without repetitions.
        terms: uint64 (words,).
        weights: what an impact of 1 adds to a score, float32 (words,).
    """

    words: list[str]
    terms: np.ndarray
    weights: np.ndarray

    def add_scores(self, postings: Postings, added: np.ndarray) -> None:
        """Add what the words are worth to the scores of a segment's passages, float32 (places,)."""
        postings.add_scores(postings.find_terms(self.terms), self.weights, added)


@dataclass(frozen=True)
class HybridQuery:
    """What a hybrid search adds for one query.

    Attributes:
        words: of the query.
        encoding: of the query, so scaled that inner products are what is added, float32 (dim,); no elements where
            nothing is.
    """

    words: WeighedWords
    encoding: np.ndarray


def weigh_hybrid_queries(
    hybrid: Hybrid, level: int, side: LexicalSide, segments: Sequence[Postings], passages: int
) -> list[HybridQuery]:
    """What is added for each query; arguments as in `weigh_query_words`."""
    words = weigh_query_words(hybrid, level, side, segments, passages)
    encodings = np.empty((len(words), 0), np.float32)
    if hybrid.encodings is not None and hybrid.encoding_weight:
        unit = hybrid.encoding_weight * side.deviations[level] / side.deviations[ENCODINGS]
        encodings = (unit * scale_to_unit_length(hybrid.encodings)).astype(np.float32)
    return [HybridQuery(own, encoding) for own, encoding in zip(words, encodings, strict=True)]


def weigh_query_words(
    hybrid: Hybrid, level: int, side: LexicalSide, segments: Sequence[Postings], passages: int
) -> list[WeighedWords]:
    """Words of the queries and their weights, for each query.

    Args:
        segments: posting lists of all segments.
        passages: how many passages the segments have.
    """
    words, vocabulary = split_words(hybrid.texts, side.settings)
    terms = digest_words(vocabulary)
    frequencies = np.zeros(len(terms), np.int64)
    for postings in segments:
        frequencies += postings.count_passages(postings.find_terms(terms))
    unit = hybrid.weight * side.deviations[level] / (side.rarest * LARGEST_IMPACT)
    weights = unit * compute_rarity(passages, frequencies)
    weighed = []
    for own in words:
        counts: dict[int, int] = {}
        for number in own:
            if frequencies[number]:
                counts[number] = counts.get(number, 0) + 1
        numbers = np.fromiter(counts, np.int64, len(counts))
        repeats = np.fromiter(counts.values(), np.int64, len(counts))
        names = [vocabulary[number] for number in counts]
        weighed.append(WeighedWords(names, terms[numbers], (weights[numbers] * repeats).astype(np.float32)))
    return weighed


def count_places(passages: int) -> int:
    """Places of a segment: whole blocks."""
    return -(-passages // BLOCK_PASSAGES) * BLOCK_PASSAGES
