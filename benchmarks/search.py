"""How fast is certified search, against faiss flat, Panorama, IVF and HNSW, the paper's probing, and BM25?

    python -m benchmarks.search MODEL                 # a run's name or a model's folder, after `make demo`
    python -m benchmarks.search MODEL --documents 1000000 --growth 100000,1000000,3000000 --json

MODEL's own corpus is measured as it is. Larger corpora are synthetic: an encoding is a + t (b - c), scaled to length
one, of three random passages, and the tree routes it. t is fitted so that the first bound of an index leaves the same
share of 20,000 synthetic as of 20,000 real passages; both shares are printed. Every figure of a table comes from one
run; queries are the real ones of the test split. The same run measures two lower bounds. A search takes at least the
bytes that every query reads, divided by the bandwidth of one thread. Building takes at least 2 * leaves * directions
operations per passage, divided by the rate of float32 products on all threads. "probing" is the approximate search of
the paper's release.
"""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.search_baselines import time_approximate, time_bm25, time_flat_baselines, time_probing
from benchmarks.synthetic_corpus import PASSAGES_PER_CHUNK, TOP_K, SyntheticCorpus, fit_mixture_weight
from benchmarks.timing import Timing, log_step, measure_bandwidth, measure_product_rate, time_search, touch_memory
from retreever.index import Layout, TreeIndex
from retreever.index.search.certified_search import score_segment
from retreever.system import memory
from retreever.system.workspace import Workspace
from retreever.tracking.model_registry import locate_model

MAX_PASSAGES_IN_MEMORY = 1_000_000  # with 8 KiB of node probabilities each; building is then timed without routing
BUILD_BYTES_PER_PASSAGE = 3 * 1024  # memory while an index is built
HNSW_DOCUMENTS = 100_000  # a larger graph takes longer to build than everything else together


def time_certified(
    corpus: SyntheticCorpus, index: TreeIndex, nodes: np.ndarray, truth: np.ndarray, build_s: float
) -> Timing:
    """Time certified search, checked against brute force."""
    size, evidence = index.stats()["bytes_per_document"], index.search(nodes, TOP_K, certify=True)[2]
    row = time_search("certified tree", partial(_search_tree, index), nodes, truth, len(index), size, build_s)
    return replace(row, surviving_share=float(np.mean([e.survived for e in evidence])) / len(index))


def _search_tree(index: TreeIndex, queries: np.ndarray, device: str | None = None) -> np.ndarray:
    return index.search(queries, TOP_K, threads=1 if len(queries) == 1 else None, device=device)[0]


def time_compact(corpus: SyntheticCorpus, count: int, t: float, nodes: np.ndarray, truth: np.ndarray) -> Timing:
    """Time an index of codes alone, without vectors."""
    index, build_s = build_synthetic_index(corpus, count, t, replace(corpus.layout, compact=True))
    size = index.stats()["bytes_per_document"]
    return time_search("compact tree", partial(_search_tree, index), nodes, truth, len(index), size, build_s)


def search_by_brute_force(index: TreeIndex, nodes: np.ndarray) -> np.ndarray:
    """Find the numbers of the `TOP_K` best by all similarities in float32."""
    part = slice(2**index.layout.depth - 1, None)
    best = []
    for vector in index.layout.to_stored_form(nodes[:, part]):
        scores = np.concatenate([score_segment(vector, index.layout.depth, s, index.layout) for s in index.segments])
        border = np.partition(scores, -TOP_K)[-TOP_K]
        rows = np.flatnonzero(scores >= border)
        ids = index.find_ids(rows)
        best.append(rows[sorted(range(len(rows)), key=lambda i: (-scores[rows[i]], ids[i]))[:TOP_K]])
    return np.array(best)


def main(
    model: Annotated[str, typer.Argument(help="a run's name or a model's folder; its split must be linear or mlp")],
    documents: Annotated[int, typer.Option(help="passages of the synthetic corpus")] = 1_000_000,
    growth: Annotated[str, typer.Option(help="more sizes to time certified search at, separated by commas")] = "",
    queries: Annotated[int, typer.Option(help="queries to time")] = 100,
    device: Annotated[
        str | None, typer.Option(help="torch device for brute force on the synthetic corpus, e.g. cuda")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Print the tables."""
    memory.keep_freed_memory()  # as `retreever index` does; it holds for the baselines too
    workspace = Workspace.default()
    corpus = SyntheticCorpus.open(locate_model(model, workspace), workspace, queries)
    nodes = corpus.route(corpus.queries)
    speed, rate = measure_bandwidth(), measure_product_rate()
    log_step("fitting the mixture that prunes like the real corpus")
    t, real, synthetic = fit_mixture_weight(corpus, nodes)
    result: dict[str, Any] = {
        "similarity": corpus.config.loss.similarity,
        "bandwidth_gb_s": speed / 1e9,
        "product_gflop_s": rate / 1e9,
        "surviving_share_real": real,
        "surviving_share_synthetic": synthetic,
        "mixture": t,
    }
    result["real"] = [asdict(row) for row in time_real_corpus(corpus, nodes)]
    result["synthetic"], result["index"] = time_synthetic_corpus(corpus, nodes, documents, t, device)
    sizes = [int(size) for size in growth.split(",") if size]
    result["growth"] = [asdict(time_certified_synthetic(corpus, nodes, size, t)[0]) for size in sizes]
    print(json.dumps(result) if json_ else format_report(result))


def build_synthetic_index(corpus: SyntheticCorpus, count: int, t: float, layout: Layout) -> tuple[TreeIndex, float]:
    """Build an index of a synthetic corpus; returns it with the seconds, NaN if its chunks do not fit in memory."""
    log_step(f"indexing {count:,} passages")
    chunks: Iterable[np.ndarray] = (corpus.route(encodings) for encodings in corpus.generate(count, t))
    fits_in_memory = count <= MAX_PASSAGES_IN_MEMORY
    if fits_in_memory:
        chunks = list(chunks)
        touch_memory(count * BUILD_BYTES_PER_PASSAGE)
    start = time.perf_counter()
    index = TreeIndex.build(chunks, [f"d{i:08d}" for i in range(count)], layout)
    return index, time.perf_counter() - start if fits_in_memory else float("nan")


def time_certified_synthetic(
    corpus: SyntheticCorpus, nodes: np.ndarray, count: int, t: float
) -> tuple[Timing, TreeIndex, np.ndarray]:
    """Time certified search over a synthetic corpus; returns also its index and the exact answers."""
    index, build_s = build_synthetic_index(corpus, count, t, corpus.layout)
    log_step("brute force")
    truth = search_by_brute_force(index, nodes)
    return time_certified(corpus, index, nodes, truth, build_s), index, truth


def time_loading(index: TreeIndex) -> float:
    """Seconds to load a memory-mapped index from disk."""
    with TemporaryDirectory(dir=Workspace.default().root) as folder:
        index.save(Path(folder) / "index")
        start = time.perf_counter()
        TreeIndex.load(Path(folder) / "index")
        return time.perf_counter() - start


def time_real_corpus(corpus: SyntheticCorpus, nodes: np.ndarray) -> Iterator[Timing]:
    """Time every search on the corpus as it is."""
    routed = corpus.route(corpus.passages)
    start = time.perf_counter()
    index = TreeIndex.build([routed], [f"d{i:08d}" for i in range(len(routed))], corpus.layout)
    build_s = time.perf_counter() - start
    truth = search_by_brute_force(index, nodes)
    yield time_certified(corpus, index, nodes, truth, build_s)
    yield time_probing(index, nodes, truth)
    yield time_bm25(corpus.texts, corpus.query_texts)
    leaves = np.ascontiguousarray(routed[:, -(2**corpus.config.tree.depth) :])
    passages, queries = corpus.drop_lexical_features(corpus.passages), corpus.drop_lexical_features(corpus.queries)
    yield from time_flat_baselines(leaves, passages, queries, nodes)
    for kind in ("IVF", "HNSW"):
        yield time_approximate(passages, queries, kind)


def time_synthetic_corpus(
    corpus: SyntheticCorpus, nodes: np.ndarray, count: int, t: float, device: str | None
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Time every search on the synthetic corpus; returns also figures of our index."""
    row, index, truth = time_certified_synthetic(corpus, nodes, count, t)
    rows, depth = [row], corpus.config.tree.depth
    figures = {"load_s": time_loading(index), "scanned": index.stats()["bytes_scanned_by_level"][depth]}
    figures |= index.stats()["of_a_sample"][depth]
    if device:
        search = partial(_search_tree, index, device=device)
        size = index.stats()["bytes_per_document"]
        rows.append(time_search(f"brute force, {device}", search, nodes, truth, count, size, row.build_s))
        del search
    del index
    rows.append(time_compact(corpus, count, t, nodes, truth))
    log_step("the same encodings and probabilities for the baselines")
    encodings = np.concatenate(list(corpus.generate(count, t)))
    leaves = np.empty((count, 2**corpus.config.tree.depth), np.float32)
    for start in range(0, count, PASSAGES_PER_CHUNK):
        leaves[start : start + PASSAGES_PER_CHUNK] = corpus.route(encodings[start : start + PASSAGES_PER_CHUNK])[
            :, -leaves.shape[1] :
        ]
    encodings, queries = corpus.drop_lexical_features(encodings), corpus.drop_lexical_features(corpus.queries)
    rows += time_flat_baselines(leaves, encodings, queries, nodes)
    del leaves
    rows.append(time_approximate(encodings, queries, "IVF"))
    small = encodings[:HNSW_DOCUMENTS]
    rows.append(time_certified_synthetic(corpus, nodes, len(small), t)[0])
    rows.append(time_approximate(small, queries, "HNSW"))
    return [asdict(row) for row in rows], figures


def format_report(result: dict[str, Any]) -> str:
    """Format the tables; in brackets a baseline's time over ours, and our QPS over a baseline's."""
    lines = [f"{name}: {value:.4g}" for name, value in result.items() if isinstance(value, float)]
    lines += [f"index of the synthetic corpus, {name}: {value:.4g}" for name, value in result["index"].items()]
    bound = compute_lower_bound_ms(result)
    lines.append(f"lower bound on the synthetic corpus: {bound:.2f} ms per query to read what every search scans")
    for part in ("real", "synthetic", "growth"):
        lines += ["", f"{part}: one query, one thread, K = {TOP_K}; QPS in batches of 64 on all threads"]
        ours: dict[str, Any] = {}
        for row in result[part]:
            ours = row if row["name"] == "certified tree" else ours
            slower, batch = row["p50_ms"] / ours["p50_ms"], ours["qps_batch"] / row["qps_batch"]
            lines.append(
                f"  {row['name']:<50} {row['documents']:>9,}  p50 {row['p50_ms']:8.2f} ms ({slower:6.2f}x)  "
                f"p99 {row['p99_ms']:8.2f} ms  {row['qps_batch']:7.0f} QPS ({batch:6.2f}x)  "
                f"recall {row['recall']:.3f}  {row['bytes_per_document']:5.0f} bytes  "
                f"{row['surviving_share']:7.2%} survive  built in {row['build_s']:.1f} s"
            )
    return "\n".join(lines)


def compute_lower_bound_ms(result: dict[str, Any]) -> float:
    """Milliseconds in which one thread reads the bytes that every search of the synthetic corpus scans."""
    return float(result["index"]["scanned"] * result["synthetic"][0]["documents"] / result["bandwidth_gb_s"] / 1e6)


if __name__ == "__main__":
    typer.run(main)
