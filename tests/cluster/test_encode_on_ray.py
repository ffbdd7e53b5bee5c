"""Encoding by a pool of actors: the same bytes in the same order as in one process, and nothing is encoded twice."""

import numpy as np
import pytest

from retreever.cluster.encode_on_ray import encode_with_actors
from retreever.cluster.ray_runtime import join_cluster
from retreever.data import beir
from retreever.encoding import encoding_shards, encoding_store
from retreever.system import environment
from retreever.system.workspace import Workspace
from tests.support import tiny

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def contents(store):
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def test_actors_write_the_bytes_of_one_process_and_only_missing_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding_shards, "TEXTS_PER_SHARD", 64)
    local, many = (Workspace.at(tmp_path / name) for name in ("local", "many"))
    tiny.tiny_bert(tmp_path / "bert")
    for place in (local, many):
        beir.write_beir(tiny.tiny_dataset(), place.dataset_folder("tiny"))
    environment.prepare_environment(many)
    config = tiny.tiny_config(tmp_path / "bert", encoder__tokens=True)
    alone = encoding_store.open_encoded_dataset(config, local)

    (entry, _) = encoding_store.plan_encodings(
        tiny.tiny_dataset().passage_texts(), "passage", config.encoder, many.encodings
    )
    encoder = encoding_store.Encoder.load(config.encoder)
    for _ in encoding_shards.encode_shard(entry.shard_texts(3), "passage", encoder, entry.shard_folder(3), True):
        pass
    written = (entry.shard_folder(3) / "tokens.npy").stat()
    labels = []

    def watch(items, label, total=None):
        labels.append((label, total))
        yield from items
        assert (entry.shard_folder(3) / "tokens.npy").stat() == written

    with join_cluster(many, cpus=2):
        together = encode_with_actors(config, many, workers=2, track=watch)
    assert labels == [("encoding on 2 actors, shards", 9)]  # five of passages and five of queries, less one
    assert contents(many.encodings) == contents(local.encodings)
    np.testing.assert_array_equal(together.passages.pooled, alone.passages.pooled)
    assert together.dataset.digest == alone.dataset.digest
