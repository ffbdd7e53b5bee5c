"""Verbs that train: one tree, or a search space of them."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from retreever import config as configs
from retreever.cli import result_tables
from retreever.cli.console import Screen
from retreever.cli.options import ConfigFile, Json, Set, Where, open_workspace
from retreever.errors import ConfigError
from retreever.system.workspace import Workspace

if TYPE_CHECKING:  # it brings optuna
    from retreever.sweeps.space_grammar import SearchSpace


def _range(text: str) -> tuple[int, int]:
    """Read MIN:MAX."""
    few, colon, many = text.partition(":")
    if not (colon and few.isdigit() and many.isdigit() and 1 <= int(few) <= int(many)):
        raise ConfigError([f"--elastic {text}: must be MIN:MAX with 1 <= MIN <= MAX, e.g. 2:8"])
    return int(few), int(many)


def train(
    config: ConfigFile = None,
    set: Set = None,
    name: Annotated[
        str | None,
        typer.Option(help="run name; a run interrupted under it goes on [default: from the config]"),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="workers; above 1 by Ray Train, negatives gathered across them")
    ] = 1,
    gpu: Annotated[bool, typer.Option("--gpu", help="one GPU for each worker")] = False,
    elastic: Annotated[
        str | None,
        typer.Option(metavar="MIN:MAX", help="as many workers as the cluster has room for, e.g. 2:8; not --workers"),
    ] = None,
    workspace: Where = None,
    json: Json = False,
) -> None:
    """Train one tree; the run and every validation go to MLflow."""
    from retreever.cluster.launch_training import train as launch

    place, screen = open_workspace(workspace, json)
    settings = configs.load(config, set or [])
    run = name or f"{settings.data.name}-{settings.digest[:8]}"
    result, run_id = launch(
        settings,
        place,
        run,
        workers=_range(elastic) if elastic else workers,
        gpu=gpu,
        again=False,
        track=screen.track,
        watch=lambda f: screen.say(result_tables.validation_line(f)),
    )
    result_tables.show_best(screen, run, result.best)
    screen.result({"name": run, "run_id": run_id, "model": str(result.model), "best": result.best})


def sweep(
    space: Annotated[str, typer.Argument(help="a shipped search space by name, e.g. schedulers, or a YAML file")],
    set: Set = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the trials, what they need and about how long they take, and stop")
    ] = False,
    workspace: Where = None,
    json: Json = False,
) -> None:
    """Run a grid of trees with Ray Tune, nested in MLflow. Ctrl-C and the same command again goes on where it was."""
    from retreever.sweeps import search_space as spaces

    place, screen = open_workspace(workspace, json)
    chosen = spaces.load(spaces.locate_space(space), dict(configs.parse_override(text) for text in set or []))
    if dry_run:
        _plan(chosen, place, screen)
        return
    from retreever.sweeps.run_sweep import sweep as run

    result = run(chosen, place, track=screen.track, watch=lambda event: screen.say(result_tables.event_line(event)))
    result_tables.show_trials(screen, result)
    screen.result({"parent": result.parent, "folder": str(result.folder), "trials": result_tables.trial_rows(result)})


def _plan(space: "SearchSpace", place: Workspace, screen: Screen) -> None:
    """Show what a sweep would run and what that needs."""
    from retreever.sweeps import search_space as spaces
    from retreever.sweeps.cost_estimate import estimate

    planned = spaces.edges(space) if space.search == "optuna" else spaces.trials(space)
    if space.search == "optuna":
        screen.table(f"sweep {space.name}", ["setting", "values"], [(d.name, str(d)) for d in spaces.varied(space)])
    else:
        screen.table(f"sweep {space.name}", ["trial", "settings"], [(trial.key, trial.label) for trial in planned])
    needs = estimate(space, planned, spaces.size(space), place, os.cpu_count() or 1, screen.track)
    result_tables.show_estimate(screen, space, needs)
    told = None if needs is None else vars(needs)
    screen.result({"name": space.name, "trials": [trial.varied for trial in planned], "estimate": told})
