"""A bundle of the tiny data set, with a tree that is calibrated but not trained."""

from pathlib import Path

import numpy as np
import torch

from retreever.bundle.make_bundle import make_bundle
from retreever.data import beir
from retreever.encoding.encoding_store import open_encoded_dataset
from retreever.model import RoutingTree
from retreever.system.workspace import Workspace
from retreever.trained_tree import save_model
from tests.support import tiny


def tiny_workspace(folder: Path) -> Workspace:
    """A workspace with the tiny data set; its encoder is saved at `folder/bert`."""
    tiny.tiny_bert(folder / "bert")
    workspace = Workspace.at(folder / "workspace")
    beir.write_beir(tiny.tiny_dataset(), workspace.dataset_folder("tiny"))
    return workspace


def tiny_bundle(folder: Path, workspace: Workspace, name: str = "tree", **settings: object) -> Path:
    """Make `folder/NAME/model` and `folder/NAME/bundle`; `settings` are those of `tiny_config`."""
    config = tiny.tiny_config(folder / "bert", **{"tree__init_std": 1.0, **settings})
    data = open_encoded_dataset(config, workspace)
    torch.manual_seed(0)
    tree = RoutingTree(data.dim, **config.tree.architecture())
    tree.calibrate(*data.passages.batch(np.arange(100), config.tree.split == "cross_attention"))
    save_model(tree, config, folder / name / "model")
    make_bundle(folder / name / "model", folder / name / "bundle", workspace)
    return folder / name / "bundle"
