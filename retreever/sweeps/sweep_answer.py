"""The answer to a space's question: which value of one setting is best at every level, and how certain that is.

Each value is judged with the other settings at their best for it, and as a mean over seeds if the space has any. Values
are compared in pairs on the same dev queries. So the answer holds for dev, where the settings were chosen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retreever.config import Config
from retreever.evaluation.metrics import METRIC
from retreever.evaluation.query_scores import align_scores, read_scores
from retreever.evaluation.significance import bootstrap_interval, paired_p_value
from retreever.evaluation.trial_plots import LevelCurve, plot_answer
from retreever.model import default_levels
from retreever.model.health import UPPER_LEVEL
from retreever.sweeps.search_space import SEED_SETTING
from retreever.sweeps.trial_outcome import TrialOutcome
from retreever.training.guard_set import GUARD_METRIC
from retreever.training.validation import QUERY_SCORES_FILE

SIGNIFICANCE_LEVEL = 0.05
"""Two-sided p-value below which a difference counts as significant."""
ROUTING_FIGURES = {
    "effective leaves": "effective_nodes/level_{last:02d}",
    "top leaf": "health/top_leaf_probability",
    "empty leaves": "health/empty_leaves",
    "agreement": "routing_agreement/level_{upper:02d}",
}
"""Columns of the table, and their figures; `last` is the last level of a tree, `upper` the last that a person reads."""


@dataclass(frozen=True)
class ValueResult:
    """One value of the setting, with the other settings at their best for it.

    Attributes:
        others: the other settings that varied.
        trials: one per seed.
        scores: (queries,) NDCG@10 by level, mean over seeds.
    """

    value: Any
    others: Mapping[str, Any]
    trials: Sequence[TrialOutcome]
    scores: Mapping[int, np.ndarray]

    @property
    def label(self) -> str:
        return "all" if self.value is None else str(self.value)

    def has(self, name: str) -> bool:
        return any(name in trial.best for trial in self.trials)

    def figure(self, name: str) -> tuple[float, float]:
        """Mean and standard deviation over seeds of a figure of the best validation."""
        values = [trial.best[name] for trial in self.trials if name in trial.best]
        return float(np.mean(values)), float(np.std(values))

    def ndcg(self, level: int) -> tuple[float, float]:
        return self.figure(f"{METRIC}/level_{level:02d}")


def write_answer(folder: Path, about: str, outcomes: Sequence[TrialOutcome], configs: Mapping[str, Config]) -> None:
    """Write `answer.md` (words, then a table) and `answer.png` into a sweep's folder.

    Args:
        about: dotted name of the setting.
        configs: by the outcomes' keys.
    """
    results = _best_value_results(folder, about, outcomes, configs)
    failures = [f"{o.varied[about]}: {o.error}" for o in outcomes if o.status == "failed" and about in o.varied]
    if not results:
        words = f"By {about}: no trial finished ({'; '.join(failures)})."
    else:
        words = "\n".join([*_summarize(about, results), *(f"Failed: {line}" for line in failures)])
        plot_answer([_curve(side) for side in results], about, folder / "answer.png")
    (folder / "answer.md").write_text(f"{words}\n\n{_table(about, results)}\n", encoding="utf-8")


def _best_value_results(
    folder: Path, about: str, outcomes: Sequence[TrialOutcome], configs: Mapping[str, Config]
) -> list[ValueResult]:
    """For each value the trials, equal but for their seed, with the best mean NDCG@10; the best value first."""
    groups: dict[tuple[str, str], list[TrialOutcome]] = {}
    for outcome in outcomes:
        if outcome.status == "finished" and about in outcome.varied:
            groups.setdefault((str(outcome.varied[about]), str(_others(outcome, about))), []).append(outcome)
    best: dict[str, list[TrialOutcome]] = {}
    for (value, _), trials in groups.items():
        if value not in best or _mean(trials) > _mean(best[value]):
            best[value] = trials
    chosen = sorted(best.values(), key=lambda trials: -_mean(trials))
    flat = [trial for trials in chosen for trial in trials]
    scores = (
        align_scores([read_scores(folder / "trials" / trial.key / QUERY_SCORES_FILE) for trial in flat]) if flat else []
    )
    by_key = {trial.key: found for trial, found in zip(flat, scores, strict=True)}
    return [
        _value_result(about, trials, by_key, default_levels(configs[trials[0].key].tree.depth)) for trials in chosen
    ]


def _others(outcome: TrialOutcome, about: str) -> dict[str, Any]:
    return {name: value for name, value in outcome.varied.items() if name not in (about, SEED_SETTING)}


def _mean(trials: Sequence[TrialOutcome]) -> float:
    return float(np.mean([trial.best[METRIC] for trial in trials]))


def _value_result(
    about: str, trials: Sequence[TrialOutcome], scores: Mapping[str, Mapping[str, np.ndarray]], levels: Sequence[int]
) -> ValueResult:
    columns = {level: [scores[trial.key][f"{METRIC}/level_{level:02d}"] for trial in trials] for level in levels}
    means = {level: np.mean(values, axis=0) for level, values in columns.items()}
    return ValueResult(trials[0].varied[about], _others(trials[0], about), trials, means)


def _summarize(about: str, results: Sequence[ValueResult]) -> list[str]:
    best = results[0]
    queries, seeds = len(next(iter(best.scores.values()))), len(best.trials)
    lines = [f"By {about}, dev NDCG@10 over {queries:,} queries and {seeds} seed{'s' if seeds > 1 else ''}:"]
    levels = sorted(set.intersection(*(set(side.scores) for side in results))) or sorted(best.scores)
    shared = [side for side in results if set(levels) <= set(side.scores)]
    for level in levels:
        lines.append(f"- {2**level:,} dimensions: {_rank_at_level(level, shared)}")
    if len(shared) < 2 or best.scores.keys() != shared[1].scores.keys():
        lines.append(
            f"- at the last level of each: {', '.join(f'{s.label} {s.figure(METRIC)[0]:.3f}' for s in results)}"
        )
    if any(side.others for side in results):
        chosen = "; ".join(f"{side.label} with {_format_settings(side.others)}" for side in results)
        lines.append(f"- each with the other settings at their best: {chosen}")
    return lines


def _format_settings(others: Mapping[str, Any]) -> str:
    return " ".join(f"{k.rpartition('.')[2]}={'all' if v is None else v}" for k, v in others.items())


def _rank_at_level(level: int, results: Sequence[ValueResult]) -> str:
    """The best value at a level, and each other value's distance from it and whether it is significant."""
    first, *rest = sorted(results, key=lambda side: -side.ndcg(level)[0])
    parts = [f"{first.label} {first.ndcg(level)[0]:.3f}"]
    for side in rest:
        difference = first.scores[level] - side.scores[level]
        p, (low, high) = paired_p_value(first.scores[level], side.scores[level]), bootstrap_interval(difference)
        verdict = "" if p < SIGNIFICANCE_LEVEL else ", not significant"
        behind = f"{difference.mean():.3f} behind [{low:.3f}, {high:.3f}]{verdict}"
        parts.append(f"{side.label} {side.ndcg(level)[0]:.3f} ({behind})")
    return ", ".join(parts)


def _curve(side: ValueResult) -> LevelCurve:
    levels = sorted(side.scores)
    means, spreads = zip(*(side.ndcg(level) for level in levels), strict=True)
    return LevelCurve(side.label, [2**level for level in levels], means, spreads)


def _table(about: str, results: Sequence[ValueResult]) -> str:
    """Markdown table: a row per value with NDCG@10 (and its spread over seeds) by dimensions, and routing figures."""
    levels = sorted({level for side in results for level in side.scores})
    header = [about, *(f"{2**level:,}" for level in levels), "R@100", *ROUTING_FIGURES]
    guarded = any(side.has(GUARD_METRIC) for side in results)
    header += ["of frozen"] if guarded else []
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for side in results:
        cells = [_cell(*side.ndcg(level)) if level in side.scores else "" for level in levels]
        last = max(side.scores)
        routing = [name.format(last=last, upper=min(UPPER_LEVEL, last)) for name in ROUTING_FIGURES.values()]
        named = [*routing, *([GUARD_METRIC] if guarded else [])]
        others = [f"{side.figure(name)[0]:.3g}" if side.has(name) else "" for name in named]
        lines.append([side.label, *cells, f"{side.figure('recall_at_100')[0]:.3f}", *others])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(mean: float, spread: float) -> str:
    return f"{mean:.3f}" + (f" ± {spread:.3f}" if spread else "")
