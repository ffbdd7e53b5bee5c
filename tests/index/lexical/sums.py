"""The slow, obvious form of a hybrid search: every sum from texts and vectors, then a sort."""

from collections import Counter

import bm25s
import numpy as np

from retreever.index import Layout, LexicalSettings, TreeIndex
from retreever.index.index_layout import scale_to_unit_length
from retreever.index.kernels.similarity_kernels import score_rows
from retreever.index.search.certified_search import score_segment
from retreever.model.tree import Tree

SETTINGS = LexicalSettings(1.5, 0.75, "en", None)


def draw_texts(rows, seed=0, nodes=None):
    """Texts of words after Zipf, some empty; with `nodes`, a passage's likeliest leaf gives it words of its own."""
    draw = np.random.default_rng(seed)
    texts = []
    for row in range(rows):
        words = [f"w{word}" for word in draw.zipf(1.4, draw.integers(0, 25)).tolist()]
        if nodes is not None:
            leaves = nodes.shape[1] // 2 + 1
            words += [f"leaf{nodes[row, -leaves:].argmax()}x{i}" for i in draw.integers(0, 6, 3).tolist()]
        texts.append(" ".join(words))
    return texts


def split(text):
    """Words as bm25s makes them; texts here have neither endings nor scripts without spaces."""
    return bm25s.tokenize([text], stopwords="en", return_ids=False, show_progress=False)[0]


class AllSums:
    """Sums of all passages of an index, from the texts by id; deleted passages count until they are rewritten."""

    def __init__(self, index: TreeIndex, texts: dict[str, str]):
        self.index, self.side = index, index._state.lexical
        self.ids = [name for segment in index.segments for name in segment.ids]
        self.numbers = np.concatenate([segment.numbers for segment in index.segments])
        self.alive = np.concatenate([view.rows_alive for view in index._state.views]) > 0
        self.impacts: dict[str, np.ndarray] = {}
        for row, name in enumerate(self.ids):
            words = split(texts[name])
            for word, count in Counter(words).items():
                own = self.impacts.setdefault(word, np.zeros(len(self.ids), np.float32))
                own[row] = self._compute_impact(count, len(words))

    def _compute_impact(self, count: int, length: int) -> int:
        own = self.side.settings
        held_back = own.k1 * (1 - own.b + own.b * length / self.side.mean_length)
        return max(1, round(255 * count / (count + held_back)))

    def add_words(self, text: str, weight: float, level: int) -> dict[str, np.ndarray]:
        """What each word of a query that some passage has adds to all scores, float32 (passages,)."""
        unit, added = weight * self.side.deviations[level] / (self.side.rarest * 255), {}
        for word, count in Counter(split(text)).items():
            if word in self.impacts:
                n = np.count_nonzero(self.impacts[word])
                rarity = np.log1p((len(self.ids) - n + 0.5) / (n + 0.5))
                added[word] = np.float32(unit * rarity * count) * self.impacts[word]
        return added

    def multiply_encodings(self, encoding: np.ndarray, weight: float, level: int) -> np.ndarray:
        """What the cosines of encodings add to all scores, float32 (passages,), by the loop that sums them."""
        unit = weight * self.side.deviations[level] / self.side.deviations[0]
        scaled = (unit * scale_to_unit_length(encoding[None])[0]).astype(np.float32)
        added = []
        for segment in self.index.segments:
            stored, out = segment.vectors[0], np.empty(len(segment), np.float32)
            stored = stored.view(np.uint16) if stored.dtype == np.float16 else stored
            score_rows(scaled, stored, True, np.arange(len(segment)), out)
            added.append(out)
        return np.concatenate(added)

    def rank(
        self, query: np.ndarray, text: str, weight: float, k: int, level: int, where=None, encoding=None, share=0.0
    ):
        """Numbers and scores of the k best, ties by id; `encoding` is the query's, and weighs `share`."""
        layout = self.index.layout
        vector = layout.to_stored_form(query[None, Tree(layout.depth).level(level)])[0]
        scores = np.concatenate([score_segment(vector, level, segment, layout) for segment in self.index.segments])
        added = np.zeros(len(scores), np.float32)
        for own in self.add_words(text, weight, level).values():
            added += own
        scores += added
        if share:
            scores += self.multiply_encodings(encoding, share, level)
        wanted = np.flatnonzero(self.alive if where is None else self.alive & where[self.numbers])
        near = wanted[scores[wanted] >= np.partition(scores[wanted], -min(k, len(wanted)))[-min(k, len(wanted))]]
        best = sorted(near.tolist(), key=lambda row: (-scores[row], self.ids[row]))[:k]
        return self.numbers[best].tolist(), scores[best]


def make_layout(depth: int, similarity: str, dtype: str = "float32", hierarchy: bool = True) -> Layout:
    return Layout(depth, similarity, hierarchy, "a" * 64, dtype)
