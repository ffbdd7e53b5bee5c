"""What a code leaves of a sample: measured while an index is built, to choose a code and to say how good it is."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from retreever.index.codes.passage_code import Code, Coded, Room
from retreever.index.kernels.similarity_kernels import STRIP, score_rows

ROWS = 8_192  # passages of the sample that are searched
QUERIES = 32  # others of it that ask
K = 10
REMAINS = 1_000  # bytes that could be read in a row while one that remains is looked up and bounded anew
SCORED = 8_000  # the same, while one is compared in full


@dataclass(frozen=True)
class Survival:
    """What was found in a sample whose queries are passages themselves.

    Attributes:
        left, refined: shares of the passages that the code's first and second bound leave where the floor is the best
            similarity: as the K-th best would be in a corpus K times as large.
        recall: share of the K best that are the K best by estimate too.
    """

    left: float
    refined: float
    recall: float

    @property
    def array(self) -> np.ndarray:
        """As it is kept with a code."""
        return np.array([self.left, self.refined, self.recall])

    def cost(self, scanned: float) -> float:
        """Bytes read in a row that searching a passage costs as much as, on average."""
        return scanned + REMAINS * self.left + SCORED * self.refined


class Trial:
    """Passages of a sample and others that ask for them, with the exact similarities.

    Args:
        sample: vectors in stored form; those that ask are the first of them.
        roots: they are square roots (Bhattacharyya), not probabilities (nTVD).
    """

    def __init__(self, sample: Float[np.ndarray, "rows nodes"], roots: bool):
        asking = min(QUERIES, len(sample) // 2)
        self.queries, self.passages = sample[:asking], sample[asking : asking + ROWS]
        self.k = min(K, len(self.passages))
        if roots:
            self.scores = self.queries @ self.passages.T
            return
        self.scores = np.empty((asking, len(self.passages)), np.float32)
        for query, scores in zip(self.queries, self.scores, strict=True):
            score_rows(query, self.passages, roots, np.arange(len(scores)), scores)

    def survival(self, code: Code, encoded: tuple[np.ndarray, np.ndarray] | None = None) -> Survival:
        """Measure a code; `encoded` is what it makes of the passages, where that is known."""
        asking, count = self.scores.shape
        if not asking:
            return Survival(1, 1, 1)
        rows = np.minimum(np.arange(-(-count // STRIP) * STRIP), count - 1)
        coded = code.coded(*(encoded or code.encode(self.passages.copy())), rows)
        alive = (np.arange(len(rows)) < count).astype(np.uint8)
        asked = code.ask(self.queries)
        sums = np.zeros(3)
        for query, scores in enumerate(self.scores):
            best, kth = scores.max(), np.partition(scores, -self.k)[-self.k]
            own = code.one(asked, query)
            room = _scanned(code, own, coded, alive, best)
            sums[0] += room.counts[0]
            code.refine(own, coded, np.full(1, best, np.float32), room)
            sums[1] += room.counts[0]
            guess = code.guess(own)
            room = _scanned(code, guess, coded, alive, -np.inf)
            code.estimates(guess, coded, room)
            places, estimates = room.taken(0)
            sums[2] += (scores[places[np.argsort(-estimates)[: self.k]]] >= kth).sum()
        left, refined, hits = sums / asking
        return Survival(left / count, refined / count, hits / self.k)


def _scanned(code: Code, asked: object, coded: Coded, alive: np.ndarray, floor: float) -> Room:
    room, order = Room(1, len(alive) + STRIP), np.arange(len(coded.strips))[None]
    code.scan(asked, coded, alive, order, 0, np.full(1, floor, np.float32), room)
    return room
