"""Verbs of `retreever runs`: list, show, compare, find the best, export, open MLflow's page."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retreever.cli import result_tables
from retreever.cli.console import Screen
from retreever.cli.options import JsonOption, WorkspaceOption, add_verb, open_workspace

if TYPE_CHECKING:  # they import mlflow
    from retreever.system.workspace import Workspace
    from retreever.tracking.tracker import Tracker

runs_app = typer.Typer(
    name="runs",
    help="Look at runs in MLflow. Example: retreever runs best --where \"tags.split = 'linear'\"",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
RunArgument = Annotated[
    str, typer.Argument(help="a run's id or the beginning of it, or a run's name (the newest of that name)")
]
FilterOption = Annotated[
    str,
    typer.Option(
        "--where", help="filter in MLflow's syntax, e.g. \"tags.split = 'linear' and metrics.ndcg_at_10 > 0.3\""
    ),
]
KindOption = Annotated[str | None, typer.Option(help="only runs of this kind: sweep, trial, train or final")]
SpaceOption = Annotated[str | None, typer.Option(help="only runs of this search space")]


def _open_tracker(where: Path | None, as_json: bool) -> "tuple[Workspace, Screen, Tracker]":
    from retreever.tracking.tracker import Tracker

    place, screen = open_workspace(where, as_json)
    return place, screen, Tracker.of(place)


def print_runs(
    where: FilterOption = "",
    kind: KindOption = None,
    space: SpaceOption = None,
    limit: Annotated[int, typer.Option(min=1, help="runs to print at most, the newest")] = 30,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """List runs, the newest first.

    Example: retreever runs list --kind trial --space schedulers
    """
    from retreever.tracking import run_catalog

    place, screen, tracker = _open_tracker(workspace, json)
    found = run_catalog.list_runs(tracker, place, where=where, kind=kind, space=space)[:limit]
    rows = [result_tables.format_run_row(run) for run in found]
    screen.print_table("runs", result_tables.RUN_COLUMNS, rows)
    screen.print_result({"runs": [dict(zip(result_tables.RUN_COLUMNS, row, strict=True)) for row in rows]})


def print_run(run: RunArgument, workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """Show one run: how it ended, figures at every level, settings that are not the defaults, how to run it again.

    Example: retreever runs show my_run
    """
    from retreever.tracking import run_catalog

    place, screen, tracker = _open_tracker(workspace, json)
    chosen = run_catalog.find_run(tracker, place, run)
    known = run_catalog.describe_run(chosen)
    result_tables.show_run_details(screen, known)
    screen.print_result(known)


def print_run_comparison(
    a: RunArgument,
    b: RunArgument,
    plot: Annotated[Path | None, typer.Option(help="PNG to write (default: comparisons/A-B.png)")] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Compare two runs on their common dev queries: a paired test at every level, and settings that differ.

    Example: retreever runs compare my_run other_run
    """
    from retreever.evaluation.trial_plots import LevelCurve, plot_comparison
    from retreever.tracking import run_catalog

    place, screen, tracker = _open_tracker(workspace, json)
    first, second = (run_catalog.find_run(tracker, place, name) for name in (a, b))
    found = run_catalog.compare_runs(tracker, first, second)
    names = [f"{run.info.run_name} ({run.info.run_id[:6]})" for run in (first, second)]
    path = plot or place.root / "comparisons" / f"{first.info.run_id[:8]}-{second.info.run_id[:8]}.png"
    sizes = [2**one.level for one in found.differences]
    sides = [[one.a for one in found.differences], [one.b for one in found.differences]]
    curves = [LevelCurve(name, sizes, side, [0.0] * len(side)) for name, side in zip(names, sides, strict=True)]
    plot_comparison(curves, found.per_query, path)
    result_tables.show_run_comparison(screen, found, names)
    screen.say(f"plot: {path}")
    screen.print_result(
        {
            "runs": [run.info.run_id for run in (first, second)],
            "queries": found.queries,
            "levels": [vars(one) for one in found.differences],
            "settings": found.settings,
            "plot": str(path),
        }
    )


def print_best_run(
    where: FilterOption = "",
    kind: KindOption = None,
    space: SpaceOption = None,
    metric: Annotated[str, typer.Option(help="metric of the best validation, e.g. ndcg_at_10/level_06")] = "ndcg_at_10",
    max_bytes: Annotated[float | None, typer.Option(help="bytes per document at most")] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Find the finished run with the largest metric, and print how to run it again.

    Example: retreever runs best --metric ndcg_at_10/level_06 --max-bytes 256
    """
    from retreever.tracking import run_catalog
    from retreever.tracking.run_record import BYTES_METRIC

    place, screen, tracker = _open_tracker(workspace, json)
    limits = {} if max_bytes is None else {BYTES_METRIC: max_bytes}
    chosen = run_catalog.rank_runs(
        run_catalog.list_runs(tracker, place, where=where, kind=kind, space=space), metric, limits
    )[0]
    known = run_catalog.describe_run(chosen)
    result_tables.show_run_details(screen, known)
    screen.print_result(known)


def export_run_files(
    run: RunArgument,
    target: Annotated[Path, typer.Argument(help="folder to write")],
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Export a run to plain files: settings, figures of every step, artifacts, the command; a sweep with its trials.

    Example: retreever runs export my_run exported
    """
    from retreever.tracking import run_catalog

    place, screen, tracker = _open_tracker(workspace, json)
    written = run_catalog.export_run(tracker, run_catalog.find_run(tracker, place, run), target)
    screen.say(f"{len(written)} run{'s' if len(written) > 1 else ''} written to {target}")
    screen.print_result({"folders": [str(folder) for folder in written]})


def open_ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="port of the page")] = 5000,
    workspace: WorkspaceOption = None,
) -> None:
    """Open MLflow's own page on this machine until Ctrl-C; with a tracking server, print its address instead.

    Example: retreever runs ui --port 5000
    """
    _, screen, tracker = _open_tracker(workspace, False)
    if tracker.uri.startswith("http"):
        screen.say(f"MLflow is at {tracker.uri}")
        return
    screen.say(f"MLflow at http://127.0.0.1:{port}, Ctrl-C ends it")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", tracker.uri]
    subprocess.run([*command, "--host", "127.0.0.1", "--port", str(port)], check=False)


RUN_VERBS: dict[str, Callable[..., None]] = {
    "list": print_runs,
    "show": print_run,
    "compare": print_run_comparison,
    "best": print_best_run,
    "export": export_run_files,
    "ui": open_ui,
}
for verb, run_verb in RUN_VERBS.items():
    add_verb(runs_app, run_verb, verb)
