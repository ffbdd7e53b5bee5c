"""The full comparison: every representation in every form, how sure each figure is, and duels with the rivals.

A figure without its protocol says nothing, so Markdown and JSON both carry it. In a duel the rival is the one with the
best NDCG@10 on the very split that is reported, which is generous to rivals; the tree's form is fixed by the question.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from retreever.comparison.verdict import COLUMNS
from retreever.evaluation.latency import Latency
from retreever.evaluation.significance import interval, paired_p, ratio_interval
from retreever.system.files import write_aside, write_json

NDCG = "ndcg_at_10"
BYTES = (64, 256, 1024)
ALONE = ("bm25", "hier_kmeans", "hier_gmm", "raptor")
"""Rivals with a duel of their own. BM25 has no other: it reads whole texts and no encoding."""


@dataclass(frozen=True)
class Protocol:
    """What was held equal for all.

    Attributes:
        distractors: passages ranked that answer no query of the split.
        encoder: name and how it reads.
        seeds: of what is drawn at random; a figure is the mean over them.
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
        """In words, one fact a line."""
        return [
            f"{self.split} split of {self.dataset}: {self.queries:,} queries, {self.passages:,} passages ranked, "
            f"{self.distractors:,} of them distractors that answer none of these queries",
            f"trained on {self.trained_on}: {self.train_pairs:,} pairs, {self.steps:,} steps of {self.batch_size:,}, "
            f"seeds {', '.join(map(str, self.seeds))}; settings chosen on dev",
            f"encoder {self.encoder}, frozen, the same for all",
            f"measured on {self.machine}; latency of one query at a time on one thread, encoding apart",
        ]


@dataclass(frozen=True)
class Entry:
    """One representation in one form.

    Attributes:
        per_query: one value a query and metric, the mean over seeds.
        by_seed: NDCG@10 of each seed.
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

    def mean(self, metric: str = NDCG) -> float:
        """Over queries, in [0, 1]."""
        return float(self.per_query[metric].mean())

    def to_json(self) -> dict[str, Any]:
        """Means with their bootstrap intervals."""
        metrics = {m: {"mean": self.mean(m), "interval": interval(values)} for m, values in self.per_query.items()}
        return {
            "name": self.name, "dimensions": self.dimensions, "code": self.code,
            "bytes_per_document": self.bytes_per_document, "metrics": metrics, "ndcg_at_10_by_seed": self.by_seed,
            "latency_ms": self.latency._asdict() if self.latency else None,
        }  # fmt: skip


class Duel(NamedTuple):
    """The tree against one rival on the same queries.

    Attributes:
        ratio: of mean NDCG@10, tree over rival, with its bootstrap interval.
        p: of a paired Student test.
        faster: the rival's median latency over the tree's; None where either was not timed.
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
        """As a line of a table."""
        faster = "-" if self.faster is None else f"{self.faster:.2f}x"
        ratio = f"{self.ratio:.3f} [{self.low:.3f}, {self.high:.3f}]"
        return [self.question, self.ours, self.theirs, ratio, f"{self.p:.2g}", faster]


@dataclass(frozen=True)
class Report:
    """All entries of one comparison, the tree's first.

    Attributes:
        tree: the name under which the tree's entries go.
        encoding: milliseconds to encode a query, apart from every latency.
        failed: rivals that could not be judged, and why.
    """

    protocol: Protocol
    tree: str
    entries: list[Entry]
    encoding: Latency
    failed: dict[str, str] = field(default_factory=dict)

    def duels(self) -> list[Duel]:
        """Against the frozen encoder, the best of equal dimensions and of equal bytes, BM25, and each hierarchy."""
        found = [*self._against_frozen(), *self._at_equal_dimensions(), *self._at_equal_bytes()]
        return found + [duel for name in ALONE for duel in self._best_against(name)]

    def markdown(self) -> str:
        """Protocol, duels, and all figures."""
        duels = [["question", "tree", "rival", "NDCG@10, tree / rival", "p", "tree is faster"]]
        duels += [duel.cells() for duel in self.duels()]
        parts = [
            f"# Comparison on {self.protocol.dataset}",
            "\n".join(f"- {line}" for line in self.protocol.lines()),
            f"Encoding a query takes {self.encoding.median:.1f} ms (median), at most {self.encoding.p95:.1f} for 95 %.",
            "## Tree against rivals",
            "Rivals at their best on this split. In brackets: 95 % bootstrap interval; p: paired Student test. "
            "BM25 reads whole texts and no encoding, so it meets the tree once, at no size.",
            _table(duels, left=3),
            "## All figures",
            _table(
                [["representation", "dimensions", "code", "bytes", *COLUMNS.values(), "ms"], *self._lines()], left=1
            ),
            *(f"{name} could not be judged: {why}" for name, why in self.failed.items()),
        ]
        return "\n\n".join(parts) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Everything but the values of single queries."""
        return {
            "protocol": asdict(self.protocol), "encoding_ms": self.encoding._asdict(),
            "entries": [entry.to_json() for entry in self.entries], "duels": [d._asdict() for d in self.duels()],
            "failed": self.failed,
        }  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write `report.md` and `report.json` to `folder`."""
        write_json(folder / "report.json", self.to_json())
        with write_aside(folder / "report.md") as aside:
            aside.write_text(self.markdown(), encoding="utf-8")

    def _ours(self, wanted: Callable[[Entry], bool]) -> list[Entry]:
        return [entry for entry in self.entries if entry.name == self.tree and wanted(entry)]

    def _rivals(self, wanted: Callable[[Entry], bool]) -> list[Entry]:
        return [entry for entry in self.entries if entry.name != self.tree and wanted(entry)]

    def _against_frozen(self) -> Iterator[Duel]:
        finest = max(self._ours(_plain), key=lambda entry: entry.dimensions or 0)
        yield from _duel("the encoder as it is", [finest], self._rivals(lambda e: e.name == "frozen" and _plain(e)))

    def _at_equal_dimensions(self) -> Iterator[Duel]:
        for ours in self._ours(_plain):
            rivals = self._rivals(lambda e, size=ours.dimensions: _plain(e) and e.dimensions == size)  # type: ignore[misc]
            yield from _duel(f"{ours.dimensions:,} dimensions", [ours], rivals)

    def _at_equal_bytes(self) -> Iterator[Duel]:
        for size in BYTES:
            rivals = self._rivals(lambda e, size=size: e.bytes_per_document <= size and e.name != "bm25")  # type: ignore[misc]
            for code in ("int8", f"pq{size}"):
                ours = self._ours(lambda e, code=code, size=size: e.code == code and e.bytes_per_document == size)  # type: ignore[misc]
                yield from _duel(f"{size:,} bytes", ours, rivals)

    def _best_against(self, name: str) -> Iterator[Duel]:
        """The rival's best form against the fastest of the tree's that ranks better, or its best where none does."""
        rivals = self._rivals(lambda e: e.name == name)
        best = max((rival.mean() for rival in rivals), default=0.0)
        ours = [entry for entry in self._ours(lambda e: e.mean() > best) if entry.latency]
        fastest = min(ours, key=lambda entry: entry.latency.median if entry.latency else 0.0, default=None)
        yield from _duel(name, [fastest] if fastest else self._ours(_plain), rivals)

    def _lines(self) -> Iterator[list[str]]:
        best = {m: max(entry.mean(m) for entry in self.entries) for m in COLUMNS}
        for entry in self.entries:
            cells = [_figure(entry, m, best[m]) for m in COLUMNS]
            size = "-" if entry.dimensions is None else f"{entry.dimensions:,}"
            time = "-" if entry.latency is None else f"{entry.latency.median:.2f}"
            yield [entry.name, size, entry.code, f"{entry.bytes_per_document:,.0f}", *cells, time]


def _plain(entry: Entry) -> bool:
    return entry.code == "float32"


def _duel(question: str, ours: Sequence[Entry], theirs: Sequence[Entry]) -> Iterator[Duel]:
    """The best of either side; nothing where a side is empty."""
    if ours and theirs:
        tree, rival = (max(side, key=Entry.mean) for side in (ours, theirs))
        values = tree.per_query[NDCG], rival.per_query[NDCG]
        faster = rival.latency.median / tree.latency.median if rival.latency and tree.latency else None
        ratio = tree.mean() / max(rival.mean(), 1e-12)
        yield Duel(question, tree.label, rival.label, ratio, *ratio_interval(*values), paired_p(*values), faster)


def _figure(entry: Entry, metric: str, best: float) -> str:
    mean, (low, high) = entry.mean(metric), interval(entry.per_query[metric])
    text = f"{mean:.3f}" if mean < best else f"**{mean:.3f}**"
    return f"{text} [{low:.3f}, {high:.3f}]" if metric == NDCG else text


def _table(lines: Sequence[Sequence[str]], left: int) -> str:
    """A Markdown table; the first `left` columns are text, the others numbers."""
    rule = ["---"] * left + ["---:"] * (len(lines[0]) - left)
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])
