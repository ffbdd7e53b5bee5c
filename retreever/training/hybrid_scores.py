"""What a hybrid adds to the similarities of a judged sample, so that validations and promotions judge what is served.

Scores are those of `TreeIndex.search` with `hybrid`, but for rounding, for all pairs of a query and a passage: no index
is built, and words are read once, however often a tree is judged.
"""

import numpy as np
from jaxtyping import Float

from retreever.bundle.build_index import make_lexical_settings
from retreever.bundle.hybrid_weights import HybridWeights, choose_usual_weights
from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset
from retreever.evaluation.ranking import AddedToScores
from retreever.index import Hybrid, Layout
from retreever.index.index_layout import ENCODINGS, scale_to_unit_length
from retreever.index.lexical.hybrid_query import count_places, weigh_hybrid_queries
from retreever.index.lexical.lexical_side import DEVIATION_SAMPLE, LexicalSide
from retreever.index.lexical.postings import make_postings
from retreever.trained_tree import TrainedTree


class HybridScores:
    """The words and encodings of some queries and passages of a data set.

    Args:
        queries, passages: their rows.
        weights: of words and encodings.
    """

    def __init__(
        self, config: Config, data: EncodedDataset, queries: np.ndarray, passages: np.ndarray, weights: HybridWeights
    ):
        settings = make_lexical_settings(config)
        assert settings is not None  # a configuration without words is judged as a tree
        asked, texts = data.dataset.query_texts(), data.dataset.passage_texts()
        own = [texts[row] for row in passages.tolist()]
        self._layout = Layout(config.tree.depth, config.loss.similarity, True, "")
        self._side = LexicalSide.fit(own, settings, self._layout)
        self._passages = scale_to_unit_length(data.passages.frozen_part[passages])
        self._side = self._side.measure_deviations({ENCODINGS: _draw_sample(self._passages)}, self._layout)
        self._postings = make_postings(self._side.weigh_passages(own), np.arange(len(own)))
        encodings = np.array(data.queries.frozen_part[queries])
        self._hybrid = Hybrid([asked[row] for row in queries.tolist()], weights.words, encodings, weights.encodings)

    def add_to_level(self, level: int, vectors: Float[np.ndarray, "passages nodes"], first: int = 0) -> AddedToScores:
        """What is added at a level of a tree.

        Args:
            vectors: of the passages, probabilities of the level's nodes.
            first: position of the first query that will be asked for.
        """
        sample = self._layout.to_stored_form(_draw_sample(vectors))
        return self._add(level, self._side.measure_deviations({level: sample}, self._layout), first)

    def add_to_encoder(self, first: int = 0) -> AddedToScores:
        """What is added to the frozen encoder's cosines, which take the place of the tree's similarities."""
        return self._add(ENCODINGS, self._side, first, encodings=False)

    def _add(self, level: int, side: LexicalSide, first: int, encodings: bool = True) -> AddedToScores:
        weighed = weigh_hybrid_queries(self._hybrid, level, side, [self._postings], len(self._passages))

        def compute(part: slice) -> np.ndarray:
            asked = weighed[first + part.start : first + part.stop]
            added = np.zeros((len(asked), count_places(len(self._passages))), np.float32)
            for query, scores in zip(asked, added, strict=True):
                query.words.add_scores(self._postings, scores)
            added = added[:, : len(self._passages)]
            if encodings and len(asked) and asked[0].encoding.size:
                added += np.stack([query.encoding for query in asked]) @ self._passages.T
            return added

        return compute


def read_hybrid_weights(trained: TrainedTree) -> HybridWeights:
    """The weights of the bundle that a tree was loaded from; usual ones where it has none."""
    return HybridWeights.load(trained.folder, trained.digest) or choose_usual_weights(trained.config.keeps_encodings)


def _draw_sample(vectors: np.ndarray) -> np.ndarray:
    return vectors[np.linspace(0, len(vectors) - 1, min(len(vectors), DEVIATION_SAMPLE)).astype(int)]
