"""What a code leaves of a sample: measured while an index is built, to choose a code and to say how good it is."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from retreever.index.codes import Code, Coded, Found, Room
from retreever.index.kernels import STRIP, score_rows

ROWS = 8_192  # passages of the sample that are searched
QUERIES = 32  # others of it that ask
K = 10
REMAINS = 1_000  # bytes that could be read in a row while one that remains is looked up and bounded anew
SCORED = 8_000  # the same, while one is compared in full


@dataclass(frozen=True)
class Survival:
    """Of the passages of a sample, for the K best of queries that are passages themselves.

    Attributes:
        left, refined: shares that the code's first and second bound leave, with the best floor there is.
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


def survival(code: Code, sample: Float[np.ndarray, "rows nodes"], roots: bool) -> Survival:
    """Measure a code on vectors in stored form; those that ask are the first of them."""
    if len(sample) < 2:
        return Survival(1, 1, 1)
    asking = min(QUERIES, len(sample) // 2)
    queries, passages = sample[:asking], sample[asking : asking + ROWS]
    k = min(K, len(passages))
    rows = np.minimum(np.arange(-(-len(passages) // STRIP) * STRIP), len(passages) - 1)
    coded = code.coded(*code.encode(passages[rows]))
    alive = (np.arange(len(rows)) < len(passages)).astype(np.uint8)
    asked = code.ask(queries)
    counts = np.zeros(3)
    every = np.arange(len(passages))
    for query, vector in enumerate(queries):
        scores = np.empty(len(passages), np.float32)
        score_rows(vector, passages, roots, every, scores)
        kth = np.partition(scores, -k)[-k]
        found = _scanned(code, code.one(asked, query), coded, alive, kth)
        counts[0] += len(found.places)
        counts[1] += len(code.refine(asked, query, coded, kth, found).places)
        guess = code.guess(asked, query)
        guesses = code.estimates(guess, 0, coded, _scanned(code, guess, coded, alive, -np.inf))
        nearest = guesses.by_bound().places[:k]
        counts[2] += (scores[nearest] >= kth).sum()
    left, refined, hits = counts / asking
    return Survival(left / len(passages), refined / len(passages), hits / k)


def _scanned(code: Code, asked: object, coded: Coded, alive: np.ndarray, floor: float) -> Found:
    parts, room, start, order = [], Room(1), 0, np.arange(len(coded.strips))
    while start < len(order):
        start = code.scan(asked, coded, alive, order, start, np.float32([floor]), room)
        found = room.taken(0)
        parts.append((found.places.copy(), found.bounds.copy()))
    return Found(np.concatenate([p for p, _ in parts]), np.concatenate([b for _, b in parts]))
