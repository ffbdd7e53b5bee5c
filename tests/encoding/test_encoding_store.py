"""The store of encodings: equal to the encoder's output, encoded once, whole or absent, memory-mapped."""

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from retreever.config import EncoderConfig
from retreever.data.dataset import Passage, Query, RetrievalDataset
from retreever.encoding import encoding_shards
from retreever.encoding.encoder import Encoder
from retreever.encoding.encoding_store import encode_dataset, encode_texts
from retreever.encoding.text_encodings import Encodings
from retreever.errors import BundleError, EncoderError
from tests.support.tiny import WORDS, tiny_bert

TEXTS = [
    " ".join(WORDS[(3 * i + j) % len(WORDS)] for j in range(length)) for i, length in enumerate((9, 1, 100, 3, 17))
]
STEP = 2**-8  # of bfloat16, relative


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> EncoderConfig:
    return EncoderConfig(
        name=str(tiny_bert(tmp_path_factory.mktemp("bert"))), dtype="float32", words=0.0, tokens=True, batch_tokens=512
    )


@pytest.fixture(scope="module")
def encoder(config: EncoderConfig) -> Encoder:
    return Encoder.load(config)


@pytest.fixture
def stored(encoder: Encoder, tmp_path: Path) -> Encodings:
    return encode_texts(TEXTS, "passage", encoder, tmp_path / "store")


def change(encoder: Encoder, **settings: object) -> Encoder:
    """The same encoder with other settings."""
    return Encoder(encoder.config.model_copy(update=settings), encoder.export, encoder.runtime)


def entries(store: Path) -> list[str]:
    return sorted(path.name for path in store.iterdir())


def dataset() -> RetrievalDataset:
    corpus = tuple(Passage(f"p{i}", text, title="ba") for i, text in enumerate(TEXTS))
    return RetrievalDataset("five", corpus, (Query("q0", "be"), Query("q1", "bi bo")), {})


def test_pooled_vectors_are_those_of_the_encoder_in_the_given_order(stored: Encodings, encoder: Encoder) -> None:
    assert (len(stored), stored.dim, stored.has_tokens) == (5, 32, True)
    assert isinstance(stored.pooled, np.memmap) and stored.pooled.dtype == np.float32
    np.testing.assert_array_equal(stored.pooled, encoder.encode_pooled(TEXTS, "passage"))
    rows = np.array([4, 0, 0, 2])
    x, mask = stored.batch(rows)
    assert mask is None and x.dtype == torch.float32
    np.testing.assert_array_equal(x, stored.pooled[rows])


def test_token_states_are_those_of_the_encoder_in_bfloat16(stored: Encodings, encoder: Encoder) -> None:
    rows = np.array([3, 1, 2, 3])
    x, mask = stored.batch(rows, tokens=True)
    expected, tokens = encoder.encode_tokens([TEXTS[row] for row in rows], "passage")
    assert mask is not None and x.dtype == torch.float32 and mask.dtype == torch.bool
    np.testing.assert_array_equal(mask, tokens)
    np.testing.assert_array_equal(x, torch.from_numpy(expected).bfloat16().float())
    np.testing.assert_array_equal(stored.lengths, [11, 3, 102, 5, 19])


def test_a_batch_is_as_long_as_its_longest_text(stored: Encodings) -> None:
    assert stored.batch(np.array([1, 3]), tokens=True)[0].shape == (2, 5, 32)
    assert stored.batch(np.array([], np.int64), tokens=True)[0].shape == (0, 0, 32)
    assert stored.batch(np.array([], np.int64))[0].shape == (0, 32)


def test_mean_of_stored_token_states_is_the_stored_pooled_vector(stored: Encodings) -> None:
    x, mask = stored.batch(np.arange(5), tokens=True)
    assert mask is not None
    mean = x.sum(dim=1) / mask.sum(dim=1, keepdim=True)
    np.testing.assert_allclose(mean, stored.pooled, atol=float(x.abs().max()) * STEP)


def test_batches_may_be_written_to(stored: Encodings) -> None:
    stored.batch(np.arange(5))[0].zero_()
    stored.batch(np.arange(5), tokens=True)[0].zero_()
    np.testing.assert_allclose(np.linalg.norm(stored.pooled, axis=1), np.ones(5), atol=1e-5)


def test_a_second_call_encodes_nothing(config: EncoderConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    load = Encoder.load
    monkeypatch.setattr(Encoder, "load", lambda *given, **more: loaded.append(given) or load(*given, **more))
    first = encode_dataset(dataset(), config, tmp_path)
    assert len(loaded) == 1 and (len(first.passages), len(first.queries), first.dim) == (5, 2, 32)
    second = encode_dataset(dataset(), config, tmp_path)
    assert len(loaded) == 1 and len(entries(tmp_path)) == 2
    np.testing.assert_array_equal(first.passages.pooled, second.passages.pooled)


def test_titles_are_encoded_with_their_passages(config: EncoderConfig, encoder: Encoder, tmp_path: Path) -> None:
    passages = encode_dataset(dataset(), config, tmp_path).passages
    np.testing.assert_array_equal(passages.pooled, encoder.encode_pooled([f"ba {text}" for text in TEXTS], "passage"))


def test_a_process_that_finds_everything_loads_no_torch(config: EncoderConfig, tmp_path: Path) -> None:
    encode_dataset(dataset(), config, tmp_path)
    script = (
        "import sys\nfrom pathlib import Path\nfrom retreever.config import EncoderConfig\n"
        "from retreever.encoding.encoding_store import encode_dataset\n"
        "from retreever.encoding.encoder_files import describe_encoding\n"
        "from retreever.data.dataset import Passage, Query, RetrievalDataset\n"
        "config, store = EncoderConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2])\n"
        "texts = sys.argv[3:]\n"
        "corpus = tuple(Passage(f'p{i}', text, title='ba') for i, text in enumerate(texts))\n"
        "dataset = RetrievalDataset('five', corpus, (Query('q0', 'be'), Query('q1', 'bi bo')), {})\n"
        "assert len(encode_dataset(dataset, config, store).passages) == 5\n"
        "describe_encoding(EncoderConfig(), 'query')\n"
        "print({'torch', 'transformers', 'sentence_transformers', 'ray', 'mlflow'} & set(sys.modules))\n"
    )
    command = [sys.executable, "-c", script, config.model_dump_json(), str(tmp_path), *TEXTS]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "set()\n"), done.stderr


def test_other_texts_kinds_and_settings_are_other_entries(encoder: Encoder, tmp_path: Path) -> None:
    def name(texts: list[str], kind: str = "passage", encoder: Encoder = encoder) -> str:
        return encode_texts(texts, kind, encoder, tmp_path).folder.name

    long = change(encoder, passage_max_length=9)
    names = [name(["ba be"]), name(["ba", " be"]), name(["ba be"], "query"), name(["ba be"], encoder=long)]
    assert len(set(names)) == 4 and entries(tmp_path) == sorted(names)


def test_without_tokens_only_pooled_vectors_are_kept(encoder: Encoder, tmp_path: Path) -> None:
    bare = change(encoder, tokens=False)
    stored = encode_texts(TEXTS, "passage", bare, tmp_path)
    assert not stored.has_tokens and entries(stored.folder) == ["manifest.json", "pooled.npy"]
    np.testing.assert_array_equal(stored.batch(np.arange(5))[0], encoder.encode_pooled(TEXTS, "passage"))
    for ask in (lambda: stored.batch(np.arange(5), tokens=True), lambda: stored.lengths):
        with pytest.raises(BundleError, match=r"pooled encodings only; encode with encoder\.tokens = true"):
            ask()
    assert encode_texts(TEXTS, "passage", encoder, tmp_path).has_tokens


def test_an_entry_with_tokens_also_serves_without_them(stored: Encodings, encoder: Encoder) -> None:
    bare = change(encoder, tokens=False)
    assert encode_texts(TEXTS, "passage", bare, stored.folder.parent).folder == stored.folder


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two texts a shard: the five texts make three."""
    monkeypatch.setattr(encoding_shards, "TEXTS_PER_SHARD", 2)


def stop_after(texts: int) -> Callable[..., Iterator[object]]:
    """A track that is interrupted once so many texts are encoded."""

    def track(items: Iterable[object], label: str, total: float | None = None) -> Iterator[object]:
        for count, item in enumerate(items, 1):
            if count > texts:
                raise KeyboardInterrupt
            yield item

    return track


@pytest.mark.usefixtures("small_shards")
def test_an_entry_of_many_shards_reads_as_one(encoder: Encoder, tmp_path: Path) -> None:
    stored = encode_texts(TEXTS, "passage", encoder, tmp_path)
    names = ["manifest.json", "offsets.npy", "pooled.npy", *(f"tokens-0000{i}.npy" for i in range(3))]
    assert entries(stored.folder) == names and entries(tmp_path) == [stored.folder.name]
    np.testing.assert_allclose(stored.pooled, encoder.encode_pooled(TEXTS, "passage"), atol=1e-6)
    rows = np.array([4, 1, 2, 0, 3, 4])
    x, mask = stored.batch(rows, tokens=True)
    expected, tokens = encoder.encode_tokens([TEXTS[row] for row in rows], "passage")
    np.testing.assert_array_equal(mask, tokens)
    np.testing.assert_allclose(x, expected, rtol=STEP, atol=1e-6)


@pytest.mark.usefixtures("small_shards")
def test_an_interrupted_encoding_continues_with_the_next_shard_and_writes_the_same_bytes(
    encoder: Encoder, tmp_path: Path
) -> None:
    whole = encode_texts(TEXTS, "passage", encoder, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        encode_texts(TEXTS, "passage", encoder, tmp_path / "parts", track=stop_after(3))
    (waiting,) = (tmp_path / "parts").iterdir()
    assert waiting.name.startswith(".") and entries(waiting) == ["00000"]  # the half-written second one is gone
    written = (waiting / "00000" / "tokens.npy").stat().st_mtime_ns
    seen: list[object] = []

    def watch(items: Iterable[object], label: str, total: float | None = None) -> Iterator[object]:
        for item in items:
            seen.append(item)
            yield item
        assert (waiting / "00000" / "tokens.npy").stat().st_mtime_ns == written

    parts = encode_texts(TEXTS, "passage", encoder, tmp_path / "parts", track=watch)
    assert len(seen) == 3 and entries(tmp_path / "parts") == [parts.folder.name]
    assert contents(parts.folder) == contents(whole.folder)


@pytest.mark.usefixtures("small_shards")
def test_a_finished_shard_that_is_damaged_is_encoded_again(encoder: Encoder, tmp_path: Path) -> None:
    whole = encode_texts(TEXTS, "passage", encoder, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        encode_texts(TEXTS, "passage", encoder, tmp_path / "parts", track=stop_after(4))
    (waiting,) = (tmp_path / "parts").iterdir()
    content = bytearray((waiting / "00000" / "tokens.npy").read_bytes())
    content[-1] ^= 1
    (waiting / "00000" / "tokens.npy").write_bytes(bytes(content))
    parts = encode_texts(TEXTS, "passage", encoder, tmp_path / "parts")
    assert contents(parts.folder) == contents(whole.folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_flipped_bit_is_found_where_checksums_are_verified(config: EncoderConfig, tmp_path: Path) -> None:
    folder = encode_dataset(dataset(), config, tmp_path).passages.folder
    content = bytearray((folder / "tokens-00000.npy").read_bytes())
    content[-1] ^= 1
    (folder / "tokens-00000.npy").write_bytes(bytes(content))
    encode_dataset(dataset(), config, tmp_path)
    with pytest.raises(BundleError, match=rf"tokens-00000\.npy: checksum differs.*delete {folder}"):
        encode_dataset(dataset(), config, tmp_path, verify=True)


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [3, 3, 1]])
def test_live_encodings_are_those_of_the_store_without_keeping_them(
    config: EncoderConfig, tmp_path: Path, rows: list[int]
) -> None:
    stored = encode_dataset(dataset(), config, tmp_path / "stored").passages
    live = encode_dataset(dataset(), config.model_copy(update={"live": True}), tmp_path / "live").passages
    assert entries(live.folder) == ["manifest.json", "pooled.npy"] and live.has_tokens
    np.testing.assert_array_equal(live.lengths, stored.lengths)
    (ours, mask), (theirs, tokens) = (side.batch(np.array(rows), tokens=True) for side in (live, stored))
    np.testing.assert_array_equal(mask, tokens)
    np.testing.assert_allclose(ours, theirs, rtol=2 * STEP, atol=1e-6)
    np.testing.assert_array_equal(live.batch(np.array(rows))[0], stored.batch(np.array(rows))[0])
    ours.requires_grad_().sum().backward()  # no inference tensor


def test_the_unfinished_entry_of_a_killed_process_is_not_used(stored: Encodings, encoder: Encoder) -> None:
    store = stored.folder.parent
    stored.folder.rename(store / f".{stored.folder.name}.0123abcd.part")
    again = encode_texts(TEXTS, "passage", encoder, store)
    assert again.folder == stored.folder and len(entries(store)) == 2


def test_two_processes_that_encode_the_same_texts_both_succeed(encoder: Encoder, tmp_path: Path) -> None:
    others: list[Encodings] = []

    def overtaken(items: Iterable[object], label: str, total: float | None = None) -> Iterator[object]:
        assert not [name for name in entries(tmp_path) if not name.startswith(".")]
        yield from items
        others.append(encode_texts(TEXTS, "passage", encoder, tmp_path))

    ours = encode_texts(TEXTS, "passage", encoder, tmp_path, track=overtaken)
    assert entries(tmp_path) == [ours.folder.name]
    for encodings in (ours, *others):
        np.testing.assert_array_equal(encodings.batch(np.arange(5), tokens=True)[0].isfinite().all(), True)
        np.testing.assert_array_equal(encodings.pooled, encoder.encode_pooled(TEXTS, "passage"))


@pytest.mark.parametrize("name", ["pooled.npy", "tokens-00000.npy", "offsets.npy"])
def test_a_damaged_file_is_named_with_the_remedy(stored: Encodings, encoder: Encoder, name: str) -> None:
    path, store = stored.folder / name, stored.folder.parent
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(
        BundleError, match=rf"{name}: {len(content) - 1} bytes, {len(content)} are listed; delete {store}"
    ):
        encode_texts(TEXTS, "passage", encoder, store)
    path.unlink()
    with pytest.raises(BundleError, match=f"{name}: file is missing"):
        encode_texts(TEXTS, "passage", encoder, store)


def test_an_entry_without_a_manifest_is_refused(stored: Encodings) -> None:
    (stored.folder / "manifest.json").unlink()
    with pytest.raises(BundleError, match=r"manifest.json: file is missing; delete"):
        Encodings(stored.folder)


def test_no_texts_are_refused(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="query texts: there are none to encode"):
        encode_texts([], "query", encoder, tmp_path)
    assert entries(tmp_path) == []


@pytest.mark.parametrize("live", [False, True])
def test_the_queries_of_a_corpus_alone_are_no_entry(config: EncoderConfig, tmp_path: Path, live: bool) -> None:
    alone = RetrievalDataset("alone", dataset().corpus, (), {})
    found = encode_dataset(alone, config.model_copy(update={"live": live}), tmp_path)
    assert len(entries(tmp_path)) == 1
    assert len(found.queries) == 0 and found.queries.dim == found.dim and found.queries.lengths.shape == (0,)
    assert found.queries.last_layer.shape == (0, found.dim)
    states, mask = found.queries.batch(np.empty(0, np.int64), tokens=True)
    assert states.shape == (0, 0, found.dim) and mask is not None and mask.shape == (0, 0)
