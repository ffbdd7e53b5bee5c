"""Search by matrix products gives the answers of certified search, to the last bit."""

import numpy as np
import pytest
import torch

from retreever.index import Layout, TreeIndex
from retreever.index.search import device_search
from tests.support.nodes import draw_clustered, draw_nodes

DEPTH, ROWS = 7, 3_000
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def build_index(passages, similarity="bhattacharyya", **settings):
    return TreeIndex.build(
        [passages],
        [f"d{i}" for i in np.random.default_rng(4).permutation(len(passages))],
        Layout(DEPTH, similarity, True, "a" * 64, **settings),
    )


def assert_same(index, queries, k, level, device="cpu", **options):
    found, expected = (index.search(queries, k, level, device=where, **options) for where in (device, None))
    assert np.array_equal(found[0], expected[0]) and np.array_equal(found[1], expected[1])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("draw_rows", [draw_clustered, draw_nodes], ids=["clustered", "unstructured"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("similarity", ["ntvd", "bhattacharyya"])
def test_every_level_and_size(similarity, dtype, draw_rows, device, monkeypatch):
    monkeypatch.setattr(device_search, "DEVICE_CHUNK_ELEMENTS", 100_000)  # several chunks of a segment
    index, queries = build_index(draw_rows(ROWS, DEPTH), similarity, dtype=dtype), draw_rows(40, DEPTH, seed=1)
    for level in range(1, DEPTH + 1):
        for k in (1, 10, 100):
            assert_same(index, queries, k, level, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("similarity", ["ntvd", "bhattacharyya"])
def test_equal_passages_are_ranked_by_id(similarity, device):
    distinct = draw_clustered(6, DEPTH)
    index = build_index(distinct[np.arange(ROWS) % 6], similarity)
    assert_same(index, distinct, 50, DEPTH, device)
    assert_same(index, distinct, ROWS, 3, device)


def test_it_follows_adds_deletes_and_filters():
    passages = draw_clustered(ROWS + 100, DEPTH)
    index, queries = build_index(passages[:ROWS]), draw_clustered(8, DEPTH, seed=1)
    assert_same(index, queries, 10, DEPTH)
    index.add(passages[ROWS:], [f"new{i}" for i in range(100)])
    index.delete(index.find_ids(index.search(queries, 1)[0][:, 0])[:1])
    assert_same(index, queries, 10, DEPTH)
    assert_same(index, passages[ROWS : ROWS + 5], 1, DEPTH)
    few = np.zeros(index.next_number, bool)
    few[::50] = True
    few[index.list_numbers()[-3:]] = True
    assert_same(index, queries, 10, DEPTH, where=few)
    assert_same(index, queries, 1_000, 4, where=few)
    assert_same(index, queries, 10, DEPTH, where=np.zeros(index.next_number, bool))


def test_the_evidence_holds():
    index, queries = build_index(draw_clustered(ROWS, DEPTH)), draw_clustered(20, DEPTH, seed=1)
    _, scores, evidence = index.search(queries, 10, device="cpu", certify=True)
    _, every = index.search(queries, ROWS)
    for own, best, all_scores in zip(evidence, scores, every, strict=True):
        assert own.scanned == ROWS and own.kth == best[-1] and 10 <= own.scored < ROWS / 2
        assert own.bound < own.kth and all_scores[own.scored] <= own.bound


def test_products_are_computed_in_float32():
    """A program may let torch multiply in bfloat16; search stays exact and leaves that setting alone."""
    index, queries = build_index(draw_clustered(ROWS, DEPTH)), draw_clustered(20, DEPTH, seed=1)
    torch.set_float32_matmul_precision("medium")
    try:
        assert_same(index, queries, 10, DEPTH)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_refusals():
    index = build_index(draw_clustered(ROWS, DEPTH))
    with pytest.raises(RuntimeError, match="nowhere"):
        index.search(draw_clustered(1, DEPTH), 1, device="nowhere")
    compact = build_index(draw_clustered(ROWS, DEPTH), compact=True)
    with pytest.raises(ValueError, match="device: a compact index"):
        compact.search(draw_clustered(1, DEPTH), 1, device="cpu")
