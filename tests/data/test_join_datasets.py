"""Several data sets read as one: ids, judgements, and encodings that come from each set's own entries."""

import dataclasses

import numpy as np
import pytest
import torch

from retreever.data import beir
from retreever.data.join_datasets import join_datasets
from retreever.encoding.encoding_store import encode_dataset, open_encoded_dataset
from retreever.errors import EncoderError
from retreever.system.workspace import Workspace
from tests.support import tiny


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("join")
    tiny.tiny_bert(folder / "bert")
    workspace = Workspace.at(folder / "workspace")
    for name, seed in (("one", 0), ("two", 1)):
        beir.write_beir(tiny.tiny_dataset(40, seed), workspace.dataset_folder(name))
    return workspace


def open_dataset(place, name, tokens=True):
    return open_encoded_dataset(
        tiny.tiny_config(place.root.parent / "bert", data__name=name, encoder__tokens=tokens), place
    )


def test_judgements_point_to_the_same_texts(place):
    parts = [open_dataset(place, name).dataset for name in ("one", "two")]
    both = join_datasets(parts)
    for split in ("train", "dev", "test"):
        ours = [(both.queries[q].text, both.corpus[p].text) for q, p in both.pairs(split)]
        assert ours == [(d.queries[q].text, d.corpus[p].text) for d in parts for q, p in d.pairs(split)]


def test_a_split_that_only_one_set_has_is_kept():
    first, second = tiny.tiny_dataset(10), tiny.tiny_dataset(10, 1)
    second = dataclasses.replace(second, name="other", qrels={"test": second.qrels["test"]})
    both = join_datasets([first, second])
    assert len(both.pairs("train")) == len(first.pairs("train"))
    assert len(both.pairs("test")) == 4


def test_encodings_are_those_of_the_parts(place):
    one, two, both = (open_dataset(place, name) for name in ("one", "two", "one+two"))
    assert both.dataset.name == "one+two" and len(both.passages) == 80
    np.testing.assert_array_equal(both.queries.pooled, np.concatenate([one.queries.pooled, two.queries.pooled]))
    rows = np.array([70, 3, 41, 0])
    x, mask = both.passages.batch(rows, tokens=True)
    for i, row in enumerate(rows):
        part = one if row < 40 else two
        expected, known = part.passages.batch(np.array([row % 40]), tokens=True)
        torch.testing.assert_close(x[i][mask[i]], expected[0][known[0]])
    np.testing.assert_array_equal(both.passages.lengths[rows], mask.sum(1).numpy())
    torch.testing.assert_close(both.passages.batch(rows)[0], torch.from_numpy(both.passages.pooled[rows]))


def test_reading_several_encodes_nothing_again(place):
    open_dataset(place, "one"), open_dataset(place, "two")
    before = sorted(place.encodings.iterdir())
    open_dataset(place, "one+two")
    assert sorted(place.encodings.iterdir()) == before


def test_a_folder_with_a_plus_in_its_name_is_one_set(place, tmp_path):
    beir.write_beir(tiny.tiny_dataset(10), tmp_path / "a+b")
    assert len(open_dataset(place, str(tmp_path / "a+b")).passages) == 10


def test_widths_must_agree(place, tmp_path):
    from retreever.encoding.text_encodings import JoinedEncodings

    folder = place.root.parent
    wide = encode_dataset(tiny.tiny_dataset(10), tiny.tiny_config(folder / "bert").encoder, tmp_path / "store")
    narrow = encode_dataset(tiny.tiny_dataset(10), tiny.tiny_config(folder / "bert").encoder, tmp_path / "store")
    narrow.passages.pooled = narrow.passages.pooled[:, :8]
    with pytest.raises(EncoderError, match="8, 32 dimensions"):
        JoinedEncodings([wide.passages, narrow.passages])


def test_a_corpus_alone_joins_a_data_set_with_pairs(place):
    alone = dataclasses.replace(tiny.tiny_dataset(40, 2), queries=(), qrels={})
    beir.write_beir(alone, place.dataset_folder("alone"))
    joined, one = open_dataset(place, "alone+one"), open_dataset(place, "one")
    assert len(joined.passages) == 80 and joined.dataset.corpus[0].id == "alone/p0000"
    assert joined.dataset.pairs("dev").tolist() == (one.dataset.pairs("dev") + np.array([0, 40])).tolist()
    rows = np.array([3, 0])
    for tokens in (False, True):
        for ours, theirs in zip(joined.queries.batch(rows, tokens), one.queries.batch(rows, tokens), strict=True):
            assert ours is theirs is None or torch.equal(ours, theirs)
