"""How fast is certified search? Against faiss flat, IVF and HNSW, probing as in the paper's release, and BM25.

    python -m benchmarks.search MODEL                 # a run's name or a model's folder, after `make demo`
    python -m benchmarks.search MODEL --documents 1000000 --growth 100000,1000000,3000000 --json

MODEL's own corpus is measured as it is. Larger corpora are made of it: an encoding a + t (b - c), scaled to length
one, of three passages drawn at random, routed by the tree; t is chosen so that the share of passages that the bound at
256 nodes leaves is that of the real ones, which is printed. Every figure of a table comes from one run; queries are the
real ones of the test split. The bandwidth of one thread, measured in the same run, is printed beside them: the floor of
a search is the bytes that every query reads, divided by it.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import bm25s
import faiss
import numpy as np
import torch
import typer
from threadpoolctl import threadpool_limits

from retreever.cluster.promote import locate
from retreever.config import Config
from retreever.encodings import EncodedDataset, open_dataset
from retreever.index import Layout, TreeIndex
from retreever.index.kernels import score_rows
from retreever.index.search import every_score
from retreever.model import RoutingTree
from retreever.model.tree import Tree
from retreever.retriever import load_model
from retreever.workspace import Workspace

K = 10
CHUNK = 8_192
PROBED_LEVEL = 5  # of 32 nodes
SHARED_LEVEL = 8  # of 256 nodes, at which the share left is compared
PATIENCE = 8  # seconds of single queries
HELD = 1_000_000  # passages whose node probabilities fit in memory, 8 KiB each, so that building is timed alone
HNSW_DOCUMENTS = 100_000  # building a graph of more takes longer than all the rest


@dataclass(frozen=True)
class Timing:
    """Milliseconds a query, what was found against brute force over the same vectors, and what was looked at for it.

    Attributes:
        recall: NaN where no vectors are compared (BM25).
        left: share of the documents that the first bound leaves; 1 where there is none.
    """

    name: str
    documents: int
    p50_ms: float
    p99_ms: float
    qps_batch: float
    recall: float
    bytes_per_document: float
    build_s: float
    left: float = 1.0


@dataclass(frozen=True)
class Corpus:
    """Encodings of passages and of queries, and the tree that routes both."""

    tree: RoutingTree
    config: Config
    passages: np.ndarray
    queries: np.ndarray
    texts: list[str]
    asked_texts: list[str]

    @classmethod
    def open(cls, model: Path, workspace: Workspace, queries: int) -> "Corpus":
        """A trained tree with the pooled encodings of its data set's passages and of some test queries."""
        tree, config = load_model(model)
        if config.tree.split == "cross_attention":
            raise typer.BadParameter("made corpora are pooled encodings; name a tree with a linear or mlp split")
        data: EncodedDataset = open_dataset(config, workspace)
        rows = np.random.default_rng(0).permutation(np.unique(data.dataset.pairs("test")[:, 0]))[:queries]
        texts = data.dataset.query_texts()
        return cls(
            tree,
            config,
            np.array(data.passages.pooled),
            np.array(data.queries.pooled)[rows],
            data.dataset.passage_texts(),
            [texts[row] for row in rows],
        )

    def made(self, count: int, t: float, seed: int = 0) -> Iterator[np.ndarray]:
        """Encodings of passages that do not exist, in chunks."""
        draw = np.random.default_rng(seed)
        for start in range(0, count, CHUNK):
            a, b, c = self.passages[draw.integers(len(self.passages), size=(3, min(CHUNK, count - start)))]
            mixed = a + np.float32(t) * (b - c)
            yield mixed / np.linalg.norm(mixed, axis=1, keepdims=True)

    def routed(self, encodings: np.ndarray) -> np.ndarray:
        """Node probabilities."""
        with torch.inference_mode():
            return self.tree(torch.from_numpy(encodings)).float().exp().numpy()

    @property
    def layout(self) -> Layout:
        """Of an index of this tree."""
        config = self.config
        return Layout(
            config.tree.depth, config.loss.similarity, self.tree.exact_hierarchy, "benchmark", config.index.dtype
        )


def share_left(corpus: Corpus, passages: np.ndarray, queries: np.ndarray, level: int = SHARED_LEVEL) -> float:
    """Share of passages whose similarity at a coarse level reaches the K-th best at the finest."""
    form, depth = corpus.layout.form, corpus.config.tree.depth

    def similar(d: int) -> np.ndarray:
        part = corpus.tree.tree.level(d)
        q, p = form(queries[:, part]), form(passages[:, part])
        if corpus.config.loss.similarity == "bhattacharyya":
            return q @ p.T
        return np.stack([np.minimum(row, p).sum(axis=1) - 1 for row in q])

    kth = np.partition(similar(depth), -K, axis=1)[:, -K]
    return float((similar(min(level, depth)) >= kth[:, None]).mean())


def fitting_mixture(corpus: Corpus, queries: np.ndarray) -> tuple[float, float, float]:
    """The t whose made passages prune like the real ones, and the two shares left."""
    count = min(20_000, len(corpus.passages))
    real = share_left(corpus, corpus.routed(corpus.passages[:count]), queries)
    low, high = 0.0, 2.0
    for _ in range(7):
        t = (low + high) / 2
        made = share_left(corpus, corpus.routed(np.concatenate(list(corpus.made(count, t, seed=1)))), queries)
        if abs(made / real - 1) < 0.1:
            break
        low, high = (t, high) if made < real else (low, t)
    return t, real, made


def timed(
    name: str,
    search: Callable[[np.ndarray], np.ndarray],
    queries: np.ndarray,
    truth: np.ndarray | None,
    documents: int,
    size: float,
    build_s: float,
) -> Timing:
    """Single queries on one thread, then batches of 64 on all; recall of what came back against `truth`, if any.

    Slow rivals answer fewer: until they have had their time, and ten at least.
    """
    say(name)
    search(queries[:1])
    singles, found = [], []
    with threadpool_limits(1):
        faiss.omp_set_num_threads(1)
        for query in queries:
            start = time.perf_counter()
            found.append(search(query[None])[0])
            singles.append((time.perf_counter() - start) * 1e3)
            if sum(singles) > PATIENCE * 1e3 and len(singles) >= 10:
                break
    faiss.omp_set_num_threads(torch.get_num_threads())
    batch, batches = queries[np.arange(64) % len(queries)], []
    while sum(batches) < PATIENCE / 4 and len(batches) < 5:
        start = time.perf_counter()
        search(batch)
        batches.append(time.perf_counter() - start)
    qps = len(batch) / float(np.median(batches))
    recall = float("nan")
    if truth is not None:
        both = zip(found, truth[: len(found)].tolist(), strict=True)
        recall = float(np.mean([len(set(a) & set(b)) / len(b) for a, b in both]))
    p50, p99 = np.percentile(singles, [50, 99])
    return Timing(name, documents, float(p50), float(p99), qps, recall, size, build_s)


def say(step: str) -> None:
    """Tell on stderr what is being done."""
    print(f"{time.strftime('%H:%M:%S')} {step}", file=sys.stderr, flush=True)


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


def bandwidth() -> float:
    """Bytes a second that one thread reads, summing 256 MiB."""
    block = np.ones(2**25, np.float64)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        block.sum()
        times.append(time.perf_counter() - start)
    return block.nbytes / min(times)


def main(
    model: Annotated[str, typer.Argument(help="a run's name or a model's folder; its split must be linear or mlp")],
    documents: Annotated[int, typer.Option(help="passages of the made corpus")] = 1_000_000,
    growth: Annotated[str, typer.Option(help="sizes at which certified search is timed, by commas")] = "",
    queries: Annotated[int, typer.Option(help="queries timed")] = 100,
    device: Annotated[str | None, typer.Option(help="of torch, that compares all of the made corpus, as cuda")] = None,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Print the tables."""
    workspace = Workspace.default()
    corpus = Corpus.open(locate(model, workspace), workspace, queries)
    nodes = corpus.routed(corpus.queries)
    speed = bandwidth()
    say("mixture that prunes like the real corpus")
    t, real, made = fitting_mixture(corpus, nodes)
    result: dict[str, Any] = {
        "similarity": corpus.config.loss.similarity,
        "bandwidth_gb_s": speed / 1e9,
        "left_at_256_real": real,
        "left_at_256_made": made,
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
    yield from flats(leaves, corpus.passages, corpus.queries, nodes)
    for kind in ("IVF", "HNSW"):
        yield approximate(corpus.passages, corpus.queries, kind)


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
    rows += flats(leaves, encodings, corpus.queries, nodes)
    del leaves
    rows.append(approximate(encodings, corpus.queries, "IVF"))
    small = encodings[:HNSW_DOCUMENTS]
    rows.append(certified_of(corpus, nodes, len(small), t)[0])
    rows.append(approximate(small, corpus.queries, "HNSW"))
    return [asdict(row) for row in rows], figures


def flats(leaves: np.ndarray, encodings: np.ndarray, asked: np.ndarray, nodes: np.ndarray) -> Iterator[Timing]:
    """Flat searches over the finest level, whose probabilities become their roots meanwhile, and over the encoder's."""
    queries = np.ascontiguousarray(nodes[:, -leaves.shape[1] :])
    yield flat(f"faiss flat L1, {leaves.shape[1]} floats", leaves, queries, faiss.METRIC_L1)
    inner = faiss.METRIC_INNER_PRODUCT
    np.sqrt(leaves, out=leaves)
    yield flat(f"faiss flat inner product, {leaves.shape[1]} floats", leaves, np.sqrt(queries), inner)
    yield flat(f"faiss flat inner product, encoder's {encodings.shape[1]} floats", encodings, asked, inner)


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
