"""Verbs that take in data: read, check and encode it."""

from typing import TYPE_CHECKING, Annotated

import typer

from retreever import config as configs
from retreever.cli import result_tables
from retreever.cli.options import ConfigFile, Json, OnBadOption, Set, Where, open_workspace

if TYPE_CHECKING:  # it brings optuna
    pass


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

    place, screen = open_workspace(workspace, json)
    cache = place.root / "cache"
    dataset = prepare(
        source, path, name=name, query=query, passage=passage, on_bad=on_bad, cache=cache, track=screen.track
    )
    folder = place.root / "data" / dataset.name
    beir.write(dataset, folder)
    storage = place.storage()
    if storage:
        storage.push(folder, f"data/{dataset.name}")
    summary = result_tables.describe(dataset) | {"folder": str(folder)}
    screen.table(f"data set {dataset.name}", ["what", "count"], [(k, v) for k, v in summary.items()])
    screen.result(summary)


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

    place, screen = open_workspace(workspace, json)
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
