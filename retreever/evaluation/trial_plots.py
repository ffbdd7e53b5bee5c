"""Plots of a sweep as PNG files: trials by size and by setting, importances, Pareto front, answer.

Draws the values it receives and decides nothing.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from retreever.evaluation.training_plots import MARKERS, PALETTE, TEXT_COLOR, draw_figure, set_size_axis

NDCG_AXIS_LABEL = "dev NDCG@10"
AXIS_LABELS = {"ndcg_at_10": NDCG_AXIS_LABEL, "guard_of_frozen": "NDCG@10 on guard sets, share of the frozen encoder's"}
"""Labels of objectives whose names say too little."""
MAX_POINT_LABEL = 24
"""Characters of a label beside a point, at most; longer ones would cover other points."""


class LevelCurve(NamedTuple):
    """NDCG@10 at every level, for one run or for one value of the compared setting.

    Attributes:
        dimensions: 2**level, ascending.
        means: NDCG@10 at each, mean over seeds.
        spreads: standard deviation over seeds at each; zeros for a single seed.
    """

    label: str
    dimensions: Sequence[int]
    means: Sequence[float]
    spreads: Sequence[float]


def plot_trials(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plot dev NDCG@10 of a sweep's trials against representation size; colour by split, marker by scheduler.

    Args:
        rows: each with `dimensions`, `ndcg_at_10`, `split` and `scheduler`; a trial has one row, or one per
            level.
    """
    splits, schedulers = (sorted({row[key] for row in rows}) for key in ("split", "scheduler"))
    colour, marker = dict(zip(splits, cycle(PALETTE))), dict(zip(schedulers, cycle(MARKERS)))
    with draw_figure(path, 1, "Trials of the sweep", width=7.5) as (figure, (ax,)):
        for row in rows:
            ax.plot(
                row["dimensions"], row["ndcg_at_10"], linestyle="", color=colour[row["split"]],
                marker=marker[row["scheduler"]], markersize=8, alpha=0.75, markeredgecolor="white",
            )  # fmt: skip
        set_size_axis(ax, [row["dimensions"] for row in rows])
        ax.set_ylabel(NDCG_AXIS_LABEL, color=TEXT_COLOR)
        keys = [(f"split: {name}", "o", colour[name]) for name in splits]
        keys += [(f"scheduler: {name}", marker[name], "#777777") for name in schedulers]
        for label, shape, ink in keys:
            ax.plot([], [], linestyle="", marker=shape, markersize=8, color=ink, label=label)
        figure.legend(loc="outside right upper", frameon=False, fontsize=9)


def plot_parallel(names: Sequence[str], points: Sequence[Sequence[Any]], scores: Sequence[float], path: Path) -> None:
    """Plot a line for each trial through its settings, coloured by dev NDCG@10, the best on top.

    Args:
        names: of the settings.
        points: for each trial its value of every setting; None where the setting does not apply, or means "all".
    """
    from matplotlib import colormaps

    columns = [_place_on_axis([point[i] for point in points]) for i in range(len(names))]
    columns.append(_scale_to_unit(scores))
    low, high = min(scores), max(scores)
    with draw_figure(path, 1, "Settings of the trials", width=max(7.0, 1.7 * len(columns))) as (_, (ax,)):
        for i in np.argsort(scores):
            shade = colormaps["viridis"]((scores[i] - low) / max(high - low, 1e-12))
            ax.plot(range(len(columns)), [column[i] for column in columns], color=shade, linewidth=1.6, alpha=0.8)
        for i in range(len(names)):
            shown: dict[float, str] = {}
            for point, position in zip(points, columns[i], strict=True):
                shown.setdefault(round(position, 2), "all" if point[i] is None else str(point[i]))
            for position, text in list(shown.items())[:12]:
                ax.annotate(
                    text, (i, position), fontsize=8, color=TEXT_COLOR, xytext=(4, 3), textcoords="offset points"
                )
        for value in (low, high):
            ax.annotate(
                f"{value:.3f}", (len(names), _scale_to_unit([*scores, value])[-1]), fontsize=8, color=TEXT_COLOR
            )
        ax.set_xticks(range(len(columns)), [*(name.rpartition(".")[2] for name in names), NDCG_AXIS_LABEL], fontsize=9)
        ax.set_xlim(-0.1, len(columns) - 0.6)
        ax.set_yticks([])


def _place_on_axis(values: Sequence[Any]) -> list[float]:
    """Heights in [0, 1]: numbers by size, on a logarithmic scale where they span decades; words by their order."""
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) == len(values):
        wide = min(numbers) > 0 and max(numbers) / min(numbers) >= 8
        return _scale_to_unit([float(np.log(v)) for v in numbers] if wide else numbers)
    order = {value: i for i, value in enumerate(sorted({str(value) for value in values}))}
    return _scale_to_unit([float(order[str(value)]) for value in values])


def _scale_to_unit(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [0.5 if high == low else (value - low) / (high - low) for value in values]


def plot_importances(importances: Mapping[str, float], path: Path) -> None:
    """Plot the share of the variance of dev NDCG@10 over the trials that each setting explains (fANOVA)."""
    with draw_figure(path, 1, "Importance of settings", width=6.5) as (_, (ax,)):
        names = list(importances)[::-1]
        ax.barh(names, [importances[name] for name in names], color=PALETTE[0], height=0.6)
        ax.set_xlim(0, 1)
        ax.set_xlabel(f"share of the variance of {NDCG_AXIS_LABEL}", color=TEXT_COLOR)


def plot_pareto(
    points: Sequence[Sequence[float]], front: Sequence[int], names: Sequence[str], labels: Sequence[str], path: Path
) -> None:
    """Plot the trials by their first two objectives, with a line through the Pareto front and labels on it.

    Args:
        points: for each trial its objectives.
        front: positions of the trials that no other dominates.
        names: of the objectives.
        labels: for each trial its settings in words; the longer ones are not drawn.
    """
    with draw_figure(path, 1, "Pareto front", width=6.5) as (_, (ax,)):
        ordered = sorted((points[i][1], points[i][0]) for i in front)
        ax.plot(*zip(*ordered, strict=True), color=PALETTE[1], marker="o", markersize=8, linewidth=2, label="front")
        others = [point for i, point in enumerate(points) if i not in front]
        if others:
            x, y = [point[1] for point in others], [point[0] for point in others]
            ax.plot(x, y, linestyle="", marker="s", color=PALETTE[0], alpha=0.6, label="dominated")
        for i in front:
            if len(labels[i]) <= MAX_POINT_LABEL:
                place = {"xytext": (5, 5), "textcoords": "offset points", "fontsize": 8, "color": TEXT_COLOR}
                ax.annotate(labels[i], (points[i][1], points[i][0]), **place)
        if names[1] == "bytes_per_document":
            set_size_axis(ax, [int(point[1]) for point in points])
        x_label, y_label = (AXIS_LABELS.get(name, name.replace("_", " ")) for name in (names[1], names[0]))
        ax.set_xlabel(x_label, color=TEXT_COLOR)
        ax.set_ylabel(y_label, color=TEXT_COLOR)
        ax.legend(frameon=False, fontsize=9)


def plot_comparison(curves: Sequence[LevelCurve], per_query: np.ndarray, path: Path) -> None:
    """Plot two runs: NDCG@10 by size, and the sorted differences of single queries at the last common level."""
    with draw_figure(path, 2, " against ".join(curve.label for curve in curves), width=5.5) as (_, (sizes, queries)):
        for curve, colour, marker in zip(curves, PALETTE, MARKERS, strict=False):
            sizes.plot(curve.dimensions, curve.means, color=colour, marker=marker, linewidth=2, label=curve.label)
        set_size_axis(sizes, curves[0].dimensions)
        sizes.set_ylabel(NDCG_AXIS_LABEL, color=TEXT_COLOR)
        sizes.legend(frameon=False, fontsize=9)
        ordered = np.sort(per_query)[::-1]
        for part, colour in ((np.maximum(ordered, 0), PALETTE[0]), (np.minimum(ordered, 0), PALETTE[1])):
            queries.fill_between(np.arange(len(ordered)), part, color=colour, linewidth=0, step="mid")
        queries.set_xlabel("queries, by falling difference", color=TEXT_COLOR)
        queries.set_ylabel(f"difference of {NDCG_AXIS_LABEL}", color=TEXT_COLOR)


def plot_answer(curves: Sequence[LevelCurve], about: str, path: Path) -> None:
    """Plot NDCG@10 against representation size, one curve for each value of the setting `about`."""
    with draw_figure(path, 1, f"By {about}", width=7.5) as (figure, (ax,)):
        for curve, colour, marker in zip(curves, cycle(PALETTE), cycle(MARKERS), strict=False):
            ax.errorbar(
                curve.dimensions, curve.means, yerr=curve.spreads, color=colour, marker=marker, markersize=6,
                linewidth=2, capsize=3, label=curve.label,
            )  # fmt: skip
        set_size_axis(ax, [size for curve in curves for size in curve.dimensions])
        ax.set_ylabel(NDCG_AXIS_LABEL, color=TEXT_COLOR)
        ax.set_ylim(bottom=0)
        figure.legend(loc="outside right upper", frameon=False, fontsize=9)
