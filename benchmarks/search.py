"""How fast is certified search? Against faiss flat, IVF and HNSW, probing as in the paper's release, and BM25.

    python -m benchmarks.search MODEL                 # a run's name or a model's folder, after `make demo`
    python -m benchmarks.search MODEL --documents 1000000 --growth 100000,1000000,3000000 --json

MODEL's own corpus is measured as it is. Larger corpora are made of it: an encoding a + t (b - c), scaled to length
one, of three passages drawn at random, routed by the tree; t is chosen so that the first bound of an index of 20,000
made passages leaves the share that it leaves of real ones, which is printed. Every figure of a table comes from one
run; queries are the real ones of the test split. The bandwidth of one thread, measured in the same run, is printed
beside them: the floor of a search is the bytes that every query reads, divided by it. So is the speed of products in
float32 on all threads: the floor of building is 2 * leaves * directions operations a passage, divided by it.
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

from benchmarks.search_baselines import approximate, flats, lexical, probing
from benchmarks.synthetic_corpus import CHUNK, Corpus, K, fitting_mixture
from benchmarks.timing import Timing, backed, bandwidth, product_rate, say, timed
from retreever.index import Layout, TreeIndex
from retreever.index.search.certified_search import every_score
from retreever.system import memory
from retreever.system.workspace import Workspace
from retreever.tracking.model_registry import locate

HELD = 1_000_000  # passages whose node probabilities fit in memory, 8 KiB each, so that building is timed alone
ROOM = 3 * 1024  # bytes that a passage takes while an index is built
HNSW_DOCUMENTS = 100_000  # building a graph of more takes longer than all the rest


def certified(corpus: Corpus, index: TreeIndex, nodes: np.ndarray, truth: np.ndarray, build_s: float) -> Timing:
    """Our own search, checked against every similarity."""
    size, evidence = index.stats()["bytes_per_document"], index.search(nodes, K, certify=True)[2]
    row = timed("certified tree", partial(_ours, index), nodes, truth, len(index), size, build_s)
    return replace(row, left=float(np.mean([e.remained for e in evidence])) / len(index))


def _ours(index: TreeIndex, queries: np.ndarray, device: str | None = None) -> np.ndarray:
    return index.search(queries, K, threads=1 if len(queries) == 1 else None, device=device)[0]


def compact(corpus: Corpus, count: int, t: float, nodes: np.ndarray, truth: np.ndarray) -> Timing:
    """Codes alone."""
    index, build_s = built(corpus, count, t, replace(corpus.layout, compact=True))
    size = index.stats()["bytes_per_document"]
    return timed("compact tree", partial(_ours, index), nodes, truth, len(index), size, build_s)


def brute_force(index: TreeIndex, nodes: np.ndarray) -> np.ndarray:
    """Numbers of the K best by every similarity in float32."""
    part = slice(2**index.layout.depth - 1, None)
    best = []
    for vector in index.layout.form(nodes[:, part]):
        every = np.concatenate([every_score(vector, index.layout.depth, s, index.layout) for s in index.segments])
        border = np.partition(every, -K)[-K]
        rows = np.flatnonzero(every >= border)
        ids = index.ids_of(rows)
        best.append(rows[sorted(range(len(rows)), key=lambda i: (-every[rows[i]], ids[i]))[:K]])
    return np.array(best)


def main(
    model: Annotated[str, typer.Argument(help="a run's name or a model's folder; its split must be linear or mlp")],
    documents: Annotated[int, typer.Option(help="passages of the made corpus")] = 1_000_000,
    growth: Annotated[str, typer.Option(help="sizes at which certified search is timed, by commas")] = "",
    queries: Annotated[int, typer.Option(help="queries timed")] = 100,
    device: Annotated[str | None, typer.Option(help="of torch, that compares all of the made corpus, as cuda")] = None,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Print the tables."""
    memory.keep_freed()  # as `retreever index` does; the rivals have it too
    workspace = Workspace.default()
    corpus = Corpus.open(locate(model, workspace), workspace, queries)
    nodes = corpus.routed(corpus.queries)
    speed, rate = bandwidth(), product_rate()
    say("mixture that prunes like the real corpus")
    t, real, made = fitting_mixture(corpus, nodes)
    result: dict[str, Any] = {
        "similarity": corpus.config.loss.similarity,
        "bandwidth_gb_s": speed / 1e9,
        "product_gflop_s": rate / 1e9,
        "left_by_first_bound_real": real,
        "left_by_first_bound_made": made,
        "mixture": t,
    }
    result["real"] = [asdict(row) for row in real_rows(corpus, nodes)]
    result["made"], result["index"] = made_rows(corpus, nodes, documents, t, device)
    sizes = [int(size) for size in growth.split(",") if size]
    result["growth"] = [asdict(certified_of(corpus, nodes, size, t)[0]) for size in sizes]
    print(json.dumps(result) if json_ else report(result))


def built(corpus: Corpus, count: int, t: float, layout: Layout) -> tuple[TreeIndex, float]:
    """An index of a made corpus, and the seconds that building took; NaN where its chunks do not fit in memory."""
    say(f"an index of {count:,} passages")
    chunks: Iterable[np.ndarray] = (corpus.routed(encodings) for encodings in corpus.made(count, t))
    held = count <= HELD
    if held:
        chunks = list(chunks)
        backed(count * ROOM)
    start = time.perf_counter()
    index = TreeIndex.build(chunks, [f"d{i:08d}" for i in range(count)], layout)
    return index, time.perf_counter() - start if held else float("nan")


def certified_of(corpus: Corpus, nodes: np.ndarray, count: int, t: float) -> tuple[Timing, TreeIndex, np.ndarray]:
    """Certified search over a made corpus, and the true answers."""
    index, build_s = built(corpus, count, t, corpus.layout)
    say("every similarity")
    truth = brute_force(index, nodes)
    return certified(corpus, index, nodes, truth, build_s), index, truth


def opened(index: TreeIndex) -> float:
    """Seconds in which an index is loaded from a disk, mapped."""
    with TemporaryDirectory(dir=Workspace.default().root) as folder:
        index.save(Path(folder) / "index")
        start = time.perf_counter()
        TreeIndex.load(Path(folder) / "index")
        return time.perf_counter() - start


def real_rows(corpus: Corpus, nodes: np.ndarray) -> Iterator[Timing]:
    """The corpus as it is."""
    routed = corpus.routed(corpus.passages)
    start = time.perf_counter()
    index = TreeIndex.build([routed], [f"d{i:08d}" for i in range(len(routed))], corpus.layout)
    build_s = time.perf_counter() - start
    truth = brute_force(index, nodes)
    yield certified(corpus, index, nodes, truth, build_s)
    yield probing(index, nodes, truth)
    yield lexical(corpus.texts, corpus.asked_texts)
    leaves = np.ascontiguousarray(routed[:, -(2**corpus.config.tree.depth) :])
    passages, queries = corpus.read(corpus.passages), corpus.read(corpus.queries)
    yield from flats(leaves, passages, queries, nodes)
    for kind in ("IVF", "HNSW"):
        yield approximate(passages, queries, kind)


def made_rows(
    corpus: Corpus, nodes: np.ndarray, count: int, t: float, device: str | None
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The made corpus, and figures of our index of it."""
    row, index, truth = certified_of(corpus, nodes, count, t)
    rows, depth = [row], corpus.config.tree.depth
    figures = {"load_s": opened(index), "scanned": index.stats()["bytes_scanned_by_level"][depth]}
    figures |= index.stats()["of_a_sample"][depth]
    if device:
        search = partial(_ours, index, device=device)
        size = index.stats()["bytes_per_document"]
        rows.append(timed(f"all products, {device}", search, nodes, truth, count, size, row.build_s))
        del search
    del index
    rows.append(compact(corpus, count, t, nodes, truth))
    say("the same encodings and probabilities for the rivals")
    encodings = np.concatenate(list(corpus.made(count, t)))
    leaves = np.empty((count, 2**corpus.config.tree.depth), np.float32)
    for start in range(0, count, CHUNK):
        leaves[start : start + CHUNK] = corpus.routed(encodings[start : start + CHUNK])[:, -leaves.shape[1] :]
    encodings, queries = corpus.read(encodings), corpus.read(corpus.queries)
    rows += flats(leaves, encodings, queries, nodes)
    del leaves
    rows.append(approximate(encodings, queries, "IVF"))
    small = encodings[:HNSW_DOCUMENTS]
    rows.append(certified_of(corpus, nodes, len(small), t)[0])
    rows.append(approximate(small, queries, "HNSW"))
    return [asdict(row) for row in rows], figures


def report(result: dict[str, Any]) -> str:
    """Tables of every part; how often our time, and our QPS, goes into a rival's."""
    lines = [f"{name}: {value:.4g}" for name, value in result.items() if isinstance(value, float)]
    lines += [f"index of the made corpus, {name}: {value:.4g}" for name, value in result["index"].items()]
    lines.append(f"floor of the made corpus: {floor_ms(result):.2f} ms a query to read what every search scans")
    for part in ("real", "made", "growth"):
        lines += ["", f"{part}: one query, one thread, K = {K}; QPS in batches of 64 on all threads"]
        ours: dict[str, Any] = {}
        for row in result[part]:
            ours = row if row["name"] == "certified tree" else ours
            slower, batch = row["p50_ms"] / ours["p50_ms"], ours["qps_batch"] / row["qps_batch"]
            lines.append(
                f"  {row['name']:<50} {row['documents']:>9,}  p50 {row['p50_ms']:8.2f} ms ({slower:6.2f}x)  "
                f"p99 {row['p99_ms']:8.2f} ms  {row['qps_batch']:7.0f} QPS ({batch:6.2f}x)  "
                f"recall {row['recall']:.3f}  {row['bytes_per_document']:5.0f} bytes  {row['left']:7.2%} left  "
                f"built in {row['build_s']:.1f} s"
            )
    return "\n".join(lines)


def floor_ms(result: dict[str, Any]) -> float:
    """Milliseconds in which one thread reads the bytes that every search of the made corpus scans."""
    return float(result["index"]["scanned"] * result["made"][0]["documents"] / result["bandwidth_gb_s"] / 1e6)


if __name__ == "__main__":
    typer.run(main)
