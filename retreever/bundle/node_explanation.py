"""What the nodes of a tree mean (ours): the words, the size and the examples of every node.

A node is described by the passages that reach it, and a passage reaches every node with some probability. A word
belongs to a node as far as the two correlate over the corpus: the word's presence in a passage with the passage's
probability on the node. This does not depend on how sharply a tree routes, as a count would: where a passage spreads
over hundreds of leaves, all leaves have the same most frequent words.

Not known here: what words mean, and texts without spaces between words, whose nodes have no words.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from retreever.bundle.document_store import DocumentStore
from retreever.errors import BundleError
from retreever.index.index_layout import Layout
from retreever.index.tree_index import TreeIndex
from retreever.model.tree import Tree
from retreever.system.files import read_json, seal_folder, verify_sealed_folder, write_atomically, write_json

EXPLANATION_FORMAT = 1
EXPLANATION_SAMPLE = 20_000  # passages read
WORDS_PER_NODE, EXAMPLES_PER_NODE = 8, 5  # at most
CANDIDATE_WORDS = 24  # words of a node considered; some are forms of others
VOCABULARY_SIZE = 10_000  # words considered: the most frequent ones
MIN_PASSAGES_PER_WORD = 3  # passages that must contain a word
WORD_PATTERN = r"(?u)\b[^\W\d_]\w{2,29}\b"  # from 3 to 30 characters, the first a letter
CLEAR_STANDARD_ERRORS = 4.5  # threshold of a correlation; 0.03 of 10,000 meaningless words would reach it by chance
NODE_BLOCK = 1_024  # nodes explained at a time
PASSAGE_CHUNK = 2_048  # passages of which all nodes of a level are held at once


@dataclass(frozen=True)
class Explanation:
    """Words, sizes and examples of all nodes, in heap order.

    Attributes:
        words: of each node, those that set it apart from the rest of its level, the clearest first; the root has none.
        sizes: the sum of the passages' probabilities on a node, over the whole corpus.
        examples: numbers of the passages most probable on a node, (nodes, examples), the most probable first.
        memberships: probabilities of the examples on their node, in [0, 1].
        passages: living passages of the index when it was explained.
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
        """The average passage's probability on each node, in [0, 1]."""
        return self.sizes / max(1, self.passages)

    def save(self, folder: Path, model: str) -> None:
        """Write the explanation to `folder`, whole or not at all.

        Args:
            model: digest of the tree.
        """
        with write_atomically(folder) as aside:
            aside.mkdir()
            write_json(aside / "words.json", self.words)
            for name in ("sizes", "examples", "memberships"):
                np.save(aside / f"{name}.npy", getattr(self, name))
            seal_folder(
                aside,
                {"format": EXPLANATION_FORMAT, "model": model, "passages": self.passages, "sampled": self.sampled},
            )

    @classmethod
    def load(cls, folder: Path, model: str) -> "Explanation":
        """Read an explanation and compare its checksums.

        Args:
            model: digest of the tree.

        Raises:
            BundleError: a file is missing or damaged, or the explanation was made for another model or by another
                version.
        """
        manifest = verify_sealed_folder(folder)
        if manifest.get("format") != EXPLANATION_FORMAT or manifest.get("model") != model:
            raise BundleError(f"{folder}: was made for another model or by another version")
        arrays = {n: np.load(folder / f"{n}.npy", allow_pickle=False) for n in ("sizes", "examples", "memberships")}
        return cls(
            read_json(folder / "words.json"), **arrays, passages=manifest["passages"], sampled=manifest["sampled"]
        )


def load_or_explain(index: TreeIndex, documents: DocumentStore, folder: Path) -> Explanation:
    """Load the explanation in `folder`. If there is no valid one, explain the nodes now and save it there."""
    with suppress(BundleError):
        return Explanation.load(folder, index.layout.model)
    explanation = explain_nodes(index, documents)
    with suppress(OSError):  # in a read-only bundle the next process explains again
        explanation.save(folder, index.layout.model)
    return explanation


def explain_nodes(index: TreeIndex, documents: DocumentStore, seed: int = 0) -> Explanation:
    """Read the corpus, or a sample of a larger one, and explain every node.

    Args:
        seed: of the sample.
    """
    tree, alive_numbers = Tree(index.layout.depth), index.list_numbers()
    if not len(alive_numbers):
        return _explain_nothing(tree)
    numbers = _sample_numbers(alive_numbers, seed)
    terms, present = extract_word_presence([documents[int(number)].full_text for number in numbers])
    words: list[list[str]] = []
    parts = []
    for level, nodes in _iterate_blocks(tree):
        probabilities = _read_probabilities(index, numbers, level, nodes)
        words += choose_node_words(terms, present, probabilities) if level else [[]]
        parts.append((probabilities.sum(axis=0), *_find_most_probable(probabilities)))
    sizes, rows, memberships = (np.concatenate(part) for part in zip(*parts, strict=True))
    scale = len(alive_numbers) / len(numbers)
    return Explanation(words, sizes * scale, numbers[rows], memberships, len(alive_numbers), len(numbers))


def compute_agreement(
    layout: Layout, query: Float[np.ndarray, "#passages nodes"], passages: Float[np.ndarray, "passages nodes"]
) -> Float[np.ndarray, "passages nodes"]:
    """Contribution of each node of a level to the similarity at that level, each in [0, 1].

    Contributions sum to the similarity; for nTVD, to the similarity plus one.
    """
    return np.sqrt(query * passages) if layout.similarity == "bhattacharyya" else np.minimum(query, passages)


def correlate_words(
    present: Any, probabilities: Float[np.ndarray, "passages nodes"]
) -> Float[np.ndarray, "words nodes"]:
    """Pearson correlation of a word's presence with a node's probability over passages; 0 where one is constant.

    Args:
        present: sparse (passages, words) of zeros and ones.
    """
    passages = len(probabilities)
    share = np.asarray(present.sum(axis=0), np.float32).reshape(-1) / passages
    covariance = present.T @ probabilities / passages - np.outer(share, probabilities.mean(axis=0))
    spread = np.outer(np.sqrt(share * (1 - share)), probabilities.std(axis=0))
    return np.divide(covariance, spread, out=np.zeros_like(covariance), where=spread > 0)


def _explain_nothing(tree: Tree) -> Explanation:
    none = np.empty((tree.nodes, 0))
    words: list[list[str]] = [[] for _ in range(tree.nodes)]
    return Explanation(words, np.zeros(tree.nodes, np.float32), none.astype(np.int64), none.astype(np.float32), 0, 0)


def _sample_numbers(numbers: np.ndarray, seed: int) -> np.ndarray:
    if len(numbers) <= EXPLANATION_SAMPLE:
        return numbers
    return np.sort(np.random.default_rng(seed).choice(numbers, EXPLANATION_SAMPLE, replace=False))


def _iterate_blocks(tree: Tree) -> Iterator[tuple[int, slice]]:
    """All nodes in heap order, in blocks: a level, and a slice of its nodes."""
    for level in range(tree.depth + 1):
        for start in range(0, 2**level, NODE_BLOCK):
            yield level, slice(start, min(start + NODE_BLOCK, 2**level))


def _read_probabilities(index: TreeIndex, numbers: np.ndarray, level: int, nodes: slice) -> np.ndarray:
    """Probabilities of passages on some nodes of a level; in chunks, since all nodes of a deep level are too many."""
    starts = range(0, len(numbers), PASSAGE_CHUNK)
    return np.concatenate([index.read_probabilities(numbers[i : i + PASSAGE_CHUNK], level)[:, nodes] for i in starts])


def extract_word_presence(texts: list[str]) -> tuple[np.ndarray, Any]:
    """The vocabulary without English stop words, and its presence: sparse float32 (texts, words) of zeros and ones.

    The presence is None where the texts have no words.
    """
    from sklearn.feature_extraction.text import CountVectorizer  # slow to import

    counter = CountVectorizer(
        stop_words="english", token_pattern=WORD_PATTERN, binary=True, max_features=VOCABULARY_SIZE, dtype=np.float32
    )
    try:
        present = counter.fit_transform(texts)
    except ValueError:  # there is no word
        return np.empty(0, object), None
    frequent = np.flatnonzero(np.asarray(present.sum(axis=0)).reshape(-1) >= min(MIN_PASSAGES_PER_WORD, len(texts)))
    return counter.get_feature_names_out()[frequent], present[:, frequent].tocsr()


def choose_node_words(terms: np.ndarray, present: Any, probabilities: np.ndarray) -> list[list[str]]:
    """Words of each node: those whose correlation with it is clearly above zero, the highest first.

    Args:
        terms, present: as `extract_word_presence` returns them.
        probabilities: (passages, nodes).
    """
    if not len(terms):
        return [[] for _ in range(probabilities.shape[1])]
    correlations = correlate_words(present, probabilities)
    threshold = CLEAR_STANDARD_ERRORS / np.sqrt(len(probabilities))
    best = np.argpartition(-correlations, min(CANDIDATE_WORDS, len(terms)) - 1, axis=0)[:CANDIDATE_WORDS]
    values = np.take_along_axis(correlations, best, axis=0)
    order = np.argsort(-values, axis=0, kind="stable")
    best, values = np.take_along_axis(best, order, axis=0), np.take_along_axis(values, order, axis=0)
    clear = values > threshold
    return [_drop_word_forms(terms[words[kept]].tolist()) for words, kept in zip(best.T, clear.T, strict=True)]


def _drop_word_forms(words: list[str]) -> list[str]:
    """The first words, without those that are an earlier word with up to two letters more or fewer at its end.

    >>> _drop_word_forms(["node", "nodes", "edges", "edge", "no"])
    ['node', 'edges', 'no']
    """
    distinct: list[str] = []
    for word in words:
        if not any(_are_word_forms(word, other) for other in distinct):
            distinct.append(word)
    return distinct[:WORDS_PER_NODE]


def _are_word_forms(a: str, b: str) -> bool:
    short, long = sorted((a, b), key=len)
    return len(short) > 2 and len(long) - len(short) <= 2 and long.startswith(short)


def _find_most_probable(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the passages most probable on each node, and their probabilities, both (nodes, examples)."""
    count = min(EXAMPLES_PER_NODE, len(probabilities))
    rows = np.argpartition(-probabilities, count - 1, axis=0)[:count]
    values = np.take_along_axis(probabilities, rows, axis=0)
    order = np.argsort(-values, axis=0, kind="stable")
    return np.take_along_axis(rows, order, axis=0).T, np.take_along_axis(values, order, axis=0).T
