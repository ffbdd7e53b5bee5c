import dataclasses
from typing import Any

import numpy as np
import pytest

from retreever.data.dataset import Passage, Query, RetrievalDataset
from retreever.errors import DataError

CORPUS = (Passage("p0", "one", "A"), Passage("p1", "two"), Passage("p2", "", "only a title"))
QUERIES = (Query("q0", "ein"), Query("q1", "zwei"))


def dataset(**changes: Any) -> RetrievalDataset:
    qrels = {"train": np.array([[1, 2, 1], [0, 1, 0], [1, 0, 2], [0, 0, 1]])}
    return RetrievalDataset(**{"name": "tiny", "corpus": CORPUS, "queries": QUERIES, "qrels": qrels, **changes})


def test_texts_are_in_row_order_with_titles():
    assert dataset().passage_texts() == ["A one", "two", "only a title"]
    assert dataset().query_texts() == ["ein", "zwei"]


def test_pairs_are_positive_and_sorted():
    assert dataset().pairs("train").tolist() == [[0, 0], [1, 0], [1, 2]]
    assert dataset().pairs("train").dtype == np.int64


def test_pairs_of_a_missing_split_name_the_existing_ones():
    with pytest.raises(DataError, match="tiny: no split 'dev'; there are: train"):
        dataset().pairs("dev")


def test_a_split_needs_a_relevant_pair():
    dataset = RetrievalDataset(
        "tiny", (Passage("p", "x"),), (Query("q", "y"),), {"train": np.array([[0, 0, 1]]), "dev": np.array([[0, 0, 0]])}
    )
    assert [dataset.has_pairs(split) for split in ("train", "dev", "test")] == [True, False, False]
    dataset.require_pairs("train", "training learns from them")
    with pytest.raises(DataError, match=r"data set tiny: qrels/dev\.tsv is missing or empty; it is needed"):
        dataset.require_pairs("dev", "it is needed")


def test_equality_sees_texts_and_judgements_but_not_what_was_skipped():
    assert dataset() == dataset(skipped={"corpus.jsonl: empty text": 1})
    assert dataset() != dataset(qrels={"train": np.array([[0, 0, 1]])})
    assert dataset() != dataset(name="other")
    assert dataset() != "tiny"


@pytest.mark.parametrize(
    "changes",
    [
        {"corpus": (*CORPUS[:2], Passage("p2", "only a title"))},  # same words, but another field
        {"corpus": (*CORPUS[:2], Passage("p3", "", "only a title"))},
        {"corpus": (CORPUS[1], CORPUS[0], CORPUS[2])},
        {"queries": (Query("q0", "eins"), Query("q1", "zwei"))},
        {"qrels": {"dev": np.array([[1, 2, 1], [0, 1, 0], [1, 0, 2], [0, 0, 1]])}},
        {"qrels": {"train": np.array([[1, 2, 1], [0, 1, 0], [1, 0, 1], [0, 0, 1]])}},
    ],
)
def test_digest_changes_with_content(changes: dict[str, Any]):
    assert dataset().digest != dataset(**changes).digest


def test_digest_depends_on_content_alone():
    assert dataset().digest == dataset(name="other", skipped={"x": 1}).digest
    tagged = tuple(dataclasses.replace(p, metadata={"tag": 1}) for p in CORPUS)
    assert dataset().digest == dataset(corpus=tagged).digest
    assert len(dataset().digest) == 16


def test_digest_tells_where_one_text_ends_and_the_next_begins():
    left = dataset(queries=(Query("q0", "ab"), Query("q1", "c")))
    right = dataset(queries=(Query("q0", "a"), Query("q1", "bc")))
    assert left.digest != right.digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queries": (Query("q0", "a"), Query("q0", "b"))}, "tiny: query 'q0': the id occurs twice"),
        ({"queries": (Query("q0", "a"), Query("", "b"))}, "must not be empty"),
        ({"queries": (Query("q0", "a"), Query("q\t1", "b"))}, "nor hold tabs"),
        ({"queries": (Query("q0", "a"), Query("q1", " \n"))}, "query 'q1': the text is empty"),
        ({"queries": (Query("q0", "a"), Query("q1", "\ud83c"))}, "unpaired surrogate"),
        ({"corpus": (*CORPUS[:2], Passage("p2", "x", "\udfff"))}, "passage 'p2'.*unpaired surrogate"),
        ({"qrels": {"valid": np.zeros((1, 3), np.int64)}}, "must be one of train, dev, test"),
        ({"qrels": {"train": np.zeros((1, 2), np.int64)}}, r"int64 of shape \(n, 3\)"),
        ({"qrels": {"train": np.zeros((1, 3))}}, "got float64"),
        ({"qrels": {"train": np.array([[0, 3, 1]])}}, r"\[0, 3, 1\] points beyond 2 queries and 3 passages"),
        ({"qrels": {"train": np.array([[-1, 0, 1]])}}, "points beyond"),
    ],
)
def test_a_broken_invariant_is_refused(changes: dict[str, Any], message: str):
    with pytest.raises(DataError, match=message):
        dataset(**changes)
