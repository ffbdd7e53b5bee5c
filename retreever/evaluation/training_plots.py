"""Plots of one training as PNG files; those of a sweep are in `trial_plots.py`.

Uses Figure objects without pyplot, so nothing global changes and any thread may draw. The colours are Okabe and Ito's,
which colour-blind readers distinguish; curves differ by marker too. Draws the values it receives and decides nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from retreever.system.files import write_atomically

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "os^Dvp*Xh"
DASHES = ("--", ":", "-.")
TEXT_COLOR, GRID_COLOR = "#333333", "#DDDDDD"


@contextmanager
def draw_figure(
    path: Path, columns: int, title: str, subtitle: str = "", width: float = 4.2
) -> Iterator[tuple[Any, Any]]:
    """Yield a figure of `columns` panels to draw on; write it to `path` at 150 dpi when the body ends."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.0, width * columns), 4.4), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for ax in axes:
        ax.grid(color=GRID_COLOR, linewidth=0.7)
        ax.set_axisbelow(True)
        ax.tick_params(colors=TEXT_COLOR, labelsize=9)
        for side, spine in ax.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color("#999999")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=TEXT_COLOR)
    if subtitle:
        axes[0].annotate(
            subtitle,
            (0.01, 0.925),
            xycoords="figure fraction",
            fontsize=9,
            color="#666666",
            annotation_clip=False,
        ).set_in_layout(False)
        figure.get_layout_engine().set(rect=(0, 0, 1, 0.93))
    yield figure, axes
    with write_atomically(path) as aside:
        figure.savefig(aside, dpi=150, format="png")


def set_size_axis(ax: Any, sizes: Sequence[int]) -> None:
    """Make the x axis log2, with a tick at each size."""
    ax.set_xscale("log", base=2)
    ax.set_xticks(sorted(set(sizes)), [f"{size:,}" for size in sorted(set(sizes))])
    ax.minorticks_off()
    ax.set_xlabel("dimensions", color=TEXT_COLOR)


def plot_training(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Plot the loss, and dev NDCG@10 of each level, over steps.

    Args:
        history: one mapping per validation, with `step`, `loss` and `ndcg_at_10/level_..` for every reported
            level.
    """
    from matplotlib import colormaps

    steps = [figures["step"] for figures in history]
    levels = sorted(name for name in history[0] if name.startswith("ndcg_at_10/level_"))
    with draw_figure(path, 2, "Training") as (_, (loss, quality)):
        loss.plot(steps, [figures["loss"] for figures in history], color=PALETTE[1], marker="o", linewidth=2)
        loss.set_title("training loss", fontsize=11, loc="left", color=TEXT_COLOR)
        shades = colormaps["viridis"](np.linspace(0.85, 0.05, len(levels)))
        for name, shade, marker in zip(levels, shades, cycle(MARKERS), strict=False):
            level = int(name.rpartition("_")[2])
            label = f"level {level} ({2**level:,})"
            quality.plot(steps, [f[name] for f in history], color=shade, marker=marker, linewidth=2, label=label)
        quality.set_title("dev NDCG@10 by level (dimensions)", fontsize=11, loc="left", color=TEXT_COLOR)
        quality.legend(frameon=False, fontsize=9)
        for ax in (loss, quality):
            ax.set_xlabel("step", color=TEXT_COLOR)
            ax.set_ylim(bottom=0)


def plot_similarities(
    steps: Sequence[float], positives: Sequence[float], negatives: Sequence[float], path: Path
) -> None:
    """Plot the mean similarity of positives and of in-batch negatives over steps; the gap grows as a tree learns."""
    with draw_figure(path, 1, "Similarity of pairs", width=6.5) as (_, (ax,)):
        ax.fill_between(steps, negatives, positives, color=PALETTE[4], alpha=0.18, linewidth=0)
        ax.plot(steps, positives, color=PALETTE[0], marker="o", linewidth=2, label="positives")
        ax.plot(steps, negatives, color=PALETTE[1], marker="s", linewidth=2, label="in-batch negatives")
        ax.set_xlabel("step", color=TEXT_COLOR)
        ax.set_ylabel("mean similarity", color=TEXT_COLOR)
        ax.legend(frameon=False, fontsize=10)


def plot_routing(levels: Mapping[int, np.ndarray], path: Path) -> None:
    """Plot how texts are routed, one row per level. Left: how decided splits are; right: how evenly nodes are used.

    Args:
        levels: level -> probabilities (texts, 2**level) of reaching its nodes, level 1 or deeper.
    """
    with draw_figure(path, 2, "Routing", width=5.5) as (figure, (decided, used)):
        level_order = sorted(levels)
        bins = np.linspace(0, 1, 41)
        rows = np.stack([_left_shares(levels[level], bins) for level in level_order])
        image = decided.pcolormesh(bins, np.arange(len(level_order) + 1), rows, cmap="cividis", vmin=0)
        figure.colorbar(image, ax=decided, label="share of the texts' mass")
        decided.set_title("probability of going left", fontsize=11, loc="left", color=TEXT_COLOR)
        for y, level in enumerate(level_order):
            edges = np.linspace(0, 1, 2**level + 1)
            relative = np.log2(np.maximum(levels[level].mean(axis=0) * 2**level, 1e-6))
            image = used.pcolormesh(edges, [y, y + 1], relative[None], cmap="PuOr_r", vmin=-3, vmax=3)
        figure.colorbar(image, ax=used, label="log2 of use, relative to an even share", extend="both")
        used.set_title("use of nodes, left to right", fontsize=11, loc="left", color=TEXT_COLOR)
        for ax in (decided, used):
            ax.grid(False)
            ax.set_yticks(np.arange(len(level_order)) + 0.5, [f"level {level}" for level in level_order])
            ax.invert_yaxis()
        used.set_xticks([])


def _left_shares(probabilities: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """Histogram, summing to one, of the probability of going left, weighted by the mass that reaches the split."""
    left, right = probabilities[:, 0::2], probabilities[:, 1::2]
    mass = left + right
    shares, _ = np.histogram(left / np.maximum(mass, 1e-30), bins=bins, weights=mass)
    return shares / shares.sum()
