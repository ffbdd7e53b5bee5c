"""Figures of a comparison: NDCG@10 against dimensions, against bytes per document and against latency."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from retreever.comparison.comparison_report import Entry, Report
from retreever.comparison.verdict import COLUMNS, Row, Verdict
from retreever.evaluation.training_plots import DASHES, INK, MARKERS, PALETTE, figure_of, size_axis

TREE = "#D55E00"
Axis = Callable[[Entry], float | None]
AXES: dict[str, Axis] = {
    "dimensions": lambda entry: entry.dimensions if entry.code == "float32" else None,
    "bytes per document": lambda entry: entry.bytes_per_document,
    "milliseconds a query, encoding apart": lambda entry: entry.latency.median if entry.latency else None,
}


def plot_report(report: Report, path: Path) -> None:
    """One panel an axis, one colour a name; filled marks are float32, hollow ones other codes and searches."""
    names = list(dict.fromkeys(entry.name for entry in report.entries))
    subtitle = report.protocol.lines()[0]
    with figure_of(path, len(AXES), f"Comparison on {report.protocol.dataset}", subtitle, width=5.4) as (figure, axes):
        for ax, (label, place) in zip(axes, AXES.items(), strict=True):
            for i, name in enumerate(names):
                own = [entry for entry in report.entries if entry.name == name]
                color = TREE if name == report.tree else _others()[i % len(_others())]
                _draw(ax, own, place, color, MARKERS[i % len(MARKERS)], 30 if name == report.tree else 10)
            ax.set_xscale("log", base=2 if label != "milliseconds a query, encoding apart" else 10)
            ax.set_xlabel(label, color=INK)
            ax.set_ylabel("NDCG@10", color=INK)
            ax.minorticks_off()
        for i, name in enumerate(names):
            color = TREE if name == report.tree else _others()[i % len(_others())]
            axes[0].plot([], [], color=color, marker=MARKERS[i % len(MARKERS)], label=name)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=7, frameon=False, fontsize=9)


def _others() -> list[str]:
    return [color for color in PALETTE if color != TREE]


def _draw(ax: Any, entries: list[Entry], place: Axis, color: str, marker: str, z: int) -> None:
    plain = sorted((x, e.mean()) for e in entries if e.code == "float32" and (x := place(e)) is not None)
    other = [(x, e.mean()) for e in entries if e.code != "float32" and (x := place(e)) is not None]
    if plain:
        ax.plot(*zip(*plain, strict=True), color=color, marker=marker, markersize=6, linewidth=1.8, zorder=z)
    if other:
        ax.plot(
            *zip(*other, strict=True), linestyle="", color=color, marker=marker, markersize=6, zorder=z,
            markerfacecolor="white",
        )  # fmt: skip


def plot_verdict(verdict: Verdict, path: Path) -> None:
    """NDCG@10, R@10 and R@100 against size: a curve for a name with sizes, a level line for one without."""
    names = list(dict.fromkeys(row.name for row in verdict.rows))
    sizes = [row.dimensions for row in verdict.rows if row.dimensions is not None]
    with figure_of(path, 3, f"Retrieval on {verdict.dataset}, test split", str(verdict.protocol)) as (
        figure,
        axes,
    ):
        for ax, metric in zip(axes, ("ndcg_at_10", "recall_at_10", "recall_at_100"), strict=True):
            for i, name in enumerate(names):
                rows = [row for row in verdict.rows if row.name == name]
                style = {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i % len(MARKERS)]}
                _curve(ax, rows, metric, dash=DASHES[i % len(DASHES)], z=20 - i, **style)
            size_axis(ax, sizes)
            ax.set_title(COLUMNS[metric], fontsize=11, color=INK, loc="left")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=10)


def _curve(ax: Any, rows: Sequence[Row], metric: str, *, color: str, marker: str, dash: str, z: int) -> None:
    sized = sorted((row.dimensions, row.metrics[metric]) for row in rows if row.dimensions is not None)
    if sized:
        x, y = zip(*sized, strict=True)
        ax.plot(x, y, color=color, marker=marker, markersize=6, linewidth=2, zorder=z, label=rows[0].name)
    for row in rows:
        if row.dimensions is None:
            ax.axhline(row.metrics[metric], color=color, linestyle=dash, linewidth=1.8, label=row.name)
