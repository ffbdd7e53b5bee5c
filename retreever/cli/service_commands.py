"""Verbs that serve: a version over HTTP, and the demo, which ends in a service."""

import os
import sys
from typing import Annotated

import typer

from retreever.cli.console import wait_for_interrupt
from retreever.cli.options import CHAMPION_MODEL_URI, JsonOption, ModelArgument, WorkspaceOption, open_workspace


def serve(
    model: ModelArgument = CHAMPION_MODEL_URI,
    host: Annotated[str, typer.Option(help="address to bind; 0.0.0.0 opens it to the network")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="port of the service")] = 8000,
    canary: Annotated[
        str | None, typer.Option(help="version to try on some searches, e.g. models:/retreever@challenger")
    ] = None,
    canary_share: Annotated[float, typer.Option(min=0, max=1, help="share of the searches for the canary")] = 0.1,
    max_replicas: Annotated[int, typer.Option(min=1, help="replicas, at most; each answers, encodes and searches")] = 1,
    trace_share: Annotated[
        float, typer.Option(min=0, max=1, help="share of the searches, with their texts, that MLflow keeps as traces")
    ] = 0,
    check: Annotated[
        bool, typer.Option("--check", help="do not serve; check model, index, encoder, ports and memory")
    ] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Serve a version over HTTP until Ctrl-C or SIGTERM, and follow its alias.

    Writes need the token in RETREEVER_WRITE_TOKEN; without one nobody can write.

    Example: RETREEVER_WRITE_TOKEN=secret retreever serve --port 8000
    """
    from retreever.cluster.ray_runtime import join_cluster
    from retreever.service.dry_start import check_service
    from retreever.service.run_service import run_service
    from retreever.service.settings import ServiceSettings
    from retreever.system.ports import check_port
    from retreever.tracking.model_registry import locate_model

    place, screen = open_workspace(workspace, False)
    settings = ServiceSettings(
        model=model,
        workspace=str(place.root),
        canary=canary,
        canary_share=canary_share,
        max_replicas=max_replicas,
        trace_share=trace_share,
    )
    if check:
        for finding in check_service(settings, host, port):
            screen.say(f"{finding.subject:8} {finding.detail}")
        return
    if "RAY_ADDRESS" not in os.environ:  # ask before Ray starts; in a cluster Serve may listen there already
        check_port(host, port)
    locate_model(model, place)
    with join_cluster(place, serving=max_replicas), run_service(settings, host=host, port=port) as url:
        screen.say(f"serving {model} at {url}  (docs at {url}/docs, Ctrl-C ends it)")
        wait_for_interrupt()


def demo(
    space: Annotated[str, typer.Argument(help="search space of the sweep: a shipped one by name, or a file")] = "demo",
    exit: Annotated[
        bool, typer.Option("--exit", help="exit after the sample queries; without a terminal, that is the default")
    ] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="port of the service")] = 8000,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Show the whole life of a tree on real text: corpus, sweep, training, verdict, promotion, service.

    The same command again skips every step that is done.

    Example: retreever demo --exit --json
    """
    from retreever.cli.run_demo import run_demo
    from retreever.sweeps.search_space import locate_space

    place, screen = open_workspace(workspace, json)
    stay = not exit and sys.stdout.isatty() and not json
    screen.print_result(run_demo(locate_space(space), place, screen, port=port, stay=stay))
