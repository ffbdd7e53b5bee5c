"""Plots of a comparison: NDCG@10 against dimensions, bytes per document and latency."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from retreever.comparison.comparison_report import ComparisonReport, ReportEntry
from retreever.comparison.verdict import METRIC_COLUMNS, Verdict, VerdictRow
from retreever.evaluation.training_plots import DASHES, MARKERS, PALETTE, TEXT_COLOR, draw_figure, set_size_axis

TREE_COLOR = "#D55E00"
LATENCY_AXIS_LABEL = "milliseconds per query, without encoding"
Axis = Callable[[ReportEntry], float | None]
AXES: dict[str, Axis] = {
    "dimensions": lambda entry: entry.dimensions if entry.code == "float32" else None,
    "bytes per document": lambda entry: entry.bytes_per_document,
    LATENCY_AXIS_LABEL: lambda entry: entry.latency.median if entry.latency else None,
}


def plot_report(report: ComparisonReport, path: Path) -> None:
    """Plot one panel per axis, one colour per system; filled markers are float32, hollow ones all other forms."""
    names = list(dict.fromkeys(entry.name for entry in report.entries))
    subtitle = report.protocol.lines()[0]
    with draw_figure(path, len(AXES), f"Comparison on {report.protocol.dataset}", subtitle, width=5.4) as (
        figure,
        axes,
    ):
        for ax, (label, axis) in zip(axes, AXES.items(), strict=True):
            for i, name in enumerate(names):
                own = [entry for entry in report.entries if entry.name == name]
                color = TREE_COLOR if name == report.tree else _baseline_colors()[i % len(_baseline_colors())]
                _draw_system(ax, own, axis, color, MARKERS[i % len(MARKERS)], 30 if name == report.tree else 10)
            ax.set_xscale("log", base=2 if label != LATENCY_AXIS_LABEL else 10)
            ax.set_xlabel(label, color=TEXT_COLOR)
            ax.set_ylabel("NDCG@10", color=TEXT_COLOR)
            ax.minorticks_off()
        for i, name in enumerate(names):
            color = TREE_COLOR if name == report.tree else _baseline_colors()[i % len(_baseline_colors())]
            axes[0].plot([], [], color=color, marker=MARKERS[i % len(MARKERS)], label=name)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=7, frameon=False, fontsize=9)


def _baseline_colors() -> list[str]:
    return [color for color in PALETTE if color != TREE_COLOR]


def _draw_system(ax: Any, entries: list[ReportEntry], axis: Axis, color: str, marker: str, z: int) -> None:
    plain = sorted((x, e.mean()) for e in entries if e.code == "float32" and (x := axis(e)) is not None)
    other = [(x, e.mean()) for e in entries if e.code != "float32" and (x := axis(e)) is not None]
    if plain:
        ax.plot(*zip(*plain, strict=True), color=color, marker=marker, markersize=6, linewidth=1.8, zorder=z)
    if other:
        ax.plot(
            *zip(*other, strict=True), linestyle="", color=color, marker=marker, markersize=6, zorder=z,
            markerfacecolor="white",
        )  # fmt: skip


def plot_verdict(verdict: Verdict, path: Path) -> None:
    """Plot NDCG@10, R@10 and R@100 against size: a curve for a system with sizes, a horizontal line for one without."""
    names = list(dict.fromkeys(row.name for row in verdict.rows))
    sizes = [row.dimensions for row in verdict.rows if row.dimensions is not None]
    with draw_figure(path, 3, f"Retrieval on {verdict.dataset}, test split", str(verdict.protocol)) as (
        figure,
        axes,
    ):
        for ax, metric in zip(axes, ("ndcg_at_10", "recall_at_10", "recall_at_100"), strict=True):
            for i, name in enumerate(names):
                rows = [row for row in verdict.rows if row.name == name]
                style = {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i % len(MARKERS)]}
                _plot_size_curve(ax, rows, metric, dash=DASHES[i % len(DASHES)], z=20 - i, **style)
            set_size_axis(ax, sizes)
            ax.set_title(METRIC_COLUMNS[metric], fontsize=11, color=TEXT_COLOR, loc="left")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=10)


def _plot_size_curve(
    ax: Any, rows: Sequence[VerdictRow], metric: str, *, color: str, marker: str, dash: str, z: int
) -> None:
    sized = sorted((row.dimensions, row.metrics[metric]) for row in rows if row.dimensions is not None)
    if sized:
        x, y = zip(*sized, strict=True)
        ax.plot(x, y, color=color, marker=marker, markersize=6, linewidth=2, zorder=z, label=rows[0].name)
    for row in rows:
        if row.dimensions is None:
            ax.axhline(row.metrics[metric], color=color, linestyle=dash, linewidth=1.8, label=row.name)
