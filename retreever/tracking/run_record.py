"""What MLflow is told of a run when it begins: settings, tags a person filters by, data, and how to run it again."""

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

CONFIG = "config.yaml"
BYTES = "bytes_per_document"


def begin(
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
        parent: id of the run to nest under.
        tags: beside `run_tags`; `kind` is train where they do not say another.
    """
    run_id = tracker.start(
        tracker.experiment(workspace),
        name,
        params=config.flat(),
        tags=run_tags(config) | {"kind": "train", "reproduce": command(config, workers)} | dict(tags or {}),
        parent=parent,
    )
    settings = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    tracker.client.log_text(run_id, settings, CONFIG)
    known = data.dataset
    sizes = {"passages": len(known.corpus), "queries": len(known.queries)}
    pairs = {f"{split}_pairs": len(known.pairs(split)) for split in known.qrels}
    tracker.dataset(run_id, known.name, known.digest, str(workspace.dataset(config.data.name)), sizes | pairs)
    tracker.log(run_id, {BYTES: float(bytes_per_document(config))})
    return run_id


def bytes_per_document(config: Config) -> int:
    """Size of one document at the last level, as an index of this configuration holds it."""
    return int(np.dtype(config.index.dtype).itemsize * 2**config.tree.depth)


def run_tags(config: Config) -> dict[str, str]:
    """Tags a person filters by."""
    return {
        "split": config.tree.split,
        "propagation": config.tree.propagation,
        "depth": str(config.tree.depth),
        "scheduler": config.depth.scheduler,
        "seed": str(config.train.seed),
        "data": config.data.name,
    }


def command(config: Config, workers: int | tuple[int, int] = 1) -> str:
    """The command that trains this configuration again.

    >>> command(Config(), workers=(2, 8))
    'retreever train --elastic 2:8'

    >>> print(command(Config().with_overrides({"tree.depth": 8, "encoder.query_prefix": "query: "})))
    retreever train --set 'encoder.query_prefix="query: "' --set tree.depth=8
    """
    default = Config().flat()
    changed = {name: value for name, value in config.flat().items() if value != default[name]}
    parts = ["retreever train"]
    parts += [f"--set {shlex.quote(f'{name}={_written(value)}')}" for name, value in changed.items()]
    if isinstance(workers, tuple):
        parts += [f"--elastic {workers[0]}:{workers[1]}"]
    elif workers > 1:
        parts += [f"--workers {workers}"]
    return " ".join(parts)


def _written(value: Any) -> str:
    """A value as YAML reads it back."""
    return value if isinstance(value, str) and parse_yaml(value or "''") == value and value else json.dumps(value)
