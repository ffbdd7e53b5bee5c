"""The full comparison: trees and baselines as Ray tasks, all nested under one MLflow run.

A task judges one system with one seed. Its results are in a folder named by everything that decides them, so that no
comparison repeats the work of another. When all tasks have ended, this process times one query at a time and writes the
report. `comparison_task.py` says what a task does.
"""

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from retreever.baselines import AttentiveMatryoshka
from retreever.baselines.baseline import Form
from retreever.baselines.clustered.raptor import Raptor
from retreever.baselines.dense import vector_codes
from retreever.baselines.dense.dense_baseline import DenseRanker
from retreever.baselines.hybrid.hybrid_ranker import HybridBaseline
from retreever.cluster.comparison_task import TIMED_QUERIES, SystemTask, build_entries, run_task, time_forms
from retreever.cluster.ray_runtime import join_cluster
from retreever.comparison.comparison_plots import plot_report
from retreever.comparison.comparison_report import HYBRID_MARK, ComparisonProtocol, ComparisonReport
from retreever.comparison.judge import (
    COMPARED_SYSTEMS,
    describe_fit_protocol,
    find_baseline,
    read_split_judgements,
)
from retreever.comparison.tree_hybrid import HYBRID_TUNING, TREE_HYBRID
from retreever.comparison.tree_ranker import TREE_PQ_BYTES, TREE_SYSTEM
from retreever.config import Config
from retreever.encoding.encoder import Encoder
from retreever.encoding.encoding_store import open_encoded_dataset
from retreever.errors import ConfigError, TrainingError
from retreever.evaluation.latency import Latency, limit_to_one_thread, measure_query_latency
from retreever.evaluation.metrics import METRICS
from retreever.system.files import digest_json
from retreever.system.progress import Track, track_silently
from retreever.system.workspace import Workspace
from retreever.tracking.model_registry import locate_model
from retreever.tracking.run_record import run_tags
from retreever.tracking.tracker import Tracker
from retreever.trained_tree import digest_model, load_model


@dataclass(frozen=True)
class ComparisonResult:
    """A comparison that has ended.

    Attributes:
        folder: holds the report as Markdown, JSON and a plot.
        run_id: of the parent run in MLflow.
    """

    report: ComparisonReport
    folder: Path
    run_id: str


def compare_systems(
    config: Config,
    dataset: str,
    workspace: Workspace,
    *,
    seeds: int = 1,
    split: str = "test",
    baselines: Sequence[str] | None = None,
    models: Sequence[str] = (),
    summarizer: str | None = None,
    track: Track = track_silently,
    watch: Callable[[str], object] = lambda line: None,
) -> ComparisonResult:
    """Judge trees and baselines, trained on `config.data.name`, on a split of `dataset`.

    Args:
        seeds: how many; trees and seeded baselines are trained with seeds `train.seed`, `train.seed` + 1, ...
        baselines: by name; None: all.
        models: trained trees to judge instead, which differ only in their seeds: runs, folders or MLflow URIs. The
            baselines then have their encoder and budget.
        summarizer: RAPTOR's language model, a Hugging Face id or a folder.
        watch: receives a line for every task that ends.

    Raises:
        ConfigError: a baseline's name is unknown, or models differ in more than their seeds.
        DataError: the split is missing.
        TrainingError: no tree could be judged.
    """
    run = _ComparisonRun(config, dataset, workspace, split, seeds, baselines, models, summarizer, track)
    with run.tracker.keep_running(run.parent):
        try:
            run.run_tasks(track, watch)
            report = run.build_report(track)
            run.publish(report)
        finally:
            run.tracker.end_orphans(run.parent)
    return ComparisonResult(report, run.folder, run.parent)


def _shared_config(models: Sequence[str], trees: Sequence[Path]) -> Config:
    """The configuration of trained trees whose figures are averaged.

    Raises:
        ConfigError: they differ in more than their seeds.
    """
    theirs = [load_model(tree)[1] for tree in trees]
    flat = [config.flat() for config in theirs]
    apart = sorted(key for key in flat[0] if any(own[key] != flat[0][key] for own in flat) and key != "train.seed")
    if apart:
        fault = f"models: {', '.join(models)} differ in {', '.join(apart)}; together they count as seeds of one tree"
        raise ConfigError([f"{fault}: compare each by itself"])
    return theirs[0]


class _ComparisonRun:
    """One call of `compare_systems`: its tasks, its data and its MLflow runs."""

    def __init__(
        self, config: Config, dataset: str, workspace: Workspace, split: str, seeds: int,
        baselines: Sequence[str] | None, models: Sequence[str], summarizer: str | None, track: Track,
    ):  # fmt: skip
        trees = [locate_model(model, workspace) for model in models]
        self.config = _shared_config(models, trees) if trees else config
        self.workspace, self.split = workspace, split
        self.failed: dict[str, str] = {}
        names = list(COMPARED_SYSTEMS) if baselines is None else list(baselines)
        for name in names:
            if name != TREE_HYBRID:
                find_baseline(name)
        if self.config.encoder.tokens is None and AttentiveMatryoshka.name in names:
            self.config = self.config.with_overrides({"encoder.tokens": True})
        self.trained_on = open_encoded_dataset(self.config, workspace, track)
        self.data = open_encoded_dataset(self.config.with_overrides({"data.name": dataset}), workspace, track)
        self.queries, self.relevant = read_split_judgements(self.data, split)
        self.tracker = Tracker.of(workspace)
        self.dataset, self.summarizer = dataset, summarizer
        key = digest_json([self.config.digest, self.data.dataset.digest, split, seeds, sorted(names), *map(str, trees)])
        self.folder = workspace.comparisons / f"{self.data.dataset.name}-{key[:8]}"
        self.parent = self._open_run("compare", f"compare {self.data.dataset.name}", {"kind": "comparison"}, None)
        self.tasks = [
            self._make_task(name, seed, tree)
            for name in (TREE_SYSTEM, *names)
            for seed, tree in self._list_seeds(name, seeds, trees)
        ]

    def _list_seeds(self, name: str, seeds: int, trees: list[Path]) -> Iterator[tuple[int, Path | None]]:
        first = self.config.train.seed
        is_tree = name in (TREE_SYSTEM, TREE_HYBRID)
        if is_tree and trees:
            yield from ((load_model(tree)[1].train.seed, tree) for tree in trees)
        else:
            once = not is_tree and "train.seed" not in find_baseline(name).depends
            yield from ((seed, None) for seed in range(first, first + (1 if once else seeds)))

    def _make_task(self, name: str, seed: int, tree: Path | None) -> SystemTask:
        config = load_model(tree)[1] if tree else self.config.with_overrides({"train.seed": seed})
        label = f"{name}-{digest_model(tree)[:8]}" if tree else f"{name}-seed{seed}"
        tags = run_tags(config) | {"kind": "contestant", "contestant": name}
        run_id = self._open_run(label, label, tags, self.parent)
        inputs = self._list_inputs(name, config, tree)
        folder = self.workspace.comparisons / "judged" / f"{name}-{digest_json(inputs)}"
        return SystemTask(
            name, label, config.model_dump(mode="json"), str(self.workspace.root), self.dataset, self.split,
            str(folder), self.tracker.uri, run_id, str(tree) if tree else None, self.summarizer,
        )  # fmt: skip

    def _list_inputs(self, name: str, config: Config, tree: Path | None) -> list[Any]:
        """Everything that decides the results of a task."""
        inputs: list[Any] = [self.data.dataset.digest, self.split]
        is_tree = name in (TREE_SYSTEM, TREE_HYBRID)
        if is_tree or issubclass(find_baseline(name), DenseRanker | HybridBaseline):
            inputs.append(vector_codes.CODE_REVISION)
        if is_tree:
            trained = digest_model(tree) if tree else [config.digest, self.trained_on.dataset.digest]
            return [*inputs, TREE_PQ_BYTES, trained, *(HYBRID_TUNING if name == TREE_HYBRID else [])]
        summarizer = self.summarizer if name == Raptor.name else None
        return [*inputs, describe_fit_protocol(name, config, self.trained_on), summarizer]

    def _open_run(self, key: str, name: str, tags: dict[str, str], parent: str | None) -> str:
        """The MLflow run of the comparison or of one task, started on first use."""
        return self.tracker.find_or_start(
            self.folder / "runs" / f"{key}.json",
            lambda: self.tracker.start(
                self.tracker.get_experiment(self.workspace), name, params=self.config.flat(), tags=tags, parent=parent
            ),
        )

    def run_tasks(self, track: Track, watch: Callable[[str], object]) -> None:
        """Run the tasks without results, as many at once as there are cores; log the figures of all tasks."""
        todo = [task for task in self.tasks if not task.is_done]
        for task in self.tasks:
            if task not in todo:
                self._log_task(task)
        if not todo:
            return
        with join_cluster(self.workspace):
            for task, error in track(_run_in_waves(todo), "systems", total=len(todo)):
                watch(f"  {task.label}: {error or 'judged'}")
                if error:
                    self.failed[task.label] = error
                else:
                    self._log_task(task)

    def _log_task(self, task: SystemTask) -> None:
        """Log the figures of a task to its run, which ends FINISHED."""
        forms, arrays = task.load_results()
        with self.tracker.keep_running(task.run_id):
            for i, form in enumerate(forms):
                place = _slug(str(Form(form["dims"], form["code"])))
                figures = {f"{task.split}/{m}/{place}": arrays[f"{i}/{m}"].mean() for m in METRICS}
                self.tracker.log(task.run_id, figures)

    def build_report(self, track: Track) -> ComparisonReport:
        """Time every form, then put all figures together.

        Raises:
            TrainingError: no tree could be judged.
        """
        judged = [task for task in self.tasks if task.is_done]
        if not any(task.name == TREE_SYSTEM for task in judged):
            raise TrainingError(f"no tree could be judged: {self.failed}")
        first = {task.name: task for task in reversed(judged)}
        times = {
            name: time_forms(first[name], self.trained_on, self.data, self.queries, track) for name in sorted(first)
        }
        names = [TREE_SYSTEM, *(name for name in COMPARED_SYSTEMS if name in first)]
        entries = [entry for name in names for entry in build_entries(name, judged, times[name])]
        protocol, encoding = self._describe_protocol(), self._time_encoding()
        return ComparisonReport(protocol, TREE_SYSTEM, TREE_HYBRID, entries, encoding, self.failed)

    def _time_encoding(self) -> Latency:
        encoder = Encoder.load(self.config.encoder, threads=1)
        texts = [self.data.dataset.queries[row].text for row in self.queries[:TIMED_QUERIES]]
        with limit_to_one_thread():
            return measure_query_latency(lambda text: encoder.encode_pooled([text], "query"), texts)

    def _describe_protocol(self) -> ComparisonProtocol:
        config, encoder = self.config, self.config.encoder
        answers = np.unique(np.concatenate([rows for rows, _ in self.relevant]))
        reading = f"{encoder.passage_max_length} tokens of a passage, {encoder.query_max_length} of a query"
        if encoder.words:
            reading += f"; trees and heads also read its words, weight {encoder.words:g}"
        return ComparisonProtocol(
            dataset=self.data.dataset.name,
            split=self.split,
            passages=len(self.data.passages),
            distractors=len(self.data.passages) - len(answers),
            queries=len(self.queries),
            trained_on=self.trained_on.dataset.name,
            train_pairs=len(self.trained_on.dataset.pairs("train")),
            encoder=f"{encoder.name} ({encoder.pooling} pooling, {reading})",
            steps=config.train.steps,
            batch_size=config.train.batch_size,
            seeds=sorted({task.config["train"]["seed"] for task in self.tasks}),
            machine=_describe_machine(),
        )

    def publish(self, report: ComparisonReport) -> None:
        """Write the report to the comparison's folder and to MLflow."""
        report.save(self.folder)
        plot_report(report, self.folder / "report.png")
        for name in ("report.md", "report.json", "report.png"):
            self.tracker.log_artifact(self.parent, self.folder / name)
        pairs = [*report.pairwise_comparisons(), *report.hybrid_comparisons()]
        ratios = {f"ratio/{_slug(c.question)}/{_slug(c.ours)}": c.ratio for c in pairs}
        self.tracker.log(self.parent, ratios)


@ray.remote(num_cpus=1, max_retries=0)
def _run_remotely(task: dict[str, Any]) -> None:
    run_task(SystemTask(**task))


def _run_in_waves(tasks: Sequence[SystemTask]) -> Iterator[tuple[SystemTask, str | None]]:
    """Run single systems, then hybrids, which find their sides trained; yields as `_iterate_finished` does."""
    for fused in (False, True):
        wave = [task for task in tasks if (HYBRID_MARK in task.name) == fused]
        yield from _iterate_finished({_run_remotely.remote(asdict(task)): task for task in wave})


def _iterate_finished(waiting: dict[Any, SystemTask]) -> Iterator[tuple[SystemTask, str | None]]:
    """Tasks in the order in which they end, each with its error or None."""
    while waiting:
        (ref,), _ = ray.wait(list(waiting), num_returns=1)
        task = waiting.pop(ref)
        try:
            ray.get(ref)
            yield task, None
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            yield task, f"{type(cause).__name__}: {cause}".splitlines()[0]


def _slug(text: str) -> str:
    """A text as MLflow allows it in a metric's name."""
    return text.replace(",", "").replace(" ", "_").replace(HYBRID_MARK, "_")


def _describe_machine() -> str:
    """Processor, cores and GPU of this machine, in words."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{os.cpu_count()} cores ({model}{gpu})"
