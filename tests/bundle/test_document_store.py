"""The document store returns texts by row unchanged, and its errors name the damaged file."""

import pytest

from retreever.bundle.document_store import DocumentStore, write_documents
from retreever.data.dataset import Passage
from retreever.errors import BundleError

PASSAGES = [
    Passage("a", "first\nof two lines", "A title", {"year": 2026, "tags": ["x"]}),
    Passage("ü/2", 'snow ☃, 𝄞 and "quotes" \\ \u2028', ""),
    Passage("c", "", "", {}),
]


def test_passages_come_back_by_row(tmp_path):
    write_documents(iter(PASSAGES), tmp_path / "documents")
    documents = DocumentStore(tmp_path / "documents")
    assert documents.sealed_count == 3
    assert [documents[row] for row in (2, 0, 1)] == [PASSAGES[2], PASSAGES[0], PASSAGES[1]]


def test_a_failed_write_leaves_no_file(tmp_path):
    def broken():
        yield PASSAGES[0]
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        write_documents(broken(), tmp_path / "documents")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["documents.jsonl", "offsets.npy"])
def test_a_damaged_file_is_named(tmp_path, name):
    write_documents(PASSAGES, tmp_path / "documents")
    file = tmp_path / "documents" / name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BundleError, match=name):
        DocumentStore(tmp_path / "documents")
    file.unlink()
    with pytest.raises(BundleError, match=f"{name}: file is missing"):
        DocumentStore(tmp_path / "documents")


def read_rows(documents, count):
    return [documents[row] for row in range(count)]


def test_what_is_added_follows_what_was_there(tmp_path):
    write_documents(PASSAGES[:1], tmp_path / "documents")
    writer, reader = DocumentStore(tmp_path / "documents"), DocumentStore(tmp_path / "documents")
    writer.add(PASSAGES[1:2], 1)
    writer.add(PASSAGES[2:], 2)
    for documents in (writer, reader, DocumentStore(tmp_path / "documents")):
        documents.require(3)
        assert read_rows(documents, 3) == PASSAGES


def test_an_addition_that_was_broken_off_is_overwritten(tmp_path):
    """At any byte: uncounted lines are never read, and the next addition is whole."""
    write_documents(PASSAGES[:1], tmp_path / "documents")
    DocumentStore(tmp_path / "documents").add(PASSAGES[1:2], 1)
    log = tmp_path / "documents" / "added.jsonl"
    whole = log.read_bytes()
    DocumentStore(tmp_path / "documents").add([Passage("torn", "x" * 50), Passage("torn too", "y")], 2)
    torn = log.read_bytes()
    for end in range(len(whole), len(torn) + 1, 7):
        log.write_bytes(torn[:end])
        reader = DocumentStore(tmp_path / "documents")
        reader.require(2)
        DocumentStore(tmp_path / "documents").add(PASSAGES[2:], 2)
        assert read_rows(reader, 3) == PASSAGES and read_rows(DocumentStore(tmp_path / "documents"), 3) == PASSAGES


def test_fewer_rows_than_the_index_counts_is_damage(tmp_path):
    write_documents(PASSAGES[:1], tmp_path / "documents")
    documents = DocumentStore(tmp_path / "documents")
    documents.add(PASSAGES[1:], 1)
    with pytest.raises(BundleError, match="the index has 4 passages, documents has 3"):
        documents.require(4)
    with pytest.raises(BundleError, match="the index has 0 passages, documents has 1"):
        DocumentStore(tmp_path / "documents").require(0)
    with pytest.raises(BundleError, match="the index has 4"):
        documents.add(PASSAGES[:1], 4)
