"""The whole life of a tree in seven steps on real text; a repeated demo skips finished steps.

Orders and narrates the steps. Each is a function of the library with its own verb.
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from retreever.bundle.make_bundle import make_bundle
from retreever.cli import result_tables
from retreever.cli.console import Screen, wait_for_interrupt
from retreever.cluster.launch_training import train_run
from retreever.cluster.ray_runtime import join_cluster
from retreever.comparison.comparison_plots import plot_verdict
from retreever.comparison.judge import compare_to_baselines
from retreever.comparison.tree_ranker import TREE_SYSTEM
from retreever.comparison.verdict import Verdict
from retreever.config import Config
from retreever.data import beir, docstrings
from retreever.encoding.encoding_store import EncodedDataset, open_encoded_dataset
from retreever.service.run_service import run_service
from retreever.service.settings import ServiceSettings
from retreever.sweeps import search_space as spaces
from retreever.sweeps.run_sweep import SweepResult, run_sweep
from retreever.sweeps.space_grammar import SearchSpace
from retreever.system.workspace import Workspace
from retreever.tracking.model_registry import CHAMPION_ALIAS, REGISTERED_MODEL
from retreever.tracking.promotion import promote_run
from retreever.tracking.tracker import Tracker

SAMPLE_QUESTIONS = (
    "how do I read a csv file into a table",
    "compute the eigenvalues of a symmetric matrix",
    "wait until several tasks have finished",
)
FINAL_TRAINING_WORKERS = 2
"""Workers of the final training, so that the demo shows negatives shared across processes."""


def run_demo(space_file: Path, workspace: Workspace, screen: Screen, *, port: int, stay: bool) -> dict[str, Any]:
    """Run the seven steps and return their figures.

    Args:
        stay: keep serving until Ctrl-C.

    Returns:
        {seconds, corpus, trials, best, baselines, model_uri, service}, the object that `retreever demo --json` prints.
    """
    started = time.monotonic()
    space = spaces.load_space(space_file)
    base = spaces.list_trials(space)[0].config
    corpus = _prepare_corpus(base, workspace, screen)
    screen.print_heading("2/7  Encodings: the frozen encoder reads every text once")
    data = open_encoded_dataset(base, workspace, screen.track)
    screen.say(
        f"  {len(data.passages):,} passages and {len(data.queries):,} queries, {data.dim} dimensions, memory-mapped"
    )
    with join_cluster(workspace, serving=1):
        sweep_result = _run_demo_sweep(space, workspace, screen)
        name, config, run_id = _train_final(space, sweep_result, workspace, screen)
        verdict = _judge_final(name, config, data, run_id, workspace, screen)
        uri = _promote(name, workspace, screen)
        seconds = time.monotonic() - started
        with _ask_service(uri, port, workspace, screen) as (url, latency):
            screen.say(f"  done in {seconds:.0f} s; MLflow: mlflow ui --backend-store-uri {workspace.mlflow_uri}")
            if stay:
                screen.say(f"  serving at {url} (docs at {url}/docs); Ctrl-C ends it")
                wait_for_interrupt()
    results = verdict.to_json()["results"]
    return {
        "seconds": round(seconds, 1),
        "corpus": corpus,
        "trials": result_tables.list_trial_rows(sweep_result),
        "best": {"params": config.flat(), "run_id": run_id, "levels": _by_level(results.pop(TREE_SYSTEM))},
        "baselines": results,
        "model_uri": uri,
        "service": {"url": url, "p50_ms": round(latency, 2)},
    }


def _prepare_corpus(config: Config, workspace: Workspace, screen: Screen) -> dict[str, Any]:
    screen.print_heading(
        "1/7  Corpus: docstrings of Python and its libraries; the first paragraph is the query, the rest the passage"
    )
    folder = workspace.dataset_folder(config.data.name)
    if not folder.is_dir():
        beir.write_beir(docstrings.build_docstring_dataset(screen.track), folder)
    summary = result_tables.describe_dataset(beir.read_beir(folder, config.data.on_bad))
    screen.say("  " + ", ".join(f"{count:,} {what}" for what, count in summary.items() if isinstance(count, int)))
    return summary


def _run_demo_sweep(space: SearchSpace, workspace: Workspace, screen: Screen) -> SweepResult:
    planned = len(spaces.list_trials(space))
    screen.print_heading(f"3/7  Sweep: {planned} trees by Ray Tune and ASHA, every run in MLflow")
    result = run_sweep(
        space, workspace, track=screen.track, watch=lambda event: screen.say(result_tables.format_event(event))
    )
    result_tables.show_trials(screen, result)
    return result


def _train_final(
    space: SearchSpace, sweep_result: SweepResult, workspace: Workspace, screen: Screen
) -> tuple[str, Config, str]:
    config = spaces.final_config(space, sweep_result.configs[sweep_result.best.key])
    screen.print_heading(
        f"4/7  The winner, trained longer by Ray Train on {FINAL_TRAINING_WORKERS} workers that share their negatives"
    )
    name = f"{sweep_result.folder.name}-{config.digest[:8]}"
    _, run_id = train_run(
        config,
        workspace,
        name,
        workers=FINAL_TRAINING_WORKERS,
        parent=sweep_result.parent,
        tags={"kind": "final", "space": space.name},
        watch=lambda figures: screen.say(result_tables.format_validation(figures)),
    )
    return name, config, run_id


def _judge_final(
    name: str, config: Config, data: EncodedDataset, run_id: str, workspace: Workspace, screen: Screen
) -> Verdict:
    screen.print_heading("5/7  Verdict: the test split, against baselines tuned on the same dev split")
    folder = workspace.runs / name
    verdict = compare_to_baselines(
        folder / "model", data, split="test", baselines=True, cache=workspace.baselines, track=screen.track
    )
    verdict.save(folder / "verdict.json")
    plot_verdict(verdict, folder / "verdict.png")
    (folder / "verdict.md").write_text(verdict.markdown(), encoding="utf-8")
    tracker = Tracker.of(workspace)
    for file in ("verdict.json", "verdict.png", "verdict.md"):
        tracker.log_artifact(run_id, folder / file, "verdict")
    tracker.log(run_id, {f"test/{k}": v for k, v in _by_level_flat(verdict).items()})
    result_tables.show_verdict(screen, verdict)
    screen.say(f"  plot: {folder / 'verdict.png'}")
    return verdict


def _promote(name: str, workspace: Workspace, screen: Screen) -> str:
    screen.print_heading(f"6/7  Promotion: indexed, registered in MLflow, models:/{REGISTERED_MODEL}@{CHAMPION_ALIAS}")
    folder = workspace.runs / name
    if not (folder / "bundle").is_dir():
        make_bundle(folder / "model", folder / "bundle", workspace, screen.track)
    promoted = promote_run(name, workspace, force=True, track=screen.track)  # whatever an earlier demo has promoted
    screen.say(f"  {promoted.uri}: {promoted.finding}")
    return promoted.uri


@contextmanager
def _ask_service(uri: str, port: int, workspace: Workspace, screen: Screen) -> Iterator[tuple[str, float]]:
    """Serve the champion over HTTP; yield its address and the median latency of the sample queries in milliseconds."""
    screen.print_heading("7/7  Service: Ray Serve answers over HTTP")
    with (
        run_service(ServiceSettings(model=uri, workspace=str(workspace.root)), port=port) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        for question in SAMPLE_QUESTIONS:
            hits = _ask(client, question)["hits"]
            result_tables.show_hits(screen, question, hits)
        latency = statistics.median(_time_query(client, SAMPLE_QUESTIONS[i % len(SAMPLE_QUESTIONS)]) for i in range(15))
        screen.say(f"  median of 15 queries: {latency:.1f} ms, HTTP and encoding included")
        yield url, latency


def _ask(client: httpx.Client, question: str) -> Any:
    answer = client.post("/v1/search", json={"query": question, "k": 3})
    answer.raise_for_status()
    return answer.json()


def _time_query(client: httpx.Client, question: str) -> float:
    start = time.perf_counter()
    _ask(client, question)
    return (time.perf_counter() - start) * 1000


def _by_level(results: dict[str, dict[str, float]]) -> dict[int, dict[str, float]]:
    """The tree's figures by level instead of by dimensions."""
    return {int(size).bit_length() - 1: figures for size, figures in results.items()}


def _by_level_flat(verdict: Verdict) -> dict[str, float]:
    levels = _by_level(verdict.to_json()["results"][TREE_SYSTEM])
    return {f"{name}/level_{level:02d}": value for level, figures in levels.items() for name, value in figures.items()}
