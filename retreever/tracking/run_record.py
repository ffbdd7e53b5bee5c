"""What MLflow learns when a training's run begins: settings, tags to filter by, data, and the command to repeat it."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml

from retreever.config import Config, parse_yaml
from retreever.encoding.encoding_store import EncodedDataset
from retreever.system.workspace import Workspace
from retreever.tracking.tracker import Tracker

RUN_RECORD = "run.json"
"""File in a training's folder that names its MLflow run."""
CONFIG_FILE = "config.yaml"
BYTES_METRIC = "bytes_per_document"


def begin_run(
    tracker: Tracker,
    workspace: Workspace,
    name: str,
    config: Config,
    data: EncodedDataset,
    *,
    workers: int | tuple[int, int] = 1,
    parent: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Start the MLflow run of one training and return its id.

    Args:
        workers: named in the command that repeats the training.
        parent: id of the run to nest under.
        tags: added to `run_tags`; `kind` is train unless they set it.
    """
    run_id = tracker.start(
        tracker.get_experiment(workspace),
        name,
        params=config.flat(),
        tags=run_tags(config) | {"kind": "train", "reproduce": build_train_command(config, workers)} | dict(tags or {}),
        parent=parent,
    )
    settings = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    tracker.client.log_text(run_id, settings, CONFIG_FILE)
    known = data.dataset
    sizes = {"passages": len(known.corpus), "queries": len(known.queries)}
    pairs = {f"{split}_pairs": len(known.pairs(split)) for split in known.qrels}
    tracker.log_dataset(
        run_id, known.name, known.digest, str(workspace.dataset_folder(config.data.name)), sizes | pairs
    )
    tracker.log(run_id, {BYTES_METRIC: float(index_bytes_per_document(config))})
    return run_id


def index_bytes_per_document(config: Config) -> int:
    """Bytes of one document's vector at the last level in an index of this configuration."""
    return int(np.dtype(config.index.dtype).itemsize * 2**config.tree.depth)


def run_tags(config: Config) -> dict[str, str]:
    """Tags of a configuration by which a person filters runs."""
    return {
        "split": config.tree.split,
        "propagation": config.tree.propagation,
        "depth": str(config.tree.depth),
        "scheduler": config.depth.scheduler,
        "seed": str(config.train.seed),
        "data": config.data.name,
    }


def build_train_command(config: Config, workers: int | tuple[int, int] = 1) -> str:
    """The command that trains this configuration again.

    >>> build_train_command(Config(), workers=(2, 8))
    'retreever train --elastic 2:8'

    >>> print(build_train_command(Config().with_overrides({"tree.depth": 8, "encoder.query_prefix": "query: "})))
    retreever train --set 'encoder.query_prefix="query: "' --set tree.depth=8
    """
    default = Config().flat()
    changed = {name: value for name, value in config.flat().items() if value != default[name]}
    parts = ["retreever train"]
    parts += [f"--set {shlex.quote(f'{name}={_format_value(value)}')}" for name, value in changed.items()]
    if isinstance(workers, tuple):
        parts += [f"--elastic {workers[0]}:{workers[1]}"]
    elif workers > 1:
        parts += [f"--workers {workers}"]
    return " ".join(parts)


def _format_value(value: Any) -> str:
    """A value in a form that YAML parses to the same value."""
    return value if isinstance(value, str) and parse_yaml(value or "''") == value and value else json.dumps(value)
