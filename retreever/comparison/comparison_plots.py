"""Plots of a comparison: NDCG@10 against dimensions, bytes per document and latency."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from retreever.comparison.comparison_report import HYBRID_MARK, ComparisonReport, ReportEntry
from retreever.comparison.verdict import METRIC_COLUMNS, Verdict, VerdictRow
from retreever.evaluation.training_plots import DASHES, MARKERS, PALETTE, TEXT_COLOR, draw_figure, set_size_axis

TREE_COLOR = "#D55E00"
PLAIN_CODES = ("float32", "float32 sum")
LATENCY_AXIS_LABEL = "milliseconds per query, without encoding"
Axis = Callable[[ReportEntry], float | None]
AXES: dict[str, Axis] = {
    "dimensions": lambda entry: entry.dimensions if entry.storage == "float32" else None,
    "bytes per document": lambda entry: entry.bytes_per_document,
    LATENCY_AXIS_LABEL: lambda entry: entry.latency.median if entry.latency else None,
}


def plot_report(report: ComparisonReport, path: Path) -> None:
    """Plot one panel per axis, one colour per system; filled markers are float32, hollow ones all other forms.

    Hybrids have dashed lines, through the forms with the convex sum.
    """
    names = list(dict.fromkeys(entry.name for entry in report.entries))
    subtitle = report.protocol.lines()[0]
    with draw_figure(path, len(AXES), f"Comparison on {report.protocol.dataset}", subtitle, width=5.4) as (
        figure,
        axes,
    ):
        for ax, (label, axis) in zip(axes, AXES.items(), strict=True):
            for i, name in enumerate(names):
                own = [entry for entry in report.entries if entry.name == name]
                z = 30 if name in (report.tree, report.tree_hybrid) else 10
                _draw_system(ax, own, axis, _choose_color(report, name, i), MARKERS[i % len(MARKERS)], z)
            ax.set_xscale("log", base=2 if label != LATENCY_AXIS_LABEL else 10)
            ax.set_xlabel(label, color=TEXT_COLOR)
            ax.set_ylabel("NDCG@10", color=TEXT_COLOR)
            ax.minorticks_off()
        for i, name in enumerate(names):
            style = {"color": _choose_color(report, name, i), "marker": MARKERS[i % len(MARKERS)]}
            axes[0].plot([], [], linestyle=_choose_dash(name), label=name, **style)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=7, frameon=False, fontsize=9)


def _choose_color(report: ComparisonReport, name: str, position: int) -> str:
    others = [color for color in PALETTE if color != TREE_COLOR]
    return TREE_COLOR if name in (report.tree, report.tree_hybrid) else others[position % len(others)]


def _choose_dash(name: str) -> str:
    return "--" if HYBRID_MARK in name else "-"


def _draw_system(ax: Any, entries: list[ReportEntry], axis: Axis, color: str, marker: str, z: int) -> None:
    plain = sorted((x, e.mean()) for e in entries if e.code in PLAIN_CODES and (x := axis(e)) is not None)
    other = [(x, e.mean()) for e in entries if e.code not in PLAIN_CODES and (x := axis(e)) is not None]
    if plain:
        style = {"color": color, "marker": marker, "linestyle": _choose_dash(entries[0].name)}
        ax.plot(*zip(*plain, strict=True), markersize=6, linewidth=1.8, zorder=z, **style)
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
