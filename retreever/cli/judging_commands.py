"""Verbs that judge trees: the quick comparison, and the full one with every baseline."""

from pathlib import Path
from typing import Annotated

import typer

from retreever import config as configs
from retreever.cli import result_tables
from retreever.cli.options import (
    CHAMPION_MODEL_URI,
    JsonOption,
    ModelArgument,
    SetOption,
    WorkspaceOption,
    open_workspace,
)
from retreever.system.extras import import_extra


def evaluate(
    model: ModelArgument = CHAMPION_MODEL_URI,
    split: Annotated[str, typer.Option(help="split to judge on: dev or test")] = "test",
    baselines: Annotated[
        bool,
        typer.Option("--baselines/--no-baselines", help="compare with BM25, frozen cosine, PCA and a Matryoshka head"),
    ] = True,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Judge a tree at every level on a split that it was not trained on, and compare it with quick baselines.

    The tree is judged alone, and as a hybrid with BM25. Baselines are fitted once for a training budget, then read from
    the workspace.

    Example: retreever evaluate my_run --split dev
    """
    from retreever.comparison.judge import compare_to_baselines
    from retreever.encoding.encoding_store import open_encoded_dataset
    from retreever.tracking.model_registry import locate_model
    from retreever.trained_tree import read_model_config

    place, screen = open_workspace(workspace, json)
    folder = locate_model(model, place)
    opened = open_encoded_dataset(read_model_config(folder), place, screen.track)
    verdict = compare_to_baselines(
        folder, opened, split=split, baselines=baselines, cache=place.baselines, track=screen.track
    )
    result_tables.show_verdict(screen, verdict)
    screen.print_result(verdict.to_json())


def compare(
    dataset: Annotated[str, typer.Argument(help="data set to judge on: a name in the workspace, or a folder")],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="configuration of the tree in YAML; without it, the defaults", exists=True, dir_okay=False
        ),
    ] = None,
    set: SetOption = None,
    train_on: Annotated[
        str | None, typer.Option(help="data set to train on; A+B reads several as one (default: DATASET)")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="trained tree to judge; several count as seeds of one (repeatable)",
        ),
    ] = None,
    baseline: Annotated[
        list[str] | None, typer.Option("--baseline", "-b", help="only this baseline (repeatable; default: all)")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="seeds of trees and baselines; figures are means over seeds")] = 1,
    split: Annotated[str, typer.Option(help="split to judge on: dev or test")] = "test",
    summarizer: Annotated[
        str | None,
        typer.Option(help="RAPTOR's language model, a Hugging Face id or folder (default: extracts)"),
    ] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Compare trees with every baseline in one report: quality, bytes, latency, with intervals and paired tests.

    Needs the extra `baselines`: pip install 'retreever\\[baselines]'. The same command again trains nothing twice.

    Example: retreever compare mine --baseline bm25 --baseline matryoshka --seeds 3
    """
    import_extra("faiss", "baselines")  # before anything is trained
    from retreever.cluster.compare_on_ray import compare_systems

    place, screen = open_workspace(workspace, json)
    settings = configs.load_config(config, [*(set or []), f"data.name={train_on or dataset}"])
    found = compare_systems(
        settings,
        dataset,
        place,
        seeds=seeds,
        split=split,
        baselines=baseline,
        models=model or (),
        summarizer=summarizer,
        track=screen.track,
        watch=screen.say,
    )
    result_tables.show_comparison_report(screen, found.report)
    screen.say(f"  report: {found.folder / 'report.md'}")
    screen.print_result({"folder": str(found.folder), "run_id": found.run_id, **found.report.to_json()})
