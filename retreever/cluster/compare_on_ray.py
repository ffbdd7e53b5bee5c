"""The full comparison: trees and rivals side by side as Ray tasks, all nested under one MLflow run.

A task trains or fits one contestant with one seed, judges all of its forms and leaves the values of every query in a
folder named by all that decides them, so that no comparison does again what another has done. Then, with nothing else
running, this process times one query at a time and writes the report.
"""

import os
import platform
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from retreever import config as configs
from retreever.baselines import RIVALS, Attentive, fitted_files
from retreever.baselines.baseline import Form, Ranker
from retreever.baselines.clustered.raptor import Raptor
from retreever.baselines.clustered.raptor_summaries import Extractive, LanguageModel
from retreever.baselines.dense import vector_codes
from retreever.baselines.dense.dense_baseline import Dense
from retreever.cluster.ray_runtime import cluster
from retreever.cluster.train_job import Job
from retreever.cluster.train_worker import reports
from retreever.comparison.comparison_plots import plot_report
from retreever.comparison.comparison_report import Entry, Protocol, Report
from retreever.comparison.judge import fitted, judge, judgements, known, protocol
from retreever.comparison.tree_ranker import NAME, QUANTISED, Contender
from retreever.config import Config
from retreever.encoding.encoder import Encoder
from retreever.encoding.encoding_store import EncodedDataset, open_dataset
from retreever.errors import ConfigError, TrainingError
from retreever.evaluation.latency import Latency, measure, one_thread
from retreever.evaluation.metrics import NAMES
from retreever.system.files import digest, read_json, write_json
from retreever.system.progress import Track, silent
from retreever.system.workspace import Workspace
from retreever.tracking.model_registry import locate
from retreever.tracking.run_record import run_tags
from retreever.tracking.tracker import Tracker
from retreever.trained_tree import load_model, model_digest

TIMED = 50  # queries


@dataclass(frozen=True)
class Task:
    """One contestant with one seed.

    Attributes:
        name: `retreever`, or a rival's.
        label: name and seed, or the digest of a tree given.
        config: of the tree, and of a rival's budget, as nested plain values; `data.name` is what it learns from.
        dataset: what it is judged on.
        model: folder of a trained tree; None to train one.
        summarizer: RAPTOR's language model; None for extracts.
    """

    name: str
    label: str
    config: dict[str, Any]
    workspace: str
    dataset: str
    split: str
    folder: str
    tracking_uri: str
    run_id: str
    model: str | None = None
    summarizer: str | None = None


@dataclass(frozen=True)
class Comparison:
    """What `compare` made."""

    report: Report
    folder: Path
    run_id: str


def compare(
    config: Config,
    dataset: str,
    workspace: Workspace,
    *,
    seeds: int = 1,
    split: str = "test",
    rivals: Sequence[str] | None = None,
    models: Sequence[str] = (),
    summarizer: str | None = None,
    track: Track = silent,
    watch: Callable[[str], object] = lambda line: None,
) -> Comparison:
    """Judge trees and rivals on a split of `dataset`, learning from `config.data.name`.

    Args:
        seeds: trees and seeded rivals are trained with seeds `train.seed`, `train.seed` + 1, ...
        rivals: by name; None: all.
        models: trained trees to judge instead, which differ in their seeds alone: runs, folders or MLflow URIs. Encoder
            and budget of the rivals are then theirs.
        summarizer: RAPTOR's language model, a Hugging Face id or a folder.
        watch: sees a line for every contestant that ends.

    Raises:
        ConfigError: a rival of an unknown name; models that differ in more than their seeds.
        DataError: the split is missing.
        TrainingError: no tree could be judged.
    """
    run = _Comparison(config, dataset, workspace, split, seeds, rivals, models, summarizer, track)
    try:
        run.work(track, watch)
        report = run.report(track)
    except BaseException:
        run.tracker.end_orphans(run.parent)
        run.tracker.end(run.parent, "KILLED")
        raise
    run.publish(report)
    return Comparison(report, run.folder, run.parent)


def _shared_config(models: Sequence[str], trees: Sequence[Path]) -> Config:
    """The configuration of trained trees, whose figures are averaged: seeds may differ, nothing else.

    Raises:
        ConfigError: something else does.
    """
    theirs = [load_model(tree)[1] for tree in trees]
    flat = [config.flat() for config in theirs]
    apart = sorted(key for key in flat[0] if any(own[key] != flat[0][key] for own in flat) and key != "train.seed")
    if apart:
        fault = f"models: {', '.join(models)} differ in {', '.join(apart)}; together they count as seeds of one tree"
        raise ConfigError([f"{fault}: compare each by itself"])
    return theirs[0]


class _Comparison:
    """One call of `compare`: its tasks, its data and its place in MLflow."""

    def __init__(
        self, config: Config, dataset: str, workspace: Workspace, split: str, seeds: int,
        rivals: Sequence[str] | None, models: Sequence[str], summarizer: str | None, track: Track,
    ):  # fmt: skip
        trees = [locate(model, workspace) for model in models]
        self.config = _shared_config(models, trees) if trees else config
        self.workspace, self.split = workspace, split
        self.failed: dict[str, str] = {}
        names = list(RIVALS) if rivals is None else list(rivals)
        for name in names:
            known(name)
        if self.config.encoder.tokens is None and Attentive.name in names:
            self.config = self.config.with_overrides({"encoder.tokens": True})
        self.trained_on = open_dataset(self.config, workspace, track)
        self.data = open_dataset(self.config.with_overrides({"data.name": dataset}), workspace, track)
        self.queries, self.relevant = judgements(self.data, split)
        self.tracker = Tracker.of(workspace)
        self.dataset, self.summarizer = dataset, summarizer
        key = digest([self.config.digest, self.data.dataset.digest, split, seeds, sorted(names), *map(str, trees)])
        self.folder = workspace.comparisons / f"{self.data.dataset.name}-{key[:8]}"
        self.parent = self._run("compare", f"compare {self.data.dataset.name}", {"kind": "comparison"}, None)
        self.tasks = [
            self._task(name, seed, tree) for name in (NAME, *names) for seed, tree in self._seeds(name, seeds, trees)
        ]

    def _seeds(self, name: str, seeds: int, trees: list[Path]) -> Iterator[tuple[int, Path | None]]:
        first = self.config.train.seed
        if name == NAME and trees:
            yield from ((load_model(tree)[1].train.seed, tree) for tree in trees)
        else:
            once = name != NAME and "train.seed" not in known(name).depends
            yield from ((seed, None) for seed in range(first, first + (1 if once else seeds)))

    def _task(self, name: str, seed: int, tree: Path | None) -> Task:
        config = load_model(tree)[1] if tree else self.config.with_overrides({"train.seed": seed})
        label = f"{name}-{model_digest(tree)[:8]}" if tree else f"{name}-seed{seed}"
        run_id = self._run(label, label, run_tags(config) | {"kind": "contestant", "contestant": name}, self.parent)
        decided = self._decided(name, config, tree)
        folder = self.workspace.comparisons / "judged" / f"{name}-{digest(decided)}"
        return Task(
            name, label, config.model_dump(mode="json"), str(self.workspace.root), self.dataset, self.split,
            str(folder), self.tracker.uri, run_id, str(tree) if tree else None, self.summarizer,
        )  # fmt: skip

    def _decided(self, name: str, config: Config, tree: Path | None) -> list[Any]:
        """All that decides the values of a task."""
        judged: list[Any] = [self.data.dataset.digest, self.split]
        if name == NAME or issubclass(known(name), Dense):
            judged.append(vector_codes.REVISION)
        if name == NAME:
            trained = model_digest(tree) if tree else [config.digest, self.trained_on.dataset.digest]
            return [*judged, QUANTISED, trained]
        return [*judged, protocol(name, config, self.trained_on), self.summarizer if name == Raptor.name else None]

    def _run(self, key: str, name: str, tags: dict[str, str], parent: str | None) -> str:
        """The MLflow run of a part: the one it has had, or a new one."""
        record = self.folder / "runs" / f"{key}.json"
        known_id = read_json(record)["run_id"] if record.is_file() else None
        if known_id and self.tracker.exists(known_id):
            return str(known_id)
        experiment = self.tracker.experiment(self.workspace)
        run_id = self.tracker.start(experiment, name, params=self.config.flat(), tags=tags, parent=parent)
        write_json(record, {"run_id": run_id})
        return run_id

    def work(self, track: Track, watch: Callable[[str], object]) -> None:
        """Run the tasks that are not done yet, as many at once as there are cores."""
        todo = [task for task in self.tasks if not _done(task)]
        for task in self.tasks:
            if task not in todo:
                self._log(task)
        if not todo:
            return
        with cluster(self.workspace):
            waiting = {_contest.remote(asdict(task)): task for task in todo}
            for task, error in track(_as_they_end(waiting), "contestants", total=len(todo)):
                watch(f"  {task.label}: {error or 'judged'}")
                if error:
                    self.failed[task.label] = error
                else:
                    self._log(task)

    def _log(self, task: Task) -> None:
        """The figures of a task to its run."""
        kept, arrays = fitted_files.load(Path(task.folder), task.name)
        for i, form in enumerate(kept["forms"]):
            place = _slug(str(Form(form["dims"], form["code"])))
            self.tracker.log(task.run_id, {f"{task.split}/{m}/{place}": arrays[f"{i}/{m}"].mean() for m in NAMES})
        self.tracker.end(task.run_id)

    def report(self, track: Track) -> Report:
        """Times, then all figures.

        Raises:
            TrainingError: no tree could be judged.
        """
        judged = [task for task in self.tasks if _done(task)]
        if not any(task.name == NAME for task in judged):
            raise TrainingError(f"no tree could be judged: {self.failed}")
        first = {task.name: task for task in reversed(judged)}
        times = {name: self._times(first[name], track) for name in sorted(first)}
        names = [NAME, *(name for name in RIVALS if name in first)]
        entries = [entry for name in names for entry in _entries(name, judged, times[name])]
        return Report(self._protocol(), NAME, entries, self._encoding(), self.failed)

    def _times(self, task: Task, track: Track) -> dict[Form, Latency]:
        """Latency of each form; nothing else runs in this process."""
        ranker = _ranker(task, self.trained_on)
        ranker.index(self.data, track)
        found = {}
        for form in track(ranker.forms, f"timing {task.name}", total=len(ranker.forms)):
            ranker.bytes_per_document(form)  # has what it needs built before the clock starts
            with one_thread():
                rows = [self.queries[i : i + 1] for i in range(min(TIMED, len(self.queries)))]
                found[form] = measure(lambda row, form=form: ranker.search(row, 10, form), rows)  # type: ignore[misc]
        return found

    def _encoding(self) -> Latency:
        encoder = Encoder.load(self.config.encoder)
        texts = [self.data.dataset.queries[row].text for row in self.queries[:TIMED]]
        with one_thread():
            return measure(lambda text: encoder.pooled([text], "query"), texts)

    def _protocol(self) -> Protocol:
        config, encoder = self.config, self.config.encoder
        answers = np.unique(np.concatenate([rows for rows, _ in self.relevant]))
        reading = f"{encoder.passage_max_length} tokens of a passage, {encoder.query_max_length} of a query"
        if encoder.words:
            reading += f"; trees and heads also read its words, weight {encoder.words:g}"
        return Protocol(
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
            machine=_machine(),
        )

    def publish(self, report: Report) -> None:
        """Write the report beside its tasks and to MLflow."""
        report.save(self.folder)
        plot_report(report, self.folder / "report.png")
        for name in ("report.md", "report.json", "report.png"):
            self.tracker.artifact(self.parent, self.folder / name)
        figures = {f"ratio/{_slug(duel.question)}/{_slug(duel.ours)}": duel.ratio for duel in report.duels()}
        self.tracker.log(self.parent, figures)
        self.tracker.end_orphans(self.parent)
        self.tracker.end(self.parent)


def _as_they_end(waiting: dict[Any, Task]) -> Iterator[tuple[Task, str | None]]:
    """Tasks with what went wrong, in the order in which they end."""
    while waiting:
        (ref,), _ = ray.wait(list(waiting), num_returns=1)
        task = waiting.pop(ref)
        try:
            ray.get(ref)
            yield task, None
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            yield task, f"{type(cause).__name__}: {cause}".splitlines()[0]


def _done(task: Task) -> bool:
    return (Path(task.folder) / "manifest.json").is_file()


@ray.remote(num_cpus=1, max_retries=0)
def _contest(plain: dict[str, Any]) -> None:
    """Train or fit a contestant, judge it, and keep the values of every query."""
    task = Task(**plain)
    tracker = Tracker(task.tracking_uri)
    tracker.resume(task.run_id)
    torch.set_num_threads(1)
    try:
        _judge(task)
    except Exception:
        tracker.tag(task.run_id, {"traceback": traceback.format_exc()})
        tracker.end(task.run_id, "FAILED")
        raise


def _judge(task: Task) -> None:
    workspace = Workspace(Path(task.workspace))
    config = configs.build(task.config)
    trained_on = open_dataset(config, workspace)
    data = trained_on
    if task.dataset != config.data.name:
        data = open_dataset(config.with_overrides({"data.name": task.dataset}), workspace)
    queries, relevant = judgements(data, task.split)
    ranker = _ranker(task, trained_on)
    judged = list(judge(ranker, data, queries, relevant))
    if isinstance(ranker, Raptor):
        ranker.save(_raptor_folder(task))  # its tree over these passages, which are not always those it was fitted on
    forms = [{**j.form._asdict(), "bytes_per_document": j.bytes_per_document} for j in judged]
    arrays = {f"{i}/{name}": values for i, j in enumerate(judged) for name, values in j.metrics.items()}
    fitted_files.save(Path(task.folder), task.name, {"forms": forms}, arrays)


def _ranker(task: Task, trained_on: EncodedDataset) -> Ranker:
    """The contestant of a task, trained or fitted, or loaded where it has been."""
    workspace, config = Workspace(Path(task.workspace)), configs.build(task.config)
    if task.name == NAME:
        return Contender.load(Path(task.model) if task.model else _trained(task, config, workspace))
    if task.name != Raptor.name:
        return fitted(task.name, config, trained_on, workspace.rivals)
    summarizer = task.summarizer
    rival = Raptor.for_config(config, Extractive if summarizer is None else lambda texts: LanguageModel(summarizer))
    if _raptor_folder(task).is_dir():
        rival.load(_raptor_folder(task))
    return rival


def _raptor_folder(task: Task) -> Path:
    return Path(task.folder).with_name(f"tree-{Path(task.folder).name}")


def _trained(task: Task, config: Config, workspace: Workspace) -> Path:
    """Folder of the tree of a configuration, trained under the name that `retreever train` gives it."""
    folder = workspace.runs / f"{config.data.name}-{config.digest[:8]}"
    if not (folder / "model").is_dir():
        write_json(folder / "run.json", {"run_id": task.run_id, "config_digest": config.digest})
        for _ in reports(Job(task.config, task.workspace, str(folder), task.tracking_uri, task.run_id)):
            pass
    return folder / "model"


def _entries(name: str, judged: Sequence[Task], times: dict[Form, Latency]) -> Iterator[Entry]:
    """One entry a form: the mean over the seeds of a contestant."""
    found = [fitted_files.load(Path(task.folder), name) for task in judged if task.name == name]
    for i, form in enumerate(found[0][0]["forms"]):
        values = {m: np.stack([arrays[f"{i}/{m}"] for _, arrays in found]) for m in NAMES}
        yield Entry(
            name, form["dims"], form["code"], form["bytes_per_document"],
            {m: seeds.mean(axis=0) for m, seeds in values.items()},
            [float(seed.mean()) for seed in values["ndcg_at_10"]],
            times.get(Form(form["dims"], form["code"])),
        )  # fmt: skip


def _slug(text: str) -> str:
    """As MLflow takes it in a metric's name."""
    return text.replace(",", "").replace(" ", "_")


def _machine() -> str:
    """Processor and cores."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{os.cpu_count()} cores ({model}{gpu})"
