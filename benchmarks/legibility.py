"""How well do a node's words describe it? Measured on passages that did not contribute the words.

    python -m benchmarks.legibility BUNDLE [LEVEL ...]

A fifth of the passages is held out. For every node they are ranked by the number of the node's words that they contain.
The figure is the area under the ROC curve for finding the 2 % that are most probable on the node, as a mean over the
nodes of a level: .5 is chance, 1 is perfect. Baselines in the same run: c-TF-IDF (a word's frequency in passages
weighted by their probability on the node, times the logarithm of its rarity, as BERTopic labels clusters), and the
words of another node of the level.
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from retreever.bundle.document_store import DocumentStore
from retreever.bundle.node_explanation import (
    EXPLANATION_SAMPLE,
    WORDS_PER_NODE,
    choose_node_words,
    extract_word_presence,
)
from retreever.index.tree_index import TreeIndex

HELD_OUT_SHARE, TOP_SHARE = 0.2, 0.02


def main() -> None:
    """Print one line per level."""
    folder, *chosen = sys.argv[1:]
    index, documents = TreeIndex.load(Path(folder) / "index"), DocumentStore(Path(folder) / "documents")
    draw = np.random.default_rng(0)
    numbers = draw.permutation(index.list_numbers())[:EXPLANATION_SAMPLE]
    terms, present = extract_word_presence([documents[int(number)].full_text for number in numbers])
    cut = int(len(numbers) * HELD_OUT_SHARE)
    print(f"{len(numbers) - cut:,} passages read, {cut:,} held out, {WORDS_PER_NODE} words per node")
    print("level  correlation  c-TF-IDF  ratio  another node's words")
    for level in map(int, chosen) if chosen else range(1, index.layout.depth + 1):
        probabilities = index.read_probabilities(numbers, level)
        ours = choose_node_words(terms, present[cut:], probabilities[cut:])
        theirs = rank_words_by_tf_idf(terms, present[cut:], probabilities[cut:])
        other = ours[len(ours) // 2 :] + ours[: len(ours) // 2]
        a, b, chance = (
            measure_mean_auc(terms, present[:cut], words, probabilities[:cut]) for words in (ours, theirs, other)
        )
        print(f"{level:5d}  {a:11.3f}  {b:8.3f}  {a / b:5.2f}  {chance:20.3f}", flush=True)


def rank_words_by_tf_idf(terms, present, probabilities):
    """Choose the words of each node by c-TF-IDF."""
    counts = np.asarray(present.T @ probabilities)
    every = counts.sum(axis=1, keepdims=True)
    scores = counts / counts.sum(axis=0) * np.log(1 + counts.sum() / counts.shape[1] / np.maximum(every, 1e-9))
    return [terms[column].tolist() for column in np.argsort(-scores, axis=0)[:WORDS_PER_NODE].T]


def measure_mean_auc(terms, present, words, probabilities):
    """Compute the mean over nodes of the area under the ROC curve."""
    place = {term: i for i, term in enumerate(terms.tolist())}
    areas = []
    for node, chosen in enumerate(words):
        column = probabilities[:, node]
        top = column >= np.partition(column, -int(TOP_SHARE * len(column)))[-int(TOP_SHARE * len(column))]
        has = np.asarray(present[:, [place[word] for word in chosen]].sum(axis=1)).reshape(-1)
        areas.append(roc_auc_score(top, has))
    return float(np.mean(areas))


if __name__ == "__main__":
    main()
