"""Trees and baselines compared on Ray, tracked in MLflow; finished work is not repeated."""

import json

import pytest

from retreever.cluster import compare_on_ray as module
from retreever.cluster.compare_on_ray import compare_systems
from retreever.cluster.launch_training import train_run
from retreever.cluster.ray_runtime import join_cluster
from retreever.data import beir
from retreever.errors import ConfigError
from retreever.system.workspace import Workspace
from retreever.tracking.tracker import Tracker
from tests.support import tiny

SEEDED = ("retreever", "matryoshka", "tree+bm25")
BASELINES = ("bm25", "frozen", *SEEDED[1:])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    tiny.tiny_bert(folder / "bert")
    workspace = Workspace.at(folder / "workspace")
    beir.write_beir(tiny.tiny_dataset(), workspace.dataset_folder("tiny"))
    beir.write_beir(tiny.tiny_dataset(60, seed=1), workspace.dataset_folder("other"))
    return workspace


@pytest.fixture(scope="module", autouse=True)
def started(place):
    """One cluster for all comparisons of this file."""
    with join_cluster(place):
        yield


@pytest.fixture(scope="module")
def config(place):
    return tiny.tiny_config(place.root.parent / "bert")


@pytest.fixture(scope="module")
def compared(place, config):
    lines = []
    return compare_systems(config, "tiny", place, seeds=2, baselines=BASELINES, watch=lines.append), lines


def test_every_system_is_judged_and_reported(compared):
    found, lines = compared
    assert sorted(lines) == sorted(
        f"  {label}: judged"
        for label in (
            *(f"{name}-seed{seed}" for name in SEEDED for seed in (0, 1)),
            "bm25-seed0",
            "frozen-seed0",
        )
    )
    names = {entry.name for entry in found.report.entries}
    assert names == {"retreever", *BASELINES}
    assert all(entry.latency.median > 0 for entry in found.report.entries)
    tree = [entry for entry in found.report.entries if entry.name == "retreever"]
    assert [(entry.dimensions, entry.code) for entry in tree] == [(16, "float32"), (16, "int8"), (16, "certified")]
    assert len(tree[0].by_seed) == 2 and tree[0].mean() == pytest.approx(sum(tree[0].by_seed) / 2)
    assert sorted(lines[-2:]) == [f"  tree+bm25-seed{seed}: judged" for seed in (0, 1)]
    fused = [entry for entry in found.report.entries if entry.name == "tree+bm25"]
    assert [(entry.dimensions, entry.code) for entry in fused] == [(16, "float16 sum")]
    assert fused[0].mean() >= tree[0].mean()
    assert "the tree alone" in {pair.question for pair in found.report.hybrid_comparisons()}
    for name in ("report.md", "report.json", "report.png"):
        assert (found.folder / name).stat().st_size > 500


def test_mlflow_has_a_run_for_each_under_one_parent(compared, place):
    tracker = Tracker.of(place)
    children = tracker.list_children(compared[0].run_id)
    assert len(children) == 8 and {run.info.status for run in children} == {"FINISHED"}
    tree = next(run for run in children if run.info.run_name == "retreever-seed1")
    assert tree.data.metrics["test/ndcg_at_10/16_float32"] > 0 and "loss" in tree.data.metrics
    assert tracker.get_run(compared[0].run_id).info.status == "FINISHED"
    assert "ratio/16_dimensions/retreever_16_float32" in tracker.get_run(compared[0].run_id).data.metrics


def test_the_same_call_repeats_no_work(compared, place, config, monkeypatch):
    monkeypatch.setattr(module, "join_cluster", lambda workspace: pytest.fail("started a cluster"))
    again = compare_systems(config, "tiny", place, seeds=2, baselines=BASELINES)
    assert again.run_id == compared[0].run_id
    figures = [json.loads((compared[0].folder / "report.json").read_text())["entries"][i]["metrics"] for i in range(3)]
    assert [entry.to_json()["metrics"]["mrr_at_10"]["mean"] for entry in again.report.entries[:3]] == [
        f["mrr_at_10"]["mean"] for f in figures
    ]


def test_a_trained_tree_is_judged_on_other_data(compared, place, config):
    run = next(place.runs.iterdir()).name
    found = compare_systems(config, "other", place, models=[run], baselines=["bm25+frozen", "frozen"])
    assert found.report.protocol.dataset == "other" and found.report.protocol.trained_on == "tiny"
    assert found.report.protocol.passages == 60
    assert found.report.entries[0].mean() > 0.2
    assert [entry.name for entry in found.report.entries if entry.is_hybrid] == ["bm25+frozen"] * 3


def test_trees_that_differ_in_more_than_their_seed_are_not_averaged(compared, place, config):
    train_run(config.with_overrides({"train.steps": 2, "train.lr": 0.5}), place, "another")
    runs = ["another", next(run.name for run in place.runs.iterdir() if run.name != "another")]
    with pytest.raises(ConfigError, match=r"models: another, .* differ in train.lr, train.steps; .*: compare each by"):
        compare_systems(config, "tiny", place, models=runs, baselines=["frozen"])


def test_a_baseline_that_fails_is_named_and_the_others_run(place, config):
    short = {"encoder.tokens": False, "encoder.passage_max_length": 8, "encoder.query_max_length": 8}
    pooled = config.with_overrides({**short, "train.steps": 10})
    found = compare_systems(pooled, "tiny", place, baselines=["matryoshka_attention", "frozen"])
    assert "encoder.tokens = true" in found.report.failed["matryoshka_attention-seed0"]
    assert {entry.name for entry in found.report.entries} == {"retreever", "frozen"}


def test_an_unknown_baseline_is_refused_with_the_known_names(place, config):
    with pytest.raises(ConfigError, match=r"bm26: .*bm25"):
        compare_systems(config, "tiny", place, baselines=["bm26"])
