"""A code's bound is never below the similarity, whatever the query; and it excludes most passages."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retreever.index.build.segment_builder import choose_code
from retreever.index.codes.code_survival import SurvivalProbe
from retreever.index.codes.passage_code import CandidateBuffer
from retreever.index.kernels.similarity_kernels import BLOCK_PASSAGES
from tests.support.nodes import draw_clustered, draw_nodes


def take_leaves(nodes, depth):
    return nodes[:, -(2**depth) :]


def fit_code(similarity, sample):
    return choose_code(similarity).fit(sample, SurvivalProbe(sample, similarity == "bhattacharyya"))


def compute_bounds(code, vectors, query, threshold=-np.inf):
    """Bounds of all rows by the scan, then by the lower digits too; NaN where a bound is below the threshold."""
    rows = np.minimum(np.arange(-(-len(vectors) // BLOCK_PASSAGES) * BLOCK_PASSAGES), len(vectors) - 1)
    coded, queries = code.pack(*code.encode(vectors.copy()), rows), code.encode_queries(query[None])
    alive, order = (np.arange(len(rows)) < len(vectors)).astype(np.uint8), np.arange(len(coded.blocks))[None]
    out, start = np.full((2, len(vectors)), np.nan), 0
    candidates, thresholds = CandidateBuffer(1), np.float32([threshold])
    while start < len(coded.blocks):
        candidates.counts[:] = 0
        start = code.scan(queries, coded, alive, order, start, thresholds, candidates)
        places, values = candidates.copy_candidates(0)
        out[0, places] = values
        code.refine(queries, coded, thresholds, candidates)
        places, values = candidates.copy_candidates(0)
        out[1, places] = values
    return out


def compute_similarities(similarity, vectors, query):
    wide = vectors.astype(np.float64)
    return wide @ query if similarity == "bhattacharyya" else np.minimum(wide, query).sum(axis=1) - 1


@settings(deadline=None, max_examples=60)
@given(
    similarity=st.sampled_from(["ntvd", "bhattacharyya"]),
    depth=st.integers(1, 9),
    shape=st.sampled_from([0.02, 0.3, 5.0]),
    fit_to_others=st.booleans(),
    seed=st.integers(0, 99),
)
def test_no_similarity_exceeds_its_bound(similarity, depth, shape, fit_to_others, seed):
    form = np.sqrt if similarity == "bhattacharyya" else np.asarray
    passages = form(take_leaves(draw_nodes(300, depth, seed, shape), depth))
    queries = form(take_leaves(draw_nodes(3, depth, seed + 1000, shape), depth))
    sample = form(take_leaves(draw_nodes(50, depth, seed + 2000, 1.0), depth)) if fit_to_others else passages
    code = fit_code(similarity, sample)
    for query in [*queries, passages[0]]:
        upper, tighter = compute_bounds(code, passages, query)
        exact = compute_similarities(similarity, passages, query)
        assert (upper >= exact).all() and (tighter >= exact).all()


def test_lower_digits_tighten_the_bound():
    passages = np.sqrt(take_leaves(draw_clustered(600), 7))
    upper, tighter = compute_bounds(
        fit_code("bhattacharyya", passages), passages, np.sqrt(take_leaves(draw_clustered(1, seed=5), 7))[0]
    )
    assert (tighter < upper).all()


@pytest.mark.parametrize("similarity", ["ntvd", "bhattacharyya"])
def test_few_passages_of_a_structured_corpus_survive_the_bound(similarity):
    form = np.sqrt if similarity == "bhattacharyya" else np.asarray
    passages = form(take_leaves(draw_clustered(2_000), 7))
    query = form(take_leaves(draw_clustered(1, seed=5), 7))[0]
    exact = compute_similarities(similarity, passages, query)
    threshold = np.sort(exact)[-10]
    upper, _ = compute_bounds(fit_code(similarity, passages), passages, query, threshold)
    assert set(np.flatnonzero(exact >= threshold)) <= set(np.flatnonzero(~np.isnan(upper)))
    assert np.mean(~np.isnan(upper)) < 0.15


def test_equal_passages_have_a_code_too():
    passages = np.sqrt(np.repeat(take_leaves(draw_nodes(1, 5), 5), 400, axis=0))
    upper, _ = compute_bounds(fit_code("bhattacharyya", passages), passages, passages[0])
    assert (upper >= 1 - 1e-6).all() and (upper < 1.001).all()


def test_sums_of_a_fine_level_are_those_of_64_nodes_then_bytes_of_256():
    fine = take_leaves(draw_nodes(300, 9), 9)
    code = fit_code("ntvd", fine)
    digits, excess = code.encode(fine.copy())
    assert digits.shape == (300, 64 + 256)
    assert (digits[:, :64] >= fine.reshape(300, 64, 8).sum(axis=2) * 32_000 - 1e-2).all()
    short = fine.reshape(300, 256, 2).sum(axis=2, dtype=np.float64) - digits[:, 64:] * float(code.unit)
    assert (excess[0] >= np.maximum(short, 0).sum(axis=1)).all() and excess.mean() < 0.05


def test_bytes_tighten_the_bound_of_a_soft_tree():
    passages = take_leaves(draw_nodes(2_000, 9, shape=2.0), 9)
    query = take_leaves(draw_nodes(1, 9, seed=5, shape=2.0), 9)[0]
    upper, tighter = compute_bounds(fit_code("ntvd", passages), passages, query)
    assert (tighter <= upper).all() and (upper - tighter).mean() > 0.02
