"""Verbs that serve: a version over HTTP, and the demo, which ends in a service."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from retreever.cli.console import wait_for_interrupt
from retreever.cli.options import CHAMPION, Json, Model, Where, open_workspace

if TYPE_CHECKING:  # it brings optuna
    pass


def serve(
    model: Model = CHAMPION,
    host: Annotated[str, typer.Option(help="address to bind; 0.0.0.0 opens it to the network")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    canary: Annotated[
        str | None, typer.Option(help="a version to try beside it, e.g. models:/retreever@challenger")
    ] = None,
    canary_share: Annotated[float, typer.Option(min=0, max=1, help="of the searches that the canary answers")] = 0.1,
    max_replicas: Annotated[int, typer.Option(min=1, help="of encoder and retriever, when many ask")] = 1,
    workspace: Where = None,
) -> None:
    """Serve a version over HTTP until Ctrl-C, and follow its alias.

    Documents may be changed by who bears the token in RETREEVER_WRITE_TOKEN; where it is not set, by nobody.
    """
    from retreever.cluster.ray_runtime import cluster
    from retreever.service.app import start
    from retreever.service.settings import AppArguments
    from retreever.tracking.model_registry import locate

    place, screen = open_workspace(workspace, False)
    locate(model, place)
    settings = AppArguments(
        model=model,
        workspace=str(place.root),
        canary=canary,
        canary_share=canary_share,
        max_replicas=max_replicas,
    )
    with cluster(place, serving=True):
        url = start(settings, host=host, port=port)
        screen.say(f"serving {model} at {url}  (docs at {url}/docs, Ctrl-C ends it)")
        wait_for_interrupt()


def demo(
    space: Annotated[str, typer.Argument(help="search space of the sweep: a shipped one by name, or a file")] = "demo",
    exit: Annotated[
        bool, typer.Option("--exit", help="end after the sample queries; so it does without a terminal")
    ] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="port of the service")] = 8000,
    workspace: Where = None,
    json: Json = False,
) -> None:
    """The whole life of a tree on real text: corpus, sweep, training, verdict, promotion, service."""
    from retreever.cli.run_demo import run
    from retreever.sweeps.search_space import locate_space

    place, screen = open_workspace(workspace, json)
    stay = not exit and sys.stdout.isatty() and not json
    screen.result(run(locate_space(space), place, screen, port=port, stay=stay))
