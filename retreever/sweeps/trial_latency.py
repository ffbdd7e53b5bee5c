"""Latency of a query in a freshly trained tree: one thread, one query at a time, without encoding the text."""

from pathlib import Path

import numpy as np

from retreever.bundle.build_index import build_index
from retreever.bundle.fit_relevance import make_dataset_hybrid
from retreever.bundle.hybrid_weights import choose_usual_weights
from retreever.cluster.train_job import TrainingJob
from retreever.cluster.train_worker import open_job_data
from retreever.evaluation.latency import limit_to_one_thread, measure_query_latency
from retreever.trained_tree import load_trained_tree, route_encodings

LATENCY_METRIC = "latency_ms"
TRIAL_LATENCY_QUERIES = 30


def measure_trial_latency(job: TrainingJob) -> float:
    """Median milliseconds to route one encoded query and find its ten best passages at the last level, exactly.

    Where `train.for` is hybrid, the search is one.
    Encoding is excluded because it costs the same for every tree. Trials that run at the same time share the machine's
    memory bandwidth, so the figures compare only within one sweep.
    """
    trained = load_trained_tree(Path(job.folder) / "model")
    data = open_job_data(job)
    index, weights = build_index(trained, data), choose_usual_weights(trained.config.keeps_encodings)
    hybrid = trained.config.train.goal == "hybrid"

    def search(row: int) -> None:
        own = np.array([row])
        nodes = np.concatenate(list(route_encodings(trained.tree, trained.config, data.queries, own)))
        index.search(nodes, 10, threads=1, hybrid=make_dataset_hybrid(data, own, weights) if hybrid else None)

    with limit_to_one_thread():
        return measure_query_latency(search, range(min(TRIAL_LATENCY_QUERIES, len(data.queries)))).median
