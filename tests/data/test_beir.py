import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retreever.data import beir
from retreever.data.dataset import DATASET_SPLITS, Passage, Query, RetrievalDataset
from retreever.errors import DataError

CORPUS = [
    b'{"_id": "p0", "title": "A", "text": "one"}',
    b'{"_id": 1, "text": "two", "metadata": {"k": [1, "\xc3\xa9"]}}',
]
QUERIES = [b'{"_id": "q0", "text": "ein", "url": "ignored"}', b'{"_id": "q1", "text": "zwei"}']
QRELS = [b"query-id\tcorpus-id\tscore", b"q0\tp0\t1", b"q1\t1\t-2"]


def write_files(folder: Path, corpus: Any = CORPUS, queries: Any = QUERIES, qrels: Any = QRELS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "qrels").mkdir(exist_ok=True)
    for name, lines in (("corpus.jsonl", corpus), ("queries.jsonl", queries), ("qrels/train.tsv", qrels)):
        if lines is not None:
            (folder / name).write_bytes(b"\n".join(lines) + b"\n")
    return folder


def test_texts_ids_and_judgements_are_read(tmp_path: Path):
    dataset = beir.read_beir(write_files(tmp_path / "tiny"))
    assert dataset.name == "tiny"
    assert dataset.corpus == (Passage("p0", "one", "A"), Passage("1", "two", metadata={"k": [1, "é"]}))
    assert dataset.queries == (Query("q0", "ein"), Query("q1", "zwei"))
    assert {split: rows.tolist() for split, rows in dataset.qrels.items()} == {"train": [[0, 0, 1], [1, 1, -2]]}
    assert dataset.skipped == {}


def test_gzip_line_ends_blank_lines_and_a_byte_order_mark_make_no_difference(tmp_path: Path):
    plain = beir.read_beir(write_files(tmp_path / "a" / "tiny"))
    folder = write_files(tmp_path / "b" / "tiny", [b"\xef\xbb\xbf" + CORPUS[0], b"", CORPUS[1] + b"\r"], qrels=None)
    (folder / "qrels/train.tsv.gz").write_bytes(gzip.compress(b"\r\n".join(QRELS)))
    assert beir.read_beir(folder) == plain


BAD_TEXTS = [
    (b'{"_id": "p0", "text": ', "broken JSON"),
    (b'{"_id": "p0", "text": "x", "metadata": {"a": NaN}}', "broken JSON"),
    (b"[" * 100_000, "broken JSON"),
    (b'["p0", "x"]', "not a JSON object"),
    (b'{"text": "x"}', "no _id"),
    (b'{"_id": 1.5, "text": "x"}', "_id must be a string or a whole number"),
    (b'{"_id": true, "text": "x"}', "_id must be a string or a whole number"),
    (b'{"_id": "", "text": "x"}', "_id must not be empty nor hold tabs or line breaks"),
    (b'{"_id": "a\\tb", "text": "x"}', "_id must not be empty nor hold tabs or line breaks"),
    (b'{"_id": "p0", "text": 7}', "text must be a string"),
    (b'{"_id": "p0", "title": "x"}', "text must be a string"),
    (b'{"_id": "p0", "text": "x", "metadata": []}', "metadata must be an object"),
    (b'{"_id": "p0", "text": " "}', "empty text"),
    (b'{"_id": "p0", "text": "\xff"}', "not UTF-8"),
    (b'{"_id": "p0", "text": "\\ud83c"}', "unpaired surrogate"),
    (b'{"_id": "\\udfff", "text": "x"}', "unpaired surrogate"),
    (b'{"_id": "p0", "text": "x", "metadata": {"a": {"\\ud83c": 1}}}', "unpaired surrogate"),
    (b'{"_id": "taken", "text": "x"}', "duplicate id"),
]


@pytest.mark.parametrize(("line", "rule"), BAD_TEXTS)
@pytest.mark.parametrize("file", ["corpus", "queries"])
def test_a_bad_text_is_refused_by_name_line_and_rule_or_skipped_and_counted(
    tmp_path: Path, file: str, line: bytes, rule: str
):
    taken = b'{"_id": "taken", "text": "x"}'
    good = {"corpus": [taken, *CORPUS[1:]], "queries": [taken, *QUERIES[1:]]}
    folder = write_files(tmp_path, **{**good, file: [taken, line, good[file][1]]}, qrels=[*QRELS[:1], b"q1\t1\t1"])
    with pytest.raises(DataError) as error:
        beir.read_beir(folder)
    assert str(error.value).startswith(f"{folder / file}.jsonl:2: {rule}")
    dataset = beir.read_beir(folder, on_bad="skip")
    assert dataset.skipped == {f"{file}.jsonl: {rule}": 1}
    assert len(dataset.corpus) == len(dataset.queries) == 2


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (b"q0\tp0", "must have three columns"),
        (b"q0\t0\tp0\t1", "must have three columns"),
        (b"q0\tp0\t1.0", "score must be a whole number"),
        (b"q0\tp0\t1_0", "score must be a whole number"),
        (b"q0\tp0\t" + b"9" * 19, "score must be a whole number"),
        (b"q9\tp0\t1", "dangling query"),
        (b"q0\tp9\t1", "dangling passage"),
        (b"q1\t1\t1", "repeated pair"),
        (b"q0\tp\xff\t1", "not UTF-8"),
    ],
)
def test_a_bad_judgement_is_refused_or_skipped_and_counted(tmp_path: Path, line: bytes, rule: str):
    folder = write_files(tmp_path, qrels=[QRELS[0], QRELS[2], line])
    with pytest.raises(DataError) as error:
        beir.read_beir(folder)
    assert str(error.value).startswith(f"{folder}/qrels/train.tsv:3: {rule}")
    dataset = beir.read_beir(folder, on_bad="skip")
    assert dataset.skipped == {f"qrels/train.tsv: {rule}": 1}
    assert dataset.qrels["train"].tolist() == [[1, 1, -2]]


def test_a_file_of_judgements_without_a_header_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"train\.tsv:1: no header line"):
        beir.read_beir(write_files(tmp_path, qrels=QRELS[1:]))


def test_judgements_of_skipped_texts_are_skipped_and_counted_too(tmp_path: Path):
    folder = write_files(tmp_path, corpus=[b'{"_id": "p0", "title": " ", "text": ""}', CORPUS[1]])
    assert beir.read_beir(folder, on_bad="skip").skipped == {
        "corpus.jsonl: empty text": 1,
        "qrels/train.tsv: dangling passage": 1,
    }


@pytest.mark.parametrize("on_bad", ["refuse", "skip"])
@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("corpus", r"corpus.jsonl: file is missing, and so is corpus.jsonl.gz"),
        ("queries", r"queries.jsonl: file is missing"),
        ("qrels", r"qrels: no usable judgement in any of train, dev, test"),
    ],
)
def test_missing_files_are_always_refused(tmp_path: Path, missing: str, message: str, on_bad: Any):
    with pytest.raises(DataError, match=message):
        beir.read_beir(write_files(tmp_path, **{missing: None}), on_bad)


def test_a_corpus_alone_is_read_and_written(tmp_path: Path):
    folder = tmp_path / "alone"
    folder.mkdir()
    (folder / "corpus.jsonl").write_bytes(b"\n".join(CORPUS))
    dataset = beir.read_beir(folder)
    assert len(dataset.corpus) == 2 and dataset.queries == () and dataset.qrels == {}
    assert not any(map(dataset.has_pairs, DATASET_SPLITS))
    beir.write_beir(dataset, tmp_path / "again" / "alone")
    assert [path.name for path in (tmp_path / "again" / "alone").iterdir()] == ["corpus.jsonl.gz"]
    again = beir.read_beir(tmp_path / "again" / "alone")
    assert again == dataset and again.digest == dataset.digest


@pytest.mark.parametrize("on_bad", ["refuse", "skip"])
def test_a_corpus_without_a_passage_is_refused(tmp_path: Path, on_bad: Any):
    (tmp_path / "corpus.jsonl").write_bytes(b"\n" if on_bad == "refuse" else b'{"_id": "p0", "text": ""}\n')
    with pytest.raises(DataError, match=r"corpus\.jsonl: no usable passage"):
        beir.read_beir(tmp_path, on_bad)


def test_a_file_both_plain_and_gzipped_is_refused(tmp_path: Path):
    folder = write_files(tmp_path)
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(CORPUS[0]))
    with pytest.raises(DataError, match="twice"):
        beir.read_beir(folder)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-12], lambda b: b"\0" + b[1:], lambda b: b[:20] + b"\xff" * 9 + b[29:]]
)
def test_a_damaged_archive_is_refused_by_name(tmp_path: Path, damage: Any):
    folder = write_files(tmp_path, corpus=None)
    (folder / "corpus.jsonl.gz").write_bytes(damage(gzip.compress(b"\n".join(CORPUS))))
    with pytest.raises(DataError, match=r"corpus\.jsonl\.gz: cannot be read"):
        beir.read_beir(folder, on_bad="skip")


def test_on_bad_has_two_values(tmp_path: Path):
    with pytest.raises(DataError, match="on_bad: must be 'refuse' or 'skip', got 'ignore'"):
        beir.read_beir(write_files(tmp_path), "ignore")  # type: ignore[arg-type]


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
filled = texts.filter(lambda text: text.strip())
ids = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\r\n"), min_size=1, max_size=5)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
metadata = st.dictionaries(texts, json_values, max_size=2)


@st.composite
def datasets(draw: st.DrawFn) -> RetrievalDataset:
    passage_ids = draw(st.lists(ids, min_size=1, max_size=4, unique=True))
    query_ids = draw(st.lists(ids, min_size=1, max_size=4, unique=True))
    corpus = tuple(Passage(id, draw(filled), draw(texts | st.just("")), draw(metadata)) for id in passage_ids)
    queries = tuple(Query(id, draw(filled), draw(metadata)) for id in query_ids)
    pair = st.tuples(st.integers(0, len(queries) - 1), st.integers(0, len(corpus) - 1))
    score = st.integers(-(10**18) + 1, 10**18 - 1)
    qrels = {}
    for split in draw(st.sets(st.sampled_from(DATASET_SPLITS), min_size=1)):
        scores = draw(st.dictionaries(pair, score, min_size=1, max_size=4))
        qrels[split] = np.array([(*pair, score) for pair, score in scores.items()], dtype=np.int64)
    return RetrievalDataset("round", corpus, queries, qrels)


@settings(deadline=None, max_examples=60)
@given(dataset=datasets())
def test_reading_what_was_written_gives_the_same(tmp_path_factory: pytest.TempPathFactory, dataset: RetrievalDataset):
    folder = tmp_path_factory.mktemp("beir") / "round"
    beir.write_beir(dataset, folder)
    again = beir.read_beir(folder)
    assert again == dataset
    assert again.digest == dataset.digest


def test_writing_is_reproducible_and_leaves_no_other_files(tmp_path: Path):
    dataset = beir.read_beir(write_files(tmp_path / "in"))
    beir.write_beir(dataset, tmp_path / "out" / "a")
    beir.write_beir(dataset, tmp_path / "out" / "b")
    beir.write_beir(dataset, tmp_path / "out" / "b")  # replaces the data set that is there
    names = ["corpus.jsonl.gz", "qrels/train.tsv.gz", "queries.jsonl.gz"]
    for folder in (tmp_path / "out/a", tmp_path / "out/b"):
        assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*.gz")) == names
    assert all((tmp_path / "out/a" / n).read_bytes() == (tmp_path / "out/b" / n).read_bytes() for n in names)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "b"]


def test_writing_never_replaces_other_files(tmp_path: Path):
    dataset = beir.read_beir(write_files(tmp_path / "in"))
    (tmp_path / "in" / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match=r"holds 'thesis\.tex', which is no part of a data set"):
        beir.write_beir(dataset, tmp_path / "in")
    with pytest.raises(DataError, match="is a file"):
        beir.write_beir(dataset, tmp_path / "in" / "thesis.tex")


@pytest.mark.parametrize("value", [float("nan"), {1, 2}])
def test_metadata_that_is_not_json_is_refused_and_nothing_is_written(tmp_path: Path, value: Any):
    dataset = RetrievalDataset(
        "x", (Passage("p", "x", metadata={"a": value}),), (Query("q", "x"),), {"test": np.array([[0, 0, 1]])}
    )
    with pytest.raises(DataError, match="'p': metadata cannot be written as JSON"):
        beir.write_beir(dataset, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_progress_passes_through_the_callers_track(tmp_path: Path):
    labels = []

    def track(items: Any, label: str, total: float | None = None) -> Any:
        labels.append(label)
        yield from items

    beir.read_beir(write_files(tmp_path), track=track)
    assert labels == ["reading corpus.jsonl", "reading queries.jsonl", "reading train.tsv"]


def test_texts_stay_readable_on_disk(tmp_path: Path):
    dataset = beir.read_beir(write_files(tmp_path / "in"))
    beir.write_beir(dataset, tmp_path / "out")
    lines = gzip.decompress((tmp_path / "out/corpus.jsonl.gz").read_bytes()).decode().splitlines()
    assert "é" in lines[1]
    assert json.loads(lines[0]) == {"_id": "p0", "title": "A", "text": "one"}
