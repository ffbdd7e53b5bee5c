"""The share of a sample that survives a code's bounds.

It is measured while an index is built, to choose the code and to report its quality. Which codes there are to choose
from is not known here.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from retreever.index.codes.passage_code import CandidateBuffer, PackedCodes, PassageCode
from retreever.index.kernels.similarity_kernels import BLOCK_PASSAGES, score_rows

PROBE_PASSAGES = 8_192  # passages of the sample that are searched, at most
PROBE_QUERIES = 32  # passages of the sample that serve as queries, at most
PROBE_K = 10
REFINING_COST_BYTES = 1_000  # cost of refining a survivor, in bytes that a scan reads in the same time
SCORING_COST_BYTES = 8_000  # cost of scoring a passage exactly, in the same unit


@dataclass(frozen=True)
class Survival:
    """How a code did on a sample whose queries are passages themselves; every figure lies in [0, 1].

    The threshold is the best similarity in the sample: what the K-th best is in a corpus K times as large.

    Attributes:
        survivor_share: passages that survive the code's first bound.
        refined_share: passages that survive the second bound too.
        recall: share of the K best passages that are among the K best by estimate.
    """

    survivor_share: float
    refined_share: float
    recall: float

    @property
    def array(self) -> np.ndarray:
        """The three figures in the order above, as a code stores them."""
        return np.array([self.survivor_share, self.refined_share, self.recall])

    def estimate_cost(self, scanned: float) -> float:
        """Average cost of searching a passage, in bytes that a scan reads in the same time.

        Args:
            scanned: bytes of a passage that a scan reads.
        """
        return scanned + REFINING_COST_BYTES * self.survivor_share + SCORING_COST_BYTES * self.refined_share


class SurvivalProbe:
    """Queries and passages from a sample, with their exact similarities.

    Args:
        sample: vectors in stored form; the first of them serve as queries.
        roots: vectors are square roots (Bhattacharyya), not probabilities (nTVD).
    """

    def __init__(self, sample: Float[np.ndarray, "rows nodes"], roots: bool):
        query_count = min(PROBE_QUERIES, len(sample) // 2)
        self.queries, self.passages = sample[:query_count], sample[query_count : query_count + PROBE_PASSAGES]
        self.k = min(PROBE_K, len(self.passages))
        if roots:
            self.scores = self.queries @ self.passages.T
            return
        self.scores = np.empty((query_count, len(self.passages)), np.float32)
        for query, scores in zip(self.queries, self.scores, strict=True):
            score_rows(query, self.passages, roots, np.arange(len(scores)), scores)

    def measure(self, code: PassageCode, encoded: tuple[np.ndarray, np.ndarray] | None = None) -> Survival:
        """Measure a code.

        Args:
            encoded: `code.encode(passages)`, if it is known already.
        """
        query_count, count = self.scores.shape
        if not query_count:
            return Survival(1, 1, 1)
        rows = np.minimum(np.arange(-(-count // BLOCK_PASSAGES) * BLOCK_PASSAGES), count - 1)
        codes = code.pack(*(encoded or code.encode(self.passages.copy())), rows)
        alive = (np.arange(len(rows)) < count).astype(np.uint8)
        queries = code.encode_queries(self.queries)
        sums = np.zeros(3)
        for query, scores in enumerate(self.scores):
            best, kth = scores.max(), np.partition(scores, -self.k)[-self.k]
            own = code.select_query(queries, query)
            candidates = _scan_all(code, own, codes, alive, best)
            sums[0] += candidates.counts[0]
            code.refine(own, codes, np.full(1, best, np.float32), candidates)
            sums[1] += candidates.counts[0]
            estimated = code.prepare_first_estimates(own)
            candidates = _scan_all(code, estimated, codes, alive, -np.inf)
            code.estimate(estimated, codes, candidates)
            places, estimates = candidates.copy_candidates(0)
            sums[2] += (scores[places[np.argsort(-estimates)[: self.k]]] >= kth).sum()
        survivors, refined, hits = sums / query_count
        return Survival(survivors / count, refined / count, hits / self.k)


def _scan_all(
    code: PassageCode, queries: object, codes: PackedCodes, alive: np.ndarray, threshold: float
) -> CandidateBuffer:
    candidates, order = CandidateBuffer(1, len(alive) + BLOCK_PASSAGES), np.arange(len(codes.blocks))[None]
    code.scan(queries, codes, alive, order, 0, np.full(1, threshold, np.float32), candidates)
    return candidates
