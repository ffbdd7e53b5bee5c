"""The whole life of a tree in seven steps on real text; each step that is done already is not done again.

Tells the story; every step is a function of the library that has a verb of its own.
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
from retreever.cluster.launch_training import train
from retreever.cluster.ray_runtime import cluster
from retreever.comparison.comparison_plots import plot_verdict
from retreever.comparison.judge import compare
from retreever.comparison.verdict import Verdict
from retreever.config import Config
from retreever.data import beir, docstrings
from retreever.encoding.encoding_store import EncodedDataset, open_dataset
from retreever.service.app import start
from retreever.service.settings import AppArguments
from retreever.sweeps import search_space as spaces
from retreever.sweeps.run_sweep import SweepResult, sweep
from retreever.sweeps.space_grammar import SearchSpace
from retreever.system.workspace import Workspace
from retreever.tracking.model_registry import CHAMPION, MODEL
from retreever.tracking.promotion import promote_run
from retreever.tracking.tracker import Tracker
from retreever.trained_tree import load_model

QUESTIONS = (
    "how do I read a csv file into a table",
    "compute the eigenvalues of a symmetric matrix",
    "wait until several tasks have finished",
)
WORKERS = 2
"""Workers of the final training, so that the demo shows negatives gathered across processes."""


def run(space_file: Path, workspace: Workspace, screen: Screen, *, port: int, stay: bool) -> dict[str, Any]:
    """Run the story and return its figures.

    Args:
        stay: keep serving until Ctrl-C.

    Returns:
        {seconds, corpus, trials, best, rivals, model_uri, service}, as printed by `retreever demo --json`.
    """
    started = time.monotonic()
    space = spaces.load(space_file)
    base = spaces.trials(space)[0].config
    corpus = _corpus(base, workspace, screen)
    screen.heading("2/7  Encodings: the frozen encoder reads every text once")
    data = open_dataset(base, workspace, screen.track)
    screen.say(
        f"  {len(data.passages):,} passages and {len(data.queries):,} queries, {data.dim} dimensions, memory-mapped"
    )
    with cluster(workspace, serving=True):
        swept = _sweep(space, workspace, screen)
        name, config, run_id = _final(space, swept, workspace, screen)
        verdict = _verdict(name, config, data, run_id, workspace, screen)
        uri = _promote(name, workspace, screen)
        seconds = time.monotonic() - started
        with _service(uri, port, workspace, screen) as (url, latency):
            screen.say(f"  done in {seconds:.0f} s; MLflow: mlflow ui --backend-store-uri {workspace.mlflow_uri}")
            if stay:
                screen.say(f"  serving at {url} (docs at {url}/docs); Ctrl-C ends it")
                wait_for_interrupt()
    results = verdict.to_json()["results"]
    return {
        "seconds": round(seconds, 1),
        "corpus": corpus,
        "trials": result_tables.trial_rows(swept),
        "best": {"params": config.flat(), "run_id": run_id, "levels": _by_level(results.pop(TREE))},
        "rivals": results,
        "model_uri": uri,
        "service": {"url": url, "p50_ms": round(latency, 2)},
    }


TREE = "retreever"


def _corpus(config: Config, workspace: Workspace, screen: Screen) -> dict[str, Any]:
    screen.heading(
        "1/7  Corpus: docstrings of Python and its libraries, question = first paragraph, passage = the rest"
    )
    folder = workspace.dataset(config.data.name)
    if not folder.is_dir():
        beir.write(docstrings.build(screen.track), folder)
    summary = result_tables.describe(beir.read(folder, config.data.on_bad))
    screen.say("  " + ", ".join(f"{count:,} {what}" for what, count in summary.items() if isinstance(count, int)))
    return summary


def _sweep(space: SearchSpace, workspace: Workspace, screen: Screen) -> SweepResult:
    planned = len(spaces.trials(space))
    screen.heading(f"3/7  Sweep: {planned} trees by Ray Tune and ASHA, every run in MLflow")
    result = sweep(
        space, workspace, track=screen.track, watch=lambda event: screen.say(result_tables.event_line(event))
    )
    result_tables.show_trials(screen, result)
    return result


def _final(space: SearchSpace, swept: SweepResult, workspace: Workspace, screen: Screen) -> tuple[str, Config, str]:
    config = spaces.final_config(space, swept.configs[swept.best.key])
    screen.heading(f"4/7  The winner, trained longer by Ray Train on {WORKERS} workers that share their negatives")
    name = f"{swept.folder.name}-{config.digest[:8]}"
    _, run_id = train(
        config,
        workspace,
        name,
        workers=WORKERS,
        parent=swept.parent,
        tags={"kind": "final", "space": space.name},
        watch=lambda figures: screen.say(result_tables.validation_line(figures)),
    )
    return name, config, run_id


def _verdict(
    name: str, config: Config, data: EncodedDataset, run_id: str, workspace: Workspace, screen: Screen
) -> Verdict:
    screen.heading("5/7  Verdict: the test split, beside rivals tuned on the same dev split")
    folder = workspace.runs / name
    tree, _ = load_model(folder / "model")
    verdict = compare(tree, config, data, split="test", rivals=True, cache=workspace.rivals, track=screen.track)
    verdict.save(folder / "verdict.json")
    plot_verdict(verdict, folder / "verdict.png")
    (folder / "verdict.md").write_text(verdict.markdown(), encoding="utf-8")
    tracker = Tracker.of(workspace)
    for file in ("verdict.json", "verdict.png", "verdict.md"):
        tracker.artifact(run_id, folder / file, "verdict")
    tracker.log(run_id, {f"test/{k}": v for k, v in _by_level_flat(verdict).items()})
    result_tables.show_verdict(screen, verdict)
    screen.say(f"  plot: {folder / 'verdict.png'}")
    return verdict


def _promote(name: str, workspace: Workspace, screen: Screen) -> str:
    screen.heading(f"6/7  Promotion: indexed, registered in MLflow, models:/{MODEL}@{CHAMPION}")
    folder = workspace.runs / name
    if not (folder / "bundle").is_dir():
        make_bundle(folder / "model", folder / "bundle", workspace, screen.track)
    promoted = promote_run(name, workspace, force=True, track=screen.track)  # whatever an earlier demo has left
    screen.say(f"  {promoted.uri}: {promoted.found}")
    return promoted.uri


@contextmanager
def _service(uri: str, port: int, workspace: Workspace, screen: Screen) -> Iterator[tuple[str, float]]:
    """The champion behind HTTP; yields its address and the median latency of the sample queries in milliseconds."""
    screen.heading("7/7  Service: Ray Serve answers over HTTP")
    url = start(AppArguments(model=uri, workspace=str(workspace.root)), port=port)
    with httpx.Client(base_url=url, timeout=30) as client:
        for question in QUESTIONS:
            hits = _ask(client, question)["hits"]
            screen.table(
                question,
                ["score", "id", "text"],
                [(h["score"], h["id"], result_tables.short(h["text"])) for h in hits],
            )
        latency = statistics.median(_timed(client, QUESTIONS[i % len(QUESTIONS)]) for i in range(15))
    screen.say(f"  median of 15 queries: {latency:.1f} ms, HTTP and encoding included")
    yield url, latency


def _ask(client: httpx.Client, question: str) -> Any:
    answer = client.post("/v1/search", json={"query": question, "k": 3})
    answer.raise_for_status()
    return answer.json()


def _timed(client: httpx.Client, question: str) -> float:
    begun = time.perf_counter()
    _ask(client, question)
    return (time.perf_counter() - begun) * 1000


def _by_level(results: dict[str, dict[str, float]]) -> dict[int, dict[str, float]]:
    """The tree's figures by level instead of by dimensions."""
    return {int(size).bit_length() - 1: figures for size, figures in results.items()}


def _by_level_flat(verdict: Verdict) -> dict[str, float]:
    levels = _by_level(verdict.to_json()["results"][TREE])
    return {f"{name}/level_{level:02d}": value for level, figures in levels.items() for name, value in figures.items()}
