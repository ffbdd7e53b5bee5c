"""A code's bound is never below the similarity it bounds, whatever the query; and it is worth having."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retreever.index.build.segment_builder import code_for
from retreever.index.codes.code_survival import Trial
from retreever.index.codes.passage_code import Room
from retreever.index.kernels.similarity_kernels import STRIP
from tests.support.nodes import clustered, nodes


def leaves(made, depth):
    return made[:, -(2**depth) :]


def fitted(similarity, sample):
    return code_for(similarity).fit(sample, Trial(sample, similarity == "bhattacharyya"))


def bounds(code, vectors, query, floor=-np.inf):
    """Bounds of all rows by the scan, then by the lower digits too; NaN where a row fell below the floor."""
    rows = np.minimum(np.arange(-(-len(vectors) // STRIP) * STRIP), len(vectors) - 1)
    coded, asked = code.coded(*code.encode(vectors.copy()), rows), code.ask(query[None])
    alive, order = (np.arange(len(rows)) < len(vectors)).astype(np.uint8), np.arange(len(coded.strips))[None]
    out, room, start, floors = np.full((2, len(vectors)), np.nan), Room(1), 0, np.float32([floor])
    while start < len(coded.strips):
        room.counts[:] = 0
        start = code.scan(asked, coded, alive, order, start, floors, room)
        places, above = room.taken(0)
        out[0, places] = above
        code.refine(asked, coded, floors, room)
        places, above = room.taken(0)
        out[1, places] = above
    return out


def similarities(similarity, vectors, query):
    wide = vectors.astype(np.float64)
    return wide @ query if similarity == "bhattacharyya" else np.minimum(wide, query).sum(axis=1) - 1


@settings(deadline=None, max_examples=60)
@given(
    similarity=st.sampled_from(["ntvd", "bhattacharyya"]),
    depth=st.integers(1, 9),
    shape=st.sampled_from([0.02, 0.3, 5.0]),
    fitted_to_others=st.booleans(),
    seed=st.integers(0, 99),
)
def test_no_similarity_exceeds_its_bound(similarity, depth, shape, fitted_to_others, seed):
    form = np.sqrt if similarity == "bhattacharyya" else np.asarray
    passages = form(leaves(nodes(300, depth, seed, shape), depth))
    queries = form(leaves(nodes(3, depth, seed + 1000, shape), depth))
    sample = form(leaves(nodes(50, depth, seed + 2000, 1.0), depth)) if fitted_to_others else passages
    code = fitted(similarity, sample)
    for query in [*queries, passages[0]]:
        upper, tighter = bounds(code, passages, query)
        exact = similarities(similarity, passages, query)
        assert (upper >= exact).all() and (tighter >= exact).all()


def test_lower_digits_tighten_the_bound():
    passages = np.sqrt(leaves(clustered(600), 7))
    upper, tighter = bounds(fitted("bhattacharyya", passages), passages, np.sqrt(leaves(clustered(1, seed=5), 7))[0])
    assert (tighter < upper).all()


@pytest.mark.parametrize("similarity", ["ntvd", "bhattacharyya"])
def test_the_bound_leaves_few_of_a_corpus_with_structure(similarity):
    form = np.sqrt if similarity == "bhattacharyya" else np.asarray
    passages = form(leaves(clustered(2_000), 7))
    query = form(leaves(clustered(1, seed=5), 7))[0]
    exact = similarities(similarity, passages, query)
    floor = np.sort(exact)[-10]
    upper, _ = bounds(fitted(similarity, passages), passages, query, floor)
    assert set(np.flatnonzero(exact >= floor)) <= set(np.flatnonzero(~np.isnan(upper)))
    assert np.mean(~np.isnan(upper)) < 0.15


def test_passages_that_are_all_alike_are_coded_too():
    passages = np.sqrt(np.repeat(leaves(nodes(1, 5), 5), 400, axis=0))
    upper, _ = bounds(fitted("bhattacharyya", passages), passages, passages[0])
    assert (upper >= 1 - 1e-6).all() and (upper < 1.001).all()


def test_sums_of_a_fine_level_are_those_of_64_nodes_then_bytes_of_256():
    fine = leaves(nodes(300, 9), 9)
    code = fitted("ntvd", fine)
    digits, over = code.encode(fine.copy())
    assert digits.shape == (300, 64 + 256)
    assert (digits[:, :64] >= fine.reshape(300, 64, 8).sum(axis=2) * 32_000 - 1e-2).all()
    short = fine.reshape(300, 256, 2).sum(axis=2, dtype=np.float64) - digits[:, 64:] * float(code.unit)
    assert (over[0] >= np.maximum(short, 0).sum(axis=1)).all() and over.mean() < 0.05


def test_bytes_tighten_the_bound_of_a_soft_tree():
    passages = leaves(nodes(2_000, 9, shape=2.0), 9)
    query = leaves(nodes(1, 9, seed=5, shape=2.0), 9)[0]
    upper, tighter = bounds(fitted("ntvd", passages), passages, query)
    assert (tighter <= upper).all() and (upper - tighter).mean() > 0.02
