"""Entry point of the command line: registers one function per verb and turns errors into messages.

Every verb takes `--workspace` (folder of all files); those with a result take `--json` (one JSON object on stdout, the
rest on stderr). `jobs/VERB.py` runs the same verb as a job on a cluster.
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
from retreever.cli.options import Interrupted, RenamingCommand, add_verb
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
    add_verb(app, run, cls=RenamingCommand if run is tree else None)
app.add_typer(runs_commands.runs_app)


def print_version(wanted: bool) -> None:
    """Print the version and exit, if `wanted`."""
    if wanted:
        typer.echo(f"retreever {__version__}")
        raise typer.Exit


@app.callback()
def take_options(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """Learned binary routing trees for retrieval: train, sweep, compare, promote, index, search and serve.

    For a first tree on your own data run data, encode, train, index, promote, search, in this order. `retreever demo`
    shows them all on docstrings; `retreever VERB --help` explains a verb.
    """


def main(arguments: list[str] | None = None, verb: str | None = None) -> None:
    """Run a verb. A `RetreeverError` becomes one clear message and exit code 2, Ctrl-C exit code 130."""
    try:
        app(([verb] if verb else []) + (sys.argv[1:] if arguments is None else arguments))
    except Interrupted:
        Screen(as_json=True).say("interrupted; run the same command to continue from here", style="bold yellow")
        sys.exit(130)
    except RetreeverError as error:
        for line in str(error).splitlines():
            Screen(as_json=True).say(f"error: {line}", style="bold red")
        sys.exit(2)
