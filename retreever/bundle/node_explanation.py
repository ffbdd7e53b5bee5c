"""What the nodes of a tree mean (ours): the words, the size and the examples of every node, at every level.

A node is known by the passages that reach it, and a passage reaches every node with some probability. So a word belongs
to a node as far as the two go together over the corpus: by the correlation between the word's presence in a passage and
the passage's probability on the node. It does not depend on how sharply a tree routes, which a count would: where a
passage spreads over hundreds of leaves, the most counted words of all leaves are the same.

Not known here: what words mean, and texts without spaces between words, whose nodes have none.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from retreever.bundle.document_store import Documents
from retreever.errors import BundleError
from retreever.index.index_layout import Layout
from retreever.index.tree_index import TreeIndex
from retreever.model.tree import Tree
from retreever.system.files import read_json, seal, unseal, write_aside, write_json

FORMAT = 1
SAMPLE = 20_000  # passages read
WORDS, EXAMPLES = 8, 5  # of a node, at most
CANDIDATES = 24  # words of a node looked at, of which some are forms of others
VOCABULARY, RAREST = 10_000, 3  # words considered: the most frequent ones; passages that a word must be in
WORD = r"(?u)\b[^\W\d_]\w{2,29}\b"  # from 3 to 30 characters, the first a letter
CLEAR = 4.5  # standard errors that a correlation is above none; of 10,000 words that mean nothing 0.03 get there
BLOCK, CHUNK = 1_024, 2_048  # nodes at a time; passages of which all nodes of a level are held at once


@dataclass(frozen=True)
class Explanation:
    """What was found of every node, in heap order.

    Attributes:
        words: that set a node apart from the rest of its level, the clearest first; none of the root.
        sizes: how many passages reach a node: the sum of their probabilities, over the whole corpus.
        examples: numbers of the passages most probable on a node, (nodes, examples), the most probable first.
        memberships: their probabilities.
        passages: of the corpus it was made of.
        sampled: how many of them were read.
    """

    words: list[list[str]]
    sizes: Float[np.ndarray, " nodes"]
    examples: Int[np.ndarray, "nodes examples"]
    memberships: Float[np.ndarray, "nodes examples"]
    passages: int
    sampled: int

    @property
    def average(self) -> Float[np.ndarray, " nodes"]:
        """Probability with which the average passage reaches each node."""
        return self.sizes / max(1, self.passages)

    def save(self, folder: Path, model: str) -> None:
        """Write it to `folder`, whole or not at all.

        Args:
            model: digest of the tree it explains.
        """
        with write_aside(folder) as aside:
            aside.mkdir()
            write_json(aside / "words.json", self.words)
            for name in ("sizes", "examples", "memberships"):
                np.save(aside / f"{name}.npy", getattr(self, name))
            seal(aside, {"format": FORMAT, "model": model, "passages": self.passages, "sampled": self.sampled})

    @classmethod
    def load(cls, folder: Path, model: str) -> "Explanation":
        """Read one; its checksums are compared.

        Raises:
            BundleError: a file is missing or damaged, or it was made for another model or by another version.
        """
        manifest = unseal(folder)
        if manifest.get("format") != FORMAT or manifest.get("model") != model:
            raise BundleError(f"{folder}: was made for another model or by another version")
        arrays = {n: np.load(folder / f"{n}.npy", allow_pickle=False) for n in ("sizes", "examples", "memberships")}
        return cls(
            read_json(folder / "words.json"), **arrays, passages=manifest["passages"], sampled=manifest["sampled"]
        )


def explanation_of(index: TreeIndex, documents: Documents, folder: Path | None = None) -> Explanation:
    """The explanation kept in `folder`; made now, and kept there if it can be written to, where it is not."""
    if folder is not None:
        try:
            return Explanation.load(folder, index.layout.model)
        except BundleError:
            pass
    made = explain(index, documents)
    if folder is not None:
        with suppress(OSError):  # where a bundle may only be read, the next process makes it again
            made.save(folder, index.layout.model)
    return made


def explain(index: TreeIndex, documents: Documents, seed: int = 0) -> Explanation:
    """Read a sample of the corpus and explain every node by it.

    Args:
        seed: draws the sample, where the corpus is larger.
    """
    tree, living = Tree(index.layout.depth), index.living()
    if not len(living):
        return _of_nothing(tree)
    numbers = _sample(living, seed)
    terms, present = presence([documents[int(number)].full for number in numbers])
    words: list[list[str]] = []
    parts = []
    for level, nodes in _blocks(tree):
        probabilities = _probabilities(index, numbers, level, nodes)
        words += node_words(terms, present, probabilities) if level else [[]]
        parts.append((probabilities.sum(axis=0), *_most_probable(probabilities)))
    sizes, rows, memberships = (np.concatenate(part) for part in zip(*parts, strict=True))
    scale = len(living) / len(numbers)
    return Explanation(words, sizes * scale, numbers[rows], memberships, len(living), len(numbers))


def agreement(
    layout: Layout, query: Float[np.ndarray, "#passages nodes"], passages: Float[np.ndarray, "passages nodes"]
) -> Float[np.ndarray, "passages nodes"]:
    """What each node of a level adds to similarities that are computed at that level.

    The parts sum to the similarity, for nTVD to the similarity plus one.
    """
    return np.sqrt(query * passages) if layout.similarity == "bhattacharyya" else np.minimum(query, passages)


def correlations(present: Any, probabilities: Float[np.ndarray, "passages nodes"]) -> Float[np.ndarray, "words nodes"]:
    """Pearson's correlation of a word's presence with a node's probability over passages; 0 where one is constant.

    Args:
        present: sparse (passages, words) of zeros and ones.
    """
    passages = len(probabilities)
    share = np.asarray(present.sum(axis=0), np.float32).reshape(-1) / passages
    covariance = present.T @ probabilities / passages - np.outer(share, probabilities.mean(axis=0))
    spread = np.outer(np.sqrt(share * (1 - share)), probabilities.std(axis=0))
    return np.divide(covariance, spread, out=np.zeros_like(covariance), where=spread > 0)


def _of_nothing(tree: Tree) -> Explanation:
    none = np.empty((tree.nodes, 0))
    words: list[list[str]] = [[] for _ in range(tree.nodes)]
    return Explanation(words, np.zeros(tree.nodes, np.float32), none.astype(np.int64), none.astype(np.float32), 0, 0)


def _sample(numbers: np.ndarray, seed: int) -> np.ndarray:
    if len(numbers) <= SAMPLE:
        return numbers
    return np.sort(np.random.default_rng(seed).choice(numbers, SAMPLE, replace=False))


def _blocks(tree: Tree) -> Iterator[tuple[int, slice]]:
    """All nodes in heap order: a level, and which of its nodes."""
    for level in range(tree.depth + 1):
        for start in range(0, 2**level, BLOCK):
            yield level, slice(start, min(start + BLOCK, 2**level))


def _probabilities(index: TreeIndex, numbers: np.ndarray, level: int, nodes: slice) -> np.ndarray:
    """Of passages on some nodes of a level; in chunks, for a deep tree's level is too large as a whole."""
    starts = range(0, len(numbers), CHUNK)
    return np.concatenate([index.probabilities(numbers[i : i + CHUNK], level)[:, nodes] for i in starts])


def presence(texts: list[str]) -> tuple[np.ndarray, Any]:
    """Words, and a sparse float32 (texts, words) that says which text has which. English stop words are no words."""
    from sklearn.feature_extraction.text import CountVectorizer  # takes a while to import

    counter = CountVectorizer(
        stop_words="english", token_pattern=WORD, binary=True, max_features=VOCABULARY, dtype=np.float32
    )
    try:
        present = counter.fit_transform(texts)
    except ValueError:  # not one word
        return np.empty(0, object), None
    often = np.flatnonzero(np.asarray(present.sum(axis=0)).reshape(-1) >= min(RAREST, len(texts)))
    return counter.get_feature_names_out()[often], present[:, often].tocsr()


def node_words(terms: np.ndarray, present: Any, probabilities: np.ndarray) -> list[list[str]]:
    """The words of each node that go with it best, if at all."""
    if not len(terms):
        return [[] for _ in range(probabilities.shape[1])]
    found = correlations(present, probabilities)
    least = CLEAR / np.sqrt(len(probabilities))
    best = np.argpartition(-found, min(CANDIDATES, len(terms)) - 1, axis=0)[:CANDIDATES]
    values = np.take_along_axis(found, best, axis=0)
    order = np.argsort(-values, axis=0, kind="stable")
    best, values = np.take_along_axis(best, order, axis=0), np.take_along_axis(values, order, axis=0)
    clear = values > least
    return [_different(terms[chosen[told]].tolist()) for chosen, told in zip(best.T, clear.T, strict=True)]


def _different(words: list[str]) -> list[str]:
    """The first words, without forms of one that is there: it with up to two letters more, or fewer.

    >>> _different(["node", "nodes", "edges", "edge", "no"])
    ['node', 'edges', 'no']
    """
    kept: list[str] = []
    for word in words:
        if not any(_forms(word, other) for other in kept):
            kept.append(word)
    return kept[:WORDS]


def _forms(a: str, b: str) -> bool:
    short, long = sorted((a, b), key=len)
    return len(short) > 2 and len(long) - len(short) <= 2 and long.startswith(short)


def _most_probable(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the passages most probable on each node, and their probabilities, both (nodes, examples)."""
    count = min(EXAMPLES, len(probabilities))
    rows = np.argpartition(-probabilities, count - 1, axis=0)[:count]
    values = np.take_along_axis(probabilities, rows, axis=0)
    order = np.argsort(-values, axis=0, kind="stable")
    return np.take_along_axis(rows, order, axis=0).T, np.take_along_axis(values, order, axis=0).T
