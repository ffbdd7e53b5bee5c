"""The command line: one function a verb. Each parses, builds, runs and reports; the work is done elsewhere.

Every verb takes `--workspace` (where all files are kept) and `--json` (one JSON object on stdout, the rest on stderr).
`jobs/VERB.py` submits the same function to a cluster.
"""

import functools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from retreever import cli_runs, tables
from retreever import config as configs
from retreever.console import Screen, wait_for_interrupt
from retreever.errors import ConfigError, RetreeverError
from retreever.options import Interrupted, Json, Where, verb
from retreever.options import opened as _open
from retreever.system.workspace import Workspace

if TYPE_CHECKING:  # it brings optuna
    from retreever.sweeps.space_grammar import SearchSpace

app = typer.Typer(
    name="retreever",
    help="Learned binary routing trees for retrieval: train, sweep, compare, promote, index, search and serve.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

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
CHAMPION = "models:/retreever@champion"


_verb = functools.partial(verb, app)
app.add_typer(cli_runs.app)


def _range(text: str) -> tuple[int, int]:
    """Read MIN:MAX."""
    few, colon, many = text.partition(":")
    if not (colon and few.isdigit() and many.isdigit() and 1 <= int(few) <= int(many)):
        raise ConfigError([f"--elastic {text}: must be MIN:MAX with 1 <= MIN <= MAX, e.g. 2:8"])
    return int(few), int(many)


@_verb
def data(
    source: Annotated[
        str,
        typer.Argument(help="docstrings, beir, hub, or one of the paper's: nq, hotpotqa, topiocqa, repliqa"),
    ],
    path: Annotated[
        str | None, typer.Option(help="beir: the folder or URI; hub and recipes: a hub id or local files")
    ] = None,
    name: Annotated[str | None, typer.Option(help="name in the workspace [default: the source's]")] = None,
    query: Annotated[str | None, typer.Option(help="hub: column of the query")] = None,
    passage: Annotated[str | None, typer.Option(help="hub: column of the passage")] = None,
    on_bad: OnBadOption = "refuse",
    workspace: Where = None,
    json: Json = False,
) -> None:
    """Prepare a data set: read it, check it, write it in BEIR layout into the workspace."""
    from retreever.data import beir
    from retreever.data.prepare_dataset import prepare

    place, screen = _open(workspace, json)
    cache = place.root / "cache"
    dataset = prepare(
        source, path, name=name, query=query, passage=passage, on_bad=on_bad, cache=cache, track=screen.track
    )
    folder = place.root / "data" / dataset.name
    beir.write(dataset, folder)
    storage = place.storage()
    if storage:
        storage.push(folder, f"data/{dataset.name}")
    summary = tables.describe(dataset) | {"folder": str(folder)}
    screen.table(f"data set {dataset.name}", ["what", "count"], [(k, v) for k, v in summary.items()])
    screen.result(summary)


@_verb
def encode(
    config: ConfigFile = None,
    set: Set = None,
    workers: Annotated[int, typer.Option(min=1, help="encoders; above 1 as actors of Ray Data")] = 1,
    gpu: Annotated[bool, typer.Option("--gpu", help="one GPU for each encoder, as actors of Ray Data")] = False,
    workspace: Where = None,
    json: Json = False,
) -> None:
    """Encode a data set once; later runs read the memory-mapped store and encode nothing.

    Token states are kept where the configuration's split attends to them, `--set tree.split=cross_attention`, or with
    `--set encoder.tokens=true`; elsewhere pooled vectors alone.

    Interrupted, the same command goes on with the shards that are missing. What is there already is checked against its
    checksums.
    """
    from retreever.encoding.encoding_store import open_dataset

    place, screen = _open(workspace, json)
    settings = configs.load(config, set or [])
    if workers > 1 or gpu:
        from retreever.cluster.encode_on_ray import encode as encode_by_actors

        encode_by_actors(settings, place, workers=workers, gpu=gpu, track=screen.track)
    opened = open_dataset(settings, place, screen.track, verify=True)
    summary = {
        "name": opened.dataset.name,
        "encoder": settings.encoder.name,
        "dimensions": opened.dim,
        "passages": len(opened.passages),
        "queries": len(opened.queries),
    }
    screen.table("encodings", ["what", "value"], list(summary.items()))
    screen.result(summary)


@_verb
def train(
    config: ConfigFile = None,
    set: Set = None,
    name: Annotated[
        str | None,
        typer.Option(help="run name; a run interrupted under it goes on [default: from the config]"),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="workers; above 1 by Ray Train, negatives gathered across them")
    ] = 1,
    gpu: Annotated[bool, typer.Option("--gpu", help="one GPU for each worker")] = False,
    elastic: Annotated[
        str | None,
        typer.Option(metavar="MIN:MAX", help="as many workers as the cluster has room for, e.g. 2:8; not --workers"),
    ] = None,
    workspace: Where = None,
    json: Json = False,
) -> None:
    """Train one tree; the run and every validation go to MLflow."""
    from retreever.cluster.launch_training import train as launch

    place, screen = _open(workspace, json)
    settings = configs.load(config, set or [])
    run = name or f"{settings.data.name}-{settings.digest[:8]}"
    result, run_id = launch(
        settings,
        place,
        run,
        workers=_range(elastic) if elastic else workers,
        gpu=gpu,
        again=False,
        track=screen.track,
        watch=lambda f: screen.say(tables.validation_line(f)),
    )
    tables.show_best(screen, run, result.best)
    screen.result({"name": run, "run_id": run_id, "model": str(result.model), "best": result.best})


@_verb
def sweep(
    space: Annotated[
        Path, typer.Argument(help="search space, e.g. search_spaces/demo.yaml", exists=True, dir_okay=False)
    ],
    set: Set = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the trials, what they need and about how long they take, and stop")
    ] = False,
    workspace: Where = None,
    json: Json = False,
) -> None:
    """Run a grid of trees with Ray Tune, nested in MLflow. Ctrl-C and the same command again goes on where it was."""
    from retreever.sweeps import search_space as spaces

    place, screen = _open(workspace, json)
    chosen = spaces.load(space, dict(configs.parse_override(text) for text in set or []))
    if dry_run:
        _plan(chosen, place, screen)
        return
    from retreever.sweeps.run_sweep import sweep as run

    result = run(chosen, place, track=screen.track, watch=lambda event: screen.say(tables.event_line(event)))
    tables.show_trials(screen, result)
    screen.result({"parent": result.parent, "folder": str(result.folder), "trials": tables.trial_rows(result)})


def _plan(space: "SearchSpace", place: Workspace, screen: Screen) -> None:
    """Show what a sweep would run and what that needs."""
    from retreever.sweeps import search_space as spaces
    from retreever.sweeps.cost_estimate import estimate

    planned = spaces.edges(space) if space.search == "optuna" else spaces.trials(space)
    if space.search == "optuna":
        screen.table(f"sweep {space.name}", ["setting", "values"], [(d.name, str(d)) for d in spaces.varied(space)])
    else:
        screen.table(f"sweep {space.name}", ["trial", "settings"], [(trial.key, trial.label) for trial in planned])
    needs = estimate(space, planned, spaces.size(space), place, os.cpu_count() or 1, screen.track)
    tables.show_estimate(screen, space, needs)
    told = None if needs is None else vars(needs)
    screen.result({"name": space.name, "trials": [trial.varied for trial in planned], "estimate": told})


@_verb
def evaluate(
    model: Model = CHAMPION,
    split: Annotated[str, typer.Option(help="dev or test")] = "test",
    rivals: Annotated[
        bool,
        typer.Option("--rivals/--no-rivals", help="beside BM25, frozen cosine, PCA and a Matryoshka head"),
    ] = True,
    workspace: Where = None,
    json: Json = False,
) -> None:
    """Judge a tree at every level on a split it was not trained on, beside its rivals."""
    from retreever.comparison.judge import compare
    from retreever.encoding.encoding_store import open_dataset
    from retreever.tracking.model_registry import locate
    from retreever.trained_tree import load_model

    place, screen = _open(workspace, json)
    folder = locate(model, place)
    tree, settings = load_model(folder)
    opened = open_dataset(settings, place, screen.track)
    verdict = compare(tree, settings, opened, split=split, rivals=rivals, cache=place.rivals, track=screen.track)
    tables.show_verdict(screen, verdict)
    screen.result(verdict.to_json())


@_verb
def compare(
    dataset: Annotated[str, typer.Argument(help="data set to judge on: a name in the workspace, or a folder")],
    config: Annotated[
        Path | None, typer.Option("--config", help="configuration of the tree in YAML", exists=True, dir_okay=False)
    ] = None,
    set: Set = None,
    train_on: Annotated[
        str | None, typer.Option(help="data to learn from; A+B reads several as one [default: DATASET]")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="trained tree to judge instead; several count as seeds of one (repeatable)"),
    ] = None,
    rival: Annotated[
        list[str] | None, typer.Option("--rival", "-r", help="only this rival (repeatable) [default: all]")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="seeds of trees and rivals; figures are means over them")] = 1,
    split: Annotated[str, typer.Option(help="dev or test")] = "test",
    summarizer: Annotated[
        str | None, typer.Option(help="RAPTOR's language model: a Hugging Face id or folder [default: extracts]")
    ] = None,
    workspace: Where = None,
    json: Json = False,
) -> None:
    """Judge trees beside every rival: quality, bytes and latency, with intervals and significance; one report."""
    from retreever.cluster.compare_on_ray import compare as run

    place, screen = _open(workspace, json)
    settings = configs.load(config, [*(set or []), f"data.name={train_on or dataset}"])
    found = run(
        settings,
        dataset,
        place,
        seeds=seeds,
        split=split,
        rivals=rival,
        models=model or (),
        summarizer=summarizer,
        track=screen.track,
        watch=screen.say,
    )
    tables.show_report(screen, found.report)
    screen.say(f"  report: {found.folder / 'report.md'}")
    screen.result({"folder": str(found.folder), "run_id": found.run_id, **found.report.to_json()})


@_verb
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

    place, screen = _open(workspace, json)
    target = output or place.runs / run / "bundle"
    if workers is None:
        stats = make_bundle(locate(run, place), target, place, screen.track)
    else:
        from retreever.cluster.index_on_ray import index_in_shards

        stats = index_in_shards(locate(run, place), target, place, workers=workers, track=screen.track)
    screen.table(f"bundle {target}", ["what", "value"], list(stats.items()))
    screen.result({"bundle": str(target), **stats})


@_verb
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

    place, screen = _open(workspace, json)
    if rollback:
        uri, found = registry.rollback(Tracker.of(place), alias), "rolled back"
    else:
        limits = Limits(min_recall, max_bytes, max_latency_ms)
        chosen = run or pick(place, metric=metric, space=space, limits=limits, track=screen.track)
        promoted = promote_run(chosen, place, alias=alias, limits=limits, split=split, force=force, track=screen.track)
        uri, found = promoted.uri, promoted.found
    screen.say(f"{uri} is models:/retreever@{alias}: {found}")
    screen.result({"model_uri": uri, "alias": alias, "found": found})


@_verb
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

    place, screen = _open(workspace, json)
    retreever = Retreever.load(locate(model, place))
    try:
        hits = retreever.search([query], k=k, level=level)[0]
    except ValueError as error:
        raise RetreeverError(str(error)) from None
    screen.table(query, ["score", "id", "text"], [(float(h.score), h.id, tables.short(h.text)) for h in hits])
    screen.result({"query": query, "hits": [{"id": h.id, "score": float(h.score), "text": h.text} for h in hits]})


@_verb
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

    place, screen = _open(workspace, json)
    view = tree_view(Retreever.load(locate(model, place), encoder=False))
    tables.show_tree(screen, view, levels)
    nodes = [node.model_dump() for node in view.nodes if node.level <= levels]
    screen.result({**view.model_dump(exclude={"nodes"}), "nodes": nodes})


@_verb
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

    place, screen = _open(workspace, False)
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


@_verb
def demo(
    space: Annotated[Path, typer.Argument(help="search space of the sweep", exists=True, dir_okay=False)] = Path(
        "search_spaces/demo.yaml"
    ),
    exit: Annotated[
        bool, typer.Option("--exit", help="end after the sample queries; so it does without a terminal")
    ] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="port of the service")] = 8000,
    workspace: Where = None,
    json: Json = False,
) -> None:
    """The whole life of a tree on real text: corpus, sweep, training, verdict, promotion, service."""
    from retreever.demo import run

    place, screen = _open(workspace, json)
    stay = not exit and sys.stdout.isatty() and not json
    screen.result(run(space, place, screen, port=port, stay=stay))


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
