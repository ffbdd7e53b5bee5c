from math import log
from types import SimpleNamespace

import numpy as np
import pytest

from retreever.baselines import BM25, Form
from retreever.baselines.bm25 import K1_B
from retreever.data.dataset import Passage, Query, RetrievalDataset
from retreever.encoding.encoding_store import EncodedDataset

TEXTS = ["red fox runs runs runs", "red hen sleeps", "blue whale swims far far away", "green tree stands"]
QUERIES = ["red runs", "red red hen", "unicorn", "the"]


@pytest.fixture
def index() -> BM25:
    corpus = tuple(Passage(f"p{i}", text) for i, text in enumerate(TEXTS))
    dataset = RetrievalDataset("d", corpus, tuple(Query(f"q{i}", text) for i, text in enumerate(QUERIES)), {})
    baseline = BM25()
    baseline.index(EncodedDataset(dataset, SimpleNamespace(), SimpleNamespace()))
    return baseline


def by_hand(query: str, text: str, k1: float, b: float) -> float:
    """Lucene's BM25, word by word."""
    documents = [t.split() for t in TEXTS]
    mean, words, total = np.mean([len(d) for d in documents]), text.split(), 0.0
    for word in query.split():
        holding = sum(word in d for d in documents)
        if holding:
            tf = words.count(word)
            idf = log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
            total += idf * tf / (tf + k1 * (1 - b + b * len(words) / mean))
    return total


def test_scores_are_the_formulas(index):
    rows, scores = index.search(np.array([0, 1]), 4, Form())
    for query, line, found in zip(QUERIES, rows, scores, strict=False):
        np.testing.assert_allclose(found, [by_hand(query, TEXTS[row], 1.5, 0.75) for row in line], rtol=1e-5)
    assert rows[:, 0].tolist() == [0, 1]


def test_without_a_common_word_all_score_zero_in_row_order(index):
    rows, scores = index.search(np.array([2, 3]), 4, Form())
    assert (rows == np.arange(4)).all() and (scores == 0).all()


def test_postings_are_weighed(index):
    words = len({word for text in TEXTS for word in text.split()})
    postings = sum(len(set(text.split())) for text in TEXTS)
    assert index.bytes_per_document(Form()) == (8 * postings + 4 * (words + 1)) / 4


def test_tuning_takes_a_setting_of_the_grid(data):
    baseline = BM25()
    tracked = []
    baseline.fit(data, track=lambda items, label, total=None: tracked.append((label, total)) or iter(items))
    assert tracked == [("tuning bm25", 8)]
    assert (baseline.settings["k1"], baseline.settings["b"]) in K1_B
