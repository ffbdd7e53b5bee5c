"""The relevance of hits: monotone, calibrated where the truth is known, kept in the bundle, absent without dev."""

import json
import shutil

import numpy as np
import pytest
from scipy.special import expit, softmax

from retreever.bundle.fit_relevance import MIN_DEV_QUERIES, fit_level_relevance, measure_calibration_error
from retreever.bundle.make_bundle import make_bundle
from retreever.bundle.relevance import CalibrationReport, LevelRelevance, Relevance
from retreever.bundle.retriever import Retreever
from retreever.data import beir
from retreever.data.dataset import RetrievalDataset
from retreever.errors import BundleError
from retreever.system.files import seal_folder, write_json
from tests.support import tiny
from tests.support.bundles import tiny_bundle, tiny_workspace

PASSAGES, SHIFT = 200, 3.0  # of a synthetic corpus, and by how much the one relevant passage scores higher


def draw_lists(queries, seed):
    """Ranked scores of all passages, which of them is relevant, and the true probability that it is.

    Scores are normal with a deviation of one, the relevant one is shifted. By Bayes' rule the truth is then the softmax
    of SHIFT times the scores.
    """
    draw = np.random.default_rng(seed)
    scores = draw.normal(size=(queries, PASSAGES))
    scores[:, 0] += SHIFT
    order = np.argsort(-scores, axis=1)
    ranked = np.take_along_axis(scores, order, axis=1)
    return ranked, order == 0, softmax(SHIFT * ranked, axis=1)


@pytest.fixture(scope="module")
def fitted():
    scores, relevant, _ = draw_lists(1000, 0)
    return fit_level_relevance(scores[:, :50], relevant[:, :50])


def test_relevance_is_the_true_probability(fitted):
    scores, relevant, truth = draw_lists(4000, 1)
    predicted, truth, relevant = fitted.predict(scores)[:, :10], truth[:, :10], relevant[:, :10]
    assert np.abs(predicted - truth).mean() < 0.02 < np.abs(relevant.mean(axis=0) - truth).mean()
    assert np.corrcoef(predicted.ravel(), truth.ravel())[0, 1] > 0.98
    for low, high in ((0.1, 0.3), (0.3, 0.6), (0.6, 0.9), (0.9, 1.0)):
        inside = (predicted >= low) & (predicted < high)
        assert relevant[inside].mean() == pytest.approx(predicted[inside].mean(), abs=0.05)


def test_the_calibration_error_is_that_of_other_queries(fitted):
    scores, relevant, _ = draw_lists(4000, 2)
    predicted = fitted.predict(scores)[:, :10]
    measured = measure_calibration_error(predicted, relevant[:, :10])
    assert fitted.report.queries == 1000 and measured < 0.01
    assert fitted.report.calibration_error == pytest.approx(measured, abs=0.01)
    assert fitted.report.first_hit_calibration_error < 0.06


def test_a_calibration_error_is_the_mean_distance_of_equal_bins():
    predicted = np.repeat(np.linspace(0.05, 0.95, 10), 100)
    found = np.random.default_rng(0).permutation(1000) < 500
    expected = np.mean([abs(predicted[i : i + 100].mean() - found[i : i + 100].mean()) for i in range(0, 1000, 100)])
    assert measure_calibration_error(predicted, found) == pytest.approx(expected)
    assert measure_calibration_error(np.ones((50, 1)), np.zeros((50, 1), bool)) == 1


def test_relevance_rises_with_the_score_and_never_with_the_rank(fitted):
    draw = np.random.default_rng(3)
    for _ in range(200):
        scores = np.sort(draw.normal(size=(1, draw.integers(1, 40))))[:, ::-1]
        before = fitted.predict(scores)
        assert np.all((before >= 0) & (before <= 1)) and np.all(np.diff(before) <= 0)
        place = draw.integers(scores.shape[1])
        ceiling = scores[0, place - 1] if place else scores[0, 0] + 3
        scores[0, place] = draw.uniform(scores[0, place], ceiling)
        assert fitted.predict(scores)[0, place] >= before[0, place]


@pytest.mark.parametrize("scores", [np.zeros((2, 0)), np.full((1, 1), 5e8), np.array([[1e8, -1e8]]), np.ones((1, 30))])
def test_odd_lists_have_a_relevance_too(fitted, scores):
    found = fitted.predict(scores)
    assert found.shape == scores.shape and np.all((found >= 0) & (found <= 1))


def test_scores_that_say_nothing_still_give_a_monotone_relevance():
    draw = np.random.default_rng(4)
    scores = np.sort(draw.normal(size=(300, 20)), axis=1)[:, ::-1]
    inverted = fit_level_relevance(scores, draw.random((300, 20)) < expit(-scores))  # the lower, the more relevant
    assert inverted.score >= 0 and inverted.share >= 0 and inverted.log_rank <= 0
    equal = fit_level_relevance(np.ones((300, 20)), draw.random((300, 20)) < 0.1)
    assert equal.predict(np.ones((1, 20))) == pytest.approx(0.1, abs=0.03)


def test_every_hit_of_a_bundle_has_the_same_relevance_whatever_k_is(bundle):
    retreever = Retreever.load(bundle)
    query = tiny.tiny_dataset().queries[200].text
    ten, few, many = (retreever.search([query], k=k)[0] for k in (10, 3, 300))
    assert [hit.relevance for hit in few] == [hit.relevance for hit in ten[:3]]
    assert [hit.relevance for hit in many[:10]] == [hit.relevance for hit in ten]
    assert [hit.id for hit in few] == [hit.id for hit in ten[:3]]
    assert all(type(hit.relevance) is float and 0 <= hit.relevance <= 1 for hit in many)
    assert ten[0].relevance > many[-1].relevance
    report = retreever.relevance.reports[4]
    assert report.queries == len(tiny.tiny_dataset().pairs("dev")) and report.calibration_error < 0.2


def test_a_level_that_was_not_fitted_has_none(bundle):
    retreever = Retreever.load(bundle)
    assert set(retreever.relevance.levels) == {4}
    assert {hit.relevance for hit in retreever.search(["ba be"], level=3)[0]} == {None}


def test_a_filter_has_none(bundle):
    retreever = Retreever.load(bundle)
    nodes = retreever.route(["ba be bi"])
    (numbers, scores), relevances = retreever.search_nodes(nodes, 3, 4, where=["p0001", "p0002"])
    assert numbers.shape == scores.shape == (1, 2) and relevances == [[None, None]]


def test_a_compact_bundle_tells_the_relevance_of_its_estimates(place):
    retreever = Retreever.load(tiny_bundle(*place, "compact", index__compact=True))
    assert set(retreever.relevance.levels) == {4}
    assert all(hit.relevance is not None for hit in retreever.search(["ba be bi"])[0])


def test_changes_of_the_corpus_do_not_refit(bundle, tmp_path):
    live = Retreever.load(shutil.copytree(bundle, tmp_path / "live"))
    before = live.relevance
    live.delete([f"p{i:04d}" for i in range(295)])
    hits = Retreever.load(tmp_path / "live").search(["ba be bi"])[0]
    assert len(hits) == 5 and all(0 <= hit.relevance <= 1 for hit in hits)
    assert Retreever.load(tmp_path / "live").relevance == before
    live.delete([hit.id for hit in hits])
    assert live.search(["ba be bi"]) == [[]]


@pytest.mark.parametrize("dev", [0, MIN_DEV_QUERIES - 1])
def test_without_dev_queries_there_is_none(bundle, tmp_path, dev):
    workspace = tiny_workspace(tmp_path)
    dataset = tiny.tiny_dataset()
    qrels = {"train": dataset.qrels["train"], **({"dev": dataset.qrels["dev"][:dev]} if dev else {})}
    shutil.rmtree(workspace.dataset_folder("tiny"))
    beir.write_beir(RetrievalDataset("tiny", dataset.corpus, dataset.queries, qrels), workspace.dataset_folder("tiny"))
    stats = make_bundle(bundle.parent / "model", tmp_path / "bundle", workspace)
    assert stats["relevance_calibration_error"] is None and not (tmp_path / "bundle" / "relevance.json").exists()
    retreever = Retreever.load(tmp_path / "bundle")
    assert retreever.relevance is None and {hit.relevance for hit in retreever.search(["ba"])[0]} == {None}


def test_it_is_stored_as_plain_numbers_and_read_unchanged(fitted, tmp_path):
    Relevance({4: fitted, 10: fitted}).save(tmp_path, "digest")
    seal_folder(tmp_path, {})
    assert Relevance.load(tmp_path, "digest") == Relevance({4: fitted, 10: fitted})
    assert (tmp_path / "relevance.json").stat().st_size < 2000
    with pytest.raises(BundleError, match=r"relevance\.json: was made for another model or by another version"):
        Relevance.load(tmp_path, "another")


def test_the_index_says_how_far_it_is_off(bundle, place):
    stats = make_bundle(bundle.parent / "model", place[0] / "again", place[1])
    report = Relevance.load(bundle, Retreever.load(bundle).digest).reports[4]
    assert stats["relevance_calibration_error"] == {4: round(report.calibration_error, 4)}
    assert stats["relevance_first_hit_calibration_error"] == {4: round(report.first_hit_calibration_error, 4)}


def _replace(bundle, values):
    """Write other values, and seal them as if they were right."""
    write_json(bundle / "relevance.json", values)
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["files"]["relevance.json"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scale", -1.0, r"relevance\.json: levels\.4\.scale: Input should be greater than 0, got -1\.0"),
        ("score", "much", r"levels\.4\.score: Input should be a valid number.*, got 'much'"),
        ("log_rank", 1.0, r"levels\.4\.log_rank: Input should be less than or equal to 0, got 1\.0"),
        ("constant", None, r"levels\.4\.constant: Input should be a valid number, got None"),
        ("added", 1.0, r"levels\.4\.added: Extra inputs are not permitted, got 1\.0"),
    ],
)
def test_impossible_numbers_are_refused(bundle, tmp_path, name, value, message):
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    values = json.loads((folder / "relevance.json").read_text())
    values["levels"]["4"][name] = value
    _replace(folder, values)
    with pytest.raises(BundleError, match=message):
        Retreever.load(folder)


@pytest.mark.parametrize("values", [[], {"format": 99}, {"levels": 3}])
def test_another_file_of_that_name_is_refused(bundle, tmp_path, values):
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    _replace(folder, values)
    with pytest.raises(BundleError, match=r"relevance\.json: was made for another model or by another version"):
        Retreever.load(folder)


def test_a_damaged_file_is_named(bundle, tmp_path):
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    text = (folder / "relevance.json").read_text()
    (folder / "relevance.json").write_text(text.replace('"queries": 60', '"queries": 61'))
    with pytest.raises(BundleError, match=r"relevance\.json: checksum differs"):
        Retreever.load(folder)
    (folder / "relevance.json").unlink()
    with pytest.raises(BundleError, match=r"relevance\.json: file is missing, though it is listed"):
        Retreever.load(folder)


def test_signs_that_are_not_monotone_cannot_be_made():
    report = CalibrationReport(queries=1, calibration_error=0, first_hit_calibration_error=0)
    with pytest.raises(ValueError, match="share"):
        LevelRelevance(scale=1, score=0, share=-1, log_rank=0, constant=0, report=report)
