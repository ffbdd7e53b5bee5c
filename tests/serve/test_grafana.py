"""`serve/grafana-dashboard.json`: its expressions name metrics and labels that exist, and its panels have a place."""

import copy
import json
import re
from pathlib import Path

import pytest
import ray
from ray.util.metrics import Counter, Gauge, Histogram

from retreever.service.http.service_metrics import SHOWN_PREFIXES, ServiceMetrics

DASHBOARD = Path(__file__).parents[2] / "serve" / "grafana-dashboard.json"
SUFFIXES = {"Counter": ["_total"], "Gauge": [""], "Histogram": ["_bucket", "_count", "_sum"]}
COLUMNS = 24


def list_own_metrics():
    """Names of the service's metrics as Prometheus has them, with their labels."""
    kept = [metric for metric in vars(ServiceMetrics()).values() if isinstance(metric, Counter | Gauge | Histogram)]
    return {
        f"ray_{metric.info['name']}{suffix}": {*metric.info["tag_keys"]} | ({"le"} if suffix == "_bucket" else set())
        for metric in kept
        for suffix in SUFFIXES[type(metric).__name__]
    }


def list_serve_metrics():
    """Names of the metrics that Ray Serve declares, as Prometheus has them."""
    source = "".join(file.read_text() for file in (Path(ray.__file__).parent / "serve" / "_private").glob("*.py"))
    declared = re.findall(r'\b(Counter|Gauge|Histogram)\(\s*"(serve_\w+)"', source)
    return {f"ray_{name}{suffix}" for kind, name in declared for suffix in SUFFIXES[kind]}


OWN_METRICS, SERVE_METRICS = list_own_metrics(), list_serve_metrics()


def find_faults(dashboard):
    """All faults of a dashboard."""
    panels = dashboard["panels"]
    found = [] if len({panel["id"] for panel in panels}) == len(panels) else ["a panel's id is taken"]
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        found += [f"{panel['title']}: lies on another panel"] if cells & taken else []
        found += [f"{panel['title']}: too wide"] if place["x"] + place["w"] > COLUMNS else []
        taken |= cells
        for target in panel.get("targets", []):
            found += [f"{panel['title']}: {fault}" for fault in _find_expression_faults(target["expr"])]
    return found


def _find_expression_faults(expression):
    names = set(re.findall(r"\bray_\w+", expression))
    found = [f"no metric {name}" for name in names - OWN_METRICS.keys() - SERVE_METRICS]
    found += [] if names else ["no metric at all"]
    found += [f"{name}: not shown" for name in names if not name.startswith(SHOWN_PREFIXES)]
    labels = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", expression) for label in group.split(",")}
    labels |= set(re.findall(r'(\w+)=~?"', expression))
    found += [f"{name}: no label {one}" for name in names & OWN_METRICS.keys() for one in labels - OWN_METRICS[name]]
    found += ["parentheses"] if any(expression.count(a) != expression.count(b) for a, b in ("()", "[]", "{}")) else []
    return found


@pytest.fixture
def dashboard():
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))


def test_every_panel_has_a_place_and_shows_what_exists(dashboard):
    assert find_faults(dashboard) == []


def test_every_metric_of_the_service_is_shown(dashboard):
    names = set(re.findall(r"ray_retreever_\w+", json.dumps(dashboard)))
    assert {strip_suffix(name) for name in names} == {strip_suffix(name) for name in OWN_METRICS}


def strip_suffix(name):
    return re.sub(r"_(total|bucket|count|sum)$", "", name)


def test_the_data_source_is_chosen_on_import(dashboard):
    (variable,) = dashboard["templating"]["list"]
    assert variable["type"] == "datasource" and variable["query"] == "prometheus"
    sources = {
        place["datasource"]["uid"]
        for p in dashboard["panels"]
        for place in (p, *p.get("targets", []))
        if place.get("datasource")
    }
    assert sources == {"${" + variable["name"] + "}"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("ray_retreever_requests_total", "ray_retreever_requests"),
        ("ray_retreever_batch_texts_sum", "ray_retreever_batch_texts_total"),
        ("ray_serve_deployment_replica_healthy", "ray_serve_deployment_replica_health"),
        ("sum by (status)", "sum by (code)"),
        ('stage=\\"search\\"', 'step=\\"search\\"'),
        ("sum(ray_retreever_waiting_texts)", "sum(ray_retreever_waiting_texts"),
        ("max(ray_retreever_waiting_texts) or", "max(up) or"),
    ],
)
def test_a_wrong_expression_is_found(dashboard, before, after):
    text = json.dumps(dashboard)
    assert before in text
    assert find_faults(json.loads(text.replace(before, after)))


def test_a_wrong_place_is_found(dashboard):
    for field, value in (("x", 0), ("w", 13), ("y", 2)):
        moved = copy.deepcopy(dashboard)
        moved["panels"][3]["gridPos"][field] = value
        assert find_faults(moved)
    dashboard["panels"][3]["id"] = dashboard["panels"][4]["id"]
    assert find_faults(dashboard) == ["a panel's id is taken"]
