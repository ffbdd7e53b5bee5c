"""Verbs on a trained tree: index its corpus, promote it, search it, print the meaning of its nodes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from retreever.cli import result_tables
from retreever.cli.options import (
    CHAMPION_MODEL_URI,
    JsonOption,
    ModelArgument,
    ModelOption,
    WorkspaceOption,
    open_workspace,
)
from retreever.config import MIN_GUARD_RATIO
from retreever.errors import RetreeverError

if TYPE_CHECKING:  # it brings torch
    from retreever.bundle.hybrid_weights import HybridChoice
    from retreever.bundle.retriever import Retreever
    from retreever.cli.console import Screen


def index(
    run: Annotated[str, typer.Argument(help="a run's name or a model's folder")],
    output: Annotated[Path | None, typer.Option(help="bundle to write (default: runs/RUN/bundle)")] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="shards that Ray Data indexes in parallel (default: in this process, without Ray)"),
    ] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Index a trained tree's corpus: write a bundle of model, index and documents, ready to search.

    The dev queries then search it, which calibrates the relevance of hits. With --workers, the same command after an
    interruption indexes only the missing shards.

    Example: retreever index my_run
    """
    from retreever.bundle.fit_relevance import MIN_DEV_QUERIES
    from retreever.bundle.make_bundle import make_bundle
    from retreever.tracking.model_registry import locate_model

    place, screen = open_workspace(workspace, json)
    target = output or place.runs / run / "bundle"
    if workers is None:
        stats = make_bundle(locate_model(run, place), target, place, screen.track)
    else:
        from retreever.cluster.index_on_ray import index_in_shards

        stats = index_in_shards(locate_model(run, place), target, place, workers=workers, track=screen.track)
    screen.print_table(f"bundle {target}", ["what", "value"], list(stats.items()))
    if stats["relevance_calibration_error"] is None:
        screen.say(f"hits get no relevance: the data set has fewer than {MIN_DEV_QUERIES} dev queries to calibrate it")
    screen.print_result({"bundle": str(target), **stats})


def promote(
    run: Annotated[
        str | None,
        typer.Argument(help="a run's name in the workspace, or its id or name in MLflow (default: the best on dev)"),
    ] = None,
    metric: Annotated[str, typer.Option(help="without RUN: the dev metric that picks it, e.g. ndcg_at_10/level_06")] = (
        "ndcg_at_10"
    ),
    space: Annotated[str | None, typer.Option(help="without RUN: pick among the trials of this search space")] = None,
    min_recall: Annotated[float | None, typer.Option(min=0, max=1, help="gate: R@10 at least")] = None,
    max_bytes: Annotated[float | None, typer.Option(min=1, help="gate: bytes per document at most")] = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(min=0, help="gate: median milliseconds of one search on one thread at most")
    ] = None,
    min_guard: Annotated[
        float,
        typer.Option(
            min=0, help="gate: NDCG@10 on every set of train.guard, as a share of the frozen encoder's, at least"
        ),
    ] = MIN_GUARD_RATIO,
    split: Annotated[str, typer.Option(help="split to compare candidate and champion on: test or dev")] = "test",
    force: Annotated[bool, typer.Option("--force", help="promote even if not significantly better")] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help="point the alias at the previous version")] = False,
    alias: Annotated[str, typer.Option(help="alias to move; its old version becomes `previous`")] = "champion",
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Register a run as a version of the model `retreever`, and point an alias at it if it passes the gates.

    Without options the gates are the guard sets of the run, if it has any, and a paired test against the present
    champion. `retreever serve` follows the alias.

    Example: retreever promote my_run --min-recall 0.6 --max-latency-ms 5
    """
    from retreever.tracking import model_registry as registry
    from retreever.tracking.promotion import pick_run, promote_run
    from retreever.tracking.promotion_gates import Limits
    from retreever.tracking.tracker import Tracker

    place, screen = open_workspace(workspace, json)
    if rollback:
        uri, found = registry.roll_back_alias(Tracker.of(place), alias), "rolled back"
    else:
        limits = Limits(min_recall, max_bytes, max_latency_ms, min_guard)
        chosen = run or pick_run(place, metric=metric, space=space, limits=limits, track=screen.track)
        promoted = promote_run(chosen, place, alias=alias, limits=limits, split=split, force=force, track=screen.track)
        uri, found = promoted.uri, promoted.finding
    screen.say(f"{uri} is models:/retreever@{alias}: {found}")
    screen.print_result({"model_uri": uri, "alias": alias, "found": found})


def search(
    query: Annotated[str, typer.Argument(help="text to search for")],
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="passages to return")] = 10,
    level: Annotated[
        int | None, typer.Option(min=1, help="level of the tree, 2**level dimensions (default: the finest)")
    ] = None,
    hybrid: Annotated[
        str | None,
        typer.Option(
            metavar="auto|off|rrf|WEIGHT",
            help="add BM25 and cosines of the encoder to similarities: with the bundle's weights, or with this weight "
            "of words; rrf: fuse ranks (default: auto where train.for was hybrid, else off)",
        ),
    ] = None,
    model: ModelOption = CHAMPION_MODEL_URI,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Search a bundle's corpus and print the most similar passages, with the probability that each is relevant.

    Example: retreever search "how do I read a csv file" -k 5 --hybrid auto
    """
    from retreever.bundle.retriever import Retreever
    from retreever.tracking.model_registry import locate_model

    place, screen = open_workspace(workspace, json)
    retreever = Retreever.load(locate_model(model, place), exports=place.exports)
    try:
        hits = retreever.search([query], k=k, level=level, hybrid=_parse_hybrid(hybrid))[0]
    except ValueError as error:
        raise RetreeverError(str(error)) from None
    found = [{"id": h.id, "relevance": h.relevance, "score": h.score, "text": h.text} for h in hits]
    result_tables.show_hits(screen, query, found)
    screen.print_result({"query": query, "hits": found})


def _parse_hybrid(text: str | None) -> "HybridChoice | None":
    if text in (None, "auto", "off", "rrf"):
        return cast("HybridChoice | None", text)
    assert text is not None
    try:
        return float(text)
    except ValueError:
        raise RetreeverError(f"--hybrid {text}: must be auto, off, rrf or a weight") from None


def tree(
    model: ModelArgument = CHAMPION_MODEL_URI,
    levels: Annotated[int, typer.Option(min=1, help="levels to print, from the root")] = 4,
    rename: Annotated[
        list[str] | None,
        typer.Option("--rename", metavar="NODE NAME", help="call a node so; an empty name takes it away (repeatable)"),
    ] = None,
    namer: Annotated[
        str | None,
        typer.Option(
            metavar="LANGUAGE_MODEL",
            help="name the printed nodes in a sentence each, by a local text-generation model: a Hugging Face id or a "
            "folder",
        ),
    ] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Print the upper nodes of a bundle's tree: number, name, words, and how many passages lie there.

    Names are kept in the bundle's names.json. --namer never overwrites yours. `models:/...` means the local copy of a
    registered bundle: name the run's bundle before you promote it, and every version has the names.

    Example: retreever tree my_run --levels 3 --rename 21 "Reading files"
    """
    from retreever.bundle.nodes.node_names import NAMES_FILE
    from retreever.bundle.retriever import Retreever
    from retreever.bundle.tree_view import make_tree_view
    from retreever.tracking.model_registry import locate_model

    place, screen = open_workspace(workspace, json)
    folder = locate_model(model, place)
    wanted = _parse_names(rename or [])
    retreever = Retreever.load(folder, encoder=False)
    if wanted:
        _rename_nodes(retreever, wanted)
    if namer is not None:
        _generate_names(retreever, levels, namer, screen)
    if wanted or namer is not None:
        screen.say(f"names are kept in {folder / NAMES_FILE}")
    view = make_tree_view(retreever)
    result_tables.show_tree(screen, view, levels)
    nodes = [node.model_dump() for node in view.nodes if node.level <= levels]
    screen.print_result({**view.model_dump(exclude={"nodes"}), "nodes": nodes})


def _parse_names(texts: list[str]) -> dict[int, str]:
    """Names by node, from words that `join_rename_words` joined."""
    names = {}
    for text in texts:
        node, equals, name = text.partition("=")
        if not equals or not node.strip().isdecimal():
            raise RetreeverError(f'--rename {text}: must be a node and its name, e.g. --rename 21 "Reading files"')
        names[int(node)] = name
    return names


def _rename_nodes(retreever: "Retreever", names: dict[int, str]) -> None:
    from retreever.bundle.nodes.node_names import rename_nodes

    try:
        rename_nodes(retreever.folder, retreever.digest, retreever.tree, names)
    except ValueError as error:
        raise RetreeverError(f"--rename: {error}") from None


def _generate_names(retreever: "Retreever", levels: int, namer: str, screen: "Screen") -> None:
    """Name the printed nodes that no person has named."""
    from retreever.bundle.nodes.node_namer import MAX_NAME_TOKENS, MAX_PROMPT_TOKENS, generate_names
    from retreever.bundle.nodes.node_names import keep_generated_names, read_names
    from retreever.encoding.text_generator import TextGenerator

    known = read_names(retreever.folder, retreever.digest)
    tree = retreever.tree
    nodes = range(1, tree.level(min(levels, tree.depth)).stop)
    unnamed = [node for node in nodes if node not in known or known[node].generated]
    generate = TextGenerator(namer, MAX_PROMPT_TOKENS, MAX_NAME_TOKENS)
    names = generate_names(retreever, unnamed, generate, screen.track)
    keep_generated_names(retreever.folder, retreever.digest, names)
