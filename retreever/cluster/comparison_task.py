"""One task of a comparison: a system (the tree or a baseline) with one seed is trained or fitted, judged and timed.

The results stay on disk. Which tasks a comparison has, and where they run, is not known here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from retreever import config as configs
from retreever.baselines import fitted_files
from retreever.baselines.baseline import Form, Ranker
from retreever.baselines.clustered.raptor import Raptor
from retreever.baselines.clustered.raptor_summaries import ExtractiveSummarizer, LanguageModelSummarizer
from retreever.cluster.train_job import TrainingJob
from retreever.cluster.train_worker import run_job
from retreever.comparison.comparison_report import ReportEntry
from retreever.comparison.judge import (
    fit_or_load_baseline,
    fit_or_load_tree_hybrid,
    judge,
    read_split_judgements,
)
from retreever.comparison.tree_hybrid import TREE_HYBRID
from retreever.comparison.tree_ranker import TREE_SYSTEM, TreeRanker
from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset, open_encoded_dataset
from retreever.evaluation.latency import Latency, limit_to_one_thread, measure_query_latency
from retreever.evaluation.metrics import METRICS
from retreever.system.files import write_json
from retreever.system.progress import Track
from retreever.system.workspace import Workspace
from retreever.tracking.run_record import RUN_RECORD
from retreever.tracking.tracker import Tracker

TIMED_QUERIES = 50


@dataclass(frozen=True)
class SystemTask:
    """One system with one seed, in values that Ray can send.

    Attributes:
        name: `retreever`, `tree+bm25`, or a baseline's.
        label: name and seed, or the digest of a given tree.
        config: of the tree, and of a baseline's budget, as nested plain values; `data.name` is the training data.
        workspace: its root.
        dataset: the data set that the system is judged on.
        folder: of the results, named by everything that decides them.
        tracking_uri: of the MLflow server that has the run `run_id`.
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

    @property
    def is_done(self) -> bool:
        """Whether the results exist, from this comparison or an earlier one."""
        return (Path(self.folder) / "manifest.json").is_file()

    def load_results(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The judged forms with their bytes per document, and every query's values by `POSITION OF THE FORM/METRIC`."""
        settings, arrays = fitted_files.load_fitted_files(Path(self.folder), self.name)
        return settings["forms"], arrays


def run_task(task: SystemTask) -> None:
    """Train or fit a system, judge it and save the values of every query, under the task's MLflow run."""
    torch.set_num_threads(1)
    with Tracker(task.tracking_uri).keep_running(task.run_id):
        _judge_system(task)


def _judge_system(task: SystemTask) -> None:
    workspace, config = Workspace(Path(task.workspace)), configs.build_config(task.config)
    trained_on = open_encoded_dataset(config, workspace)
    data = trained_on
    if task.dataset != config.data.name:
        data = open_encoded_dataset(config.with_overrides({"data.name": task.dataset}), workspace)
    queries, relevant = read_split_judgements(data, task.split)
    ranker = load_ranker(task, trained_on)
    judged = list(judge(ranker, data, queries, relevant))
    if isinstance(ranker, Raptor):
        ranker.save(_raptor_folder(task))  # its tree over these passages, which may differ from those it was fitted on
    forms = [{**j.form._asdict(), "bytes_per_document": j.bytes_per_document} for j in judged]
    arrays = {f"{i}/{name}": values for i, j in enumerate(judged) for name, values in j.metrics.items()}
    fitted_files.save_fitted_files(Path(task.folder), task.name, {"forms": forms}, arrays)


def load_ranker(task: SystemTask, trained_on: EncodedDataset) -> Ranker:
    """The system of a task: loaded if it was trained or fitted before, otherwise trained or fitted now."""
    workspace, config = Workspace(Path(task.workspace)), configs.build_config(task.config)
    if task.name in (TREE_SYSTEM, TREE_HYBRID):
        model = Path(task.model) if task.model else _train_tree(task, config, workspace)
        if task.name == TREE_SYSTEM:
            return TreeRanker.load(model)
        return fit_or_load_tree_hybrid(model, trained_on, workspace.baselines)
    if task.name != Raptor.name:
        return fit_or_load_baseline(task.name, config, trained_on, workspace.baselines)
    summarizer = task.summarizer
    baseline = Raptor.for_config(
        config, ExtractiveSummarizer if summarizer is None else lambda texts: LanguageModelSummarizer(summarizer)
    )
    if _raptor_folder(task).is_dir():
        baseline.load(_raptor_folder(task))
    return baseline


def _raptor_folder(task: SystemTask) -> Path:
    return Path(task.folder).with_name(f"tree-{Path(task.folder).name}")


def _train_tree(task: SystemTask, config: Config, workspace: Workspace) -> Path:
    """Folder of a configuration's tree, trained as the run that `retreever train` would name."""
    folder = workspace.runs / f"{config.data.name}-{config.digest[:8]}"
    if not (folder / "model").is_dir():
        write_json(folder / RUN_RECORD, {"run_id": task.run_id, "config_digest": config.digest})
        for _ in run_job(TrainingJob(task.config, task.workspace, str(folder), task.tracking_uri, task.run_id)):
            pass
    return folder / "model"


def time_forms(
    task: SystemTask, trained_on: EncodedDataset, data: EncodedDataset, queries: np.ndarray, track: Track
) -> dict[Form, Latency]:
    """Latency of each form of a task's system over `data`; nothing else may run in this process meanwhile.

    Args:
        queries: rows in `data`, the first of which are timed.
    """
    ranker = load_ranker(task, trained_on)
    ranker.index(data, track)
    rows = [queries[i : i + 1] for i in range(min(TIMED_QUERIES, len(queries)))]
    latencies = {}
    for form in track(ranker.forms, f"timing {task.name}", total=len(ranker.forms)):
        ranker.bytes_per_document(form)  # builds what the form needs before the clock starts
        with limit_to_one_thread():
            latencies[form] = measure_query_latency(lambda row, form=form: ranker.search(row, 10, form), rows)  # type: ignore[misc]
    return latencies


def build_entries(name: str, judged: Sequence[SystemTask], times: dict[Form, Latency]) -> Iterator[ReportEntry]:
    """One entry for each form of a system: means over its seeds."""
    results = [task.load_results() for task in judged if task.name == name]
    for i, form in enumerate(results[0][0]):
        values = {m: np.stack([arrays[f"{i}/{m}"] for _, arrays in results]) for m in METRICS}
        yield ReportEntry(
            name, form["dims"], form["code"], form["bytes_per_document"],
            {m: seeds.mean(axis=0) for m, seeds in values.items()},
            [float(seed.mean()) for seed in values["ndcg_at_10"]],
            times.get(Form(form["dims"], form["code"])),
        )  # fmt: skip
