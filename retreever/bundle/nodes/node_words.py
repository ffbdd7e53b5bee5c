"""The words of nodes (ours): what sets a node apart from the corpus and from its sibling, and what its children share.

    score(w, t) = c(w, t) * sqrt(l(w, t) * h(w, t))

    c   Pearson's correlation, over passages, of the presence of word w with the probability of node t
    l   (f(w, t) - f(w, s)) / (f(w, t) + f(w, s)): how much more frequent the word is on t than on its sibling s
    h   2 min(f(w, a), f(w, b)) / (f(w, a) + f(w, b)): how evenly the children a, b of t share it; 1 for a leaf

f is the share of a node's passages that have the word. The correlation rises with precision and with recall, so neither
a rare word nor one of all passages is chosen. A word that is clearly more a child's than the node's is left to the
child, and a word that an ancestor has is not repeated: a path is read from the root. Forms of a word (edge, edges;
read, reading) count as one word, shown in its most frequent form.

Not known here: what words mean, where probabilities come from, and texts without spaces between words.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from retreever.model.tree import Tree

WORDS_PER_NODE = 8  # at most
CANDIDATE_WORDS = 48  # words of a node considered; some are forms of others
PROFILE_WORDS = 24  # words that make a node's profile, at most
VOCABULARY_SIZE = 10_000  # words considered: the most frequent ones
MIN_PASSAGES_PER_WORD = 3  # passages that must contain a word
MIN_WORD_SHARE = 0.02  # of a node's passages that must have a word of it
WORD_PATTERN = r"(?u)\b[^\W\d_]\w{2,29}\b"  # from 3 to 30 characters, the first a letter
SMALLEST_CORRELATION_RATIO = 0.75  # of a node to its child; where one child has all, it is below sqrt(1/2)
NO_PLURALS = ("lens", "news")  # words on -s whose shorter form is another word
CLEAR_STANDARD_ERRORS = 4.5  # threshold of a correlation; 0.03 of 10,000 meaningless words would reach it by chance
PRIOR_PASSAGES = 20  # passages of the corpus that a node is joined with before it is compared with its sibling
DEEPEST_WORD_LEVEL = 12  # nodes below hold too few of the passages read to have words
NODE_BLOCK = 256  # nodes scored at a time


class WordCounts:
    """How often words and nodes go together, counted over passages; counts of a parent are the sum of its children's.

    Args:
        words: size of the vocabulary.
        level: the finest level counted.
    """

    def __init__(self, words: int, level: int):
        self.tree, self.passages = Tree(level), 0
        self.present = np.zeros(words)
        self.sizes, self.squares = np.zeros(self.tree.nodes), np.zeros(self.tree.nodes)
        self._leaves = np.zeros((words, self.tree.leaves), np.float32)

    def add(self, present: Any, nodes: Float[np.ndarray, "passages nodes"]) -> None:
        """Count passages.

        Args:
            present: sparse (passages, words) of zeros and ones.
            nodes: probabilities of all nodes in heap order, parents the sums of their children; deeper ones are
                ignored.
        """
        nodes = nodes[:, : self.tree.nodes]
        self.passages += len(nodes)
        self.present += np.asarray(present.sum(axis=0)).reshape(-1)
        self.sizes += nodes.sum(axis=0, dtype=np.float64)
        self.squares += np.einsum("pn,pn->n", nodes, nodes)
        self._leaves += present.T @ nodes[:, self.tree.level(self.tree.depth)]

    def read_level(self, level: int) -> Float[np.ndarray, "words nodes"]:
        """Sums, over the passages that have a word, of their probabilities on a node."""
        counts: np.ndarray = self._leaves.reshape(len(self._leaves), 2**level, -1).sum(axis=2)
        return counts

    def correlate(self, counts: Float[np.ndarray, "words nodes"], nodes: slice) -> Float[np.ndarray, "words nodes"]:
        """Pearson's correlation of a word's presence with a node's probability; 0 where one of both is constant.

        Args:
            counts: of the nodes in the slice, from `read_level`.
        """
        share, mean = self.present / self.passages, self.sizes[nodes] / self.passages
        deviation = np.sqrt(np.maximum(self.squares[nodes] / self.passages - mean**2, 0))
        covariance = counts / self.passages - np.outer(share, mean)
        spread = np.outer(np.sqrt(share * (1 - share)), deviation)
        return np.divide(covariance, spread, out=np.zeros_like(covariance), where=spread > 1e-12)


def extract_word_presence(texts: list[str]) -> tuple[np.ndarray, Any]:
    """The vocabulary without English stop words, and its presence: sparse float32 (texts, words) of zeros and ones.

    A word stands for all its forms, and is the most frequent one. The presence is None where the texts have no words.
    """
    from sklearn.feature_extraction.text import CountVectorizer  # slow to import

    counter = CountVectorizer(
        stop_words="english", token_pattern=WORD_PATTERN, binary=True, max_features=VOCABULARY_SIZE, dtype=np.float32
    )
    try:
        present = counter.fit_transform(texts)
    except ValueError:  # there is no word
        return np.empty(0, object), None
    terms, present = _join_word_forms(counter.get_feature_names_out(), present)
    frequent = np.flatnonzero(np.asarray(present.sum(axis=0)).reshape(-1) >= min(MIN_PASSAGES_PER_WORD, len(texts)))
    return terms[frequent], present[:, frequent].tocsr() if len(frequent) else None


def _join_word_forms(terms: np.ndarray, present: Any) -> tuple[np.ndarray, Any]:
    """One column for all forms of a word, under the name of the most frequent one."""
    from scipy.sparse import csr_matrix

    counts, known = np.asarray(present.sum(axis=0)).reshape(-1), set(terms.tolist())
    groups: dict[str, list[int]] = defaultdict(list)
    for column, term in enumerate(terms.tolist()):
        groups[find_base_form(term, known)].append(column)
    columns = np.concatenate([np.array(group) for group in groups.values()])
    owners = np.repeat(np.arange(len(groups)), [len(group) for group in groups.values()])
    join = csr_matrix((np.ones(len(columns), np.float32), (columns, owners)), shape=(len(terms), len(groups)))
    joined = present @ join
    joined.data[:] = 1
    names = [terms[max(group, key=lambda column: counts[column])] for group in groups.values()]
    return np.array(names, object), joined


def find_base_form(word: str, known: set[str]) -> str:
    """The shortest known word that `word` is a regular English form of: plural, -ed or -ing; else `word` itself.

    >>> [find_base_form(word, {"edge", "query", "parse", "read"}) for word in ("edges", "queries", "parsing", "reads")]
    ['edge', 'query', 'parse', 'read']
    >>> find_base_form("string", {"str", "read"})
    'string'
    """
    for base in _guess_base_forms(word):
        if base in known:
            return find_base_form(base, known)
    return word


def _guess_base_forms(word: str) -> Iterator[str]:
    if word.endswith("s") and not word.endswith("ss") and word not in NO_PLURALS and len(word) > 3:
        yield from (word[:-3] + "y",) if word.endswith("ies") else ()
        yield word[:-1]
        yield from (word[:-2],) if word.endswith(("ches", "shes", "sses", "xes", "zes")) else ()
    for ending in ("ing", "ed"):
        stem = word.removesuffix(ending)
        if stem != word and len(stem) > 3:
            yield stem + "e"
            yield stem
            yield from (stem[:-1],) if stem[-1] == stem[-2] and len(stem) > 4 else ()


def choose_node_words(terms: np.ndarray, counts: WordCounts) -> list[list[str]]:
    """Words of every node that was counted, in heap order, the best first; the root has none.

    Args:
        terms: the vocabulary, in the order of the counts.
    """
    words: list[list[str]] = [[]]
    on_path: list[list[str]] = [[]]  # words of a node and of its ancestors
    for level in range(1, counts.tree.depth + 1):
        for nodes, scores in _score_level(counts, level):
            for node, column in zip(range(nodes.start, nodes.stop), scores.T, strict=True):
                above = on_path[(node - 1) // 2]
                words.append(_pick_words(terms, column, above))
                on_path.append(above + words[-1])
    return words


def _pick_words(terms: np.ndarray, scores: np.ndarray, taken: list[str]) -> list[str]:
    """The words with the highest scores above zero that are no forms of each other or of those taken."""
    positive = np.flatnonzero(scores > 0)
    best = positive[np.argsort(-scores[positive], kind="stable")[: CANDIDATE_WORDS + len(taken)]]
    chosen: list[str] = []
    beginnings = {word[:3] for word in taken}  # forms of a word share them, and most words do not
    for word in terms[best].tolist():
        if len(chosen) == WORDS_PER_NODE:
            break
        if word[:3] not in beginnings or not any(are_word_forms(word, other) for other in (*chosen, *taken)):
            chosen.append(word)
            beginnings.add(word[:3])
    return chosen


def are_word_forms(a: str, b: str) -> bool:
    """Whether two words are the same but for up to two letters at the end of one.

    >>> are_word_forms("node", "nodes"), are_word_forms("art", "article"), are_word_forms("ar", "art")
    (True, False, False)
    """
    short, long = sorted((a, b), key=len)
    return a == b or (len(short) > 2 and len(long) - len(short) <= 2 and long.startswith(short))


def make_node_profiles(counts: WordCounts) -> Any:
    """The profile of every node that was counted: sparse (words, nodes), correlations of its clearest words.

    Words of ancestors are included. Columns have length one, or zero where no word is clear.
    """
    from scipy.sparse import csc_matrix, hstack

    columns = [csc_matrix((len(counts.present), 1), dtype=np.float32)]
    for level in range(1, counts.tree.depth + 1):
        for nodes, finest in _iterate_blocks(counts, level):
            correlations = _correlate_clearly(counts, finest, nodes)
            kept = min(PROFILE_WORDS, len(correlations))
            smallest = -np.partition(-correlations, kept - 1, axis=0)[kept - 1]
            profile = np.where(correlations >= smallest, correlations, 0)
            length = np.sqrt((profile**2).sum(axis=0))
            columns.append(csc_matrix(np.divide(profile, length, out=profile, where=length > 0), dtype=np.float32))
    return hstack(columns, format="csc")


def _iterate_blocks(counts: WordCounts, level: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Nodes of a level in blocks of whole pairs of siblings, as slices of the heap, and their counts."""
    first, counted = counts.tree.level(level).start, counts.read_level(level)
    for start in range(0, 2**level, NODE_BLOCK):
        block = counted[:, start : start + NODE_BLOCK]
        yield slice(first + start, first + start + block.shape[1]), block


def _correlate_clearly(counts: WordCounts, counted: np.ndarray, nodes: slice) -> np.ndarray:
    """Correlations that are clearly above zero; the others are zero."""
    correlations = counts.correlate(counted, nodes)
    return np.where(correlations > CLEAR_STANDARD_ERRORS / np.sqrt(counts.passages), correlations, 0)


def _score_level(counts: WordCounts, level: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Scores of all words for the nodes of a level, in blocks: a slice of the heap, and (words, nodes)."""
    below = counts.read_level(level + 1) if level < counts.tree.depth else None
    first = counts.tree.level(level).start
    for nodes, counted in _iterate_blocks(counts, level):
        clear = _correlate_clearly(counts, counted, nodes)
        clear[_divide_by_size(counts, counted, nodes) < MIN_WORD_SHARE] = 0
        lift = _compare_siblings(counts, counted, nodes)
        if below is not None:
            children = slice(2 * nodes.start + 1, 2 * nodes.stop + 1)
            columns = below[:, 2 * (nodes.start - first) : 2 * (nodes.stop - first)]
            lift *= _compare_children(_divide_by_size(counts, columns, children))
            correlations = counts.correlate(columns, children)
            best = np.maximum(correlations[:, 0::2], correlations[:, 1::2])
            clear[clear < SMALLEST_CORRELATION_RATIO * best] = 0
        yield nodes, clear * np.sqrt(lift)


def _divide_by_size(counts: WordCounts, counted: np.ndarray, nodes: slice) -> Float[np.ndarray, "words nodes"]:
    """The share of each node's passages that have a word."""
    shares: np.ndarray = counted / np.maximum(counts.sizes[nodes], 1e-9)
    return shares


def _compare_siblings(counts: WordCounts, counted: np.ndarray, nodes: slice) -> np.ndarray:
    """How much more frequent a word is on a node than on its sibling, in [0, 1]; few passages say little."""
    prior = PRIOR_PASSAGES * (counts.present / counts.passages)[:, None]
    own = (counted + prior) / (counts.sizes[nodes] + PRIOR_PASSAGES)
    other = own.reshape(len(own), -1, 2)[:, :, ::-1].reshape(own.shape)
    lift: np.ndarray = ((own - other) / np.maximum(own + other, 1e-9)).clip(min=0)
    return lift


def _compare_children(shares: Float[np.ndarray, "words children"]) -> Float[np.ndarray, "words nodes"]:
    """How evenly the two children of each node share a word, in [0, 1]."""
    left, right = shares[:, 0::2], shares[:, 1::2]
    even: np.ndarray = 2 * np.minimum(left, right) / np.maximum(left + right, 1e-9)
    return even
