"""What a team serves that has a corpus and no query yet: a tree of 0 steps, by its verbs, from files to the service."""

import json
import re
import warnings

import mlflow
import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient

from retreever.bundle.retriever import Retreever
from retreever.cli.main import main
from retreever.cluster import train_worker
from retreever.data import beir
from retreever.evaluation.ranking import top_k
from retreever.system.workspace import Workspace
from retreever.tracking.model_registry import locate_model
from retreever.tracking.tracker import Tracker
from tests.support import tiny

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
CORPUS = tiny.tiny_dataset().corpus


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    workspace = Workspace.at(tmp_path_factory.mktemp("corpus-alone"))
    tiny.tiny_bert(workspace.root / "bert")
    (workspace.root / "raw").mkdir()
    lines = (json.dumps({"_id": passage.id, "text": passage.text}) for passage in CORPUS)
    (workspace.root / "raw" / "corpus.jsonl").write_text("\n".join(lines))
    defaults = {"tree__level_norm": True, "tree__init_growth": 0.5}
    config = tiny.tiny_config(workspace.root / "bert", **defaults).model_dump(mode="json")
    (workspace.root / "config.yaml").write_text(json.dumps(config))
    return workspace


@pytest.fixture
def call(capsys, place):
    """A function of a verb's words: its exit code, the JSON object on stdout (None without one), and stderr."""

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--workspace", str(place.root), "--json"])
        out, err = capsys.readouterr()
        found = tiny.json_lines(out)
        return ended.value.code or 0, found[-1] if found else None, err

    return run


def test_the_first_day_of_a_team_without_queries(call, place, monkeypatch):
    config = str(place.root / "config.yaml")
    code, found, _ = call("data", "beir", "--path", str(place.root / "raw"), "--name", "tiny")
    assert code == 0 and (found["passages"], found["queries"]) == (300, 0)
    assert [path.name for path in place.dataset_folder("tiny").iterdir()] == ["corpus.jsonl.gz"]
    code, found, _ = call("encode", config)
    assert code == 0 and (found["passages"], found["queries"], found["dimensions"]) == (300, 0, 32)

    code, found, err = call("train", config, "--steps", "0", "--name", "start")
    assert code == 0 and "ndcg_at_10" not in found["best"] and found["best"]["effective_nodes/level_04"] > 1
    assert "step 0  not judged, there are no dev pairs" in err and "routing of run start, on passages" in err
    run = Tracker.of(place).get_run(found["run_id"])
    assert run.data.metrics["best/effective_nodes/level_04"] == found["best"]["effective_nodes/level_04"]
    assert run.info.status == "FINISHED" and "--set train.steps=0" in run.data.tags["reproduce"]
    code, _, err = call("runs", "show", "start")
    assert code == 0 and "run start is not judged" in err

    code, stats, err = call("index", "start")
    assert code == 0 and stats["documents"] == 300 and stats["relevance_calibration_error"] is None
    assert "hits get no relevance" in err
    query = " ".join(CORPUS[7].text.split()[:6])
    code, answer, _ = call("search", query, "-k", "5", "--model", "start")
    assert code == 0 and {hit["relevance"] for hit in answer["hits"]} == {None}
    check_exactness(place.runs / "start" / "bundle", query, answer["hits"])
    code, known, _ = call("tree", "start", "--levels", "2")
    assert code == 0 and known["passages"] == 300
    assert sum(node["size"] for node in known["nodes"] if node["level"] == 2) == pytest.approx(300, rel=0.01)

    code, promoted, err = call("promote", "start", "--min-recall", "0.5")
    assert code != 0 and "recall_at_10 is unknown without judgements" in err
    code, promoted, _ = call("promote", "start")
    assert code == 0 and promoted == {
        "model_uri": "models:/retreever/1", "alias": "champion", "found": "the first version; not judged"
    }  # fmt: skip
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.mlflow_uri)
    table = mlflow.pyfunc.load_model("models:/retreever@champion").predict(pd.DataFrame({"query": [query]}), {"k": 5})
    assert table["ids"][0] == [hit["id"] for hit in answer["hits"]]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert serve(locate_model("models:/retreever@champion", place), query) == answer["hits"]


def check_exactness(bundle, query, hits):
    """The hits are the first of all passages, ranked one by one by what the tree makes of them."""
    retreever = Retreever.load(bundle)
    leaves = retreever.tree.level(retreever.tree.depth)
    sides = (retreever.route([query], "query"), retreever.route([p.text for p in CORPUS], "passage"))
    vectors = [side[:, leaves] for side in sides]
    rows, scores = (found[0] for found in top_k(*map(np.ascontiguousarray, vectors), len(CORPUS), "bhattacharyya"))
    by_id = {CORPUS[row].id: score for row, score in zip(rows, scores, strict=True)}
    np.testing.assert_allclose([hit["score"] for hit in hits], scores[:5], atol=1e-3)  # stored in float16
    np.testing.assert_allclose([hit["score"] for hit in hits], [by_id[hit["id"]] for hit in hits], atol=1e-3)


def serve(bundle, query):
    """The hits of the HTTP interface around a bundle, as `search` prints them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tests.support.local_service import local_service

        with TestClient(local_service(bundle)[0], raise_server_exceptions=False) as client:
            reply = client.post("/v1/search", json={"query": query, "k": 5})
            assert reply.status_code == 200, reply.text
            assert client.get("/v1/tree").json()["passages"] == len(CORPUS)
    return [{name: hit[name] for name in ("id", "relevance", "score", "text")} for hit in reply.json()["hits"]]


def test_a_second_version_of_a_corpus_alone_must_be_forced(call, place):
    config = str(place.root / "config.yaml")
    code, _, _ = call("train", config, "--steps", "0", "--set", "train.seed=1", "--name", "new")
    assert code == 0
    code, _, err = call("promote", "new")
    assert code != 0 and "and the candidate serve data set tiny, which has no judgements; --force promotes" in err
    code, promoted, _ = call("promote", "new", "--force")
    assert code == 0 and promoted["model_uri"] == "models:/retreever/2" and promoted["found"].startswith("forced; ")
    code, _, err = call("promote")
    assert code != 0 and "0 finished with ndcg_at_10" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "CONFIG"), r"data set tiny: qrels/train.tsv is missing or empty; .* train.steps=0 needs none"),
        (("sweep", "SPACE"), r"data set tiny: qrels/dev.tsv is missing or empty; a sweep ranks its trials on it"),
        (("evaluate", "start"), r"data set tiny: qrels/test.tsv is missing or empty"),
        (("runs", "compare", "start", "new"), r"run start .*: has no query_scores.csv"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_needs_pairs_says_so(call, place, words, message):
    config = json.loads((place.root / "config.yaml").read_text())
    fixed = {section: {k: v for k, v in config[section].items() if v is not None} for section in ("data", "encoder")}
    space = place.root / "seeds.yaml"
    space.write_text(json.dumps({"name": "seeds", "search": "grid", "config": fixed, "seeds": 2}))
    files = {"CONFIG": str(place.root / "config.yaml"), "SPACE": str(space)}
    code, _, err = call(*(files.get(word, word) for word in words))
    assert code != 0 and re.search(message, " ".join(err.split())), err


def test_pairs_that_come_later_let_the_start_be_judged(call, place):
    """The first trained tree is compared with the champion that had no pair."""
    beir.write_beir(tiny.tiny_dataset(), place.dataset_folder("tiny"))
    train_worker._open_cached_data.cache_clear()  # a process opens a data set once
    code, found, err = call("train", str(place.root / "config.yaml"), "--steps", "0", "--set", "train.seed=2")
    assert code == 0 and found["best"]["ndcg_at_10"] > 0 and "dev NDCG@10 by dimensions" in err
    code, _, _ = call("train", str(place.root / "config.yaml"), "--steps", "30", "--name", "trained")
    assert code == 0
    code, promoted, err = call("promote", "trained", "--force")
    assert code == 0 and "against models:/retreever/2 on test: NDCG@10" in promoted["found"], err
