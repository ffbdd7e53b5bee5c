"""Does certified search ever differ from comparing everything? And what do stored halves and compact codes cost?

    python -m benchmarks.exactness                    # made indexes alone
    python -m benchmarks.exactness MODEL              # and the corpus of a run's or folder's model; NDCG@10 at the end

Every query is asked at a random level for the 1, 10 and 100 best, of indexes that have just grown and shrunk by random
numbers of passages, and every answer compared with a sort of all similarities in float32: the same passages in the same
order with the same scores to the bit. The indexes differ in similarity, stored type, hierarchy, and in how their
passages lie: around centres, anywhere, alone on a leaf, equal by the dozen; and the model's.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.synthetic_corpus import Corpus
from retreever.encoding.encoding_store import EncodedDataset, open_dataset
from retreever.evaluation.metrics import evaluate, relevance
from retreever.index import Layout, TreeIndex
from retreever.index.search.certified_search import every_score
from retreever.model.tree import Tree
from retreever.system.workspace import Workspace
from retreever.tracking.model_registry import locate

SIZES = (1, 10, 100)
TURNS = 5  # times that an index grows and shrinks
DEPTH, ROWS = 7, 5_000  # of made indexes
CHANGED = 0.2  # at most so much of an index comes or goes in a turn
Made = Callable[[int, int], np.ndarray]


@dataclass
class Tally:
    """What was compared, by index."""

    queries: int = 0
    answers: int = 0
    differences: int = 0
    by_index: dict[str, int] = field(default_factory=dict)


def full(leaves: np.ndarray) -> np.ndarray:
    """Leaf probabilities with all levels above them, in heap order."""
    levels = [leaves]
    while levels[0].shape[1] > 1:
        levels.insert(0, levels[0][:, ::2] + levels[0][:, 1::2])
    return np.concatenate(levels, axis=1).astype(np.float32)


def around_centres(rows: int, seed: int) -> np.ndarray:
    """Leaf probabilities that lie around twelve centres."""
    draw, middle = np.random.default_rng(seed), np.random.default_rng(99).standard_normal((12, 2**DEPTH))
    leaves = np.exp(middle[draw.integers(12, size=rows)] + 0.6 * draw.standard_normal((rows, 2**DEPTH)))
    return full(leaves / leaves.sum(axis=1, keepdims=True))


def anywhere(rows: int, seed: int) -> np.ndarray:
    """Leaf probabilities without any structure."""
    leaves = np.random.default_rng(seed).gamma(0.3, size=(rows, 2**DEPTH)) + 1e-9
    return full(leaves / leaves.sum(axis=1, keepdims=True))


def on_leaves(rows: int, seed: int) -> np.ndarray:
    """All on one leaf, or on two."""
    draw, leaves = np.random.default_rng(seed), np.zeros((rows, 2**DEPTH), np.float32)
    for _ in range(2):
        leaves[np.arange(rows), draw.integers(2**DEPTH, size=rows)] += 0.5
    return full(leaves)


def equal(rows: int, seed: int) -> np.ndarray:
    """Forty different ones, again and again."""
    return around_centres(40, 7)[np.random.default_rng(seed).integers(40, size=rows)]


def broken(made: Made) -> Made:
    """Without a hierarchy: level 5 is another text's."""

    def nodes(rows: int, seed: int) -> np.ndarray:
        own, other = made(rows, seed), made(rows, seed + 10_000)
        own[:, Tree(DEPTH).level(5)] = other[:, Tree(DEPTH).level(5)]
        return own

    return nodes


def compare(name: str, index: TreeIndex, made: Made, queries: int, tally: Tally, seed: int = 0) -> None:
    """Ask an index between changes; passages and queries come from `made`."""
    draw = np.random.default_rng(seed)
    before = tally.differences
    for turn in range(TURNS):
        _change(index, made, turn, draw)
        count = queries * (turn + 1) // TURNS - queries * turn // TURNS
        asked, levels = made(count, 1_000 + turn), draw.integers(1, index.layout.depth + 1, size=count)
        for level in np.unique(levels):
            own = asked[levels == level]
            found = {k: index.search(own, k, int(level)) for k in SIZES}
            for row, query in enumerate(own):
                numbers, scores = _sorted(index, query, int(level), max(SIZES))
                for k, (near, similar) in found.items():
                    same = np.array_equal(near[row], numbers[:k]) and np.array_equal(similar[row], scores[:k])
                    tally.answers += 1
                    tally.differences += not same
        tally.queries += count
    tally.by_index[name] = tally.differences - before


def _change(index: TreeIndex, made: Made, turn: int, draw: np.random.Generator) -> None:
    several = int(draw.integers(1, int(CHANGED * len(index))))
    index.delete(draw.choice(index.ids, several, replace=False).tolist())
    more = int(draw.integers(1, int(CHANGED * len(index))))
    index.add(made(more, 100 + turn), [f"t{turn}-{i}" for i in draw.permutation(more)])


def _sorted(index: TreeIndex, query: np.ndarray, level: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and scores of the best by every similarity, ties by id."""
    vector = index.layout.form(query[None, Tree(index.layout.depth).level(level)])[0]
    scores = np.concatenate([every_score(vector, level, segment, index.layout) for segment in index.segments])
    numbers = np.concatenate([segment.numbers for segment in index.segments])
    alive = np.isin(numbers, index.living())
    scores, numbers = scores[alive], numbers[alive]
    near = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
    ids = index.ids_of(numbers[near])
    order = near[sorted(range(len(near)), key=lambda i: (-scores[near[i]], ids[i]))[:k]]
    return numbers[order], scores[order]


def made_indexes(queries: int, tally: Tally) -> None:
    """Indexes of every kind."""
    kinds: list[tuple[str, Made, Any, Any, bool]] = []
    for similarity in ("ntvd", "bhattacharyya"):
        for made in (around_centres, anywhere, on_leaves, equal):
            kinds.append((f"{similarity}, float16, {made.__name__}", made, similarity, "float16", True))
        kinds.append((f"{similarity}, float32, around_centres", around_centres, similarity, "float32", True))
        kinds.append((f"{similarity}, no hierarchy", broken(around_centres), similarity, "float16", False))
    for number, (name, made, similarity, dtype, hierarchy) in enumerate(kinds):
        layout = Layout(DEPTH, similarity, hierarchy, "made", dtype)
        index = TreeIndex.build([made(ROWS, 0)], [f"d{i}" for i in range(ROWS)], layout)
        count = queries * (number + 1) // len(kinds) - queries * number // len(kinds)
        compare(name, index, made, count, tally, seed=number)


def real_index(corpus: Corpus, queries: int, tally: Tally) -> None:
    """The model's corpus; what comes, and who asks, are mixtures of three of its passages."""

    def made(rows: int, seed: int) -> np.ndarray:
        return corpus.routed(np.concatenate(list(corpus.made(rows, 0.5, seed))))

    routed = corpus.routed(corpus.passages)
    index = TreeIndex.build([routed], [f"d{i}" for i in range(len(routed))], corpus.layout)
    compare("the model's corpus", index, made, queries, tally)


def stored(corpus: Corpus, data: EncodedDataset) -> dict[str, dict[str, float]]:
    """By how passages are stored: NDCG@10 of all test queries at the last level, and how many of float32's best 10."""
    rows, relevant = relevance(data.dataset.qrels["test"])
    asked, passages = corpus.routed(np.array(data.queries.pooled[rows])), corpus.routed(corpus.passages)
    ids = [f"d{i:08d}" for i in range(len(passages))]
    kinds: dict[str, dict[str, Any]] = {
        "float32": {"dtype": "float32"},
        "float16": {"dtype": "float16"},
        "compact": {"compact": True},
    }
    figures, exact = {}, np.empty(0)
    for name, kind in kinds.items():
        index = TreeIndex.build([passages], ids, replace(corpus.layout, **kind))
        found = index.search(asked, 10)[0]
        exact = found if name == "float32" else exact
        overlap = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), exact.tolist(), strict=True)])
        size = index.stats()["bytes_per_document"]
        ndcg = evaluate(found, relevant)["ndcg_at_10"]
        figures[name] = {"ndcg_at_10": ndcg, "of_the_best_10": float(overlap), "bytes_per_document": size}
    return figures


def main(
    model: Annotated[str, typer.Argument(help="a run's name or a model's folder; none: made indexes alone")] = "",
    queries: Annotated[int, typer.Option(help="random queries, half of them of the model's corpus")] = 10_000,
) -> None:
    """Print one JSON object; exit with an error where an answer differs."""
    tally, result = Tally(), {}
    made_indexes(queries // 2 if model else queries, tally)
    if model:
        workspace = Workspace.default()
        corpus = Corpus.open(locate(model, workspace), workspace, queries=1)
        real_index(corpus, queries - queries // 2, tally)
        result["stored"] = stored(corpus, open_dataset(corpus.config, workspace))
    print(json.dumps(asdict(tally) | result, indent=2))
    if tally.differences:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
