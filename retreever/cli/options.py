"""What all verbs share: common options, registration of a function, opening of the workspace."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from retreever.cli.console import Screen
from retreever.errors import RetreeverError
from retreever.system import environment, memory
from retreever.system.workspace import Workspace

CHAMPION_MODEL_URI = "models:/retreever@champion"
ConfigFile = Annotated[Path | None, typer.Argument(help="configuration in YAML; without it, the defaults", exists=True)]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="override a setting, e.g. tree.depth=8 (repeatable)"),
]
ModelArgument = Annotated[
    str,
    typer.Argument(help="a run's name, a bundle's folder, or an MLflow URI like models:/retreever@champion"),
]
ModelOption = Annotated[str, typer.Option("--model", "-m", help="a run's name, a bundle's folder, or an MLflow URI")]
OnBadOption = Annotated[
    Literal["refuse", "skip"],
    typer.Option("--on-bad", help="bad lines of the data: refuse the data set, or skip and count them"),
]
WorkspaceOption = Annotated[
    Path | None,
    typer.Option("--workspace", help="folder of all files (default: $RETREEVER_WORKSPACE, else ./workspace)"),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="print the result as one JSON object on stdout, the rest on stderr")
]


class Interrupted(RetreeverError):
    """Ctrl-C, as an error that typer does not turn into its own exit code."""


def add_verb(app: typer.Typer, run: Callable[..., None], name: str | None = None) -> None:
    """Register a function as a verb of `app`, under `name` or its own name; Ctrl-C raises `Interrupted`."""

    @functools.wraps(run)
    def guarded(*arguments: Any, **options: Any) -> None:
        try:
            run(*arguments, **options)
        except KeyboardInterrupt:
            raise Interrupted from None

    app.command(name)(guarded)


def open_workspace(where: Path | None, as_json: bool) -> tuple[Workspace, Screen]:
    """Open the workspace and the screen of a verb; prepare the environment and keep freed memory."""
    workspace = Workspace.at(where) if where else Workspace.default()
    environment.prepare_environment(workspace)
    memory.keep_freed_memory()
    return workspace, Screen(as_json)
