"""Lexical features against a loop over one text's words, and the models that read them."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from retreever.baselines.dense.frozen_encoder import FrozenEncoder
from retreever.baselines.matryoshka.matryoshka_head import Matryoshka
from retreever.bundle.text_router import TextRouter
from retreever.config import EncoderConfig
from retreever.encoding.encoder import Encoder
from retreever.encoding.encoder_files import describe_encoding
from retreever.encoding.encoding_store import EncodedDataset, encode_dataset, encode_texts
from retreever.encoding.lexical_features import RARITY_OFFSET, LexicalFeatures
from retreever.encoding.tokenized_texts import TokenizedTexts
from retreever.errors import EncoderError
from retreever.trained_tree import load_model, route_encodings
from retreever.training.training_loop import fit
from tests.support.architectures import ARCHITECTURES, build_encoder
from tests.support.tiny import WORDS, tiny_bert, tiny_config, tiny_dataset

WEIGHT = 0.7
TEXTS = [" ".join([*WORDS[i : i + 7], *WORDS[i : i + 2], WORDS[i]]) for i in (100, 3, 60)] + [WORDS[9], WORDS[1]]


@pytest.fixture(params=ARCHITECTURES, scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_encoder(request.param, tmp_path_factory.mktemp("encoder") / request.param)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("bert"))


def config(folder: Path, **changes: object) -> EncoderConfig:
    runtime = "torch" if "longformer" in str(folder) else "auto"  # it has no graph, and takes seconds to show it
    return EncoderConfig(**{"name": str(folder), "runtime": runtime, "dtype": "float32", "words": WEIGHT, **changes})


def lexical_features_by_definition(encoder: Encoder, text: str) -> np.ndarray:
    """Sum over words of root of count, times rarity, times embedding; scaled to length one."""
    table, special = encoder.export.map_words(), encoder.export.facts.special
    counts = Counter(token for token in encoder.tokenize([text], "passage").ids.tolist() if token not in special)
    total = sum(count**0.5 * np.log(1 + token / RARITY_OFFSET) * table[token] for token, count in counts.items())
    return total / np.linalg.norm(total)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_lexical_features_follow_the_last_layer_at_their_weight(folder: Path, pooling: str) -> None:
    both = Encoder.load(config(folder, pooling=pooling))
    alone = Encoder.load(config(folder, pooling=pooling, words=0))
    got, longer = both.encode_pooled(TEXTS, "passage"), np.sqrt(1 + WEIGHT**2)
    assert both.dim == 2 * alone.dim == got.shape[1]
    np.testing.assert_allclose(got[:, : alone.dim] * longer, alone.encode_pooled(TEXTS, "passage"), atol=1e-5)
    words = np.stack([lexical_features_by_definition(both, text) for text in TEXTS])
    np.testing.assert_allclose(got[:, alone.dim :] * longer, WEIGHT * words, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("normalize", [True, False])
def test_the_mean_of_token_states_is_still_the_pooled_vector(folder: Path, normalize: bool) -> None:
    encoder = Encoder.load(config(folder, normalize=normalize))
    states, mask = encoder.encode_tokens(TEXTS, "query")
    pooled = encoder.encode_pooled(TEXTS, "query")
    np.testing.assert_allclose(states.sum(axis=1) / mask.sum(axis=1, keepdims=True), pooled, rtol=1e-4, atol=1e-5)
    last, words = np.split(pooled, 2, axis=1)
    ratio = np.linalg.norm(words, axis=1) / np.linalg.norm(last, axis=1)
    np.testing.assert_allclose(ratio, WEIGHT, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_words_beyond_the_tokens_that_the_encoder_reads_count_too(folder: Path, side: str) -> None:
    cut = Encoder.load(config(folder, query_max_length=6, query_truncation=side))
    whole = Encoder.load(config(folder))
    tokenized = cut.tokenize(TEXTS, "query")
    assert tokenized.lengths.tolist() == [6, 6, 6, 3, 3]
    own = np.split(cut.encode_pooled(TEXTS, "query"), 2, axis=1)[1]
    np.testing.assert_allclose(own, np.split(whole.encode_pooled(TEXTS, "query"), 2, axis=1)[1], atol=1e-6)
    rows = np.array([3, 0])  # a batch of other texts in another order
    states, mask = cut.encode_states(tokenized.select(rows))
    words = states[..., cut.dim // 2 :]
    np.testing.assert_allclose(words.sum(axis=1) / mask.sum(axis=1, keepdims=True), own[rows], atol=1e-6)


def test_a_text_without_words_has_zeros_for_them(bert: Path) -> None:
    pooled = Encoder.load(config(bert)).encode_pooled(["", TEXTS[0]], "passage")
    assert not pooled[0, 32:].any() and pooled[0, :32].any() and pooled[1, 32:].any()


def test_rarer_words_weigh_more_and_special_tokens_nothing() -> None:
    words = LexicalFeatures(np.tile(np.eye(5, dtype=np.float32), (200, 1)), special=[3], weight=1.0)
    ids = np.array([[10, 996, 3, 0]])
    whole = TokenizedTexts(ids[0, :3].astype(np.int32), np.array([0, 3]))
    pooled, _ = words.concatenate(np.array([[0.6, 0.8]], np.float32), None, ids, np.array([3]), whole)
    common, rare, _, special, _ = pooled[0, 2:] / np.linalg.norm(pooled[0, 2:])
    assert special == 0
    assert rare / common == pytest.approx(np.log(1 + 996 / RARITY_OFFSET) / np.log(1 + 10 / RARITY_OFFSET), rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_the_features_of_tokens_are_those_of_a_loop_over_words(seed: int) -> None:
    draw = np.random.default_rng(seed)
    table, special = draw.normal(size=(40, 6)).astype(np.float32), (0, 1, 2)
    lengths = draw.integers(1, 30, 7)
    texts = [draw.integers(0, 40, length).astype(np.int32) for length in lengths]
    read = np.minimum(lengths, 8)  # the encoder reads the first tokens
    ids, states = np.zeros((7, 8), np.int64), draw.normal(size=(7, 8, 6)).astype(np.float32)
    for row, text in enumerate(texts):
        ids[row, : read[row]] = text[:8]
    pooled = draw.normal(size=(7, 6)).astype(np.float32)
    whole = TokenizedTexts(np.concatenate(texts), np.cumsum([0, *lengths]))
    both, spread = LexicalFeatures(table, special, WEIGHT).concatenate(pooled, states, ids, read, whole)
    assert spread is not None
    for row, text in enumerate(texts):
        weights = {t: 0.0 if t in special else np.log(1 + t / RARITY_OFFSET) for t in text.tolist()}
        counts = Counter(text.tolist())
        total = sum((counts[t] ** 0.5 * weights[t] * table[t] for t in counts), np.zeros(6))
        own = np.stack([weights[t] / counts[t] ** 0.5 * table[t] for t in text.tolist()])[: read[row]]
        own += (total - own.sum(axis=0)) / read[row]
        scale = WEIGHT * np.linalg.norm(pooled[row]) / max(np.linalg.norm(total), 1e-12) / np.sqrt(1 + WEIGHT**2)
        np.testing.assert_allclose(both[row, 6:], total * scale, atol=1e-5)
        np.testing.assert_allclose(spread[row, : read[row], 6:], own * scale * read[row], atol=1e-4, rtol=1e-5)
        np.testing.assert_allclose(spread[row, :, :6] * np.sqrt(1 + WEIGHT**2), states[row], atol=1e-5)


def test_the_store_gives_the_last_layer_alone(bert: Path, tmp_path: Path) -> None:
    both = encode_texts(TEXTS, "passage", Encoder.load(config(bert)), tmp_path)
    alone = encode_texts(TEXTS, "passage", Encoder.load(config(bert, words=0)), tmp_path)
    assert (both.lexical_weight, alone.lexical_weight) == (WEIGHT, 0)
    np.testing.assert_allclose(both.last_layer, alone.pooled, atol=1e-6)
    assert alone.last_layer is alone.pooled


@pytest.mark.parametrize("live", [False, True])
def test_the_frozen_encoder_reads_the_last_layer_alone_and_the_head_all_that_the_tree_reads(
    bert: Path, tmp_path: Path, live: bool
) -> None:
    def data(words: float) -> EncodedDataset:
        return encode_dataset(tiny_dataset(), config(bert, words=words, live=live), tmp_path)

    both, alone = data(WEIGHT), data(0)
    found = []
    for held in (both, alone):
        baseline = FrozenEncoder()
        baseline.index(held)
        found.append(baseline.search(np.arange(50), 10, FrozenEncoder.forms[0])[1])
    np.testing.assert_allclose(*found, atol=1e-5)
    head = Matryoshka(steps=2, batch_size=32)
    head.fit(both)
    assert head._head.weight.shape[1] == both.dim == 2 * alone.dim


@pytest.mark.parametrize("split", ["linear", "cross_attention"])
def test_a_tree_trains_on_lexical_features_and_routes_texts_with_them(bert: Path, tmp_path: Path, split: str) -> None:
    trained = tiny_config(bert, encoder__words=WEIGHT, tree__split=split)
    dataset = tiny_dataset()
    data = encode_dataset(dataset, trained.encoding, tmp_path / "store")
    model = fit(trained, data, tmp_path / "run").model
    tree, known = load_model(model)
    texts = dataset.passage_texts()[:20]
    asked = TextRouter.load(model).route(texts, "passage")
    stored = np.concatenate(list(route_encodings(tree, known, data.passages, np.arange(20))))
    np.testing.assert_allclose(asked, stored, atol=2e-3)


def test_words_of_another_width_than_the_states_are_refused(tmp_path: Path) -> None:
    from transformers import AlbertConfig, AlbertModel

    folder = tiny_bert(tmp_path / "albert")
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    AlbertModel(AlbertConfig(vocab_size=5 + len(WORDS), embedding_size=16, **size)).save_pretrained(folder)
    with pytest.raises(
        EncoderError, match=r"encoder\.words: .*: its word embeddings are 16 wide, its states 32: must be 0"
    ):
        Encoder.load(config(folder))
    assert Encoder.load(config(folder, words=0)).dim == 32


def test_the_description_holds_the_weight(bert: Path) -> None:
    known = [describe_encoding(config(bert, words=words), "query") for words in (0, 0.5, 1)]
    assert known[0] != known[1] != known[2] and "words" not in known[0]
