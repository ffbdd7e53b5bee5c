import json
import socket
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest

from retreever.data.dataset_splits import assign_split_by_hash
from retreever.data.hub import read_hub_dataset
from retreever.errors import DataError

ROWS = [
    {"question": "who?", "context": "She did.", "page": "Deeds", "key": "a"},
    {"question": "where?", "context": "In Rome.", "page": "Towns", "key": "b"},
    {"question": "and who?", "context": "She did.", "page": "Deeds", "key": "c"},
    {"question": "who?", "context": "He did.", "page": "Deeds", "key": "a"},
]


def lines(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load(path: Path | str, tmp_path: Path, **options: Any) -> Any:
    return read_hub_dataset(path, **{"query": "question", "passage": "context", "cache": tmp_path / "cache", **options})


def test_equal_passages_are_shared_and_equal_queries_have_several(tmp_path: Path):
    dataset = load(lines(tmp_path / "qa.jsonl"), tmp_path, splits={"test": "train"}, title="page")
    assert dataset.name == "qa"
    assert [(q.id, q.text) for q in dataset.queries] == [("q0", "who?"), ("q1", "where?"), ("q2", "and who?")]
    assert [(p.id, p.title, p.text) for p in dataset.corpus] == [
        ("p0", "Deeds", "She did."), ("p1", "Towns", "In Rome."), ("p2", "Deeds", "He did."),
    ]  # fmt: skip
    assert dataset.qrels["test"].tolist() == [[0, 0, 1], [1, 1, 1], [2, 0, 1], [0, 2, 1]]


def test_ids_are_taken_from_columns(tmp_path: Path):
    dataset = load(lines(tmp_path / "qa.jsonl"), tmp_path, id="key", name="mine")
    assert [q.id for q in dataset.queries] == ["a", "b", "c"]
    assert dataset.name == "mine"


def test_an_id_of_two_texts_is_refused(tmp_path: Path):
    path = lines(tmp_path / "qa.jsonl")
    message = "qa.jsonl: split 'train', row 3: id of the passage stands for two texts"
    with pytest.raises(DataError, match=message):
        load(path, tmp_path, passage_id="key")
    skipped = load(path, tmp_path, passage_id="key", on_bad="skip").skipped
    assert skipped == {"train: id of the passage stands for two texts": 1}


def saved(tmp_path: Path, suffix: str) -> Path:
    table = datasets.Dataset.from_list(ROWS)
    path = tmp_path / f"qa{suffix}"
    if suffix == ".json":
        path.write_text(json.dumps(ROWS, indent=1))
    elif suffix == ".csv":
        table.to_pandas().to_csv(path, index=False)
    elif suffix == ".parquet":
        table.to_pandas().to_parquet(path)
    else:
        (datasets.DatasetDict(train=table) if suffix == ".dict" else table).save_to_disk(path)
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning:multiprocess")
@pytest.mark.parametrize("suffix", [".json", ".csv", ".parquet", ".table", ".dict"])
def test_every_kind_of_file_gives_the_same(tmp_path: Path, suffix: str):
    expected = load(lines(tmp_path / "qa.jsonl"), tmp_path, name="qa", title="page")
    assert load(saved(tmp_path, suffix), tmp_path, name="qa", title="page") == expected


def test_a_single_train_split_is_divided_by_hash_of_the_query(tmp_path: Path):
    rows = [{"question": f"question {n % 60}", "context": f"passage {n}"} for n in range(120)]
    dataset = load(lines(tmp_path / "qa.jsonl", rows), tmp_path)
    assert list(dataset.qrels) == ["train", "dev", "test"]
    for split, judged in dataset.qrels.items():
        assert {assign_split_by_hash(dataset.queries[row].text) for row in judged[:, 0]} == {split}


def test_splits_are_found_by_file_name_and_read_separately(tmp_path: Path):
    lines(tmp_path / "qa/train-00000-of-00002.jsonl", ROWS[:1])
    lines(tmp_path / "qa/train-00001-of-00002.jsonl", ROWS[1:2])
    lines(tmp_path / "qa/train/my_dev.jsonl", [{**ROWS[2], "page": {"other": "type"}}])
    lines(tmp_path / "qa/untested.jsonl", [{"nothing": 1}])
    (tmp_path / "qa/README.md").write_text("# qa")
    lines(tmp_path / "qa/dataset_infos.json", [{"nothing": 1}])
    dataset = load(tmp_path / "qa", tmp_path)
    assert {split: len(rows) for split, rows in dataset.qrels.items()} == {"train": 2, "dev": 1}
    assert dataset.name == "qa"


def test_configurations_are_distinguished_by_path(tmp_path: Path):
    lines(tmp_path / "qa/easy/test.jsonl", ROWS[:1])
    lines(tmp_path / "qa/hard/test.jsonl", ROWS)
    assert len(load(tmp_path / "qa", tmp_path, config="easy").queries) == 1
    assert len(load(tmp_path / "qa", tmp_path).queries) == 3


def test_fields_of_a_column_can_be_named(tmp_path: Path):
    path = lines(tmp_path / "test.jsonl", [{"q": "who?", "gold": {"text": "She did."}}])
    assert load(path, tmp_path, query="q", passage="gold.text").corpus[0].text == "She did."


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        ({"question": "  "}, "query is empty"),
        ({"context": None}, "passage is empty"),
        ({"context": ""}, "passage is empty"),
    ],
)
def test_an_empty_field_is_refused_by_row_or_skipped_and_counted(tmp_path: Path, bad: dict[str, Any], rule: str):
    path = lines(tmp_path / "test.jsonl", [*ROWS, {**ROWS[1], **bad}])
    with pytest.raises(DataError, match=f"test.jsonl: split 'test', row 4: {rule}"):
        load(path, tmp_path)
    dataset = load(path, tmp_path, on_bad="skip")
    assert dataset.skipped == {f"test: {rule}": 1}
    assert len(dataset.queries) == 3


def test_a_missing_id_and_a_number_for_a_text_are_bad_rows(tmp_path: Path):
    path = lines(tmp_path / "test.jsonl", [ROWS[0], {**ROWS[1], "key": None}])
    assert load(path, tmp_path, id="key", on_bad="skip").skipped == {
        "test: id of the query must not be empty nor hold tabs or line breaks": 1
    }
    with pytest.raises(DataError, match=r"row 0: query must be a string \(got 7\)"):
        load(lines(tmp_path / "dev.jsonl", [{**ROWS[0], "question": 7}]), tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query": "queston"}, "split 'train': no column 'queston'; there are: question, context, page, key"),
        ({"splits": {"dev": "validation"}}, "no split 'validation'; there are: train"),
        ({"splits": {"valid": "train"}}, "splits: 'valid' must be one of train, dev, test"),
    ],
)
def test_a_wrong_name_is_reported_with_the_right_ones(tmp_path: Path, options: dict[str, Any], message: str):
    with pytest.raises(DataError, match=message):
        load(lines(tmp_path / "train.jsonl"), tmp_path, **options)


def test_unreadable_sources_are_refused(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text('{"question": ')
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "state.json").write_text("{}")
    lines(tmp_path / "hollow.jsonl", [{**ROWS[0], "context": " "}])
    for name, message in {
        "empty": "holds no file of .json",
        "broken.json": "cannot be read as json",
        "notes.txt": "must be one of .json",
        "no/such/file.json": "no such file or folder",
        ".": "cannot be read as a saved data set",
    }.items():
        with pytest.raises(DataError, match=message):
            load(tmp_path / name, tmp_path)
    with pytest.raises(DataError, match="no usable row"):
        load(tmp_path / "hollow.jsonl", tmp_path, on_bad="skip")


def test_a_hub_data_set_is_fetched_into_the_cache_without_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: dict[str, Any] = {}

    def snapshot_download(repo: str, **options: Any) -> str:
        asked.update(options, repo=repo)
        lines(tmp_path / "snapshot/pair/test.jsonl")
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    dataset = load("owner/name-v1.5", tmp_path, config="pair", revision="abc")
    assert dataset.name == "name-v1.5"
    assert asked == {
        "repo": "owner/name-v1.5",
        "repo_type": "dataset",
        "revision": "abc",
        "cache_dir": tmp_path / "cache" / "hub",
        "allow_patterns": ["*pair*.json", "*pair*.jsonl", "*pair*.csv", "*pair*.parquet"],
    }


@pytest.mark.parametrize("error", [RuntimeError("no network"), FileNotFoundError("no network")])
def test_an_unreachable_hub_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception):
    def snapshot_download(repo: str, **options: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(DataError, match=r"owner/name: no such file or folder, and cannot be fetched.*no network"):
        load("owner/name", tmp_path)


def test_files_on_disk_are_read_without_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def connect(*_: Any) -> None:
        raise AssertionError("opened a connection")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    monkeypatch.setattr(datasets.load, "increase_load_count", connect)
    load(lines(tmp_path / "qa.jsonl"), tmp_path)
    with pytest.raises(AssertionError):  # the guard does guard
        datasets.load_dataset("json", data_files=str(tmp_path / "qa.jsonl"), cache_dir=str(tmp_path / "other"))
