"""The protocol of baselines, checked on each."""

import re

import numpy as np
import pytest

from retreever.baselines import BASELINES, Raptor, StaticWords
from retreever.baselines.baseline import MISSING_ROW
from retreever.config import Config
from retreever.data.dataset import RetrievalDataset
from retreever.encoding.encoding_store import EncodedDataset
from retreever.errors import BundleError, DataError
from retreever.evaluation.metrics import evaluate_rankings, group_judgements
from retreever.system.files import list_files
from tests.baselines.conftest import NumberedWords, with_qrels

CONFIG = Config().with_overrides({"train.steps": 24, "train.batch_size": 32, "tree.depth": 5})
TEST = np.arange(180, 240)


def make_baseline(name, data):
    """A baseline for CONFIG; words and summaries are encoded as the mean of the topics that they name."""
    baseline = BASELINES[name].for_config(CONFIG)
    if isinstance(baseline, Raptor):
        baseline._encode = lambda texts: np.stack([topics(text, data) for text in texts])
    return StaticWords(NumberedWords(data)) if isinstance(baseline, StaticWords) else baseline


def topics(text, data):
    rows = [int(number) for number in re.findall(r"topic(\d+)", text)]
    return data.passages.pooled[rows].mean(axis=0)


SLOW = {"raptor": pytest.mark.slow}  # UMAP takes half a minute to compile


@pytest.fixture(scope="module", params=[pytest.param(name, marks=SLOW.get(name, ())) for name in BASELINES])
def fitted(request, data):
    baseline = make_baseline(request.param, data)
    baseline.fit(data)
    baseline.index(data)
    return baseline


def test_rankings_have_the_promised_shape_and_order(fitted):
    for form in fitted.forms:
        rows, scores = fitted.search(TEST, 7, form)
        assert rows.shape == scores.shape == (60, 7)
        assert rows.dtype == np.int64 and scores.dtype == np.float32
        found = rows != MISSING_ROW
        assert (np.diff(np.where(found, scores, -1e9), axis=1) <= 0).all()  # best first, what was not found last
        assert ((rows >= 0) & (rows < 60) | ~found).all() and np.isneginf(scores[~found]).all()
        assert all(len(set(row[row != MISSING_ROW])) == (row != MISSING_ROW).sum() for row in rows)


def test_the_widest_form_finds_most(fitted, data):
    _, relevant = group_judgements(data.dataset.qrels["test"])
    recall = [evaluate_rankings(fitted.search(TEST, 20, form)[0], relevant)["recall_at_10"] for form in fitted.forms]
    assert max(recall) > 0.4  # chance: 1 in 6


def test_one_query_ranks_as_among_many(fitted):
    for form in fitted.forms:
        rows, scores = fitted.search(TEST, 5, form)
        alone, theirs = fitted.search(TEST[:1], 5, form)
        np.testing.assert_array_equal(rows[:1], alone)
        np.testing.assert_allclose(scores[:1], theirs, atol=1e-5)


def test_bytes_are_those_of_the_code(fitted):
    for form in fitted.forms:
        weight = fitted.bytes_per_document(form)
        numbers = form.dims or 40
        if form.code == "int8":
            assert weight == numbers
        elif form.code == "float16":
            assert weight == 2 * numbers
        elif form.code == "float32" and form.dims:
            assert weight == 4 * numbers
        assert weight > 0


def test_saved_and_loaded_ranks_the_same(fitted, data, tmp_path):
    fitted.save(tmp_path / "baseline")
    again = make_baseline(fitted.name, data)
    again.load(tmp_path / "baseline")
    again.index(data)
    assert again.forms == fitted.forms
    for form in fitted.forms:
        (rows, scores), (same_rows, same_scores) = fitted.search(TEST, 9, form), again.search(TEST, 9, form)
        np.testing.assert_array_equal(rows, same_rows)
        np.testing.assert_allclose(scores, same_scores, rtol=1e-6)  # BLAS sums by where in memory an array begins


def test_a_folder_of_another_baseline_or_a_damaged_one_is_refused(fitted, tmp_path):
    fitted.save(tmp_path / "baseline")
    other = next(kind for name, kind in BASELINES.items() if name != fitted.name).for_config(CONFIG)
    with pytest.raises(BundleError, match=re.escape(f"holds the baseline '{fitted.name}'")):
        other.load(tmp_path / "baseline")
    (tmp_path / "baseline" / "manifest.json").unlink()
    with pytest.raises(BundleError, match="file is missing"):
        fitted.load(tmp_path / "baseline")


@pytest.mark.parametrize(
    "name, split",
    [
        ("bm25", "dev"),
        ("pca", "dev"),
        ("pca", "train"),
        ("matryoshka", "dev"),
        ("hier_kmeans", "dev"),
        ("sparse_codes", "dev"),
        ("bm25+head", "train"),
        ("static_words", "dev"),
    ],
)
def test_a_missing_split_is_named(name, split, data):
    qrels = {key: rows for key, rows in data.dataset.qrels.items() if key != split}
    cut = RetrievalDataset("cut", data.dataset.corpus, data.dataset.queries, qrels)
    with pytest.raises(DataError, match=f"data set cut: qrels/{split}.tsv is missing"):
        BASELINES[name].for_config(CONFIG).fit(EncodedDataset(cut, data.queries, data.passages))


@pytest.mark.parametrize(
    "name", ["bm25+frozen", "bm25+head", "sparse_codes", "rabitq", "opq", "binary", "static_words"]
)
def test_test_judgements_change_nothing_that_is_fitted(name, data, tmp_path):
    qrels = dict(data.dataset.qrels)
    qrels["test"] = np.stack([qrels["test"][:, 0], (qrels["test"][:, 1] + 17) % 60, qrels["test"][:, 2]], axis=1)
    for folder, own in (("as it is", data), ("planted", with_qrels(data, qrels))):
        baseline = make_baseline(name, data)
        baseline.fit(own)
        baseline.save(tmp_path / folder)
    before, after = (list_files(tmp_path / folder) for folder in ("as it is", "planted"))
    assert before == after and "manifest.json" in before


@pytest.mark.parametrize(
    "name, largest",
    [
        ("sparse_codes", {16: 64, 64: 256, 256: 1024}),  # the levels of a tree in float32
        ("rabitq", {"rabitq1": 40 / 8 + 8, "rabitq2": 2 * 40 / 8 + 20, "rabitq4": 4 * 40 / 8 + 20}),
        ("opq", {"opq8": 5}),  # eight parts of five bits: there are 60 passages
        ("binary", dict.fromkeys(("rescored 40", "rescored 200", "rescored 1000"), 40 / 8 + 40)),
        ("static_words", {16: 64, 32: 128}),
    ],
)
def test_bytes_are_as_claimed(name, largest, data):
    baseline = make_baseline(name, data)
    baseline.fit(data)
    found = {
        form.dims or form.code: baseline.bytes_per_document(form) for form in baseline.forms if form.code != "int8"
    }
    assert found.keys() == largest.keys()
    assert all(0 < found[key] <= largest[key] for key in found)
    if name != "sparse_codes":  # some of its features are not active
        assert found == largest
