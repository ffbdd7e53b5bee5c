"""Latency of a query in a freshly trained tree: one thread, one query at a time, without encoding the text."""

from pathlib import Path

import numpy as np

from retreever.bundle.build_index import build_index
from retreever.cluster.train_job import TrainingJob
from retreever.cluster.train_worker import open_job_data
from retreever.evaluation.latency import limit_to_one_thread, measure_query_latency
from retreever.trained_tree import load_trained_tree, route_encodings

LATENCY_METRIC = "latency_ms"
TRIAL_LATENCY_QUERIES = 30


def measure_trial_latency(job: TrainingJob) -> float:
    """Median milliseconds to route one encoded query and find its ten best passages at the last level, exactly.

    Encoding is excluded because it costs the same for every tree. Trials that run at the same time share the machine's
    memory bandwidth, so the figures compare only within one sweep.
    """
    trained = load_trained_tree(Path(job.folder) / "model")
    data = open_job_data(job)
    index = build_index(trained, data)

    def search(row: int) -> None:
        nodes = np.concatenate(list(route_encodings(trained.tree, trained.config, data.queries, np.array([row]))))
        index.search(nodes, 10, threads=1)

    with limit_to_one_thread():
        return measure_query_latency(search, range(min(TRIAL_LATENCY_QUERIES, len(data.queries)))).median
