"""`retreever runs ...`: look at runs, compare two, find the best, take one out, open MLflow's page."""

import functools
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retreever.cli import result_tables
from retreever.cli.console import Screen
from retreever.cli.options import Json, Where, add_verb, open_workspace

if TYPE_CHECKING:  # they bring mlflow
    from retreever.system.workspace import Workspace
    from retreever.tracking.tracker import Tracker

app = typer.Typer(
    name="runs",
    help="Look at runs in MLflow: list, show, compare, best, export, ui.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_verb = functools.partial(add_verb, app)
Name = Annotated[str, typer.Argument(help="a run's id, the beginning of it, or a run's name (the newest of that name)")]
Filter = Annotated[
    str,
    typer.Option("--where", help="MLflow's filter, e.g. \"tags.split = 'linear' and metrics.ndcg_at_10 > 0.3\""),
]
Kind = Annotated[str | None, typer.Option(help="only these: sweep, trial, train or final")]
Space = Annotated[str | None, typer.Option(help="only runs of this search space")]


def _tracked(where: Path | None, as_json: bool) -> "tuple[Workspace, Screen, Tracker]":
    from retreever.tracking.tracker import Tracker

    place, screen = open_workspace(where, as_json)
    return place, screen, Tracker.of(place)


@_verb
def list(
    where: Filter = "",
    kind: Kind = None,
    space: Space = None,
    limit: Annotated[int, typer.Option(min=1, help="at most so many, the newest")] = 30,
    workspace: Where = None,
    json: Json = False,
) -> None:
    """Runs, the newest first."""
    from retreever.tracking import run_catalog

    place, screen, tracker = _tracked(workspace, json)
    found = run_catalog.listed(tracker, place, where=where, kind=kind, space=space)[:limit]
    rows = [result_tables.run_row(run) for run in found]
    screen.table("runs", result_tables.RUN_COLUMNS, rows)
    screen.result({"runs": [dict(zip(result_tables.RUN_COLUMNS, row, strict=True)) for row in rows]})


@_verb
def show(run: Name, workspace: Where = None, json: Json = False) -> None:
    """One run: how it ended, figures at every level, settings that are not the defaults, how to run it again."""
    from retreever.tracking import run_catalog

    place, screen, tracker = _tracked(workspace, json)
    chosen = run_catalog.find(tracker, place, run)
    known = run_catalog.described(chosen)
    result_tables.show_run(screen, known)
    screen.result(known)


@_verb
def compare(
    a: Name,
    b: Name,
    plot: Annotated[Path | None, typer.Option(help="PNG to write [default: comparisons/A-B.png]")] = None,
    workspace: Where = None,
    json: Json = False,
) -> None:
    """Two runs on the dev queries that both have answered: a paired test at every level, and settings that differ."""
    from retreever.evaluation.trial_plots import Curve, plot_comparison
    from retreever.tracking import run_catalog

    place, screen, tracker = _tracked(workspace, json)
    first, second = (run_catalog.find(tracker, place, name) for name in (a, b))
    found = run_catalog.compare(tracker, first, second)
    names = [f"{run.info.run_name} ({run.info.run_id[:6]})" for run in (first, second)]
    path = plot or place.root / "comparisons" / f"{first.info.run_id[:8]}-{second.info.run_id[:8]}.png"
    sizes = [2**one.level for one in found.differences]
    sides = [[one.a for one in found.differences], [one.b for one in found.differences]]
    curves = [Curve(name, sizes, side, [0.0] * len(side)) for name, side in zip(names, sides, strict=True)]
    plot_comparison(curves, found.per_query, path)
    result_tables.show_comparison(screen, found, names)
    screen.say(f"plot: {path}")
    screen.result(
        {
            "runs": [run.info.run_id for run in (first, second)],
            "queries": found.queries,
            "levels": [vars(one) for one in found.differences],
            "settings": found.settings,
            "plot": str(path),
        }
    )


@_verb
def best(
    where: Filter = "",
    kind: Kind = None,
    space: Space = None,
    metric: Annotated[str, typer.Option(help="figure of the best validation, e.g. ndcg_at_10/level_06")] = "ndcg_at_10",
    max_bytes: Annotated[float | None, typer.Option(help="at most so many bytes a document")] = None,
    workspace: Where = None,
    json: Json = False,
) -> None:
    """The finished run with the largest figure, and how to run it again."""
    from retreever.tracking import run_catalog
    from retreever.tracking.run_record import BYTES

    place, screen, tracker = _tracked(workspace, json)
    limits = {} if max_bytes is None else {BYTES: max_bytes}
    chosen = run_catalog.ranked(
        run_catalog.listed(tracker, place, where=where, kind=kind, space=space), metric, limits
    )[0]
    known = run_catalog.described(chosen)
    result_tables.show_run(screen, known)
    screen.result(known)


@_verb
def export(
    run: Name,
    target: Annotated[Path, typer.Argument(help="folder to write")],
    workspace: Where = None,
    json: Json = False,
) -> None:
    """Write a run to plain files: settings, figures of every step, artifacts, the command; a sweep with its trials."""
    from retreever.tracking import run_catalog

    place, screen, tracker = _tracked(workspace, json)
    written = run_catalog.export(tracker, run_catalog.find(tracker, place, run), target)
    screen.say(f"{len(written)} run{'s' if len(written) > 1 else ''} written to {target}")
    screen.result({"folders": [str(folder) for folder in written]})


@_verb
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="port of the page")] = 5000,
    workspace: Where = None,
) -> None:
    """Open MLflow's own page on this machine until Ctrl-C; where a tracking server is set, say where it is."""
    _, screen, tracker = _tracked(workspace, False)
    if tracker.uri.startswith("http"):
        screen.say(f"MLflow is at {tracker.uri}")
        return
    screen.say(f"MLflow at http://127.0.0.1:{port}, Ctrl-C ends it")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", tracker.uri]
    subprocess.run([*command, "--host", "127.0.0.1", "--port", str(port)], check=False)
