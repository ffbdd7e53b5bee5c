"""The life of a tree by its verbs, on a tiny data set, in this process; and the messages of refused commands."""

import importlib
import json
import re
import subprocess
import sys

import mlflow
import pytest

import retreever
from retreever.cli.main import main
from retreever.data import beir
from retreever.system.workspace import Workspace
from tests.support import tiny
from tests.support.architectures import save_language_model

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    workspace = Workspace.at(tmp_path_factory.mktemp("cli"))
    tiny.tiny_bert(workspace.root / "bert")
    beir.write_beir(tiny.tiny_dataset(), workspace.root / "raw")
    config = tiny.tiny_config(workspace.root / "bert", encoder__words=1.0).model_dump(mode="json")
    (workspace.root / "config.yaml").write_text(json.dumps(config))
    return workspace


def call(capsys, place, *arguments):
    """Exit code, the JSON object on stdout (None without one), and stderr."""
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--workspace", str(place.root)])
    out, err = capsys.readouterr()
    found = tiny.json_lines(out)
    return ended.value.code or 0, found[-1] if found else None, err


@pytest.mark.timeout(400)
def test_a_comparison_in_one_command(capsys, place):
    raw, config = str(place.root / "raw"), str(place.root / "config.yaml")
    code, found, err = call(capsys, place, "compare", raw, "--config", config, "--baseline", "frozen", "--json")
    assert code == 0 and "frozen-seed0: judged" in err and "the encoder as it is" in err
    assert {pair["theirs"] for pair in found["pairwise"]} == {"frozen float32"} and found["failed"] == {}


def test_the_life_of_a_tree(capsys, place, monkeypatch):
    config = str(place.root / "config.yaml")
    code, found, _ = call(capsys, place, "data", "beir", "--path", str(place.root / "raw"), "--name", "tiny", "--json")
    assert code == 0 and found["passages"] == 300 and found["train pairs"] == 180
    code, found, _ = call(capsys, place, "encode", config, "--json")
    assert code == 0 and found["dimensions"] == 64  # 32 of the last layer, 32 of the words
    code, found, err = call(capsys, place, "train", config, "--name", "one", "--json")
    assert code == 0 and found["best"]["ndcg_at_10"] > 0.4 and "dev NDCG@10 by dimensions" in err
    assert "routing of run one, on dev" in err and "effective nodes" in err and "agreement" in err
    code, stats, _ = call(capsys, place, "index", "one", "--json")
    assert code == 0 and stats["documents"] == 300 and 0 <= stats["relevance_calibration_error"]["4"] < 0.3
    code, verdict, _ = call(capsys, place, "evaluate", "one", "--no-baselines", "--json")
    assert code == 0 and verdict["results"]["retreever"]["16"]["ndcg_at_10"] > 0.3
    code, promoted, _ = call(capsys, place, "promote", "one", "--json")
    assert code == 0 and promoted["model_uri"] == "models:/retreever/1"
    code, again, _ = call(capsys, place, "promote", "one", "--json")
    assert code == 0 and again["model_uri"] == "models:/retreever/1"
    text = tiny.tiny_dataset().corpus[7].text
    code, answer, _ = call(capsys, place, "search", text, "-k", "5", "--json")
    assert code == 0 and answer["hits"][0]["id"] == "p0007" and len(answer["hits"]) == 5
    assert 0 < answer["hits"][-1]["relevance"] < answer["hits"][0]["relevance"] < 1 and answer["hits"][0]["score"] > 0.9
    code, coarse, _ = call(capsys, place, "search", text, "--level", "2", "--json")
    assert code == 0 and len(coarse["hits"]) == 10 and coarse["hits"][0]["relevance"] is None
    code, known, err = call(capsys, place, "tree", "--levels", "2", "--json")
    assert code == 0 and [node["id"] for node in known["nodes"]] == list(range(7)) and known["passages"] == 300
    assert "0  all passages  (300)" in err

    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.mlflow_uri)
    model = mlflow.pyfunc.load_model("models:/retreever@champion")
    table = model.predict({"query": [text]}, params={"k": 3})
    assert table["ids"][0][0] == "p0007" and len(table["scores"][0]) == 3


def test_nodes_are_named_by_hand_and_by_a_language_model(capsys, place):
    code, known, err = call(
        capsys, place, "tree", "one", "--rename", "2", "Later letters", "--rename", "5=Five", "--levels", "2", "--json"
    )
    assert code == 0 and "2  Later letters: " in err and "names are kept in" in err
    assert {node["id"]: node["name"] for node in known["nodes"] if node["name"]} == {2: "Later letters", 5: "Five"}
    namer = str(save_language_model(place.root / "gpt"))
    code, known, _ = call(
        capsys, place, "tree", "one", "--rename", "5", "", "--namer", namer, "--levels", "2", "--json"
    )
    names = {node["id"]: node["name"] for node in known["nodes"]}
    assert code == 0 and names[0] is None and names[2] == "Later letters" and names[5] not in (None, "Five")
    code, again, _ = call(capsys, place, "tree", "one", "--levels", "2", "--json")
    assert code == 0 and again == known


def test_a_terminal_gets_tables(capsys, place):
    with pytest.raises(SystemExit) as ended:
        main(["search", tiny.tiny_dataset().corpus[7].text, "--model", "one", "--workspace", str(place.root)])
    assert not ended.value.code
    said = capsys.readouterr().out
    first = next(line for line in said.splitlines() if "p0007" in line)
    assert re.search(r"relevance.* score .* id .* text", said) and re.match(r"\W*0\.\d\d\W+\d\.\d{4}\W+p0007 ", first)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--set", "tree.deph=3", "--set", "train.lr=-1"], "did you mean tree.depth?"),
        (["search", "x", "--model", "nowhere"], "model nowhere: neither an MLflow URI"),
        (["search", "x", "--model", "models:/nothing@champion"], "model models:/nothing@champion: not found"),
        (["promote", "nowhere"], "run nowhere: "),
        (["data", "beir"], "--path: the source beir needs it"),
        (["data", "webscale"], "source: must be one of docstrings, beir, hub"),
        (["encode", "--set", "data.name=absent"], "absent"),
        (
            ["sweep", "nowhere"],
            "search space nowhere: neither a file nor one of the shipped spaces: anchor, demo, depth",
        ),
        (
            ["sweep", "anchor", "--dry-run"],
            "anchor: objectives: guard_of_frozen needs a guard set, a data set that is not",
        ),
        (["search", " ", "--model", "one"], "must"),
        (["tree", "one", "--rename", "99", "x"], "--rename: node 99: must be a whole number in [0, 30]"),
        (["tree", "one", "--rename", "x=y"], "--rename x=y: must be a node and its name"),
        (["tree", "one", "--rename", "3"], "--rename 3: must be a node and its name"),
        (["tree", "one", "--namer", "nowhere/at-all"], "language model nowhere/at-all: does not load"),
        (["search", "x", "--model", "one", "--level", "9"], "level: must be a whole number in [1, 4], got 9"),
    ],
)
def test_what_cannot_be_done_is_one_clear_message(capsys, place, arguments, message):
    code, _, err = call(capsys, place, *arguments)
    assert code == 2
    assert message in " ".join(err.split()) and "Traceback" not in err


def test_a_comparison_without_its_extra_is_refused_before_anything_is_read(capsys, place, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    code, _, err = call(capsys, place, "compare", "absent")
    assert code == 2 and err.strip() == "error: faiss is not installed: pip install 'retreever[baselines]'"


def test_all_config_faults_come_at_once(capsys, place):
    _, _, err = call(capsys, place, "train", "--set", "tree.deph=3", "--set", "train.lr=-1", "--set", "nonsense")
    assert sum(line.startswith("error:") for line in err.splitlines()) == 3


@pytest.mark.parametrize(
    "verb",
    [
        "data",
        "encode",
        "train",
        "sweep",
        "evaluate",
        "compare",
        "promote",
        "index",
        "search",
        "tree",
        "serve",
        "demo",
        "runs",
    ],
)
def test_every_verb_explains_itself_and_is_a_job(capsys, verb):
    with pytest.raises(SystemExit) as ended:
        main(["--help"], verb=verb)
    assert not ended.value.code
    out = capsys.readouterr().out
    assert ("export" if verb == "runs" else "--workspace") in out and "Example: " in out
    assert importlib.import_module(f"jobs.{verb}").main is main


def test_a_dry_run_lists_the_trials(capsys, place):
    code, found, _ = call(capsys, place, "sweep", "demo", "--dry-run", "--json")
    assert code == 0 and len(found["trials"]) == 16
    code, found, _ = call(capsys, place, "sweep", "search_spaces/demo.yaml", "--dry-run", "--json")
    assert code == 0 and len(found["trials"]) == 16


def test_the_version_and_the_module(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert not ended.value.code and capsys.readouterr().out == f"retreever {retreever.__version__}\n"
    done = subprocess.run([sys.executable, "-m", "retreever", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"retreever {retreever.__version__}\n"
