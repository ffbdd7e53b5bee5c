"""`serve/config.yaml` against Ray's own models, more strictly than Ray: unknown keys, contradictory limits."""

import os
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import (
    DeploymentSchema,
    HTTPOptionsSchema,
    LoggingConfig,
    RayActorOptionsSchema,
    ServeApplicationSchema,
    ServeDeploySchema,
)

import serve.app
from retreever.service.app import build_application
from retreever.service.settings import ServiceSettings

CONFIG = Path(__file__).parents[2] / "serve" / "config.yaml"


def faults(config):
    """List all faults of a configuration."""
    found = _unknown(config, ServeDeploySchema, "") + _unknown(
        config.get("http_options", {}), HTTPOptionsSchema, "http"
    )
    found += _unknown(config.get("logging_config", {}), LoggingConfig, "logging")
    try:
        ServeDeploySchema.model_validate(config)
    except ValidationError as error:
        found += [str(error)]
    for app in config.get("applications", []):
        found += _unknown(app, ServeApplicationSchema, "application")
        try:
            ServiceSettings(**app.get("args", {}))
        except ValidationError as error:
            found += [str(error)]
        names = {"Retriever", "Controller"}
        for deployment in app.get("deployments", []):
            found += _unknown(deployment, DeploymentSchema, deployment.get("name", "?"))
            found += _unknown(deployment.get("ray_actor_options", {}), RayActorOptionsSchema, "ray_actor_options")
            found += [] if deployment.get("name") in names else [f"deployment {deployment.get('name')}"]
            if "autoscaling_config" in deployment:
                found += _unknown(deployment["autoscaling_config"], AutoscalingConfig, "autoscaling_config")
                try:
                    AutoscalingConfig(**deployment["autoscaling_config"])
                except ValidationError as error:
                    found += [str(error)]
    return found


def _unknown(values, model, place):
    return [f"{place}: unknown key {key}" for key in values if key not in model.model_fields]


@pytest.fixture
def config():
    return yaml.safe_load(CONFIG.read_text())


def test_the_configuration_is_right(config):
    assert faults(config) == []
    (app,) = config["applications"]
    assert app["import_path"] == "serve.app:build" and serve.app.build is build_application
    assert config["http_options"]["host"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        ("", "http_option", {}),
        ("http_options", "prot", 1),
        ("logging_config", "access_log", False),
        ("applications.0", "import_paths", "x"),
        ("applications.0.args", "replicas", 2),
        ("applications.0.args", "min_replicas", 5),
        ("applications.0.args", "canary_share", 2),
        ("applications.0.deployments.0", "max_ongoing_request", 5),
        ("applications.0.deployments.0", "name", "Retriver"),
        ("applications.0.deployments.0", "autoscaling_config", {"min_replicas": 3, "max_replicas": 2}),
        ("applications.0.deployments.0", "autoscaling_config", {"min_replica": 3}),
        ("applications.0.deployments.0.ray_actor_options", "num_cpu", 1),
    ],
)
def test_faults_are_found(config, place, key, value):
    inner = config
    for step in filter(None, place.split(".")):
        inner = inner[int(step) if step.isdigit() else step]
    inner[key] = value
    assert faults(config)


def test_the_application_is_built_of_typed_arguments():
    assert build_application(ServiceSettings(model="bundle"))._bound_deployment.name == "Retriever"
    for wrong in ({"replica": 1}, {"min_replicas": 0}, {"min_replicas": 2, "max_replicas": 1}, {"model": ""}):
        with pytest.raises(ValidationError):
            ServiceSettings(**wrong)


@pytest.mark.parametrize(
    ("processors", "replicas", "expected"), [(1, 1, 1), (2, 1, 1), (2, 2, 1), (16, 1, 15), (16, 4, 3), (None, 1, 1)]
)
def test_replicas_share_the_processors_but_one(monkeypatch, processors, replicas, expected):
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    assert ServiceSettings(model="bundle", max_replicas=replicas).threads_each == expected
    assert ServiceSettings(model="bundle", max_replicas=replicas, threads=7).threads_each == 7
