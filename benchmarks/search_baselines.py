"""Baselines of certified search: faiss flat, Panorama, IVF and HNSW, the paper's probing, and BM25."""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import bm25s
import faiss
import numpy as np

from benchmarks.synthetic_corpus import PASSAGES_PER_CHUNK, TOP_K
from benchmarks.timing import Timing, log_step, time_search
from retreever.evaluation.ranking import top_k
from retreever.index import TreeIndex
from retreever.index.kernels.similarity_kernels import score_rows
from retreever.model.tree import Tree

PROBED_LEVEL = 5  # of 32 nodes
PANORAMA_LEVELS = (4, 8, 16, 32)
PANORAMA_SAMPLE = 50_000  # vectors that the transform and the number of levels are chosen on


def time_probing(index: TreeIndex, nodes: np.ndarray, truth: np.ndarray, target: float = 0.99) -> Timing:
    """Time the release's approximation: a query reads only the passages of its top nodes at a coarse level."""
    level, depth = PROBED_LEVEL, index.layout.depth
    segment = index.segments[0]
    form, tree = index.layout.to_stored_form, Tree(depth)
    start = time.perf_counter()
    own = np.concatenate(
        [
            index.layout.merge_to_level(
                segment.vectors[depth][i : i + PASSAGES_PER_CHUNK].astype(np.float32), level
            ).argmax(axis=1)
            for i in range(0, len(segment), PASSAGES_PER_CHUNK)
        ]
    )
    lists = [np.flatnonzero(own == node) for node in range(2**level)]
    build_s = time.perf_counter() - start
    vectors = segment.vectors[depth]
    stored = vectors.view(np.uint16) if vectors.dtype == np.float16 else vectors

    def search(queries: np.ndarray, probes: int) -> np.ndarray:
        found = []
        for query in queries:
            top = np.argsort(-query[tree.level(level)])[:probes]
            rows = np.concatenate([lists[node] for node in top])
            scores = np.empty(len(rows), np.float32)
            vector = form(query[None, tree.level(depth)])[0]
            score_rows(vector, stored, index.layout.similarity == "bhattacharyya", rows, scores)
            best = np.argsort(-scores)[:TOP_K]
            found.append(np.pad(rows[best], (0, TOP_K - len(best)), constant_values=-1))
        return np.array(found)

    for probes in (1, 2, 4, 8, 16, 2**level):
        hits = [len(set(a) & set(b)) for a, b in zip(search(nodes, probes).tolist(), truth.tolist(), strict=True)]
        if np.mean(hits) >= target * TOP_K:
            break
    name = f"probing {probes} of {2**level} nodes"
    row = time_search(name, partial(search, probes=probes), nodes, truth, len(segment), 2 * 2**depth, build_s)
    return replace(row, surviving_share=probes / 2**level)


def time_bm25(texts: list[str], query_texts: list[str]) -> Timing:
    """Time BM25 over the texts."""
    start = time.perf_counter()
    index = bm25s.BM25()
    index.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    build_s = time.perf_counter() - start

    def search(queries: np.ndarray) -> np.ndarray:
        words = bm25s.tokenize([query_texts[i] for i in queries[:, 0]], show_progress=False)
        return np.asarray(index.retrieve(words, k=TOP_K, show_progress=False).documents)

    rows = np.arange(len(query_texts))[:, None]
    return time_search("BM25", search, rows, None, len(texts), float("nan"), build_s)


def time_flat(name: str, vectors: np.ndarray, queries: np.ndarray, metric: int) -> Timing:
    """Time a flat faiss index over the same vectors."""
    start = time.perf_counter()
    index = faiss.IndexFlat(vectors.shape[1], metric)
    index.add(vectors)
    build_s = time.perf_counter() - start
    row = time_search(
        name, lambda q: index.search(q, TOP_K)[1], queries, None, len(vectors), 4 * vectors.shape[1], build_s
    )
    return replace(row, recall=1.0)


def time_panorama(name: str, vectors: np.ndarray, queries: np.ndarray) -> Timing:
    """Time faiss's exact search with bounds by parts of the vectors (Panorama), at its fastest number of parts.

    The orthogonal transform is that of the principal components, about the mean, so that the first parts hold most of
    the energy. Distances order vectors of length one as inner products do; both must have that length. faiss does not
    tell which share of the passages survives.
    """
    inner = top_k(queries, vectors, TOP_K, "inner")[0]
    sample = vectors[np.random.default_rng(0).permutation(len(vectors))[:PANORAMA_SAMPLE]]
    start = time.perf_counter()
    transform = faiss.PCAMatrix(vectors.shape[1], vectors.shape[1])
    transform.train(sample)
    train_s = time.perf_counter() - start
    trials = {levels: _build_panorama(transform, sample, levels) for levels in PANORAMA_LEVELS}
    seconds = {levels: _time_one_thread(trial, queries[:20]) for levels, trial in trials.items()}
    levels = min(seconds, key=seconds.__getitem__)
    trials.clear()
    start = time.perf_counter()
    index = _build_panorama(transform, vectors, levels)
    build_s = train_s + time.perf_counter() - start
    size = 4 * (vectors.shape[1] + levels + 1)
    label = f"faiss Panorama, {name}, {levels} parts"
    row = time_search(label, lambda q: index.search(q, TOP_K)[1], queries, inner, len(vectors), size, build_s)
    return replace(row, surviving_share=float("nan"))


def _build_panorama(transform: Any, vectors: np.ndarray, levels: int) -> Any:
    index = faiss.IndexPreTransform(transform, faiss.IndexFlatL2Panorama(vectors.shape[1], levels))
    for start in range(0, len(vectors), PASSAGES_PER_CHUNK):  # faiss copies what it transforms
        index.add(np.ascontiguousarray(vectors[start : start + PASSAGES_PER_CHUNK]))
    return index


def _time_one_thread(index: Any, queries: np.ndarray) -> float:
    """Seconds for the queries, one at a time."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    start = time.perf_counter()
    for query in queries:
        index.search(query[None], TOP_K)
    faiss.omp_set_num_threads(threads)
    return time.perf_counter() - start


def time_approximate(vectors: np.ndarray, queries: np.ndarray, kind: str, target: float = 0.99) -> Timing:
    """Time IVF or HNSW over the encoder's vectors, at the smallest breadth that reaches the target recall."""
    log_step(f"faiss {kind}")
    exact = faiss.IndexFlatIP(vectors.shape[1])
    exact.add(vectors)
    truth = exact.search(queries, TOP_K)[1]
    start = time.perf_counter()
    index: Any
    if kind == "IVF":
        lists = int(4 * len(vectors) ** 0.5)
        index = faiss.index_factory(vectors.shape[1], f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
        index.train(vectors[:: max(1, len(vectors) // (40 * lists))])
    else:
        index = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 100
    index.add(vectors)
    build_s = time.perf_counter() - start
    for width in (8, 16, 32, 64, 128, 256, 512, 1024):
        if kind == "IVF":
            index.nprobe = width
        else:
            index.hnsw.efSearch = width
        found = index.search(queries, TOP_K)[1]
        if (
            np.mean([len(set(a) & set(b)) / TOP_K for a, b in zip(found.tolist(), truth.tolist(), strict=True)])
            >= target
        ):
            break
    size = 4 * vectors.shape[1] + (4 * 2 * 32 if kind == "HNSW" else 8)
    label = f"faiss {kind}, encoder's {vectors.shape[1]} floats, width {width}"
    return time_search(label, lambda q: index.search(q, TOP_K)[1], queries, truth, len(vectors), size, build_s)


def time_flat_baselines(
    leaves: np.ndarray, encodings: np.ndarray, encoded_queries: np.ndarray, nodes: np.ndarray
) -> Iterator[Timing]:
    """Time flat searches and Panorama over the finest level and the encoder's vectors.

    Overwrites `leaves` by their square roots.
    """
    queries = np.ascontiguousarray(nodes[:, -leaves.shape[1] :])
    yield time_flat(f"faiss flat L1, {leaves.shape[1]} floats", leaves, queries, faiss.METRIC_L1)
    inner = faiss.METRIC_INNER_PRODUCT
    np.sqrt(leaves, out=leaves)
    roots, own = f"{leaves.shape[1]} floats", f"encoder's {encodings.shape[1]} floats"
    for name, vectors, asked in ((roots, leaves, np.sqrt(queries)), (own, encodings, encoded_queries)):
        yield time_flat(f"faiss flat inner product, {name}", vectors, asked, inner)
        yield time_panorama(name, vectors, asked)
