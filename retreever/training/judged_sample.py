"""The queries and passages of one split on which a training judges its tree: drawn once, the same for every run.

Workers share the forward passes, and each ranks its share of the queries, so that the figures do not depend on their
number. Which data set it is, and what follows from the figures, is not known here.
"""

from functools import partial

import numpy as np
from jaxtyping import Float

from retreever.bundle.hybrid_weights import HybridWeights, choose_usual_weights
from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset
from retreever.encoding.text_encodings import Encodings
from retreever.evaluation.level_judgement import judge_levels, judge_vectors
from retreever.evaluation.metrics import group_judgements
from retreever.evaluation.ranking import AddedToScores, SimilarityName
from retreever.model import RoutingTree
from retreever.trained_tree import route_encodings
from retreever.training import distributed
from retreever.training.hybrid_scores import HybridScores


class JudgedSample:
    """At most `train.eval_queries` queries of a split, and the passages that they rank.

    Args:
        draw: chooses queries and passages; not seeded by `train.seed`, so that runs of several seeds share them.
        weights: of the hybrid, where `train.for` is hybrid; usual ones where it is None.

    Attributes:
        queries: rows of the judged queries, ascending.
        passages: rows of the ranked passages, ascending: all, or the relevant ones and others, `train.eval_passages`.
        relevant: for every judged query the positions in `passages` that are relevant, and their grades.
        hybrid: what a hybrid adds to similarities, where `train.for` is hybrid.

    Raises:
        DataError: the data set has no relevant pair in that split.
    """

    def __init__(
        self,
        config: Config,
        data: EncodedDataset,
        split: str,
        draw: np.random.Generator,
        device: str = "cpu",
        weights: HybridWeights | None = None,
    ):
        self.config, self.data, self.device = config, data, device
        data.dataset.require_pairs(split, "training validates on it")
        queries, relevant = group_judgements(data.dataset.qrels[split])
        chosen = np.sort(draw.permutation(len(queries))[: config.train.eval_queries])
        self.queries = queries[chosen]
        self.passages = self._choose_passages(np.unique(np.concatenate([relevant[i][0] for i in chosen])), draw)
        self.hybrid = None
        if config.train.goal == "hybrid":
            own = weights or choose_usual_weights(config.keeps_encodings)
            self.hybrid = HybridScores(config, data, self.queries, self.passages, own)
        self.relevant = [(np.searchsorted(self.passages, relevant[i][0]), relevant[i][1]) for i in chosen]

    def _choose_passages(self, needed: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """Rows of the passages to rank: all, or the relevant ones and others, drawn by seed."""
        total, wanted = len(self.data.passages), self.config.train.eval_passages
        if wanted is None or wanted >= total:
            return np.arange(total)
        others = np.setdiff1d(draw.permutation(total), needed)
        return np.sort(np.concatenate([needed, draw.permutation(others)[: max(0, wanted - len(needed))]]))

    @property
    def pairs(self) -> np.ndarray:
        """Relevant pairs: positions in `queries` and in `passages`, (pairs, 2), int64."""
        sizes = [len(positions) for positions, _ in self.relevant]
        return np.stack(
            [np.repeat(np.arange(len(sizes)), sizes), np.concatenate([positions for positions, _ in self.relevant])], 1
        )

    def route(self, tree: RoutingTree) -> tuple[np.ndarray, np.ndarray]:
        """Node probabilities of queries and passages, (texts, nodes) each, see `route_shared`."""
        queries = route_shared(tree, self.config, self.data.queries, self.queries, self.device)
        return queries, route_shared(tree, self.config, self.data.passages, self.passages, self.device)

    def judge_levels(
        self,
        tree: RoutingTree,
        queries: Float[np.ndarray, "queries nodes"],
        passages: Float[np.ndarray, "passages nodes"],
    ) -> dict[str, Float[np.ndarray, " queries"]]:
        """Every metric at every reported level, one value a query; `queries` and `passages` are from `route`."""
        share, similarity = distributed.worker_slice(len(queries)), self.config.loss.similarity
        added = None if self.hybrid is None else partial(self.hybrid.add_to_level, first=share.start)
        depth, gather = tree.tree.depth, distributed.gather_arrays
        return judge_levels(queries[share], passages, self.relevant, depth, similarity, gather, added)

    def judge_vectors(
        self,
        queries: Float[np.ndarray, "queries dim"],
        passages: Float[np.ndarray, "passages dim"],
        similarity: SimilarityName,
        added: AddedToScores | None = None,
    ) -> dict[str, Float[np.ndarray, " queries"]]:
        """Every metric of one vector a text, one value a query.

        Args:
            added: to the similarities of this worker's queries; None: nothing is.
        """
        own = queries[distributed.worker_slice(len(queries))]
        return judge_vectors(own, passages, self.relevant, similarity, distributed.gather_arrays, added)


def route_shared(
    tree: RoutingTree, config: Config, encodings: Encodings, rows: np.ndarray, device: str = "cpu"
) -> Float[np.ndarray, "texts nodes"]:
    """Node probabilities of some texts, on every worker; each computes its share."""
    own_rows = rows[distributed.worker_slice(len(rows))]
    return distributed.gather_arrays(np.concatenate(list(route_encodings(tree, config, encodings, own_rows, device))))
