"""What does an exact hybrid search cost, against the tree alone, and against Panorama and BM25 in full?

    python -m benchmarks.hybrid MODEL                        # a run's name or a model's folder, after `make demo`
    python -m benchmarks.hybrid MODEL --documents 100000 --weights 2:0,3:0.3 --json

The corpus is synthetic, as in `benchmarks.search`; its texts are words of the passages that were mixed. Queries are the
real ones of the test split. All rows come from one run, single queries on one thread. The time of a hybrid search
includes making words of the query, as that of BM25 does. The first answers are compared with a sort of all sums. faiss
Panorama searches the same vectors exactly, bm25s scores all passages; their times are added, and nothing is fused.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.search_baselines import time_bm25, time_panorama
from benchmarks.synthetic_corpus import TOP_K, SyntheticCorpus, fit_mixture_weight
from benchmarks.synthetic_texts import generate_texts
from benchmarks.timing import Timing, log_step, time_search
from retreever.index import Hybrid, LexicalSettings, TreeIndex
from retreever.index.index_layout import ENCODINGS
from retreever.index.lexical.hybrid_query import weigh_hybrid_queries
from retreever.index.search.certified_search import score_segment
from retreever.model.tree import Tree
from retreever.system import memory
from retreever.system.workspace import Workspace
from retreever.tracking.model_registry import locate_model

COMPARED_QUERIES = 10  # queries whose answers are compared with a sort of all sums
SETTINGS = LexicalSettings(k1=1.5, b=0.75, stopwords="en", stemmer=None)  # those of bm25s's own defaults


def build_hybrid_index(
    corpus: SyntheticCorpus, count: int, t: float, texts: list[str], encodings: np.ndarray | None, folder: Path
) -> TreeIndex:
    """Build an index of a synthetic corpus with its words, and with the encoder's vectors if given, on disk."""
    chunks = (corpus.route(mixed) for mixed in corpus.generate(count, t))
    ids = [f"d{i:08d}" for i in range(count)]
    layout = replace(corpus.layout, encoding_dim=0 if encodings is None else encodings.shape[1])
    return TreeIndex.build(chunks, ids, layout, folder, texts=texts, lexical=SETTINGS, encodings=encodings)


def make_hybrid(corpus: SyntheticCorpus, rows: np.ndarray, weights: tuple[float, float]) -> Hybrid:
    """What a hybrid search for some queries, told by their rows, adds."""
    encodings = corpus.drop_lexical_features(corpus.queries[rows]) if weights[1] else None
    return Hybrid([corpus.query_texts[row] for row in rows], weights[0], encodings, weights[1])


def time_hybrid(
    index: TreeIndex, nodes: np.ndarray, corpus: SyntheticCorpus, weights: tuple[float, float], size: float
) -> Timing:
    """Time hybrid search; queries are told by their rows."""

    def search(rows: np.ndarray) -> np.ndarray:
        own = rows[:, 0]
        hybrid = make_hybrid(corpus, own, weights)
        return index.search(nodes[own], TOP_K, threads=1 if len(own) == 1 else None, hybrid=hybrid)[0]

    rows = np.arange(len(nodes))[:, None]
    evidence = index.search(nodes, TOP_K, hybrid=make_hybrid(corpus, rows[:, 0], weights), certify=True)[2]
    row = time_search(_name_weights(weights), search, rows, None, len(index), size, float("nan"))
    return replace(row, surviving_share=float(np.mean([e.survived for e in evidence])) / len(index))


def _name_weights(weights: tuple[float, float]) -> str:
    return f"words {weights[0]:g}" + (f", encoder {weights[1]:g}" if weights[1] else "")


def add_timings(name: str, *parts: Timing) -> Timing:
    """The time of searches one after the other."""
    batch = 1 / sum(1 / part.qps_batch for part in parts)
    size = sum(part.bytes_per_document for part in parts)
    p50, p99 = sum(part.p50_ms for part in parts), sum(part.p99_ms for part in parts)
    return replace(parts[0], name=name, p50_ms=p50, p99_ms=p99, qps_batch=batch, bytes_per_document=size)


def time_tree(index: TreeIndex, nodes: np.ndarray, size: float) -> Timing:
    """Time the search without words."""
    evidence = index.search(nodes, TOP_K, certify=True)[2]
    row = time_search("tree alone", partial(_search_tree, index), nodes, None, len(index), size, float("nan"))
    return replace(row, surviving_share=float(np.mean([e.survived for e in evidence])) / len(index))


def _search_tree(index: TreeIndex, nodes: np.ndarray) -> np.ndarray:
    return index.search(nodes, TOP_K, threads=1 if len(nodes) == 1 else None)[0]


def count_differences(
    index: TreeIndex, nodes: np.ndarray, corpus: SyntheticCorpus, weights: tuple[float, float]
) -> int:
    """How many of the first answers differ from a sort of all sums."""
    own = nodes[:COMPARED_QUERIES]
    hybrid = make_hybrid(corpus, np.arange(len(own)), weights)
    numbers, scores = index.search(own, TOP_K, hybrid=hybrid)
    depth, differences = index.layout.depth, 0
    sums = sum_scores(index, index.layout.to_stored_form(own[:, Tree(depth).level(depth)]), hybrid)
    for found, score, every in zip(numbers, scores, sums, strict=True):
        order = np.lexsort((np.arange(len(every)), -every))[:TOP_K]  # ids sort as numbers do here
        same = np.array_equal(found, order) and np.array_equal(score, every[order])
        if hybrid.encoding_weight:  # this product of matrices adds in another order than the kernel
            same = np.allclose(score, every[order], rtol=0, atol=1e-6)
        differences += not same
    return differences


def sum_scores(index: TreeIndex, vectors: np.ndarray, hybrid: Hybrid) -> Iterator[np.ndarray]:
    """The sums of all passages, one part after the other, for each query at the last level."""
    state, depth = index._state, index.layout.depth
    assert state.lexical is not None
    parts = weigh_hybrid_queries(hybrid, depth, state.lexical, state.postings, state.next_number)
    for vector, own in zip(vectors, parts, strict=True):
        sums = []
        for segment in index.segments:
            added = np.zeros(len(segment.rows), np.float32)
            assert segment.postings is not None
            own.words.add_scores(segment.postings, added)
            scores = score_segment(vector, depth, segment, index.layout) + added[segment.place_by_row]
            if own.encoding.size:
                scores += segment.vectors[ENCODINGS].astype(np.float32) @ own.encoding
            sums.append(scores)
        yield np.concatenate(sums)


def main(
    model: Annotated[str, typer.Argument(help="a run's name or a model's folder; its split must be linear or mlp")],
    documents: Annotated[int, typer.Option(help="passages of the synthetic corpus")] = 1_000_000,
    queries: Annotated[int, typer.Option(help="queries to time")] = 100,
    weights: Annotated[
        str, typer.Option(help="weights of words and encoder, WORDS:ENCODER, separated by commas")
    ] = "1:0,2:0,4:0,3:0.3,3:1",
    baselines: Annotated[bool, typer.Option(help="time Panorama and bm25s too")] = True,
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
    chosen = [(float(pair.partition(":")[0]), float(pair.partition(":")[2] or 0)) for pair in weights.split(",")]
    mixed = [corpus.drop_lexical_features(chunk) for chunk in corpus.generate(documents, t)]
    encodings = np.concatenate(mixed)
    del mixed
    with TemporaryDirectory(dir=workspace.root) as folder:
        log_step(f"indexing {documents:,} passages with their words")
        start = time.perf_counter()
        kept = encodings if any(pair[1] for pair in chosen) else None
        index = build_hybrid_index(corpus, documents, t, texts, kept, Path(folder) / "index")
        result: dict[str, Any] = {"build_s": time.perf_counter() - start, "mixture": t}
        size, words = (index.stats()[name] for name in ("bytes_per_document", "bytes_of_words_per_document"))
        alone = size - words - _measure_encoding_bytes(index)
        rows = [time_tree(index, nodes, alone)]
        rows += [time_hybrid(index, nodes, corpus, pair, size if pair[1] else alone + words) for pair in chosen]
        result["differences"] = sum(count_differences(index, nodes, corpus, pair) for pair in chosen)
        leaves = np.concatenate([segment.vectors[corpus.layout.depth].astype(np.float32) for segment in index.segments])
        del index
    if baselines:
        bm25 = time_bm25(texts, corpus.query_texts)
        rows.append(bm25)
        asked = np.sqrt(nodes[:, -leaves.shape[1] :])
        for name, vectors, queries_ in (
            ("tree's vectors", leaves, np.ascontiguousarray(asked)),
            ("encoder's vectors", encodings, corpus.drop_lexical_features(corpus.queries)),
        ):
            rows.append(add_timings(f"Panorama, {name}, BM25", time_panorama(name, vectors, queries_), bm25))
    result["rows"] = [asdict(row) for row in rows]
    print(json.dumps(result) if json_ else format_table(result))


def _measure_encoding_bytes(index: TreeIndex) -> float:
    """Bytes of a passage's encoding and of its code."""
    held = [segment for segment in index.segments if ENCODINGS in segment.vectors]
    total = sum(segment.vectors[ENCODINGS].nbytes for segment in held)
    codes = [segment.codes[ENCODINGS] for segment in held if segment.codes]
    total += sum(array.nbytes for code in codes for array in vars(code).values())
    return total / max(1, sum(len(segment) for segment in index.segments))


def format_table(result: dict[str, Any]) -> str:
    """Format the rows; in brackets the time over that of the tree alone."""
    lines = [f"{name}: {value:.4g}" for name, value in result.items() if not isinstance(value, list)]
    alone = result["rows"][0]
    for row in result["rows"]:
        lines.append(
            f"{row['name']:36s} {row['documents']:9,d}  p50 {row['p50_ms']:7.2f} ms "
            f"({row['p50_ms'] / alone['p50_ms']:5.2f}x)  p99 {row['p99_ms']:7.2f} ms  {row['qps_batch']:6.0f} QPS "
            f"({alone['qps_batch'] / row['qps_batch']:5.2f}x)  {row['bytes_per_document']:6.0f} bytes  "
            f"{row['surviving_share']:7.2%} survive"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
