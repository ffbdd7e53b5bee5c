"""What a sweep writes for a person: the table of all trials, plots, and the answer to its question."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from retreever.config import Config
from retreever.evaluation import trial_plots
from retreever.evaluation.metrics import METRIC
from retreever.model import default_levels
from retreever.sweeps import search_space as spaces
from retreever.sweeps.search_space import SweepTrial
from retreever.sweeps.space_grammar import SearchSpace
from retreever.sweeps.sweep_answer import write_answer
from retreever.sweeps.trial_outcome import TrialOutcome, list_varied_settings, write_trial_table
from retreever.sweeps.trial_suggestion import TrialEnd, compute_importances, find_pareto_points


def write_summary(
    folder: Path, space: SearchSpace, outcomes: Sequence[TrialOutcome], configs: Mapping[str, Config]
) -> list[Path]:
    """Write table, plots and answer into a sweep's folder and return their paths.

    Args:
        outcomes: of all trials that have ended, the best first.
        configs: by the outcomes' keys.
    """
    write_trial_table(folder / "trials.csv", outcomes)
    judged = [outcome for outcome in outcomes if outcome.best]
    if judged:
        _draw_plots(folder, space, judged, configs)
        if space.about is not None:
            write_answer(folder, space.about, outcomes, configs)
    return sorted(path for path in folder.iterdir() if path.suffix in (".csv", ".png", ".md"))


def _draw_plots(
    folder: Path, space: SearchSpace, outcomes: Sequence[TrialOutcome], configs: Mapping[str, Config]
) -> None:
    rows = [row for outcome in outcomes for row in _by_level(outcome, configs[outcome.key])]
    trial_plots.plot_trials(rows, folder / "trials.png")
    settings = list_varied_settings(outcomes)
    if settings and len(outcomes) > 1:
        points = [[outcome.varied.get(name) for name in settings] for outcome in outcomes]
        worth = [outcome.best[METRIC] for outcome in outcomes]
        trial_plots.plot_parallel(settings, points, worth, folder / "parallel.png")
    ends = [
        TrialEnd(SweepTrial(o.varied, configs[o.key]), o.status, o.objective_values(space.objectives)) for o in outcomes
    ]
    weights = compute_importances(spaces.list_domains(space), ends)
    if weights:
        trial_plots.plot_importances(weights, folder / "importances.png")
    if len(space.objectives) > 1:
        judged = [(end.values, end.trial.label) for end in ends if end.values and end.status == "finished"]
        values, labels = [value for value, _ in judged], [label for _, label in judged]
        front = find_pareto_points(values, space.objectives)
        trial_plots.plot_pareto(values, front, space.objectives, labels, folder / "pareto.png")


def rank_pareto_front(space: SearchSpace, outcomes: Sequence[TrialOutcome]) -> list[TrialOutcome]:
    """The finished trials that no other trial dominates, ordered by their last objective."""
    judged = [(o, o.objective_values(space.objectives)) for o in outcomes if o.status == "finished"]
    complete = [(outcome, values) for outcome, values in judged if values is not None]
    chosen = [complete[i] for i in find_pareto_points([values for _, values in complete], space.objectives)]
    return [outcome for outcome, values in sorted(chosen, key=lambda pair: pair[1][-1])]


def _by_level(outcome: TrialOutcome, config: Config) -> Iterator[dict[str, Any]]:
    """Rows for the plot of all trials: one per level of the trial's best validation."""
    for level in default_levels(config.tree.depth):
        yield {
            "dimensions": 2**level,
            METRIC: outcome.best[f"{METRIC}/level_{level:02d}"],
            "split": config.tree.split,
            "scheduler": config.depth.scheduler,
        }
