"""What the verbs of the command line share: their common options, and how they start and stop."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from retreever.cli.console import Screen
from retreever.errors import RetreeverError
from retreever.system import environment, memory
from retreever.system.workspace import Workspace

CHAMPION = "models:/retreever@champion"
ConfigFile = Annotated[
    Path | None, typer.Argument(help="configuration in YAML; defaults where it is left out", exists=True)
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="override, e.g. tree.depth=8 (repeatable)"),
]
Model = Annotated[
    str,
    typer.Argument(help="a run's name, a bundle's folder, or an MLflow URI like models:/retreever@champion"),
]
ModelOption = Annotated[str, typer.Option("--model", "-m", help="a run's name, a bundle's folder, or an MLflow URI")]
OnBadOption = Annotated[
    Literal["refuse", "skip"],
    typer.Option("--on-bad", help="bad lines of the data: refuse, or skip and count"),
]
Where = Annotated[
    Path | None,
    typer.Option("--workspace", help="folder for everything made [default: $RETREEVER_WORKSPACE or workspace]"),
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object on stdout, as the last line")]


class Interrupted(RetreeverError):
    """Ctrl-C, in a form that typer does not turn into an exit code of its own."""


def add_verb(app: typer.Typer, run: Callable[..., None]) -> Callable[..., None]:
    """Make a function a verb of `app`."""

    @functools.wraps(run)
    def guarded(*arguments: Any, **options: Any) -> None:
        try:
            run(*arguments, **options)
        except KeyboardInterrupt:
            raise Interrupted from None

    app.command()(guarded)
    return guarded


def open_workspace(where: Path | None, as_json: bool) -> tuple[Workspace, Screen]:
    """The workspace and the screen of a verb; the environment is prepared, and freed memory kept."""
    workspace = Workspace.at(where) if where else Workspace.default()
    environment.prepare(workspace)
    memory.keep_freed()
    return workspace, Screen(as_json)
