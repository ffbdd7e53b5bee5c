"""cluster.yaml against Ray's own schema, offline, and proof that the check finds a typo."""

import copy
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

from retreever.cluster.ray_runtime import DRIVER_RESOURCE

FILE = Path(__file__).parents[2] / "cluster.yaml"


@pytest.fixture
def config():
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def check(config):
    """The checks that `ray up` makes before it connects to a cloud."""
    validate_config(prepare_config(copy.deepcopy(config)))


def test_the_file_is_valid(config):
    check(config)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("idle_timeout_minutes", "idle_timeout_minuts", "idle_timeout_minuts"),
        ("max_workers: 8", "max_workers: eight", "eight"),
        ("head_start_ray_commands", "head_start_ray_command", "head_start_ray_command"),
        ("    node_config:", "    node_conf:", "node_conf"),
        ("head_node_type: head", "head_node_type: had", "must be one of `available_node_types`"),
    ],
)
def test_a_typo_is_found(old, new, named):
    text = FILE.read_text(encoding="utf-8")
    assert old in text
    with pytest.raises((ValidationError, ValueError), match=re.escape(named)):
        check(yaml.safe_load(text.replace(old, new, 1)))


def test_the_nodes_have_the_resources_that_jobs_need(config):
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"][DRIVER_RESOURCE] > 0
    assert types["gpu_spot"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert all(types[name]["min_workers"] == 0 < types[name]["max_workers"] for name in ("cpu", "gpu_spot"))


def test_every_node_needs_the_token_and_reaches_shared_storage(config):
    settings = "\n".join(config["setup_commands"])
    for line in ("RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN_PATH=", "RETREEVER_WORKSPACE=", "MLFLOW_TRACKING_URI="):
        assert f"export {line}" in settings
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert all("source ~/retreever.env" in command for command in commands)
