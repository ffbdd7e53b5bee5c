"""What all verbs share: common options, registration of a function, opening of the workspace."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

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


class RenamingCommand(TyperCommand):
    """A command whose repeatable option `--rename` takes two words; typer repeats options of one word alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words of the command line."""
        return super().parse_args(ctx, join_rename_words(args))


def join_rename_words(args: list[str]) -> list[str]:
    """Join the two words after each `--rename` with an equals sign, unless the second is another option.

    >>> join_rename_words(["my_run", "--rename", "21", "Reading files", "--levels", "3"])
    ['my_run', '--rename', '21=Reading files', '--levels', '3']
    """
    joined = list(args)
    for place, word in enumerate(joined):
        pair = joined[place + 1 : place + 3]
        if word == "--rename" and len(pair) == 2 and "=" not in pair[0] and not pair[1].startswith("--"):
            joined[place + 1 : place + 3] = ["=".join(pair)]
    return joined


def add_verb(
    app: typer.Typer, run: Callable[..., None], name: str | None = None, cls: type[TyperCommand] | None = None
) -> None:
    """Register a function as a verb of `app`, under `name` or its own name; Ctrl-C raises `Interrupted`.

    Args:
        cls: kind of command, where the options need another than typer's own.
    """

    @functools.wraps(run)
    def guarded(*arguments: Any, **options: Any) -> None:
        try:
            run(*arguments, **options)
        except KeyboardInterrupt:
            raise Interrupted from None

    app.command(name, cls=cls)(guarded)


def open_workspace(where: Path | None, as_json: bool) -> tuple[Workspace, Screen]:
    """Open the workspace and the screen of a verb; prepare the environment and keep freed memory."""
    workspace = Workspace.at(where) if where else Workspace.default()
    environment.prepare_environment(workspace)
    memory.keep_freed_memory()
    return workspace, Screen(as_json)
