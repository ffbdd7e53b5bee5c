"""What the nodes of a tree mean (ours): the words, the size and the examples of every node, by the sharp reading.

A node is described by the passages that reach it. By the soft reading, which ranks, every passage reaches every node;
by the sharp reading (`model/sharp_reading.py`) it takes a way. Its factor is found once a bundle, so that the average
passage has few effective nodes. A size is the sum of the passages' sharp probabilities, so that sizes add up.

An example is typical: a passage that the node holds and whose words are the node's, not the passage that lies deepest
in it. `node_words.py` chooses the words. What words mean, and what people call a node, is not known here.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from retreever.bundle.document_store import DocumentStore
from retreever.bundle.nodes.node_words import (
    DEEPEST_WORD_LEVEL,
    WordCounts,
    choose_node_words,
    extract_word_presence,
    make_node_profiles,
)
from retreever.errors import BundleError
from retreever.index.tree_index import TreeIndex
from retreever.model.tree import Tree
from retreever.system.files import read_json, seal_folder, verify_sealed_folder, write_atomically, write_json

EXPLANATION_FORMAT = 2
EXPLANATION_SAMPLE = 20_000  # passages read
SHARPNESS_LEVEL = 6  # level at which effective nodes are counted; the last of a shallower tree
EXAMPLES_PER_NODE = 5  # at most
CANDIDATE_EXAMPLES = 15  # examples of a node considered; some begin alike
SAME_BEGINNING = 60  # characters in which one of two examples says too little new
WORDLESS_TYPICALITY = 0.02  # of a passage without a word of the node, so that its probability decides
SHORTEST_TEXT = 8  # words; the words of a shorter text weigh as those of one of this length
SHARP_BLOCK = 2**22  # probabilities read at a time: passages times nodes
MAX_EXPONENT = np.float32(80)  # of a branch; beyond it a float32 is infinite, and nothing goes there anyway
LEAST_PROBABILITY = np.float32(1e-30)  # smaller ones count as this much, so that a branch that nobody takes is even


@dataclass(frozen=True)
class Explanation:
    """Words, sizes and examples of all nodes, in heap order.

    Attributes:
        words: of each node, as `choose_node_words` chooses them; the root has none.
        sizes: the sum of the passages' sharp probabilities on a node, over the whole corpus; of a parent, the sum of
            its children's.
        examples: numbers of passages that are typical of a node, (nodes, examples), the most typical first.
        memberships: sharp probabilities of the examples on their node, in [0, 1].
        passages: living passages of the index when it was explained.
        sampled: how many of them were read.
        sharpness: factor of the sharp reading, at least 1.
    """

    words: list[list[str]]
    sizes: Float[np.ndarray, " nodes"]
    examples: Int[np.ndarray, "nodes examples"]
    memberships: Float[np.ndarray, "nodes examples"]
    passages: int
    sampled: int
    sharpness: float

    def read_sharply(self, leaves: Float[np.ndarray, "texts leaves"]) -> Float[np.ndarray, "texts nodes"]:
        """Sharp probabilities of texts on all nodes in heap order, from their probabilities on the last level."""
        return _sharpen_rows(leaves, self.sharpness)

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
            numbers = {name: getattr(self, name) for name in ("passages", "sampled", "sharpness")}
            seal_folder(aside, {"format": EXPLANATION_FORMAT, "model": model, **numbers})

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
        numbers = {name: manifest[name] for name in ("passages", "sampled", "sharpness")}
        return cls(read_json(folder / "words.json"), **arrays, **numbers)


def load_or_explain(index: TreeIndex, documents: DocumentStore, folder: Path, effective: float) -> Explanation:
    """Load the explanation in `folder`. If there is no valid one, explain the nodes now and save it there.

    Args:
        effective: nodes of the average passage, where the nodes are explained now.
    """
    with suppress(BundleError):
        return Explanation.load(folder, index.layout.model)
    explanation = explain_nodes(index, documents, effective)
    with suppress(OSError):  # in a read-only bundle the next process explains again
        explanation.save(folder, index.layout.model)
    return explanation


def explain_nodes(index: TreeIndex, documents: DocumentStore, effective: float, seed: int = 0) -> Explanation:
    """Read the corpus, or a sample of a larger one, and explain every node.

    Args:
        effective: effective nodes of the average passage at level 6, or at the last of a shallower tree, by the sharp
            reading; at least 1.
        seed: of the sample.
    """
    tree, alive_numbers = Tree(index.layout.depth), index.list_numbers()
    if not len(alive_numbers):
        return _explain_nothing(tree)
    numbers = _sample_numbers(alive_numbers, seed)
    sharpness = _fit_sharpness(index, numbers, effective)
    texts = [documents[int(number)].full_text for number in numbers]
    terms, present = extract_word_presence(texts)
    counts = WordCounts(len(terms), min(tree.depth, DEEPEST_WORD_LEVEL))
    leaf_sizes = np.zeros(tree.leaves)
    for rows, nodes in read_stored_sharply(index, numbers, sharpness):
        leaf_sizes += nodes[:, tree.level(tree.depth)].sum(axis=0, dtype=np.float64)
        if present is not None:
            counts.add(present[rows], nodes)
    words = choose_node_words(terms, counts) if len(terms) else []
    words += [[] for _ in range(tree.nodes - len(words))]
    typical, memberships = _find_typical(index, numbers, sharpness, texts, _make_typicality(tree, counts, present))
    scale = len(alive_numbers) / len(numbers)
    sizes = _add_up_levels(leaf_sizes * scale)
    return Explanation(words, sizes, numbers[typical], memberships, len(alive_numbers), len(numbers), sharpness)


def read_stored_sharply(
    index: TreeIndex, numbers: Int[np.ndarray, " passages"], sharpness: float
) -> Iterator[tuple[slice, Float[np.ndarray, "block nodes"]]]:
    """Sharp probabilities of stored passages on all nodes, in blocks: the rows of `numbers`, and their probabilities.

    Args:
        sharpness: factor of the sharp reading.
    """
    depth = index.layout.depth
    block = max(1, SHARP_BLOCK // Tree(depth).nodes)
    for start in range(0, len(numbers), block):
        rows = slice(start, min(start + block, len(numbers)))
        yield rows, _sharpen_rows(index.read_probabilities(numbers[rows], depth), sharpness)


def _sharpen_rows(leaves: np.ndarray, sharpness: float) -> np.ndarray:
    """As `sharpen` of the model, in numpy: a served bundle is read without torch."""
    finer = np.maximum(leaves.astype(np.float32), LEAST_PROBABILITY)
    scores: list[np.ndarray] = []
    while finer.shape[1] > 1:
        left, right = finer[:, 0::2], finer[:, 1::2]
        scores.insert(0, np.log(left) - np.log(right))
        finer = left + right
    nodes = [np.ones((len(leaves), 1), np.float32)]
    for level in scores:
        left = nodes[-1] / (1 + np.exp(np.minimum(-np.float32(sharpness) * level, MAX_EXPONENT)))
        nodes.append(np.stack([left, nodes[-1] - left], axis=2).reshape(len(leaves), -1))
    return np.concatenate(nodes, axis=1)


def _explain_nothing(tree: Tree) -> Explanation:
    none = np.empty((tree.nodes, 0))
    words: list[list[str]] = [[] for _ in range(tree.nodes)]
    return Explanation(words, np.zeros(tree.nodes), none.astype(np.int64), none.astype(np.float32), 0, 0, 1.0)


def _sample_numbers(numbers: np.ndarray, seed: int) -> np.ndarray:
    if len(numbers) <= EXPLANATION_SAMPLE:
        return numbers
    return np.sort(np.random.default_rng(seed).choice(numbers, EXPLANATION_SAMPLE, replace=False))


def _fit_sharpness(index: TreeIndex, numbers: np.ndarray, effective: float) -> float:
    """The factor at which the average passage has so many effective nodes at the level where they are counted."""
    import torch

    from retreever.model.sharp_reading import find_sharpness

    depth = index.layout.depth
    level = min(depth, SHARPNESS_LEVEL)
    block = max(1, SHARP_BLOCK // 2**depth)
    starts = range(0, len(numbers), block)
    # Sums of leaves, since the sharp reading makes its branches of them, whatever else an index stores.
    parts = (index.read_probabilities(numbers[i : i + block], depth) for i in starts)
    nodes = np.concatenate([part.reshape(len(part), 2**level, -1).sum(axis=2) for part in parts])
    return find_sharpness(torch.from_numpy(nodes), effective)


def _add_up_levels(leaves: Float[np.ndarray, " leaves"]) -> Float[np.ndarray, " nodes"]:
    """Values of all nodes in heap order, each parent the sum of its children."""
    levels = [leaves]
    while len(levels[0]) > 1:
        levels.insert(0, levels[0][0::2] + levels[0][1::2])
    return np.concatenate(levels)


def _make_typicality(tree: Tree, counts: WordCounts, present: Any) -> tuple[Any, Any]:
    """Two sparse matrices whose product says how much the words of a passage are those of a node, in [0, 1].

    (passages, words) of equal weights, and (words, nodes) of the nodes' profiles.
    """
    from scipy.sparse import csc_matrix, csr_matrix, diags, hstack

    if present is None:
        return csr_matrix((0, 0), dtype=np.float32), csc_matrix((0, tree.nodes), dtype=np.float32)
    lengths = np.asarray(present.sum(axis=1)).reshape(-1)
    scaled = diags(1 / np.sqrt(np.maximum(lengths, SHORTEST_TEXT)).astype(np.float32)) @ present
    deeper = csc_matrix((present.shape[1], tree.nodes - counts.tree.nodes), dtype=np.float32)
    return scaled.tocsr(), hstack([make_node_profiles(counts), deeper], format="csc")


def _find_typical(
    index: TreeIndex, numbers: np.ndarray, sharpness: float, texts: list[str], typicality: tuple[Any, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the most typical passages of each node, and their probabilities on it, both (nodes, examples).

    A passage is typical as far as the node holds it, times how much its words are the node's.
    """
    own, profiles = typicality
    empty = (0, Tree(index.layout.depth).nodes)
    best: np.ndarray = np.zeros(empty, np.int64)
    scores: np.ndarray = np.zeros(empty, np.float32)
    held: np.ndarray = np.zeros(empty, np.float32)
    for rows, nodes in read_stored_sharply(index, numbers, sharpness):
        alike = (own[rows] @ profiles).toarray() if own.shape[1] else 0.0
        found = nodes * (alike + np.float32(WORDLESS_TYPICALITY))
        kept = np.argpartition(-found, min(CANDIDATE_EXAMPLES, len(found)) - 1, axis=0)[:CANDIDATE_EXAMPLES]
        best = np.concatenate([best, kept + rows.start])
        scores = np.concatenate([scores, np.take_along_axis(found, kept, axis=0)])
        held = np.concatenate([held, np.take_along_axis(nodes, kept, axis=0)])
        order = np.argsort(-scores, axis=0, kind="stable")[:CANDIDATE_EXAMPLES]
        best, scores, held = (np.take_along_axis(part, order, axis=0) for part in (best, scores, held))
    chosen = np.stack([_prefer_new_texts(column, texts) for column in best.T], axis=1)
    return np.take_along_axis(best, chosen, axis=0).T, np.take_along_axis(held, chosen, axis=0).T


def _prefer_new_texts(rows: np.ndarray, texts: list[str]) -> np.ndarray:
    """Places of a node's examples among its candidates: texts that begin differently first."""
    first: dict[str, int] = {}
    repeats = []
    for place, row in enumerate(rows.tolist()):
        if first.setdefault(texts[row][:SAME_BEGINNING], place) != place:
            repeats.append(place)
    return np.array([*first.values(), *repeats][:EXAMPLES_PER_NODE], np.int64)
