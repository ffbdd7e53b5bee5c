"""How long a query takes in a freshly trained tree: one thread, one query at a time, encoding of the text left out."""

import statistics
import time
from pathlib import Path

import numpy as np
import torch

from retreever.bundle.make_bundle import build_index
from retreever.cluster.train_job import Job
from retreever.cluster.train_worker import open_data
from retreever.trained_tree import load_model, model_digest, routed

LATENCY = "latency_ms"
QUERIES, WARM = 30, 3


def latency(job: Job) -> float:
    """Median milliseconds to route one encoded query and find its ten best passages at the last level, exactly.

    What differs between trees is timed; reading the text costs each the same. Trials that run beside this one share
    the machine's memory bandwidth, so figures of one sweep compare with each other.
    """
    folder = Path(job.folder) / "model"
    tree, config = load_model(folder)
    data = open_data(job)
    torch.set_num_threads(1)
    index = build_index(tree, config, data, model_digest(folder))
    seconds = []
    for row in range(min(QUERIES + WARM, len(data.queries))):
        begun = time.perf_counter()
        nodes = np.concatenate(list(routed(tree, config, data.queries, np.array([row]))))
        index.search(nodes, 10, config.tree.depth, threads=1)
        seconds.append(time.perf_counter() - begun)
    return 1000 * statistics.median(seconds[WARM:] or seconds)
