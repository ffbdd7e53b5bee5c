"""Hybrids: fused scores against slow obvious ones, and what tuning reads."""

import numpy as np
import pytest

from retreever.baselines import BM25, BM25WithFrozenEncoder, BM25WithHead, Form, FrozenEncoder, Matryoshka
from retreever.baselines.baseline import measure_deviation
from retreever.baselines.hybrid.hybrid_ranker import RANK_CONSTANTS, RECIPROCAL_RANKS, SUM, WEIGHTS
from retreever.baselines.hybrid.score_fusion import rank_scores
from retreever.comparison.judge import describe_fit_protocol, fit_or_load_baseline
from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset
from retreever.evaluation.metrics import evaluate_rankings, group_judgements
from retreever.system.files import digest_json
from tests.baselines.conftest import with_qrels

SUM_FORM, RANKS_FORM = Form(code="float32 sum"), Form(code="float32 rrf")
QUERIES = np.arange(180, 240)


@pytest.fixture(scope="module")
def hybrid(data):
    baseline = BM25WithFrozenEncoder(BM25(), FrozenEncoder())
    baseline.fit(data)
    return baseline


def order(scores):
    """Passages by score, best first, equal ones by row; Python's own sort."""
    return [sorted(range(len(own)), key=lambda row: (-own[row], row)) for own in scores.tolist()]


def sides(hybrid, queries=QUERIES):
    return hybrid.lexical.score_all(queries, Form()), hybrid.dense.score_all(queries, Form())


def test_ranks_are_those_of_a_sort():
    draw = np.random.default_rng(0)
    scores = draw.normal(size=(20, 300)).astype(np.float32)
    scores[:, ::3] = np.round(scores[:, ::3])  # many ties, some of them at zero from both sides
    scores[:, 5] = -0.0
    for ranks, expected in zip(rank_scores(scores), order(scores), strict=True):
        assert (np.argsort(ranks) == expected).all() and sorted(ranks) == list(range(1, 301))


def test_the_sum_is_convex_in_units_of_the_corpus(hybrid, data):
    lexical, dense = sides(hybrid)
    passages = data.passages.pooled
    similarities = passages @ passages.T
    spread = np.mean([np.delete(similarities[i], i).std() for i in range(60)])
    rarest = np.log(1 + 60.5 / 0.5)
    for weight in (0.0, 0.35, 1.0):
        hybrid.settings["None"] = hybrid.settings["None"] | {SUM: weight}
        expected = (1 - weight) * dense / spread + weight * lexical / rarest
        rows, scores = hybrid.search(QUERIES, 60, SUM_FORM)
        np.testing.assert_allclose(scores, np.sort(expected, axis=1)[:, ::-1], rtol=1e-4, atol=1e-5)
        assert (rows[:, :3] == np.array(order(np.float32(expected)))[:, :3]).mean() > 0.99


def test_a_score_does_not_depend_on_the_other_candidates(hybrid):
    few, many = (
        dict(zip(*(part[0] for part in hybrid.search(QUERIES[:1], k, SUM_FORM)), strict=True)) for k in (3, 60)
    )
    assert few.items() <= many.items()


def test_reciprocal_ranks_are_the_formula(hybrid):
    lexical, dense = sides(hybrid)
    constant = int(hybrid.settings["None"][RECIPROCAL_RANKS])
    rows, scores = hybrid.search(QUERIES, 60, RANKS_FORM)
    for own, words, vectors, found, values in zip(lexical, order(lexical), order(dense), rows, scores, strict=True):
        fused = np.zeros(60)
        for position, row in enumerate(vectors):
            fused[row] += 1 / (constant + position + 1)
        for position, row in enumerate(words):
            if own[row] > 0:  # BM25 does not find the others
                fused[row] += 1 / (constant + position + 1)
        np.testing.assert_allclose(values, np.sort(fused)[::-1], rtol=1e-6)
        assert found.tolist() == order(fused[None])[0]


def test_settings_are_the_best_of_the_grid_on_dev(hybrid, data):
    hybrid.tune(data)
    queries, relevant = group_judgements(data.dataset.qrels["dev"])
    for form, kind, grid in ((SUM_FORM, SUM, WEIGHTS), (RANKS_FORM, RECIPROCAL_RANKS, RANK_CONSTANTS)):
        chosen, figures = hybrid.settings["None"][kind], []
        for setting in grid:
            hybrid.settings["None"][kind] = setting
            figures.append(evaluate_rankings(hybrid.search(queries, 10, form)[0], relevant)["ndcg_at_10"])
        hybrid.settings["None"][kind] = chosen
        assert chosen == grid[int(np.argmax(figures))]


def test_a_hybrid_of_a_useless_side_is_the_other_side(data):
    """Queries whose encodings say nothing: all the weight goes to the words, which find everything."""
    blind = type(data.queries)(np.roll(data.queries.pooled, 7, axis=0))
    baseline = BM25WithFrozenEncoder(BM25(), FrozenEncoder())
    baseline.fit(EncodedDataset(data.dataset, blind, data.passages))
    queries, relevant = group_judgements(data.dataset.qrels["test"])
    figures = [evaluate_rankings(side.search(queries, 10, form)[0], relevant)["ndcg_at_10"] for side, form in (
        (baseline, SUM_FORM), (baseline.lexical, Form()), (baseline.dense, Form())
    )]  # fmt: skip
    assert figures[0] >= 0.99 * figures[1] > 2 * figures[2]


def test_forms_and_bytes_are_those_of_both_sides(data):
    head = BM25WithHead(BM25(), Matryoshka(steps=4, batch_size=16))
    head.fit(data)
    assert {form.code for form in head.forms} == {"float32 sum", "int8 sum", "float32 rrf"}
    assert [form.dims for form in head.forms if form.code == "float32 sum"] == [2**d for d in range(4, 11)]
    words = head.lexical.bytes_per_document(Form())
    assert head.bytes_per_document(Form(64, "float32 sum")) == words + 4 * 64
    assert head.bytes_per_document(Form(64, "int8 sum")) == words + 64
    assert set(head.settings) == {str(2**d) for d in range(4, 11)}


def test_codes_score_every_passage_as_their_search_does(data):
    dense = FrozenEncoder()
    dense.fit(data)
    for form in dense.forms:
        for queries in (QUERIES, QUERIES[:2]):
            rows, scores = dense.search(queries, 60, form)
            np.testing.assert_allclose(
                np.take_along_axis(dense.score_all(queries, form), rows, axis=1), scores, atol=1e-5
            )


def test_deviation_leaves_a_passages_similarity_to_itself_out():
    similarities = np.float32([[1, 0.1, 0.3], [0.1, 1, 0.5], [0.3, 0.5, 1]])
    assert measure_deviation(similarities) == pytest.approx((0.1 + 0.2 + 0.1) / 3)
    assert measure_deviation(np.ones((1, 1), np.float32)) == measure_deviation(np.ones((4, 4), np.float32)) == 1


def test_the_sides_are_fitted_once_and_shared(data, tmp_path, monkeypatch):
    config = Config().with_overrides({"train.steps": 4, "train.batch_size": 16})
    fits = []
    for kind in (BM25, Matryoshka):
        fit = kind.fit
        monkeypatch.setattr(kind, "fit", lambda own, *rest, fit=fit: fits.append(own.name) or fit(own, *rest))
    fit_or_load_baseline("matryoshka", config, data, tmp_path)
    fused = fit_or_load_baseline("bm25+head", config, data, tmp_path)
    assert fits == ["matryoshka", "bm25"]
    again = fit_or_load_baseline("bm25+head", config, data, tmp_path)
    assert fits == ["matryoshka", "bm25"] and again.settings == fused.settings


def test_a_hybrid_of_a_head_that_was_tuned_otherwise_is_another(data, monkeypatch):
    before = digest_json(describe_fit_protocol("bm25+head", Config(), data))
    monkeypatch.setattr(Matryoshka, "grid", Matryoshka.grid[:1])
    assert digest_json(describe_fit_protocol("bm25+head", Config(), data)) != before


def test_another_dev_split_chooses_otherwise(data):
    """The counterpart of the test that test judgements change nothing: it can fail."""
    qrels = dict(data.dataset.qrels)
    qrels["dev"] = np.stack([qrels["dev"][:, 0], (qrels["dev"][:, 1] + 17) % 60, qrels["dev"][:, 2]], axis=1)
    chosen = []
    for own in (data, with_qrels(data, qrels)):
        baseline = BM25WithFrozenEncoder(BM25(), FrozenEncoder())
        baseline.fit(own)
        chosen.append(baseline.settings)
    assert chosen[0] != chosen[1]
