"""The answer to the question a space is about: which value of one setting is best, at every level, and how sure is it.

Each value stands with the best of whatever else varies, so that it is judged at its own best settings; where the space
has seeds, figures are means over them. Values are compared on the same dev queries, in pairs. What is said is about
dev, where the settings were chosen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retreever.config import Config
from retreever.evaluation.metrics import METRIC
from retreever.evaluation.query_scores import aligned, read_scores
from retreever.evaluation.significance import interval, paired_p
from retreever.evaluation.trial_plots import Curve, plot_answer
from retreever.model import default_levels
from retreever.sweeps.search_space import SEED
from retreever.sweeps.trial_outcome import Outcome
from retreever.training.validation import SCORES

SURE = 0.05
"""Two-sided p below which a difference counts as one."""
ROUTING = {
    "health/effective_leaves": "effective leaves",
    "health/top_leaf_probability": "top leaf",
    "health/empty_leaves": "empty leaves",
}


@dataclass(frozen=True)
class Side:
    """One value of the setting, at its own best.

    Attributes:
        others: what else varied, at its best for this value.
        trials: one a seed.
        scores: (queries,) NDCG@10 by level, mean over seeds.
    """

    value: Any
    others: Mapping[str, Any]
    trials: Sequence[Outcome]
    scores: Mapping[int, np.ndarray]

    @property
    def label(self) -> str:
        return "all" if self.value is None else str(self.value)

    def figure(self, name: str) -> tuple[float, float]:
        """Mean and standard deviation over seeds of a figure of the best validation."""
        values = [trial.best[name] for trial in self.trials if name in trial.best]
        return float(np.mean(values)), float(np.std(values))

    def ndcg(self, level: int) -> tuple[float, float]:
        return self.figure(f"{METRIC}/level_{level:02d}")


def answer(folder: Path, about: str, outcomes: Sequence[Outcome], configs: Mapping[str, Config]) -> None:
    """Write `answer.md` (words, then a table) and `answer.png` into a sweep's folder.

    Args:
        about: dotted name of the setting.
        configs: by the outcomes' keys.
    """
    sides = _sides(folder, about, outcomes, configs)
    lost = [f"{o.varied[about]}: {o.error}" for o in outcomes if o.status == "failed" and about in o.varied]
    if not sides:
        words = f"By {about}: no trial finished ({'; '.join(lost)})."
    else:
        words = "\n".join([*_words(about, sides), *(f"Failed: {line}" for line in lost)])
        plot_answer([_curve(side) for side in sides], about, folder / "answer.png")
    (folder / "answer.md").write_text(f"{words}\n\n{_table(about, sides)}\n", encoding="utf-8")


def _sides(folder: Path, about: str, outcomes: Sequence[Outcome], configs: Mapping[str, Config]) -> list[Side]:
    """For each value the group of trials (alike but for their seed) with the best mean NDCG@10, best value first."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.status == "finished" and about in outcome.varied:
            groups.setdefault((str(outcome.varied[about]), str(_others(outcome, about))), []).append(outcome)
    best: dict[str, list[Outcome]] = {}
    for (value, _), trials in groups.items():
        if value not in best or _mean(trials) > _mean(best[value]):
            best[value] = trials
    chosen = sorted(best.values(), key=lambda trials: -_mean(trials))
    flat = [trial for trials in chosen for trial in trials]
    scores = aligned([read_scores(folder / "trials" / trial.key / SCORES) for trial in flat]) if flat else []
    by_key = {trial.key: found for trial, found in zip(flat, scores, strict=True)}
    return [_side(about, trials, by_key, default_levels(configs[trials[0].key].tree.depth)) for trials in chosen]


def _others(outcome: Outcome, about: str) -> dict[str, Any]:
    return {name: value for name, value in outcome.varied.items() if name not in (about, SEED)}


def _mean(trials: Sequence[Outcome]) -> float:
    return float(np.mean([trial.best[METRIC] for trial in trials]))


def _side(
    about: str, trials: Sequence[Outcome], scores: Mapping[str, Mapping[str, np.ndarray]], levels: Sequence[int]
) -> Side:
    columns = {level: [scores[trial.key][f"{METRIC}/level_{level:02d}"] for trial in trials] for level in levels}
    means = {level: np.mean(values, axis=0) for level, values in columns.items()}
    return Side(trials[0].varied[about], _others(trials[0], about), trials, means)


def _words(about: str, sides: Sequence[Side]) -> list[str]:
    best = sides[0]
    queries, seeds = len(next(iter(best.scores.values()))), len(best.trials)
    lines = [f"By {about}, dev NDCG@10 over {queries:,} queries and {seeds} seed{'s' if seeds > 1 else ''}:"]
    levels = sorted(set.intersection(*(set(side.scores) for side in sides))) or sorted(best.scores)
    shared = [side for side in sides if set(levels) <= set(side.scores)]
    for level in levels:
        lines.append(f"- {2**level:,} dimensions: {_order(level, shared)}")
    if len(shared) < 2 or best.scores.keys() != shared[1].scores.keys():
        lines.append(f"- at the last level of each: {', '.join(f'{s.label} {s.figure(METRIC)[0]:.3f}' for s in sides)}")
    if any(side.others for side in sides):
        chosen = "; ".join(f"{side.label} with {_settings(side.others)}" for side in sides)
        lines.append(f"- each at the best of what else varies: {chosen}")
    return lines


def _settings(others: Mapping[str, Any]) -> str:
    return " ".join(f"{k.rpartition('.')[2]}={'all' if v is None else v}" for k, v in others.items())


def _order(level: int, sides: Sequence[Side]) -> str:
    """Who is best at a level, and which of the others cannot be told apart from it."""
    first, *rest = sorted(sides, key=lambda side: -side.ndcg(level)[0])
    parts = [f"{first.label} {first.ndcg(level)[0]:.3f}"]
    for side in rest:
        difference = first.scores[level] - side.scores[level]
        p, (low, high) = paired_p(first.scores[level], side.scores[level]), interval(difference)
        verdict = "" if p < SURE else ", not told apart"
        behind = f"{difference.mean():.3f} behind [{low:.3f}, {high:.3f}]{verdict}"
        parts.append(f"{side.label} {side.ndcg(level)[0]:.3f} ({behind})")
    return ", ".join(parts)


def _curve(side: Side) -> Curve:
    levels = sorted(side.scores)
    means, spreads = zip(*(side.ndcg(level) for level in levels), strict=True)
    return Curve(side.label, [2**level for level in levels], means, spreads)


def _table(about: str, sides: Sequence[Side]) -> str:
    """Markdown: a line for each value, NDCG@10 (and spread over seeds) by dimensions, and how it routes."""
    levels = sorted({level for side in sides for level in side.scores})
    header = [about, *(f"{2**level:,}" for level in levels), "R@100", *ROUTING.values()]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for side in sides:
        cells = [_cell(*side.ndcg(level)) if level in side.scores else "" for level in levels]
        routing = [f"{side.figure(name)[0]:.3g}" for name in ROUTING]
        lines.append([side.label, *cells, f"{side.figure('recall_at_100')[0]:.3f}", *routing])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(mean: float, spread: float) -> str:
    return f"{mean:.3f}" + (f" ± {spread:.3f}" if spread else "")
