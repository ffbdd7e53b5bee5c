"""Runs read from MLflow, and promotion through the gates, with two good small trees and one hardly trained."""

import csv
import itertools
import json
import shlex
import shutil

import numpy as np
import pytest

from retreever import config as configs
from retreever.bundle.retriever import Retreever
from retreever.cli.main import main
from retreever.cluster.launch_training import train_run
from retreever.data import beir
from retreever.errors import PromotionError, TrackingError
from retreever.evaluation.query_scores import align_scores
from retreever.system.workspace import Workspace
from retreever.tracking import model_registry, run_catalog
from retreever.tracking.promotion import pick_run, promote_run
from retreever.tracking.promotion_gates import Limits
from retreever.tracking.tracker import Tracker
from retreever.trained_tree import digest_model
from tests.support import tiny

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    workspace = Workspace.at(tmp_path_factory.mktemp("runs"))
    tiny.tiny_bert(workspace.root / "bert")
    beir.write_beir(tiny.tiny_dataset(), workspace.dataset_folder("tiny"))
    config = tiny.tiny_config(workspace.root / "bert")
    for name, overrides in {
        "good": {},
        "twin": {"train.seed": 1},
        "weak": {"tree.depth": 2, "train.steps": 1, "train.eval_every": 1},
    }.items():
        train_run(config.with_overrides(overrides), workspace, name)
    return workspace


@pytest.fixture
def tracker(place):
    return Tracker.of(place)


def call(capsys, place, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--workspace", str(place.root), "--json"])
    out, err = capsys.readouterr()
    found = tiny.json_lines(out)
    return ended.value.code or 0, found[-1] if found else None, err


def test_a_run_tells_its_data_its_size_and_how_to_run_it_again(place, tracker):
    run = run_catalog.find_run(tracker, place, "good")
    (known,) = run.inputs.dataset_inputs
    assert known.dataset.name == "tiny" and known.dataset.digest == tiny_digest(place)
    assert json.loads(known.dataset.profile)["train_pairs"] == 180
    assert run.data.metrics["bytes_per_document"] == 2 * 16
    assert {"split": "linear", "depth": "4", "scheduler": "all_levels", "seed": "0"}.items() <= run.data.tags.items()
    assert run.data.tags["reproduce"].startswith("retreever train --set data.name=tiny")


def tiny_digest(place):
    return beir.read_beir(place.dataset_folder("tiny"), "refuse").digest


def test_the_command_of_a_run_builds_its_configuration(place, tracker):
    words = shlex.split(run_catalog.find_run(tracker, place, "twin").data.tags["reproduce"])
    sets = [value for word, value in itertools.pairwise(words) if word == "--set"]
    assert configs.load_config(None, sets) == tiny.tiny_config(place.root / "bert", train__seed=1)


def test_the_settings_file_of_a_run_builds_its_configuration(place, tracker, tmp_path):
    file = run_catalog.download_config(tracker, run_catalog.find_run(tracker, place, "weak"), tmp_path)
    assert configs.load_config(file).tree.depth == 2


def test_runs_are_found_by_name_id_and_beginning(place, tracker):
    run = run_catalog.find_run(tracker, place, "good")
    assert run_catalog.find_run(tracker, place, run.info.run_id).info.run_id == run.info.run_id
    assert run_catalog.find_run(tracker, place, run.info.run_id[:10]).info.run_id == run.info.run_id
    with pytest.raises(TrackingError, match="run nobody: no id and no name"):
        run_catalog.find_run(tracker, place, "nobody")


def test_per_query_scores_mean_what_the_run_reports(place, tracker):
    run = run_catalog.find_run(tracker, place, "good")
    scores = run_catalog.download_scores(tracker, run)
    assert len(scores["query"]) == 60 and len(set(scores["query"])) == 60
    assert scores["ndcg_at_10/level_04"].mean() == pytest.approx(run.data.metrics["best/ndcg_at_10"], abs=1e-6)


def test_scores_are_aligned_by_query():
    a = {"query": np.array(["q2", "q1", "q3"]), "x": np.array([2.0, 1.0, 3.0])}
    b = {"query": np.array(["q3", "q4", "q2"]), "x": np.array([30.0, 40.0, 20.0])}
    one, two = align_scores([a, b])
    assert one["query"].tolist() == two["query"].tolist() == ["q2", "q3"]
    assert one["x"].tolist() == [2.0, 3.0] and two["x"].tolist() == [20.0, 30.0]


def test_runs_of_several_seeds_answer_the_same_questions(place, tracker):
    config = tiny.tiny_config(place.root / "bert", train__eval_queries=20)
    sides = []
    for seed in (3, 4):
        train_run(config.with_overrides({"train.seed": seed, "train.steps": 1}), place, f"seed{seed}")
        sides.append(
            run_catalog.download_scores(tracker, run_catalog.find_run(tracker, place, f"seed{seed}"))["query"].tolist()
        )
    assert sides[0] == sides[1] and len(sides[0]) == 20


def test_two_runs_are_compared_on_the_same_queries(capsys, place, tmp_path):
    code, found, _ = call(capsys, place, "runs", "compare", "good", "weak", "--plot", str(tmp_path / "plot.png"))
    assert code == 2  # the weak one has levels 1 and 2 only
    code, found, err = call(capsys, place, "runs", "compare", "good", "twin", "--plot", str(tmp_path / "plot.png"))
    assert code == 0 and found["queries"] == 60, err
    (level,) = found["levels"]
    assert level["level"] == 4 and level["low"] <= level["a"] - level["b"] <= level["high"] and 0 <= level["p"] <= 1
    assert found["settings"] == {"train.seed": ["0", "1"]}
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_list_is_filtered_by_tags_and_figures(capsys, place):
    code, found, _ = call(capsys, place, "runs", "list", "--where", "tags.depth = '2'")
    assert code == 0 and [run["name"] for run in found["runs"]] == ["weak"]
    code, found, _ = call(capsys, place, "runs", "list", "--where", "metrics.ndcg_at_10 > 0.4")
    assert {"good", "twin"} <= {run["name"] for run in found["runs"]}
    code, _, err = call(capsys, place, "runs", "list", "--where", "depth is 2")
    assert code == 2 and "--where depth is 2" in err


def test_the_best_is_the_largest_within_the_limits(capsys, place):
    code, found, _ = call(capsys, place, "runs", "best")
    assert code == 0 and found["name"] in ("good", "twin")
    code, found, _ = call(capsys, place, "runs", "best", "--max-bytes", "16")
    assert code == 0 and found["name"] == "weak"
    code, _, err = call(capsys, place, "runs", "best", "--max-bytes", "4")
    assert code == 2 and "0 with bytes_per_document <= 4" in err


def test_a_shown_run_names_its_levels(capsys, place):
    with pytest.raises(SystemExit):
        main(["runs", "show", "good", "--workspace", str(place.root)])
    out, err = capsys.readouterr()
    assert "dimensions" in out and "tree.init_std" in out and "reproduce: retreever train" in err


def test_an_export_is_plain_files(capsys, place, tracker, tmp_path):
    code, _, _ = call(capsys, place, "runs", "export", "good", str(tmp_path / "out"))
    assert code == 0
    assert configs.load_config(tmp_path / "out" / "artifacts" / "config.yaml") == tiny.tiny_config(place.root / "bert")
    assert (tmp_path / "out" / "artifacts" / "checkpoint" / "model.safetensors").is_file()
    rows = list(csv.DictReader((tmp_path / "out" / "metrics.csv").open()))
    assert [row["step"] for row in rows if row["metric"] == "ndcg_at_10"] == ["10", "20", "30"]
    assert "retreever train" in (tmp_path / "out" / "reproduce.sh").read_text()
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "FINISHED"


def served(tracker, alias="champion"):
    return int(model_registry.find_version(tracker, alias).version)


def test_the_champion_is_replaced_by_what_beats_it_and_comes_back(place, tracker, capsys):
    first = promote_run("weak", place)
    assert first.uri == "models:/retreever/1" and served(tracker) == 1
    second = promote_run("good", place)
    assert second.uri == "models:/retreever/2" and "p = " in second.finding
    assert served(tracker, "previous") == 1
    tags = model_registry.find_version(tracker).tags
    assert float(tags["test/ndcg_at_10"]) > 0.3 and tags["data_digest"] == tiny_digest(place)
    assert json.loads(tags["index"])["depth"] == 4 and float(tags["latency_ms"]) > 0
    assert model_registry.find_version(tracker).run_id == run_catalog.find_run(tracker, place, "good").info.run_id

    with pytest.raises(PromotionError, match="run weak: not significantly better"):
        promote_run("weak", place)
    assert served(tracker) == 2
    twin = run_catalog.find_run(tracker, place, "twin").info.run_id
    forced = promote_run(twin, place, force=True)  # by id, like a trial of a sweep, which has no folder under runs/
    assert forced.uri == "models:/retreever/3"
    text = tiny.tiny_dataset().corpus[7].text
    assert Retreever.load(model_registry.locate_model(forced.uri, place)).search([text], k=3)[0][0].id == "p0007"
    code, found, _ = call(capsys, place, "promote", "--rollback")
    assert code == 0 and found["model_uri"] == "models:/retreever/2"
    assert served(tracker, "previous") == 3
    assert {run.info.status for run in run_catalog.list_runs(tracker, place)} == {"FINISHED"}

    elsewhere = shutil.copytree(model_registry.locate_model(forced.uri, place), place.root / "of another name")
    run_id = run_catalog.find_run(tracker, place, "good").info.run_id
    uri = model_registry.register_bundle(elsewhere, run_id, tracker, tags={}, alias="elsewhere")
    assert digest_model(model_registry.locate_model(uri, place)) == digest_model(elsewhere)


def test_a_limit_that_is_missed_is_named(place, tracker):
    before = model_registry.find_version(tracker)
    with pytest.raises(PromotionError, match=r"recall_at_10 .* is below --min-recall 0.999; bytes_per_document 32 is"):
        promote_run("good", place, alias="strict", limits=Limits(recall=0.999, bytes=10))
    with pytest.raises(PromotionError, match="is above --max-latency-ms"):
        promote_run("good", place, alias="strict", limits=Limits(latency_ms=1e-6))
    assert model_registry.find_version(tracker, "strict") is None and model_registry.find_version(tracker) == before


def test_a_tree_that_forgot_its_encoder_is_not_promoted(place, tracker, capsys):
    beir.write_beir(tiny.tiny_dataset(seed=7), place.dataset_folder("other"))
    config = tiny.tiny_config(place.root / "bert", train__guard=["other"], train__steps=2, train__eval_every=2)
    train_run(config, place, "guarded")
    run = run_catalog.find_run(tracker, place, "guarded")
    kept = run_catalog.read_figure(run, "guard_of_frozen")
    assert kept == run.data.metrics["best/guard/other/of_frozen"]
    above, below = kept + 0.01, kept - 0.01
    with pytest.raises(
        PromotionError, match=rf"run guarded: guard set other: {kept:.4g} of .* below --min-guard {above:g}"
    ):
        promote_run("guarded", place, alias="kept", force=True, limits=Limits(guard=above))
    assert model_registry.find_version(tracker, "kept") is None
    with pytest.raises(PromotionError, match="guard_of_frozen: below --min-guard 9: guarded"):
        pick_run(place, metric="guard_of_frozen", limits=Limits(guard=9))
    code, found, err = call(
        capsys, place, "promote", "guarded", "--alias", "kept", "--force", "--min-guard", str(below)
    )
    assert code == 0 and f"{kept:.3f} of the frozen encoder on other" in found["found"], err
    tags = model_registry.find_version(tracker, "kept").tags
    assert float(tags["guard/other/of_frozen"]) == pytest.approx(kept, abs=1e-5)
    assert f"{kept:.3f} of the frozen encoder on other" in tags["gate"]


def test_without_a_name_the_best_within_the_limits_is_picked(place, tracker):
    assert run_catalog.find_run(tracker, place, pick_run(place)).info.run_name in ("good", "twin")
    assert run_catalog.find_run(tracker, place, pick_run(place, limits=Limits(bytes=16))).info.run_name == "weak"
    with pytest.raises(PromotionError, match="latency_ms: above --max-latency-ms 1e-06: "):
        pick_run(place, limits=Limits(latency_ms=1e-6))


def test_nothing_to_roll_back_to_is_an_error(place, tracker):
    with pytest.raises(TrackingError, match=r"models:/retreever@nobody-previous: there is no version"):
        model_registry.roll_back_alias(tracker, "nobody")
