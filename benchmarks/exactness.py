"""Does certified search ever differ from a full sort? What do float16 and compact codes cost?

    python -m benchmarks.exactness                    # synthetic indexes alone
    python -m benchmarks.exactness MODEL              # and the corpus of a run's or folder's model; NDCG@10 at the end

Each query asks for the 1, 10 and 100 best passages at a random level, of an index that has just grown and shrunk by
random numbers of passages. The baseline is a sort of all similarities in float32: every answer must hold the same
passages in the same order with the same scores, to the bit. The indexes differ in similarity, stored type, hierarchy
and distribution of passages: around centres, unstructured, alone on a leaf, many duplicates; and the model's corpus.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.synthetic_corpus import SyntheticCorpus
from retreever.encoding.encoding_store import EncodedDataset, open_encoded_dataset
from retreever.evaluation.metrics import evaluate_rankings, group_judgements
from retreever.index import Layout, TreeIndex
from retreever.index.search.certified_search import score_segment
from retreever.model.tree import Tree
from retreever.system.workspace import Workspace
from retreever.tracking.model_registry import locate_model

RESULT_SIZES = (1, 10, 100)
CHANGE_ROUNDS = 5  # times that an index grows and shrinks
DEPTH, ROWS = 7, 5_000  # of synthetic indexes
MAX_CHANGED_SHARE = 0.2  # of an index, added or deleted in a round
NodeGenerator = Callable[[int, int], np.ndarray]


@dataclass
class Tally:
    """Counts of queries, answers and differing answers; differences also by index."""

    queries: int = 0
    answers: int = 0
    differences: int = 0
    by_index: dict[str, int] = field(default_factory=dict)


def add_upper_levels(leaves: np.ndarray) -> np.ndarray:
    """Add all levels above leaf probabilities, in heap order."""
    levels = [leaves]
    while levels[0].shape[1] > 1:
        levels.insert(0, levels[0][:, ::2] + levels[0][:, 1::2])
    return np.concatenate(levels, axis=1).astype(np.float32)


def draw_around_centres(rows: int, seed: int) -> np.ndarray:
    """Draw leaf probabilities around twelve centres."""
    draw, middle = np.random.default_rng(seed), np.random.default_rng(99).standard_normal((12, 2**DEPTH))
    leaves = np.exp(middle[draw.integers(12, size=rows)] + 0.6 * draw.standard_normal((rows, 2**DEPTH)))
    return add_upper_levels(leaves / leaves.sum(axis=1, keepdims=True))


def draw_unstructured(rows: int, seed: int) -> np.ndarray:
    """Draw leaf probabilities without any structure."""
    leaves = np.random.default_rng(seed).gamma(0.3, size=(rows, 2**DEPTH)) + 1e-9
    return add_upper_levels(leaves / leaves.sum(axis=1, keepdims=True))


def draw_on_leaves(rows: int, seed: int) -> np.ndarray:
    """Draw passages with all mass on one leaf or on two."""
    draw, leaves = np.random.default_rng(seed), np.zeros((rows, 2**DEPTH), np.float32)
    for _ in range(2):
        leaves[np.arange(rows), draw.integers(2**DEPTH, size=rows)] += 0.5
    return add_upper_levels(leaves)


def draw_duplicates(rows: int, seed: int) -> np.ndarray:
    """Draw duplicates of forty passages."""
    return draw_around_centres(40, 7)[np.random.default_rng(seed).integers(40, size=rows)]


def break_hierarchy(generate: NodeGenerator) -> NodeGenerator:
    """Make a generator without an exact hierarchy: level 5 comes from another text."""

    def nodes(rows: int, seed: int) -> np.ndarray:
        own, other = generate(rows, seed), generate(rows, seed + 10_000)
        own[:, Tree(DEPTH).level(5)] = other[:, Tree(DEPTH).level(5)]
        return own

    return nodes


def check_index(
    name: str, index: TreeIndex, generate: NodeGenerator, queries: int, tally: Tally, seed: int = 0
) -> None:
    """Search an index between changes; `generate` draws both passages and queries."""
    draw = np.random.default_rng(seed)
    before = tally.differences
    for turn in range(CHANGE_ROUNDS):
        _change_index(index, generate, turn, draw)
        count = queries * (turn + 1) // CHANGE_ROUNDS - queries * turn // CHANGE_ROUNDS
        queries_of_round, levels = generate(count, 1_000 + turn), draw.integers(1, index.layout.depth + 1, size=count)
        for level in np.unique(levels):
            own = queries_of_round[levels == level]
            found = {k: index.search(own, k, int(level)) for k in RESULT_SIZES}
            for row, query in enumerate(own):
                numbers, scores = _sort_all(index, query, int(level), max(RESULT_SIZES))
                for k, (near, similar) in found.items():
                    same = np.array_equal(near[row], numbers[:k]) and np.array_equal(similar[row], scores[:k])
                    tally.answers += 1
                    tally.differences += not same
        tally.queries += count
    tally.by_index[name] = tally.differences - before


def _change_index(index: TreeIndex, generate: NodeGenerator, turn: int, draw: np.random.Generator) -> None:
    several = int(draw.integers(1, int(MAX_CHANGED_SHARE * len(index))))
    index.delete(draw.choice(index.ids, several, replace=False).tolist())
    more = int(draw.integers(1, int(MAX_CHANGED_SHARE * len(index))))
    index.add(generate(more, 100 + turn), [f"t{turn}-{i}" for i in draw.permutation(more)])


def _sort_all(index: TreeIndex, query: np.ndarray, level: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and scores of the k best by all similarities, ties by id."""
    vector = index.layout.to_stored_form(query[None, Tree(index.layout.depth).level(level)])[0]
    scores = np.concatenate([score_segment(vector, level, segment, index.layout) for segment in index.segments])
    numbers = np.concatenate([segment.numbers for segment in index.segments])
    alive = np.isin(numbers, index.list_numbers())
    scores, numbers = scores[alive], numbers[alive]
    near = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
    ids = index.find_ids(numbers[near])
    order = near[sorted(range(len(near)), key=lambda i: (-scores[near[i]], ids[i]))[:k]]
    return numbers[order], scores[order]


def check_synthetic_indexes(queries: int, tally: Tally) -> None:
    """Check synthetic indexes of every kind."""
    kinds: list[tuple[str, NodeGenerator, Any, Any, bool]] = []
    generate: NodeGenerator
    for similarity in ("ntvd", "bhattacharyya"):
        for generate in (draw_around_centres, draw_unstructured, draw_on_leaves, draw_duplicates):
            kinds.append((f"{similarity}, float16, {generate.__name__}", generate, similarity, "float16", True))
        kinds.append((f"{similarity}, float32, around_centres", draw_around_centres, similarity, "float32", True))
        kinds.append(
            (f"{similarity}, no hierarchy", break_hierarchy(draw_around_centres), similarity, "float16", False)
        )
    for number, (name, generate, similarity, dtype, hierarchy) in enumerate(kinds):
        layout = Layout(DEPTH, similarity, hierarchy, "synthetic", dtype)
        index = TreeIndex.build([generate(ROWS, 0)], [f"d{i}" for i in range(ROWS)], layout)
        count = queries * (number + 1) // len(kinds) - queries * number // len(kinds)
        check_index(name, index, generate, count, tally, seed=number)


def check_real_index(corpus: SyntheticCorpus, queries: int, tally: Tally) -> None:
    """Check an index of the model's corpus; added passages and queries are mixtures of three of its passages."""

    def generate(rows: int, seed: int) -> np.ndarray:
        return corpus.route(np.concatenate(list(corpus.generate(rows, 0.5, seed))))

    routed = corpus.route(corpus.passages)
    index = TreeIndex.build([routed], [f"d{i}" for i in range(len(routed))], corpus.layout)
    check_index("the model's corpus", index, generate, queries, tally)


def measure_stored_types(corpus: SyntheticCorpus, data: EncodedDataset) -> dict[str, dict[str, float]]:
    """Compare stored types: NDCG@10 of all test queries at the last level, and the overlap with float32's best 10."""
    rows, relevant = group_judgements(data.dataset.qrels["test"])
    encoded_queries, passages = corpus.route(np.array(data.queries.pooled[rows])), corpus.route(corpus.passages)
    ids = [f"d{i:08d}" for i in range(len(passages))]
    kinds: dict[str, dict[str, Any]] = {
        "float32": {"dtype": "float32"},
        "float16": {"dtype": "float16"},
        "compact": {"compact": True},
    }
    figures, exact = {}, np.empty((0, 10), np.int64)
    for name, kind in kinds.items():
        index = TreeIndex.build([passages], ids, replace(corpus.layout, **kind))
        found = index.search(encoded_queries, 10)[0]
        exact = found if name == "float32" else exact
        overlap = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), exact.tolist(), strict=True)])
        size = index.stats()["bytes_per_document"]
        ndcg = evaluate_rankings(found, relevant)["ndcg_at_10"]
        figures[name] = {"ndcg_at_10": ndcg, "of_the_best_10": float(overlap), "bytes_per_document": size}
    return figures


def main(
    model: Annotated[
        str, typer.Argument(help="a run's name or a model's folder; without one, synthetic indexes alone")
    ] = "",
    queries: Annotated[int, typer.Option(help="random queries, half of them on the model's corpus")] = 10_000,
) -> None:
    """Print one JSON object; exit with an error if an answer differs."""
    tally, result = Tally(), {}
    check_synthetic_indexes(queries // 2 if model else queries, tally)
    if model:
        workspace = Workspace.default()
        corpus = SyntheticCorpus.open(locate_model(model, workspace), workspace, queries=1)
        check_real_index(corpus, queries - queries // 2, tally)
        result["stored"] = measure_stored_types(corpus, open_encoded_dataset(corpus.config, workspace))
    print(json.dumps(asdict(tally) | result, indent=2))
    if tally.differences:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
