"""Lexical features against a loop over one text's words, and the models that read them."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from retreever.baselines.dense.frozen_encoder import FrozenEncoder
from retreever.baselines.matryoshka.matryoshka_head import Matryoshka
from retreever.config import EncoderConfig
from retreever.encoding.encoder import Encoder
from retreever.encoding.encoder_files import describe_encoding
from retreever.encoding.encoding_store import EncodedDataset, encode_dataset, encode_texts
from retreever.encoding.lexical_features import RARITY_OFFSET, LexicalFeatures
from retreever.errors import EncoderError
from retreever.trained_tree import load_model, route_encodings, route_texts
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
    return EncoderConfig(**{"name": str(folder), "dtype": "float32", "words": WEIGHT, **changes})


def lexical_features_by_definition(encoder: Encoder, text: str) -> np.ndarray:
    """Sum over words of root of count, times rarity, times embedding; scaled to length one."""
    table = encoder.model.get_input_embeddings().weight
    special = set(encoder.tokenizer.all_special_ids)
    counts = Counter(token for token in encoder.tokenizer(text)["input_ids"] if token not in special)
    total = sum(
        count**0.5 * np.log(1 + token / RARITY_OFFSET) * table[token].numpy() for token, count in counts.items()
    )
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
    np.testing.assert_allclose(states.sum(dim=1) / mask.sum(dim=1, keepdim=True), pooled, rtol=1e-4, atol=1e-5)
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
    np.testing.assert_allclose(words.sum(dim=1) / mask.sum(dim=1, keepdim=True), own[rows], atol=1e-6)


def test_a_text_without_words_has_zeros_for_them(bert: Path) -> None:
    pooled = Encoder.load(config(bert)).encode_pooled(["", TEXTS[0]], "passage")
    assert not pooled[0, 32:].any() and pooled[0, :32].any() and pooled[1, 32:].any()


def test_rarer_words_weigh_more_and_special_tokens_nothing() -> None:
    table = torch.eye(5)
    words = LexicalFeatures(table.repeat(200, 1)[:1000], special=[3], weight=1.0)
    ids, mask = torch.tensor([[10, 996, 3, 0]]), torch.tensor([[True, True, True, False]])
    whole = ids[mask], mask.sum(dim=1)
    _, pooled = words.concatenate(torch.zeros(1, 4, 2), torch.tensor([[0.6, 0.8]]), ids, mask, *whole)
    common, rare, _, special, _ = (pooled[0, 2:] / pooled[0, 2:].norm()).tolist()
    assert special == 0
    assert rare / common == pytest.approx(np.log(1 + 996 / RARITY_OFFSET) / np.log(1 + 10 / RARITY_OFFSET), rel=1e-5)


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
    tree, known = load_model(fit(trained, data, tmp_path / "run").model)
    texts = dataset.passage_texts()[:20]
    asked = route_texts(tree, known, Encoder.load(known.encoder), texts, "passage")
    stored = np.concatenate(list(route_encodings(tree, known, data.passages, np.arange(20))))
    np.testing.assert_allclose(asked, stored, atol=2e-3)
    without_words = known.encoder.model_copy(update={"words": 0.0})
    with pytest.raises(RuntimeError):  # half as wide
        route_texts(tree, known, Encoder.load(without_words), texts, "passage")


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
