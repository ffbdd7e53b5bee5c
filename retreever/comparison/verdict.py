"""The quick comparison on the test split: every representation at every size, and the conditions.

A figure without its protocol says nothing, so table, text and JSON all carry the protocol. Picks no winner: it only
sets the best of each size in bold.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from retreever.system.files import write_json

METRIC_COLUMNS = {"ndcg_at_10": "NDCG@10", "recall_at_10": "R@10", "recall_at_100": "R@100", "mrr_at_10": "MRR@10"}


@dataclass(frozen=True)
class Conditions:
    """What was equal for all: passages, queries, encoder, training budget.

    >>> print(Conditions(20396, 2000, "minilm", 600, 1024, 0))
    20,396 passages · 2,000 queries · encoder minilm · 600 steps of 1,024 pairs · seed 0
    """

    passages: int
    queries: int
    encoder: str
    steps: int
    batch_size: int
    seed: int

    def __str__(self) -> str:
        parts = [f"{self.passages:,} passages", f"{self.queries:,} queries", f"encoder {self.encoder}"]
        return " · ".join([*parts, f"{self.steps:,} steps of {self.batch_size:,} pairs", f"seed {self.seed}"])


class VerdictRow(NamedTuple):
    """One representation at one size.

    Attributes:
        name: of the system; rows of one name are one curve.
        dimensions: numbers per text; None where the size is fixed (BM25, the encoder as it is).
        bytes_per_document: bytes that the index needs per passage.
        metrics: by the names in `METRICS`, each in [0, 1].
    """

    name: str
    dimensions: int | None
    bytes_per_document: float
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Verdict:
    """Rows of one data set's test split under one protocol."""

    dataset: str
    protocol: Conditions
    rows: list[VerdictRow]

    def table(self) -> list[list[str]]:
        """Format a header, then a line for each row."""
        header = ["representation", "dimensions", "bytes/document", *METRIC_COLUMNS.values()]
        return [header, *(self._cells(row) for row in self.rows)]

    def markdown(self) -> str:
        """Format the table under its protocol; at each size the best NDCG@10 in bold."""
        best: dict[int, float] = {}
        for row in self.rows:
            if row.dimensions is not None:
                best[row.dimensions] = max(best.get(row.dimensions, 0.0), row.metrics["ndcg_at_10"])
        header, *lines = self.table()
        for row, line in zip(self.rows, lines, strict=True):
            if row.dimensions is not None and row.metrics["ndcg_at_10"] == best[row.dimensions]:
                line[3] = f"**{line[3]}**"
        rule = ["---"] + ["---:"] * (len(header) - 1)
        body = "\n".join(f"| {' | '.join(line)} |" for line in [header, rule, *lines])
        return f"Test split of {self.dataset}: {self.protocol}\n\n{body}\n"

    def to_json(self) -> dict[str, Any]:
        """Data set, protocol, and `results`: each name's metrics by dimensions ("full" where the size is fixed)."""
        results: dict[str, dict[str, dict[str, float]]] = {}
        for row in self.rows:
            size = "full" if row.dimensions is None else str(row.dimensions)
            figures = {"bytes_per_document": row.bytes_per_document, **row.metrics}
            results.setdefault(row.name, {})[size] = figures
        return {"dataset": self.dataset, "protocol": asdict(self.protocol), "results": results}

    def save(self, path: Path) -> None:
        """Write `to_json` to `path`, whole or not at all."""
        write_json(path, self.to_json())

    @staticmethod
    def _cells(row: VerdictRow) -> list[str]:
        size = "-" if row.dimensions is None else f"{row.dimensions:,}"
        return [row.name, size, f"{row.bytes_per_document:,.0f}", *(f"{row.metrics[m]:.3f}" for m in METRIC_COLUMNS)]
