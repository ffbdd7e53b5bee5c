"""The command line: one function a verb. Each parses, builds, runs and reports; the work is done elsewhere.

Every verb takes `--workspace` (where all files are kept) and `--json` (one JSON object on stdout, the rest on stderr).
`jobs/VERB.py` submits the same function to a cluster.
"""

import sys
from typing import Annotated

import typer

from retreever import __version__
from retreever.cli import runs_commands
from retreever.cli.console import Screen
from retreever.cli.data_commands import data, encode
from retreever.cli.judging_commands import compare, evaluate
from retreever.cli.model_commands import index, promote, search, tree
from retreever.cli.options import Interrupted, add_verb
from retreever.cli.service_commands import demo, serve
from retreever.cli.training_commands import sweep, train
from retreever.errors import RetreeverError

VERBS = (data, encode, train, sweep, evaluate, compare, index, promote, search, tree, serve, demo)

app = typer.Typer(
    name="retreever",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for run in VERBS:
    add_verb(app, run)
app.add_typer(runs_commands.app)


def print_version(wanted: bool) -> None:
    """Print the version and end, where it is wanted."""
    if wanted:
        typer.echo(f"retreever {__version__}")
        raise typer.Exit


@app.callback()
def take_options(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """Learned binary routing trees for retrieval: train, sweep, compare, promote, index, search and serve."""


def main(arguments: list[str] | None = None, verb: str | None = None) -> None:
    """Entry point. A `RetreeverError` becomes one clear message and exit code 2, Ctrl-C exit code 130."""
    try:
        app(([verb] if verb else []) + (sys.argv[1:] if arguments is None else arguments))
    except Interrupted:
        Screen(as_json=True).say("interrupted; the same command goes on from here", style="bold yellow")
        sys.exit(130)
    except RetreeverError as error:
        for line in str(error).splitlines():
            Screen(as_json=True).say(f"error: {line}", style="bold red")
        sys.exit(2)
