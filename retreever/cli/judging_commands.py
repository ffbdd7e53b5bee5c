"""Verbs that judge: one tree at every level, or trees beside every baseline."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retreever import config as configs
from retreever.cli import result_tables
from retreever.cli.options import CHAMPION, Json, Model, Set, Where, open_workspace

if TYPE_CHECKING:  # it brings optuna
    pass


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

    place, screen = open_workspace(workspace, json)
    folder = locate(model, place)
    tree, settings = load_model(folder)
    opened = open_dataset(settings, place, screen.track)
    verdict = compare(tree, settings, opened, split=split, rivals=rivals, cache=place.rivals, track=screen.track)
    result_tables.show_verdict(screen, verdict)
    screen.result(verdict.to_json())


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

    place, screen = open_workspace(workspace, json)
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
    result_tables.show_report(screen, found.report)
    screen.say(f"  report: {found.folder / 'report.md'}")
    screen.result({"folder": str(found.folder), "run_id": found.run_id, **found.report.to_json()})
