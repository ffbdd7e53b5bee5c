"""Static word vectors: read from an encoder, reduced, weighted by rarity."""

import numpy as np
import pytest

from retreever.baselines import StaticWords
from retreever.baselines.static import encoder_words
from retreever.baselines.static.encoder_words import EncoderWords
from retreever.baselines.static.static_words import IDF_POWERS
from retreever.encoding.encoder import Encoder
from retreever.evaluation.metrics import evaluate_rankings, group_judgements
from tests.baselines.conftest import NumberedWords
from tests.support import tiny


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return tiny.tiny_config(tiny.tiny_bert(tmp_path_factory.mktemp("words") / "bert")).encoder


def test_tokens_alone_are_what_the_encoder_makes_of_one_word(config):
    words, encoder = EncoderWords(config), Encoder.load(config)
    vectors = words.read_sources()["alone"]
    some = tiny.WORDS[5:25]
    tokens = [ids[1] for ids in words.tokenize(some).split()]  # between [CLS] and [SEP]
    np.testing.assert_allclose(vectors[tokens], encoder.encode_pooled(some, "passage"), atol=1e-5)


def test_the_table_is_the_encoders_own_and_special_tokens_have_no_vector(config):
    from transformers import AutoModel

    vectors = EncoderWords(config).read_sources()["table"]
    table = AutoModel.from_pretrained(config.name).get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(vectors[5:], table[5:])
    assert (vectors[:5] == 0).all()


def test_a_large_vocabulary_has_its_table_alone(config, monkeypatch):
    monkeypatch.setattr(encoder_words, "MAX_TOKENS_ENCODED_ALONE", 20)
    assert list(EncoderWords(config).read_sources()) == ["table"]


def test_a_text_is_the_mean_of_its_words_weighted_by_rarity(data):
    baseline = StaticWords(NumberedWords(data))
    baseline.fit(data)
    texts = [text.split() for text in data.dataset.passage_texts()]
    words = NumberedWords(data)
    numbers = {word: words.tokenize([word]).ids[0] for text in [*texts, ["what"]] for word in text}
    baseline.index(data)  # its own words are numbered in the same order
    expected = np.zeros(baseline._vectors.shape[1])
    for word in texts[7]:
        holding = sum(word in text for text in texts)
        rarity = np.log(1 + (60 - holding + 0.5) / (holding + 0.5)) ** baseline.power
        expected += rarity * baseline._vectors[numbers[word]]
    np.testing.assert_allclose(baseline._passages[7], expected, rtol=1e-4, atol=1e-5)


def test_source_and_power_are_chosen_on_dev(data):
    baseline = StaticWords(NumberedWords(data))
    baseline.fit(data)
    assert baseline.source == "alone"  # the table is noise there
    assert baseline.power in IDF_POWERS
    queries, relevant = group_judgements(data.dataset.qrels["test"])
    figures = [evaluate_rankings(baseline.search(queries, 10, form)[0], relevant) for form in baseline.forms]
    assert max(own["ndcg_at_10"] for own in figures) > 0.6


def test_an_encoders_words_tell_texts_apart(config, tmp_path):
    """Random embeddings, but of the words that queries and passages share."""
    encoded = tiny.encoded(tmp_path, config)
    baseline = StaticWords(EncoderWords(config))
    baseline.fit(encoded)
    queries, relevant = group_judgements(encoded.dataset.qrels["test"])
    assert evaluate_rankings(baseline.search(queries, 10, baseline.forms[1])[0], relevant)["ndcg_at_10"] > 0.5
