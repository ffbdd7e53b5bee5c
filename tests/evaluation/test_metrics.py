import numpy as np
import pytest

from retreever.evaluation.metrics import METRICS, evaluate_per_query, evaluate_rankings, group_judgements

RANX_NAMES = dict(zip(METRICS, ("ndcg@10", "recall@10", "recall@100", "mrr@10"), strict=True))


def drawn(seed: int, queries: int = 40, passages: int = 60, k: int = 30):
    """Rankings and graded judgements at random, one to four relevant passages a query."""
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.permutation(passages)[:k] for _ in range(queries)])
    sizes = rng.integers(1, 5, queries)
    relevant = [(rng.choice(passages, n, replace=False), rng.integers(1, 4, n)) for n in sizes]
    return rows, relevant


def by_hand(row, relevant, grades) -> dict[str, float]:
    gain = dict(zip(relevant.tolist(), grades.tolist(), strict=True))
    gains = [gain.get(int(p), 0) for p in row]
    discount = 1 / np.log2(np.arange(2, 12))
    ideal = sorted(grades, reverse=True)[:10]
    ranks = [i for i, g in enumerate(gains[:10]) if g]
    return {
        "ndcg_at_10": float(np.dot(gains[:10], discount[: len(gains[:10])]) / np.dot(ideal, discount[: len(ideal)])),
        "recall_at_10": sum(g > 0 for g in gains[:10]) / len(relevant),
        "recall_at_100": sum(g > 0 for g in gains[:100]) / len(relevant),
        "mrr_at_10": 1 / (ranks[0] + 1) if ranks else 0.0,
    }


def test_one_relevant_passage_at_each_rank():
    rows = np.tile(np.arange(100), (3, 1))
    values = evaluate_per_query(rows, [(np.array([r]), np.array([1])) for r in (0, 3, 50)])
    np.testing.assert_allclose(values["ndcg_at_10"], [1, 1 / np.log2(5), 0])
    np.testing.assert_allclose(values["mrr_at_10"], [1, 1 / 4, 0])
    np.testing.assert_allclose(values["recall_at_10"], [1, 1, 0])
    np.testing.assert_allclose(values["recall_at_100"], [1, 1, 1])


@pytest.mark.parametrize("k", [5, 30])
def test_same_as_by_hand(k):
    rows, relevant = drawn(0, k=k)
    values = evaluate_per_query(rows, relevant)
    for i, row in enumerate(rows):
        for name, value in by_hand(row, *relevant[i]).items():
            assert values[name][i] == pytest.approx(value), (name, i)


@pytest.mark.filterwarnings("ignore:unsafe cast from uint64")  # ranx on dictionaries
@pytest.mark.parametrize("seed", range(1, 6))
def test_same_as_ranx(seed):
    import ranx  # it writes to IR_DATASETS_HOME, which conftest.py has set

    rows, relevant = drawn(seed)
    qrels = {f"q{i}": {f"p{p}": int(g) for p, g in zip(*judged, strict=True)} for i, judged in enumerate(relevant)}
    run = {f"q{i}": {f"p{p}": float(-j) for j, p in enumerate(row)} for i, row in enumerate(rows)}
    theirs = ranx.evaluate(qrels, run, list(RANX_NAMES.values()), return_mean=False, threads=1)
    ours = evaluate_per_query(rows, relevant)
    for name, key in RANX_NAMES.items():
        np.testing.assert_allclose(ours[name], theirs[key], atol=1e-12)


def test_order_of_judgements_does_not_matter():
    rows, relevant = drawn(2)
    assert evaluate_rankings(rows, relevant) == evaluate_rankings(rows, [(r[::-1], g[::-1]) for r, g in relevant])


def test_relevance_drops_queries_with_nothing_relevant():
    queries, relevant = group_judgements(np.array([[2, 4, 0], [1, 9, 1]]))
    assert queries.tolist() == [1]
    assert [(r.tolist(), g.tolist()) for r, g in relevant] == [([9], [1])]
    assert group_judgements(np.empty((0, 3), np.int64))[1] == []


@pytest.mark.parametrize("rankings, judged", [(2, 3), (0, 0)])
def test_rankings_must_match_judgements(rankings, judged):
    with pytest.raises(ValueError, match=f"rows: {rankings} rankings for {judged}"):
        evaluate_rankings(np.zeros((rankings, 5), np.int64), [(np.array([0]), np.array([1]))] * judged)


def test_a_row_that_is_no_passage_is_never_relevant():
    values = evaluate_per_query(
        np.array([[-1, 0], [1, -1]]), [(np.array([3]), np.array([1])), (np.array([1]), np.array([2]))]
    )
    assert values["mrr_at_10"].tolist() == [0, 1] and values["recall_at_100"].tolist() == [0, 1]
