"""What the verbs of the command line share: their common options, and how they start and stop."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from retreever.console import Screen
from retreever.errors import RetreeverError
from retreever.system import environment, memory
from retreever.system.workspace import Workspace

Where = Annotated[
    Path | None,
    typer.Option("--workspace", help="folder for everything made [default: $RETREEVER_WORKSPACE or workspace]"),
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object on stdout, as the last line")]


class Interrupted(RetreeverError):
    """Ctrl-C, in a form that typer does not turn into an exit code of its own."""


def verb(app: typer.Typer, run: Callable[..., None]) -> Callable[..., None]:
    """Make a function a verb of `app`."""

    @functools.wraps(run)
    def guarded(*arguments: Any, **options: Any) -> None:
        try:
            run(*arguments, **options)
        except KeyboardInterrupt:
            raise Interrupted from None

    app.command()(guarded)
    return guarded


def opened(where: Path | None, as_json: bool) -> tuple[Workspace, Screen]:
    """The workspace and the screen of a verb; the environment is prepared, and freed memory kept."""
    workspace = Workspace.at(where) if where else Workspace.default()
    environment.prepare(workspace)
    memory.keep_freed()
    return workspace, Screen(as_json)
