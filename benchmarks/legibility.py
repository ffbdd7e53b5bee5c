"""How well do a node's words describe it? Measured on passages that did not contribute the words.

    python -m benchmarks.legibility BUNDLE [LEVEL ...]

A fifth of the passages is held out. For every node they are ranked by the node's words that they contain. The figure is
the area under the ROC curve for finding the 2 % that are most probable on the node by the sharp reading, as a mean over
the nodes of a level: .5 is chance, 1 is perfect. No word is twice on a path, so a node is described by its path: `path`
counts the words of a node's ancestors too, half as much for each level up; `own` counts the node's words alone.
Baselines in the same run: words by correlation with the node alone, which repeat themselves down a path; c-TF-IDF (a
word's frequency in passages weighted by their probability on the node, times the logarithm of its rarity, as BERTopic
labels clusters); and the words of another node's path.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from retreever.bundle.nodes.node_explanation import EXPLANATION_SAMPLE, read_stored_sharply
from retreever.bundle.nodes.node_words import WORDS_PER_NODE, WordCounts, choose_node_words, extract_word_presence
from retreever.bundle.retriever import Retreever

HELD_OUT_SHARE, TOP_SHARE = 0.2, 0.02
ANCESTOR_WEIGHT = 0.5  # of a word, for each level between the node and the ancestor that has it


def main() -> None:
    """Print one line per level."""
    parser = argparse.ArgumentParser(description="Measure how well the words of nodes describe them.")
    parser.add_argument("bundle", type=Path, help="a bundle's folder")
    parser.add_argument("levels", type=int, nargs="*", help="levels to measure (default: all)")
    given = parser.parse_args()
    retreever = Retreever.load(given.bundle, encoder=False)
    index, documents, sharpness = retreever.index, retreever.documents, retreever.explanation.sharpness
    numbers = np.random.default_rng(0).permutation(index.list_numbers())[:EXPLANATION_SAMPLE]
    terms, present = extract_word_presence([documents[int(number)].full_text for number in numbers])
    cut = int(len(numbers) * HELD_OUT_SHARE)
    levels = given.levels or range(1, index.layout.depth + 1)
    deepest = min(max(levels) + 1, index.layout.depth)  # a node's words depend on its children
    counts, held_out = WordCounts(len(terms), deepest), []
    for rows, nodes in read_stored_sharply(index, numbers[cut:], sharpness):
        counts.add(present[cut:][rows], nodes)
    for _, nodes in read_stored_sharply(index, numbers[:cut], sharpness):
        held_out.append(nodes[:, : counts.tree.nodes])
    words, nodes = choose_node_words(terms, counts), np.concatenate(held_out)
    read = f"{len(numbers) - cut:,} passages read, {cut:,} held out"
    print(f"{read}, at most {WORDS_PER_NODE} words a node, sharpness {sharpness:.1f}")
    print("level   path    own  correlation  c-TF-IDF  another node's path")
    for level in levels:
        span = range(2**level - 1, 2 ** (level + 1) - 1)
        paths = [weigh_path(words, node) for node in span]
        others = paths[len(paths) // 2 :] + paths[: len(paths) // 2]
        own, alike, frequent = (
            [dict.fromkeys(chosen, 1.0) for chosen in kind]
            for kind in (
                [words[node] for node in span],
                rank_words_by_correlation(terms, counts, level),
                rank_words_by_tf_idf(terms, counts, level),
            )
        )
        columns = nodes[:, span.start : span.stop]
        a, b, c, d, e = (
            measure_mean_auc(terms, present[:cut], kind, columns) for kind in (paths, own, alike, frequent, others)
        )
        print(f"{level:5d}  {a:5.3f}  {b:5.3f}  {c:11.3f}  {d:8.3f}  {e:19.3f}", flush=True)


def weigh_path(words: list[list[str]], node: int) -> dict[str, float]:
    """The words on a node's path with their weights."""
    weights, weight = {}, 1.0
    while node:
        weights |= dict.fromkeys(words[node], weight)
        node, weight = (node - 1) // 2, weight * ANCESTOR_WEIGHT
    return weights


def rank_words_by_correlation(terms: np.ndarray, counts: WordCounts, level: int) -> list[list[str]]:
    """Choose the words of each node by their correlation with it."""
    correlations = counts.correlate(counts.read_level(level), counts.tree.level(level))
    return [terms[column].tolist() for column in np.argsort(-correlations, axis=0)[:WORDS_PER_NODE].T]


def rank_words_by_tf_idf(terms: np.ndarray, counts: WordCounts, level: int) -> list[list[str]]:
    """Choose the words of each node by c-TF-IDF."""
    found = counts.read_level(level)
    every = found.sum(axis=1, keepdims=True)
    shares = found / np.maximum(found.sum(axis=0), 1e-9)
    scores = shares * np.log(1 + found.sum() / found.shape[1] / np.maximum(every, 1e-9))
    return [terms[column].tolist() for column in np.argsort(-scores, axis=0)[:WORDS_PER_NODE].T]


def measure_mean_auc(terms, present, weights: list[dict[str, float]], probabilities: np.ndarray) -> float:
    """Compute the mean over nodes of the area under the ROC curve."""
    place = {term: i for i, term in enumerate(terms.tolist())}
    columns, areas = present.tocsc(), []
    for node, chosen in enumerate(weights):
        column = probabilities[:, node]
        top = column >= np.partition(column, -int(TOP_SHARE * len(column)))[-int(TOP_SHARE * len(column))]
        found = columns[:, [place[word] for word in chosen]] @ np.array(list(chosen.values()), np.float32)
        areas.append(roc_auc_score(top, np.asarray(found).reshape(-1)))
    return float(np.mean(areas))


if __name__ == "__main__":
    main()
