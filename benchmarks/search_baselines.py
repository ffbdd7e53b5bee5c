"""What certified search is timed against: faiss flat, IVF and HNSW, probing as in the paper's release, and BM25."""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import bm25s
import faiss
import numpy as np

from benchmarks.synthetic_corpus import CHUNK, K
from benchmarks.timing import Timing, say, timed
from retreever.index import TreeIndex
from retreever.index.kernels.similarity_kernels import score_rows
from retreever.model.tree import Tree

PROBED_LEVEL = 5  # of 32 nodes


def probing(index: TreeIndex, nodes: np.ndarray, truth: np.ndarray, target: float = 0.99) -> Timing:
    """The release's approximation: a passage lies with its top node of a coarse level, a query reads its top nodes."""
    level, depth = PROBED_LEVEL, index.layout.depth
    segment = index.segments[0]
    form, tree = index.layout.form, Tree(depth)
    start = time.perf_counter()
    own = np.concatenate(
        [
            index.layout.coarser(segment.vectors[depth][i : i + CHUNK].astype(np.float32), level).argmax(axis=1)
            for i in range(0, len(segment), CHUNK)
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
            best = np.argsort(-scores)[:K]
            found.append(np.pad(rows[best], (0, K - len(best)), constant_values=-1))
        return np.array(found)

    for probes in (1, 2, 4, 8, 16, 2**level):
        hits = [len(set(a) & set(b)) for a, b in zip(search(nodes, probes).tolist(), truth.tolist(), strict=True)]
        if np.mean(hits) >= target * K:
            break
    name = f"probing {probes} of {2**level} nodes"
    row = timed(name, partial(search, probes=probes), nodes, truth, len(segment), 2 * 2**depth, build_s)
    return replace(row, left=probes / 2**level)


def lexical(texts: list[str], asked: list[str]) -> Timing:
    """BM25 over the texts themselves."""
    start = time.perf_counter()
    index = bm25s.BM25()
    index.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    build_s = time.perf_counter() - start

    def search(queries: np.ndarray) -> np.ndarray:
        words = bm25s.tokenize([asked[i] for i in queries[:, 0]], show_progress=False)
        return np.asarray(index.retrieve(words, k=K, show_progress=False).documents)

    rows = np.arange(len(asked))[:, None]
    return timed("BM25", search, rows, None, len(texts), float("nan"), build_s)


def flat(name: str, vectors: np.ndarray, queries: np.ndarray, metric: int) -> Timing:
    """A flat faiss index over the same vectors."""
    start = time.perf_counter()
    index = faiss.IndexFlat(vectors.shape[1], metric)
    index.add(vectors)
    build_s = time.perf_counter() - start
    row = timed(name, lambda q: index.search(q, K)[1], queries, None, len(vectors), 4 * vectors.shape[1], build_s)
    return replace(row, recall=1.0)


def approximate(vectors: np.ndarray, queries: np.ndarray, kind: str, target: float = 0.99) -> Timing:
    """IVF or HNSW over the encoder's vectors, searched just widely enough for the recall wanted."""
    say(f"faiss {kind}")
    exact = faiss.IndexFlatIP(vectors.shape[1])
    exact.add(vectors)
    truth = exact.search(queries, K)[1]
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
        found = index.search(queries, K)[1]
        if np.mean([len(set(a) & set(b)) / K for a, b in zip(found.tolist(), truth.tolist(), strict=True)]) >= target:
            break
    size = 4 * vectors.shape[1] + (4 * 2 * 32 if kind == "HNSW" else 8)
    label = f"faiss {kind}, encoder's {vectors.shape[1]} floats, width {width}"
    return timed(label, lambda q: index.search(q, K)[1], queries, truth, len(vectors), size, build_s)


def flats(leaves: np.ndarray, encodings: np.ndarray, asked: np.ndarray, nodes: np.ndarray) -> Iterator[Timing]:
    """Flat searches over the finest level, whose probabilities become their roots meanwhile, and over the encoder's."""
    queries = np.ascontiguousarray(nodes[:, -leaves.shape[1] :])
    yield flat(f"faiss flat L1, {leaves.shape[1]} floats", leaves, queries, faiss.METRIC_L1)
    inner = faiss.METRIC_INNER_PRODUCT
    np.sqrt(leaves, out=leaves)
    yield flat(f"faiss flat inner product, {leaves.shape[1]} floats", leaves, np.sqrt(queries), inner)
    yield flat(f"faiss flat inner product, encoder's {encodings.shape[1]} floats", encodings, asked, inner)
