"""Verbs on a trained tree: index, promote, search, and print what its nodes mean."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retreever.cli import result_tables
from retreever.cli.options import CHAMPION, Json, Model, ModelOption, Where, open_workspace
from retreever.errors import RetreeverError

if TYPE_CHECKING:  # it brings optuna
    pass


def index(
    run: Annotated[str, typer.Argument(help="a run's name or a model's folder")],
    output: Annotated[Path | None, typer.Option(help="bundle to write [default: runs/RUN/bundle]")] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="index shards side by side with Ray Data; by default in this process, without Ray"),
    ] = None,
    workspace: Where = None,
    json: Json = False,
) -> None:
    """Index a trained tree's corpus: writes a bundle of model, index and documents, ready to search.

    With --workers an interrupted call goes on with the shards that are missing.
    """
    from retreever.bundle.make_bundle import make_bundle
    from retreever.tracking.model_registry import locate

    place, screen = open_workspace(workspace, json)
    target = output or place.runs / run / "bundle"
    if workers is None:
        stats = make_bundle(locate(run, place), target, place, screen.track)
    else:
        from retreever.cluster.index_on_ray import index_in_shards

        stats = index_in_shards(locate(run, place), target, place, workers=workers, track=screen.track)
    screen.table(f"bundle {target}", ["what", "value"], list(stats.items()))
    screen.result({"bundle": str(target), **stats})


def promote(
    run: Annotated[
        str | None,
        typer.Argument(help="a run's name in the workspace, or its id or name in MLflow [default: the best on dev]"),
    ] = None,
    metric: Annotated[str, typer.Option(help="without RUN: the dev figure that picks, e.g. ndcg_at_10/level_06")] = (
        "ndcg_at_10"
    ),
    space: Annotated[str | None, typer.Option(help="without RUN: pick among this search space's trials")] = None,
    min_recall: Annotated[float | None, typer.Option(min=0, max=1, help="R@10 must reach this")] = None,
    max_bytes: Annotated[float | None, typer.Option(min=1, help="bytes a document, at most")] = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(min=0, help="median search of one text on one thread, at most")
    ] = None,
    split: Annotated[str, typer.Option(help="queries on which candidate and champion meet: test or dev")] = "test",
    force: Annotated[bool, typer.Option("--force", help="even where the champion is not beaten significantly")] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help="point the alias at the version before")] = False,
    alias: Annotated[str, typer.Option(help="alias to move; the version before is kept as `previous`")] = "champion",
    workspace: Where = None,
    json: Json = False,
) -> None:
    """Register a run as a version of the model `retreever` and point an alias at it, if the gates let it pass."""
    from retreever.tracking import model_registry as registry
    from retreever.tracking.promotion import pick, promote_run
    from retreever.tracking.promotion_gates import Limits
    from retreever.tracking.tracker import Tracker

    place, screen = open_workspace(workspace, json)
    if rollback:
        uri, found = registry.rollback(Tracker.of(place), alias), "rolled back"
    else:
        limits = Limits(min_recall, max_bytes, max_latency_ms)
        chosen = run or pick(place, metric=metric, space=space, limits=limits, track=screen.track)
        promoted = promote_run(chosen, place, alias=alias, limits=limits, split=split, force=force, track=screen.track)
        uri, found = promoted.uri, promoted.found
    screen.say(f"{uri} is models:/retreever@{alias}: {found}")
    screen.result({"model_uri": uri, "alias": alias, "found": found})


def search(
    query: Annotated[str, typer.Argument(help="what to look for")],
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="passages to return")] = 10,
    level: Annotated[
        int | None, typer.Option(min=1, help="level of the tree, 2**level dimensions [default: the finest]")
    ] = None,
    model: ModelOption = CHAMPION,
    workspace: Where = None,
    json: Json = False,
) -> None:
    """Search a bundle's corpus."""
    from retreever.bundle.retriever import Retreever
    from retreever.tracking.model_registry import locate

    place, screen = open_workspace(workspace, json)
    retreever = Retreever.load(locate(model, place))
    try:
        hits = retreever.search([query], k=k, level=level)[0]
    except ValueError as error:
        raise RetreeverError(str(error)) from None
    screen.table(query, ["score", "id", "text"], [(float(h.score), h.id, result_tables.short(h.text)) for h in hits])
    screen.result({"query": query, "hits": [{"id": h.id, "score": float(h.score), "text": h.text} for h in hits]})


def tree(
    model: Model = CHAMPION,
    levels: Annotated[int, typer.Option(min=1, help="levels to print, from the root")] = 4,
    workspace: Where = None,
    json: Json = False,
) -> None:
    """Print what the upper nodes of a bundle's tree mean: their words, and how many passages reach them."""
    from retreever.bundle.retriever import Retreever
    from retreever.bundle.tree_view import tree_view
    from retreever.tracking.model_registry import locate

    place, screen = open_workspace(workspace, json)
    view = tree_view(Retreever.load(locate(model, place), encoder=False))
    result_tables.show_tree(screen, view, levels)
    nodes = [node.model_dump() for node in view.nodes if node.level <= levels]
    screen.result({**view.model_dump(exclude={"nodes"}), "nodes": nodes})
