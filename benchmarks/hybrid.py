"""What does an exact hybrid search cost, against the tree alone and BM25 in full by bm25s?

    python -m benchmarks.hybrid MODEL                        # a run's name or a model's folder, after `make demo`
    python -m benchmarks.hybrid MODEL --documents 100000 --weights 1,2,4 --json

The corpus is synthetic, as in `benchmarks.search`; its texts are words of the passages that were mixed. Queries are the
real ones of the test split. All rows come from one run, single queries on one thread. The time of a hybrid search
includes making words of the query, as that of BM25 does. The first answers are compared with a sort of all sums.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.search_baselines import time_bm25
from benchmarks.synthetic_corpus import TOP_K, SyntheticCorpus, fit_mixture_weight
from benchmarks.synthetic_texts import generate_texts
from benchmarks.timing import Timing, log_step, time_search
from retreever.index import Hybrid, LexicalSettings, TreeIndex
from retreever.index.lexical.hybrid_query import weigh_query_words
from retreever.index.search.certified_search import score_segment
from retreever.model.tree import Tree
from retreever.system import memory
from retreever.system.workspace import Workspace
from retreever.tracking.model_registry import locate_model

COMPARED_QUERIES = 10  # queries whose answers are compared with a sort of all sums
SETTINGS = LexicalSettings(k1=1.5, b=0.75, stopwords="en", stemmer=None)  # those of bm25s's own defaults


def build_hybrid_index(corpus: SyntheticCorpus, count: int, t: float, texts: list[str], folder: Path) -> TreeIndex:
    """Build an index of a synthetic corpus with its words, on disk."""
    chunks = (corpus.route(encodings) for encodings in corpus.generate(count, t))
    ids = [f"d{i:08d}" for i in range(count)]
    return TreeIndex.build(chunks, ids, corpus.layout, folder, texts=texts, lexical=SETTINGS)


def time_hybrid(index: TreeIndex, nodes: np.ndarray, texts: Sequence[str], weight: float, words_bytes: float) -> Timing:
    """Time hybrid search; queries are told by their rows."""

    def search(rows: np.ndarray) -> np.ndarray:
        own = rows[:, 0]
        hybrid = Hybrid([texts[row] for row in own], weight)
        return index.search(nodes[own], TOP_K, threads=1 if len(own) == 1 else None, hybrid=hybrid)[0]

    rows, hybrid = np.arange(len(nodes))[:, None], Hybrid(texts, weight)
    evidence = index.search(nodes, TOP_K, hybrid=hybrid, certify=True)[2]
    row = time_search(f"hybrid, weight {weight:g}", search, rows, None, len(index), words_bytes, float("nan"))
    return replace(row, surviving_share=float(np.mean([e.survived for e in evidence])) / len(index))


def time_tree(index: TreeIndex, nodes: np.ndarray, size: float) -> Timing:
    """Time the search without words."""
    evidence = index.search(nodes, TOP_K, certify=True)[2]
    row = time_search("tree alone", partial(_search_tree, index), nodes, None, len(index), size, float("nan"))
    return replace(row, surviving_share=float(np.mean([e.survived for e in evidence])) / len(index))


def _search_tree(index: TreeIndex, nodes: np.ndarray) -> np.ndarray:
    return index.search(nodes, TOP_K, threads=1 if len(nodes) == 1 else None)[0]


def count_differences(index: TreeIndex, nodes: np.ndarray, texts: Sequence[str], weight: float) -> int:
    """How many of the first answers differ from a sort of all sums of similarity and BM25."""
    own, hybrid = nodes[:COMPARED_QUERIES], Hybrid(texts[:COMPARED_QUERIES], weight)
    numbers, scores = index.search(own, TOP_K, hybrid=hybrid)
    depth, differences = index.layout.depth, 0
    sums = sum_scores(index, index.layout.to_stored_form(own[:, Tree(depth).level(depth)]), hybrid)
    for found, score, every in zip(numbers, scores, sums, strict=True):
        order = np.lexsort((np.arange(len(every)), -every))[:TOP_K]  # ids sort as numbers do here
        differences += not (np.array_equal(found, order) and np.array_equal(score, every[order]))
    return differences


def sum_scores(index: TreeIndex, vectors: np.ndarray, hybrid: Hybrid) -> Iterator[np.ndarray]:
    """The sums of all passages, one word after the other, for each query at the last level."""
    state, depth = index._state, index.layout.depth
    assert state.lexical is not None
    words = weigh_query_words(hybrid, depth, state.lexical, state.postings, state.next_number)
    for vector, own in zip(vectors, words, strict=True):
        sums = []
        for segment in index.segments:
            added = np.zeros(len(segment.rows), np.float32)
            assert segment.postings is not None
            own.add_scores(segment.postings, added)
            sums.append(score_segment(vector, depth, segment, index.layout) + added[segment.place_by_row])
        yield np.concatenate(sums)


def main(
    model: Annotated[str, typer.Argument(help="a run's name or a model's folder; its split must be linear or mlp")],
    documents: Annotated[int, typer.Option(help="passages of the synthetic corpus")] = 1_000_000,
    queries: Annotated[int, typer.Option(help="queries to time")] = 100,
    weights: Annotated[str, typer.Option(help="weights of BM25, separated by commas")] = "1,2,4",
    bm25: Annotated[bool, typer.Option(help="time bm25s too")] = True,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Print the table."""
    memory.keep_freed_memory()
    workspace = Workspace.default()
    corpus = SyntheticCorpus.open(locate_model(model, workspace), workspace, queries)
    nodes = corpus.route(corpus.queries)
    log_step("fitting the mixture that prunes like the real corpus")
    t = fit_mixture_weight(corpus, nodes)[0]
    log_step("writing texts")
    texts = [text for chunk in generate_texts(corpus, documents) for text in chunk]
    with TemporaryDirectory(dir=workspace.root) as folder:
        log_step(f"indexing {documents:,} passages with their words")
        start = time.perf_counter()
        index = build_hybrid_index(corpus, documents, t, texts, Path(folder) / "index")
        result: dict[str, Any] = {"build_s": time.perf_counter() - start, "mixture": t}
        size = index.stats()["bytes_per_document"]
        words = index.stats()["bytes_of_words_per_document"]
        rows, chosen = [time_tree(index, nodes, size - words)], [float(weight) for weight in weights.split(",")]
        rows += [time_hybrid(index, nodes, corpus.query_texts, weight, size) for weight in chosen]
        result["differences"] = sum(count_differences(index, nodes, corpus.query_texts, weight) for weight in chosen)
        del index
    if bm25:
        rows.append(time_bm25(texts, corpus.query_texts))
    result["rows"] = [asdict(row) for row in rows]
    print(json.dumps(result) if json_ else format_table(result))


def format_table(result: dict[str, Any]) -> str:
    """Format the rows; in brackets the time over that of the tree alone."""
    lines = [f"{name}: {value:.4g}" for name, value in result.items() if not isinstance(value, list)]
    alone = result["rows"][0]
    for row in result["rows"]:
        lines.append(
            f"{row['name']:20s} {row['documents']:9,d}  p50 {row['p50_ms']:7.2f} ms "
            f"({row['p50_ms'] / alone['p50_ms']:5.2f}x)  p99 {row['p99_ms']:7.2f} ms  {row['qps_batch']:6.0f} QPS "
            f"({alone['qps_batch'] / row['qps_batch']:5.2f}x)  {row['bytes_per_document']:6.0f} bytes  "
            f"{row['surviving_share']:7.2%} survive"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
