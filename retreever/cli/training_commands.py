"""Verbs that train: one tree, or the trials of a search space."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from retreever import config as configs
from retreever.cli import result_tables
from retreever.cli.console import Screen
from retreever.cli.options import ConfigFile, JsonOption, SetOption, WorkspaceOption, open_workspace
from retreever.errors import ConfigError
from retreever.system.workspace import Workspace

if TYPE_CHECKING:  # it brings optuna
    from retreever.sweeps.space_grammar import SearchSpace


def _parse_range(text: str) -> tuple[int, int]:
    """Read MIN:MAX."""
    few, colon, many = text.partition(":")
    if not (colon and few.isdigit() and many.isdigit() and 1 <= int(few) <= int(many)):
        raise ConfigError([f"--elastic {text}: must be MIN:MAX with 1 <= MIN <= MAX, e.g. 2:8"])
    return int(few), int(many)


def train(
    config: ConfigFile = None,
    set: SetOption = None,
    steps: Annotated[
        int | None,
        typer.Option(min=0, help="optimiser steps, short for --set train.steps=N; 0: the tree as it starts"),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="run name; an interrupted run of this name continues (default: DATA-DIGEST)"),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="workers; above 1 they run on Ray Train and share their negatives")
    ] = 1,
    gpu: Annotated[bool, typer.Option("--gpu", help="one GPU per worker")] = False,
    elastic: Annotated[
        str | None,
        typer.Option(metavar="MIN:MAX", help="as many workers as fit on the cluster, e.g. 2:8; not --workers"),
    ] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Train one tree; MLflow records the run and every validation.

    After an interruption the same command continues from the last checkpoint. A tree of 0 steps ranks as its encoder
    does and needs a corpus alone, without queries and pairs.

    Example: retreever train --set data.name=mine --set tree.depth=8 --name my_run
    """
    from retreever.cluster.launch_training import train_run

    place, screen = open_workspace(workspace, json)
    settings = configs.load_config(config, [*(set or []), *([] if steps is None else [f"train.steps={steps}"])])
    run = name or f"{settings.data.name}-{settings.digest[:8]}"
    result, run_id = train_run(
        settings,
        place,
        run,
        workers=_parse_range(elastic) if elastic else workers,
        gpu=gpu,
        reuse_finished=False,
        track=screen.track,
        watch=lambda f: screen.say(result_tables.format_validation(f)),
    )
    result_tables.show_best(screen, run, result.best)
    screen.print_result({"name": run, "run_id": run_id, "model": str(result.model), "best": result.best})


def sweep(
    space: Annotated[str, typer.Argument(help="a shipped search space by name, e.g. schedulers, or a YAML file")],
    set: SetOption = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="print the trials, their resources and an estimate of their time, then exit"),
    ] = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Train the trials of a search space with Ray Tune, nested under one run in MLflow.

    After an interruption the same command runs only the trials that have not ended.

    Example: retreever sweep schedulers --dry-run
    """
    from retreever.sweeps import search_space as spaces

    place, screen = open_workspace(workspace, json)
    chosen = spaces.load_space(spaces.locate_space(space), dict(configs.parse_override(text) for text in set or []))
    if dry_run:
        _show_plan(chosen, place, screen)
        return
    from retreever.sweeps.run_sweep import run_sweep

    result = run_sweep(
        chosen, place, track=screen.track, watch=lambda event: screen.say(result_tables.format_event(event))
    )
    result_tables.show_trials(screen, result)
    screen.print_result(
        {"parent": result.parent, "folder": str(result.folder), "trials": result_tables.list_trial_rows(result)}
    )


def _show_plan(space: "SearchSpace", place: Workspace, screen: Screen) -> None:
    """Print the trials of a sweep, and the resources and time that they need."""
    from retreever.sweeps import search_space as spaces
    from retreever.sweeps.cost_estimate import estimate_sweep

    planned = spaces.list_corner_trials(space) if space.search == "optuna" else spaces.list_trials(space)
    if space.search == "optuna":
        screen.print_table(
            f"sweep {space.name}", ["setting", "values"], [(d.name, str(d)) for d in spaces.list_domains(space)]
        )
    else:
        screen.print_table(
            f"sweep {space.name}", ["trial", "settings"], [(trial.key, trial.label) for trial in planned]
        )
    needs = estimate_sweep(space, planned, spaces.count_trials(space), place, os.cpu_count() or 1, screen.track)
    result_tables.show_estimate(screen, space, needs)
    estimate = None if needs is None else vars(needs)
    screen.print_result({"name": space.name, "trials": [trial.varied for trial in planned], "estimate": estimate})
