"""An index that changes while it is searched, and its state on disk at any moment."""

import multiprocessing
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retreever.errors import BundleError
from retreever.index import Layout, TreeIndex, index_store
from retreever.index.build.segment_merge import MAX_SEGMENTS_PER_TIER
from retreever.index.segment import MIN_CODED_PASSAGES
from tests.index.test_certified_search import assert_exact, rank_all
from tests.support.nodes import draw_clustered, draw_nodes

DEPTH = 4


def make_layout(similarity="bhattacharyya", depth=DEPTH):
    return Layout(depth, similarity, True, "a" * 64)


def make_ids(rows, first=0):
    return [f"d{i}" for i in range(first, first + rows)]


def search_ids(index, queries, k=10, level=None):
    """Ids and scores."""
    numbers, scores = index.search(queries, k, level)
    return [index.find_ids(row) for row in numbers], scores


@settings(deadline=None, max_examples=25)
@given(
    changes=st.lists(st.tuples(st.booleans(), st.integers(1, 40)), min_size=1, max_size=25),
    similarity=st.sampled_from(["ntvd", "bhattacharyya"]),
    seed=st.integers(0, 99),
)
def test_any_sequence_of_changes_equals_a_fresh_build_of_the_remaining_passages(changes, similarity, seed):
    draw = np.random.default_rng(seed)
    index = TreeIndex.build([draw_nodes(30, seed=seed)], make_ids(30), make_layout(similarity))
    texts = dict(zip(make_ids(30), draw_nodes(30, seed=seed), strict=True))
    for turn, (adds, count) in enumerate(changes):
        if adds:
            new = draw_nodes(count, seed=1000 + turn)
            ids = [f"t{turn}-{i}" for i in range(count)]
            index.add(new, ids)
            texts |= dict(zip(ids, new, strict=True))
        elif len(texts) > 1:
            gone = draw.choice(sorted(texts), min(count, len(texts) - 1), replace=False).tolist()
            index.delete(gone)
            for name in gone:
                del texts[name]
    fresh = TreeIndex.build([np.stack(list(texts.values()))], list(texts), make_layout(similarity))
    assert index.ids == list(texts) and len(index) == len(texts)
    for level in range(1, DEPTH + 1):
        one, other = (
            search_ids(index, draw_nodes(3, seed=5), 7, level),
            search_ids(fresh, draw_nodes(3, seed=5), 7, level),
        )
        assert one[0] == other[0] and np.array_equal(one[1], other[1])


@pytest.mark.parametrize("similarity", ["ntvd", "bhattacharyya"])
def test_a_hundred_thousand_adds_in_random_order_equal_a_fresh_build(similarity):
    passages, order = draw_clustered(100_000, 6), np.random.default_rng(0).permutation(100_000)
    index = TreeIndex.build([passages[order[:3_000]]], [f"d{i}" for i in order[:3_000]], make_layout(similarity, 6))
    start = 3_000
    while start < len(order):
        own = order[start : start + int(np.random.default_rng(start).integers(1, 2_000))]
        index.add(passages[own], [f"d{i}" for i in own])
        start += len(own)
    assert len(index) == 100_000 and index.stats()["segments"] <= 3 * MAX_SEGMENTS_PER_TIER
    fresh = TreeIndex.build([passages], make_ids(100_000), make_layout(similarity, 6))
    for k in (1, 10, 100):
        one, other = (
            search_ids(index, draw_clustered(5, 6, seed=1), k),
            search_ids(fresh, draw_clustered(5, 6, seed=1), k),
        )
        assert one[0] == other[0] and np.array_equal(one[1], other[1])


def test_a_mostly_deleted_segment_is_rewritten():
    index = TreeIndex.build(
        [draw_clustered(MIN_CODED_PASSAGES + 10, 6)], make_ids(MIN_CODED_PASSAGES + 10), make_layout(depth=6)
    )
    index.delete(make_ids(MIN_CODED_PASSAGES))
    assert index.stats()["deleted"] == 0 and index.ids == make_ids(10, MIN_CODED_PASSAGES)
    assert_exact(index, draw_clustered(2, 6, seed=1), 3, 6)


def test_a_refused_addition_leaves_the_index_unchanged():
    index = TreeIndex.build([draw_nodes(5)], make_ids(5), make_layout())
    bad = draw_nodes(2)
    bad[1, 3] = 2
    for rows, ids, message in [
        (draw_nodes(2), ["new", "d3"], "ids: the index has 'd3' already"),
        (draw_nodes(2), ["new", "new"], "ids: 'new' is there twice"),
        (draw_nodes(2), ["new"], "ids: there are 1, the chunks hold at least 2"),
        (bad, ["new", "newer"], r"probabilities must lie within \[0, 1\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            index.add(rows, ids)
    with pytest.raises(ValueError, match="ids: the index has no 'x'"):
        index.delete(["d1", "x"])
    assert index.ids == make_ids(5)


def test_an_id_may_come_back_under_a_new_number():
    index = TreeIndex.build([draw_nodes(5)], make_ids(5), make_layout())
    index.delete(["d2"])
    assert index.add(draw_nodes(1, seed=9), ["d2"]).tolist() == [5]
    assert index.ids == ["d0", "d1", "d3", "d4", "d2"] and index.next_number == 6


def test_all_passages_may_be_deleted():
    index = TreeIndex.build([draw_nodes(3)], make_ids(3), make_layout())
    index.delete(make_ids(3))
    assert len(index) == 0 and index.search(draw_nodes(2), 4)[0].shape == (2, 0)
    index.add(draw_nodes(1), ["d0"])
    assert search_ids(index, draw_nodes(1))[0] == [["d0"]]


def test_changes_are_on_disk_before_the_call_returns(tmp_path):
    TreeIndex.build([draw_nodes(40)], make_ids(40), make_layout(), tmp_path / "index")
    index = TreeIndex.load(tmp_path / "index")
    index.add(draw_nodes(10, seed=1), make_ids(10, 40))
    index.delete(["d7", "d44"])
    again = TreeIndex.load(tmp_path / "index", checksums=True)
    assert again.ids == index.ids and len(again) == 48 and again.next_number == 50
    one, other = search_ids(index, draw_nodes(3, seed=2)), search_ids(again, draw_nodes(3, seed=2))
    assert one[0] == other[0] and np.array_equal(one[1], other[1])


def test_an_interrupted_write_changes_nothing_and_is_removed(tmp_path, monkeypatch):
    TreeIndex.build([draw_nodes(40)], make_ids(40), make_layout(), tmp_path / "index")
    index = TreeIndex.load(tmp_path / "index")
    with monkeypatch.context() as broken:
        broken.setattr(index_store, "write_json", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            index.add(draw_nodes(10, seed=1), make_ids(10, 40))
    assert len(index) == 40 and len(TreeIndex.load(tmp_path / "index")) == 40
    assert len(list((tmp_path / "index" / "segments").iterdir())) == 2
    index.add(draw_nodes(1, seed=1), ["later"])
    assert len(list((tmp_path / "index" / "segments").iterdir())) == 2  # the abandoned one is gone
    assert TreeIndex.load(tmp_path / "index").ids == [*make_ids(40), "later"]


def test_a_reader_refreshes_after_another_process_wrote(tmp_path):
    TreeIndex.build([draw_nodes(40)], make_ids(40), make_layout(), tmp_path / "index")
    reader, writer = TreeIndex.load(tmp_path / "index"), TreeIndex.load(tmp_path / "index")
    assert not reader.refresh()
    writer.add(draw_nodes(1, seed=1), ["new"])
    writer.delete(["d3"])
    assert len(reader) == 40 and reader.refresh() and reader.ids == writer.ids
    stale = TreeIndex.load(tmp_path / "index")
    writer.add(draw_nodes(1, seed=2), ["newer"])
    with pytest.raises(BundleError, match="another process has changed this index; refresh it first"):
        stale.add(draw_nodes(1, seed=3), ["other"])


def test_a_deletion_by_another_process_is_noticed(tmp_path):
    TreeIndex.build([draw_nodes(40)], make_ids(40), make_layout(), tmp_path / "index")
    reader, writer = TreeIndex.load(tmp_path / "index"), TreeIndex.load(tmp_path / "index")
    writer.delete(["d3"])  # no segment is changed by it
    with pytest.raises(BundleError, match="refresh it first"):
        reader.add(draw_nodes(1, seed=1), ["new"])
    assert reader.refresh() and reader.ids == writer.ids
    reader.add(draw_nodes(1, seed=1), ["new"])
    assert "d3" not in TreeIndex.load(tmp_path / "index").ids


def _hold(folder, ready, done):
    with index_store.lock_for_writing(folder):
        ready.set()
        done.wait(30)


def test_two_processes_cannot_write_at_once(tmp_path):
    TreeIndex.build([draw_nodes(4)], make_ids(4), make_layout(), tmp_path / "index")
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "index", ready, done))
    other.start()
    try:
        assert ready.wait(60)
        with pytest.raises(BundleError, match="another process is changing this index"):
            TreeIndex.load(tmp_path / "index").add(draw_nodes(1, seed=1), ["new"])
    finally:
        done.set()
        other.join()
    TreeIndex.load(tmp_path / "index").add(draw_nodes(1, seed=1), ["new"])


def test_readers_see_the_old_state_or_the_new_one():
    """Batches of ten come and go whole; a reader must never find a part of one."""
    index = TreeIndex.build([draw_nodes(200)], make_ids(200), make_layout())
    new, query = draw_nodes(1, seed=3).repeat(10, axis=0), draw_nodes(1, seed=3)
    ids, wrong, stop = [f"n{i}" for i in range(10)], [], threading.Event()

    def read():
        while not stop.is_set():
            numbers, scores = index.search(query, 10, threads=1)
            full_batch = scores[0] > 1 - 1e-6
            if full_batch.sum() not in (0, 10):
                wrong.append(numbers.tolist())

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for _ in range(40):
        index.add(new, ids)
        index.delete(ids)
    stop.set()
    for reader in readers:
        reader.join()
    assert not wrong


def test_deleted_passages_of_a_coded_segment_are_not_found():
    index = TreeIndex.build([draw_clustered(4_000, 6)], make_ids(4_000), make_layout(depth=6))
    query = draw_clustered(1, 6, seed=1)
    best = search_ids(index, query, 5)[0][0]
    index.delete(best[:3])
    assert search_ids(index, query, 2)[0][0] == best[3:]
    assert search_ids(index, query, 20)[0][0] == index.find_ids(rank_all(index, query[0], 20, 6)[0])
