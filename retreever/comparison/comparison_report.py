"""The full comparison: every representation in every form, with intervals and paired tests.

A figure without its protocol says nothing, so Markdown and JSON both carry the protocol. In a pairwise comparison the
baseline is the one with the best NDCG@10 on the very split that is reported, which favours the baselines; the question
fixes the tree's form. Hybrids with BM25 meet hybrids, single systems meet single ones. Runs and times nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from retreever.comparison.verdict import METRIC_COLUMNS
from retreever.evaluation.latency import Latency
from retreever.evaluation.significance import bootstrap_interval, bootstrap_ratio_interval, paired_p_value
from retreever.system.files import write_atomically, write_json

MAIN_METRIC = "ndcg_at_10"
PAIRWISE_COLUMNS = ["question", "tree", "baseline", "NDCG@10, tree / baseline", "p", "tree is faster"]
BYTE_BUDGETS = (64, 256, 1024)
SEPARATE_BASELINES = ("bm25", "hier_kmeans", "hier_gmm", "raptor")
"""Baselines with a pairwise comparison of their own. BM25 has only this one: it reads whole texts and no encoding."""
UNTRAINED_SYSTEMS = ("bm25", "frozen", "bm25+frozen")
"""What a team has without training anything; the weights of their hybrid are chosen on dev, as the tree's are."""
HYBRID_MARK = "+"
"""Joins the names of the systems that a hybrid is made of."""


@dataclass(frozen=True)
class ComparisonProtocol:
    """What was equal for all systems.

    Attributes:
        distractors: ranked passages that answer no query of the split.
        encoder: its name, pooling and text lengths.
        seeds: of everything random; a figure is the mean over them.
    """

    dataset: str
    split: str
    passages: int
    distractors: int
    queries: int
    trained_on: str
    train_pairs: int
    encoder: str
    steps: int
    batch_size: int
    seeds: list[int]
    machine: str

    def lines(self) -> list[str]:
        """The protocol in words, one fact per line."""
        return [
            f"{self.split} split of {self.dataset}: {self.queries:,} queries, {self.passages:,} passages ranked, "
            f"{self.distractors:,} of them distractors that answer none of these queries",
            f"trained on {self.trained_on}: {self.train_pairs:,} pairs, {self.steps:,} steps of {self.batch_size:,}, "
            f"seeds {', '.join(map(str, self.seeds))}; settings chosen on dev",
            f"encoder {self.encoder}, frozen, the same for all",
            f"measured on {self.machine}; latency of one query at a time on one thread, without encoding",
        ]


@dataclass(frozen=True)
class ReportEntry:
    """One representation in one form.

    Attributes:
        per_query: by metric, one value per query, the mean over seeds.
        by_seed: mean NDCG@10 of each seed.
        latency: of a search for ten passages, without encoding the query.
    """

    name: str
    dimensions: int | None
    code: str
    bytes_per_document: float
    per_query: dict[str, Float[np.ndarray, " queries"]] = field(repr=False)
    by_seed: list[float]
    latency: Latency | None = None

    @property
    def label(self) -> str:
        """Name, dimensions and code in words."""
        return " ".join([self.name, *([f"{self.dimensions:,}"] if self.dimensions else []), self.code])

    @property
    def is_hybrid(self) -> bool:
        """Whether the scores of several systems are fused."""
        return HYBRID_MARK in self.name

    @property
    def storage(self) -> str:
        """How the numbers are stored: the code without the kind of fusion."""
        return self.code.split()[0]

    def mean(self, metric: str = MAIN_METRIC) -> float:
        """Mean of a metric over queries, in [0, 1]."""
        return float(self.per_query[metric].mean())

    def to_json(self) -> dict[str, Any]:
        """Means with their bootstrap intervals."""
        metrics = {
            m: {"mean": self.mean(m), "interval": bootstrap_interval(values)} for m, values in self.per_query.items()
        }
        return {
            "name": self.name, "dimensions": self.dimensions, "code": self.code,
            "bytes_per_document": self.bytes_per_document, "metrics": metrics, "ndcg_at_10_by_seed": self.by_seed,
            "latency_ms": self.latency._asdict() if self.latency else None,
        }  # fmt: skip


class PairwiseComparison(NamedTuple):
    """The tree against one baseline on the same queries.

    Attributes:
        question: what both sides share, as in `64 bytes`, or which baseline is meant, as in `bm25`.
        ours, theirs: labels of the two entries.
        ratio: mean NDCG@10 of the tree over that of the baseline.
        low, high: bootstrap interval of the ratio (95 %).
        p: two-sided p of a paired Student test.
        faster: the baseline's median latency over the tree's; None where either was not timed.
    """

    question: str
    ours: str
    theirs: str
    ratio: float
    low: float
    high: float
    p: float
    faster: float | None

    def cells(self) -> list[str]:
        """Format the comparison as a line of a table."""
        faster = "-" if self.faster is None else f"{self.faster:.2f}x"
        ratio = f"{self.ratio:.3f} [{self.low:.3f}, {self.high:.3f}]"
        return [self.question, self.ours, self.theirs, ratio, f"{self.p:.2g}", faster]


@dataclass(frozen=True)
class ComparisonReport:
    """All entries of one comparison, the tree's first.

    Attributes:
        tree: name of the tree's entries.
        tree_hybrid: name of the entries of the tree with BM25.
        encoding: milliseconds to encode a query, which no other latency includes.
        failed: why a system could not be judged, by its label.
    """

    protocol: ComparisonProtocol
    tree: str
    tree_hybrid: str
    entries: list[ReportEntry]
    encoding: Latency
    failed: dict[str, str] = field(default_factory=dict)

    def pairwise_comparisons(self) -> list[PairwiseComparison]:
        """Compare with the frozen encoder, the best baseline of equal dimensions or bytes, BM25 and each hierarchy."""
        found = [*self._against_frozen(), *self._at_equal_dimensions(), *self._at_equal_bytes()]
        return found + [pair for name in SEPARATE_BASELINES for pair in self._against_separate(name)]

    def hybrid_comparisons(self) -> list[PairwiseComparison]:
        """Compare the tree's hybrid to the best without training, to other hybrids, and to the tree alone."""
        ours = [entry for entry in self.entries if entry.name == self.tree_hybrid]
        theirs = [entry for entry in self.entries if entry.is_hybrid and entry.name != self.tree_hybrid]
        finest = max((entry.dimensions or 0 for entry in ours), default=0)
        best = [entry for entry in ours if entry.dimensions == finest]
        untrained = [entry for entry in self.entries if _is_float32(entry) and entry.name in UNTRAINED_SYSTEMS]
        alone = self._tree_entries(lambda entry: _is_float32(entry) and entry.dimensions == finest)
        found = [*_compare_best("the best without training", best, untrained)]
        found += _compare_best("the tree alone", best, alone)
        for entry in ours:
            same = [other for other in theirs if _is_float32(other) and other.dimensions == entry.dimensions]
            found += _compare_best(f"{entry.dimensions:,} dimensions", [entry], same)
        return found

    def markdown(self) -> str:
        """Protocol, pairwise comparisons and all figures in Markdown; hybrids in tables of their own."""
        single, hybrid = ([e for e in self.entries if e.is_hybrid == fused] for fused in (False, True))
        parts = [
            f"# Comparison on {self.protocol.dataset}",
            "\n".join(f"- {line}" for line in self.protocol.lines()),
            f"Encoding a query takes {self.encoding.median:.1f} ms at the median, "
            f"{self.encoding.p95:.1f} ms at the 95th percentile.",
            "## Tree against baselines",
            "Each baseline is at its best on this split. In brackets: 95 % bootstrap interval; p: paired Student test. "
            "BM25 reads whole texts and no encoding, so it has one pairwise comparison, at no size.",
            _pairwise_table(self.pairwise_comparisons()),
            "## All figures of single systems",
            _figure_table(single),
            *(self._hybrid_sections(hybrid) if hybrid else []),
            *(f"{name} could not be judged: {why}" for name, why in self.failed.items()),
        ]
        return "\n\n".join(parts) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Everything but the values of single queries."""
        return {
            "protocol": asdict(self.protocol), "encoding_ms": self.encoding._asdict(),
            "entries": [entry.to_json() for entry in self.entries],
            "pairwise": [pair._asdict() for pair in self.pairwise_comparisons()],
            "hybrid_pairwise": [pair._asdict() for pair in self.hybrid_comparisons()],
            "failed": self.failed,
        }  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write `report.md` and `report.json` to `folder`."""
        write_json(folder / "report.json", self.to_json())
        with write_atomically(folder / "report.md") as aside:
            aside.write_text(self.markdown(), encoding="utf-8")

    def _hybrid_sections(self, hybrid: list[ReportEntry]) -> list[str]:
        return [
            "## Hybrids with BM25",
            "Fused by a weighted sum of scores (`sum`) or by reciprocal ranks (`rrf`). Weights and rank constants are "
            "chosen on dev: the tree's once, as a bundle's are, the others' for each size. The tree's hybrid has the "
            "frozen encoder as a third part where the index keeps encodings (`index.encodings`). Bytes and latency are "
            "those of all parts.",
            _pairwise_table(self.hybrid_comparisons()),
            "## All figures of hybrids",
            _figure_table(hybrid),
        ]

    def _tree_entries(self, wanted: Callable[[ReportEntry], bool] = lambda entry: True) -> list[ReportEntry]:
        return [entry for entry in self.entries if entry.name == self.tree and wanted(entry)]

    def _baseline_entries(self, wanted: Callable[[ReportEntry], bool] = lambda entry: True) -> list[ReportEntry]:
        baselines = (entry for entry in self.entries if entry.name != self.tree and not entry.is_hybrid)
        return [entry for entry in baselines if wanted(entry)]

    def _against_frozen(self) -> Iterator[PairwiseComparison]:
        finest = max(self._tree_entries(_is_float32), key=lambda entry: entry.dimensions or 0)
        yield from _compare_best(
            "the encoder as it is", [finest], self._baseline_entries(lambda e: e.name == "frozen" and _is_float32(e))
        )

    def _at_equal_dimensions(self) -> Iterator[PairwiseComparison]:
        for ours in self._tree_entries(_is_float32):
            baselines = [e for e in self._baseline_entries(_is_float32) if e.dimensions == ours.dimensions]
            yield from _compare_best(f"{ours.dimensions:,} dimensions", [ours], baselines)

    def _at_equal_bytes(self) -> Iterator[PairwiseComparison]:
        for size in BYTE_BUDGETS:
            baselines = [e for e in self._baseline_entries() if e.bytes_per_document <= size and e.name != "bm25"]
            for code in ("int8", f"pq{size}"):
                ours = [e for e in self._tree_entries() if (e.code, e.bytes_per_document) == (code, size)]
                yield from _compare_best(f"{size:,} bytes", ours, baselines)

    def _against_separate(self, name: str) -> Iterator[PairwiseComparison]:
        """A baseline's best form against the tree's fastest form that ranks better, or its best where none does."""
        baselines = self._baseline_entries(lambda e: e.name == name)
        best = max((entry.mean() for entry in baselines), default=0.0)
        ours = [entry for entry in self._tree_entries(lambda e: e.mean() > best) if entry.latency]
        fastest = min(ours, key=lambda entry: entry.latency.median if entry.latency else 0.0, default=None)
        yield from _compare_best(name, [fastest] if fastest else self._tree_entries(_is_float32), baselines)


def _is_float32(entry: ReportEntry) -> bool:
    return entry.storage == "float32"


def _compare_best(
    question: str, ours: Sequence[ReportEntry], theirs: Sequence[ReportEntry]
) -> Iterator[PairwiseComparison]:
    """Compare the best entry of either side; yields nothing where a side is empty."""
    if ours and theirs:
        tree, baseline = (max(side, key=ReportEntry.mean) for side in (ours, theirs))
        values = tree.per_query[MAIN_METRIC], baseline.per_query[MAIN_METRIC]
        faster = baseline.latency.median / tree.latency.median if baseline.latency and tree.latency else None
        ratio = tree.mean() / max(baseline.mean(), 1e-12)
        yield PairwiseComparison(
            question,
            tree.label,
            baseline.label,
            ratio,
            *bootstrap_ratio_interval(*values),
            paired_p_value(*values),
            faster,
        )


def _figure(entry: ReportEntry, metric: str, best: float) -> str:
    mean, (low, high) = entry.mean(metric), bootstrap_interval(entry.per_query[metric])
    text = f"{mean:.3f}" if mean < best else f"**{mean:.3f}**"
    return f"{text} [{low:.3f}, {high:.3f}]" if metric == MAIN_METRIC else text


def _pairwise_table(pairs: Sequence[PairwiseComparison]) -> str:
    return _table([PAIRWISE_COLUMNS, *(pair.cells() for pair in pairs)], left=3)


def _figure_table(entries: Sequence[ReportEntry]) -> str:
    """A line for each entry; the best figure of each metric in bold."""
    best = {m: max(entry.mean(m) for entry in entries) for m in METRIC_COLUMNS}
    lines = [["representation", "dimensions", "code", "bytes", *METRIC_COLUMNS.values(), "ms"]]
    for entry in entries:
        cells = [_figure(entry, m, best[m]) for m in METRIC_COLUMNS]
        size = "-" if entry.dimensions is None else f"{entry.dimensions:,}"
        time = "-" if entry.latency is None else f"{entry.latency.median:.2f}"
        lines.append([entry.name, size, entry.code, f"{entry.bytes_per_document:,.0f}", *cells, time])
    return _table(lines, left=1)


def _table(lines: Sequence[Sequence[str]], left: int) -> str:
    """A Markdown table; the first `left` columns are text, the others numbers."""
    rule = ["---"] * left + ["---:"] * (len(lines[0]) - left)
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])
