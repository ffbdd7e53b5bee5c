"""Verbs on data: prepare a data set, encode it."""

from typing import Annotated

import typer

from retreever import config as configs
from retreever.cli import result_tables
from retreever.cli.options import ConfigFile, JsonOption, OnBadOption, SetOption, WorkspaceOption, open_workspace


def data(
    source: Annotated[
        str,
        typer.Argument(help="docstrings, beir, hub, or a data set of the paper: nq, hotpotqa, topiocqa, repliqa"),
    ],
    path: Annotated[
        str | None, typer.Option(help="beir: the folder or URI; hub and the paper's: a hub id or local files")
    ] = None,
    name: Annotated[str | None, typer.Option(help="name in the workspace (default: the source's)")] = None,
    query: Annotated[str | None, typer.Option(help="hub: column of the query")] = None,
    passage: Annotated[str | None, typer.Option(help="hub: column of the passage")] = None,
    on_bad: OnBadOption = "refuse",
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Prepare a data set: read it, check it, write it in BEIR layout into the workspace.

    BEIR layout is a folder with corpus.jsonl, queries.jsonl and qrels/train.tsv, dev.tsv, test.tsv. A corpus alone
    needs corpus.jsonl and nothing else; `train --steps 0` makes a tree of it.

    Example: retreever data beir --path my_folder --name mine
    """
    from retreever.data import beir
    from retreever.data.prepare_dataset import prepare_dataset

    place, screen = open_workspace(workspace, json)
    cache = place.root / "cache"
    dataset = prepare_dataset(
        source, path, name=name, query=query, passage=passage, on_bad=on_bad, cache=cache, track=screen.track
    )
    folder = place.root / "data" / dataset.name
    beir.write_beir(dataset, folder)
    storage = place.open_storage()
    if storage:
        storage.push(folder, f"data/{dataset.name}")
    summary = result_tables.describe_dataset(dataset) | {"folder": str(folder)}
    screen.print_table(f"data set {dataset.name}", ["what", "count"], [(k, v) for k, v in summary.items()])
    screen.print_result(summary)


def encode(
    config: ConfigFile = None,
    set: SetOption = None,
    workers: Annotated[int, typer.Option(min=1, help="encoders; above 1 they are actors of Ray Data")] = 1,
    gpu: Annotated[bool, typer.Option("--gpu", help="one GPU per encoder, as actors of Ray Data")] = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Encode a data set once; later runs read the memory-mapped store and encode nothing.

    The store holds pooled vectors. It also holds token states with --set tree.split=cross_attention, which attends to
    them, or with --set encoder.tokens=true.

    After an interruption the same command encodes the missing shards, and checks the others against their checksums.

    Example: retreever encode --set data.name=mine
    """
    from retreever.encoding.encoding_store import open_encoded_dataset

    place, screen = open_workspace(workspace, json)
    settings = configs.load_config(config, set or [])
    if workers > 1 or gpu:
        from retreever.cluster.encode_on_ray import encode_with_actors

        encode_with_actors(settings, place, workers=workers, gpu=gpu, track=screen.track)
    opened = open_encoded_dataset(settings, place, screen.track, verify=True)
    summary = {
        "name": opened.dataset.name,
        "encoder": settings.encoder.name,
        "dimensions": opened.dim,
        "passages": len(opened.passages),
        "queries": len(opened.queries),
    }
    screen.print_table("encodings", ["what", "value"], list(summary.items()))
    screen.print_result(summary)
