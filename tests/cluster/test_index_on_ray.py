"""A corpus indexed in shards by Ray Data, against the index of one process."""

import numpy as np
import pytest

from retreever.bundle.retriever import Retreever
from retreever.cluster import index_on_ray as sharded
from retreever.cluster.index_on_ray import index_in_shards
from retreever.cluster.ray_runtime import join_cluster
from retreever.encoding.encoding_store import open_encoded_dataset
from retreever.index import Hybrid, TreeIndex, index_store, segment
from retreever.index.build import segment_builder
from retreever.trained_tree import load_trained_tree, route_encodings
from tests.support.bundles import tiny_bundle, tiny_workspace

pytestmark = [  # Ray Data's own
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    return folder, tiny_workspace(folder)


def assert_same_answers(one, other, trained, workspace):
    data = open_encoded_dataset(trained.config, workspace)
    nodes = np.concatenate(list(route_encodings(trained.tree, trained.config, data.queries)))[:5]
    for level in (2, trained.config.tree.depth):
        for hybrid in (None, Hybrid(data.dataset.query_texts()[:5], 2.0)):
            found = [index.search(nodes, 9, level, hybrid=hybrid) for index in (one, other)]
            assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))


def test_shards_answer_as_one_index_does_and_are_not_built_twice(place):
    folder, workspace = place
    whole = Retreever.load(tiny_bundle(folder, workspace))
    model, target = folder / "tree" / "model", folder / "tree" / "sharded"
    data = open_encoded_dataset(whole.config, workspace)
    trained = load_trained_tree(model)
    draft = sharded._draft_folder(target, trained, data, 60)
    writer = sharded._SegmentWriter(str(model), str(draft), str(workspace.root))
    writer({"start": np.array([60]), "end": np.array([120])})  # as after an interrupted call
    written = (draft / "segments" / sharded._segment_name((60, 120)) / "numbers.npy").stat().st_mtime_ns

    with join_cluster(workspace, cpus=2):
        stats = index_in_shards(model, target, workspace, workers=2, shard=60)
    there = target / "index" / "segments" / sharded._segment_name((60, 120)) / "numbers.npy"
    assert there.stat().st_mtime_ns == written
    opened = Retreever.load(target)
    assert stats["documents"] == len(whole.index) and stats["segments"] == -(-len(whole.index) // 60) > 2
    assert opened.index.ids == whole.index.ids
    assert opened.explanation.sharpness == pytest.approx(whole.explanation.sharpness, rel=1e-3)
    assert opened.explanation.words == whole.explanation.words
    assert_same_answers(whole.index, opened.index, trained, workspace)
    assert opened.hybrid == whole.hybrid
    assert TreeIndex.load(target / "index", checksums=True).ids == whole.index.ids
    assert not list(target.parent.glob(".*shards"))


def test_shards_with_codes_are_joined_by_the_same_codes(place, monkeypatch):
    """An actor's writer, run in this process, where the threshold for codes can be lowered."""
    for module in (segment, segment_builder, sharded):
        monkeypatch.setattr(module, "MIN_CODED_PASSAGES", 30)
    folder, workspace = place
    whole = Retreever.load(tiny_bundle(folder, workspace, "coded"))
    writer = sharded._SegmentWriter(str(folder / "coded" / "model"), str(folder / "draft"), str(workspace.root))
    rows = len(whole.index)
    for start, end in ((0, 100), (100, rows)):
        writer({"start": np.array([start]), "end": np.array([end])})
    names = [sharded._segment_name((0, 100)), sharded._segment_name((100, rows))]
    index_store.finish_index(folder / "draft", writer.layout, names, writer.codes, writer.side)
    joined = TreeIndex.load(folder / "draft")
    assert all(part.codes for part in joined.segments)
    assert_same_answers(whole.index, joined, writer.trained, workspace)
