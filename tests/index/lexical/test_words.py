"""Words are those of bm25s; scripts without spaces give pairs."""

import bm25s
import numpy as np
import pytest

from retreever.errors import MissingExtraError
from retreever.index import LexicalSettings
from retreever.index.lexical.words import digest_words, split_words


def split_names(texts, stopwords=None, stemmer=None):
    words, vocabulary = split_words(texts, LexicalSettings(1.5, 0.75, stopwords, stemmer))
    return [[vocabulary[number] for number in own] for own in words]


@pytest.mark.parametrize("stopwords", [None, "en", "de"])
def test_words_are_those_of_bm25s(stopwords):
    texts = ["The QUICK brown fox's tail_end, x y z42!", "", "der Hund und die Katze naïve façade ÉTÉ", "a I 1 12"]
    expected = bm25s.tokenize(texts, stopwords=stopwords or [], return_ids=False, show_progress=False)
    assert split_names(texts, stopwords) == expected


def test_scripts_without_spaces_give_pairs_of_neighbours():
    assert split_names(["東京都に行く abc", "京", "日本 語 py3で"]) == [
        ["東京", "京都", "都に", "に行", "行く", "abc"],
        ["京"],
        ["日本", "語", "py3", "で"],
    ]


def test_terms_are_digests_that_never_change():
    assert digest_words(["cat", "京都"]).tolist() == [
        3429664268601861939,
        13166467874905662796,
    ]  # stored indexes hold them
    assert len(np.unique(digest_words([f"w{i}" for i in range(50_000)]))) == 50_000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((0, 0.75, None, None), "k1: must be above 0, got 0"),
        ((1.5, 1.2, None, None), r"b: must lie within \[0, 1\], got 1.2"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LexicalSettings(*settings)


def test_an_unknown_language_is_refused():
    with pytest.raises(ValueError, match="stopwords: bm25s has none of the language 'xx'"):
        split_names(["one"], stopwords="xx")


def test_a_stemmer_takes_endings_off():
    pytest.importorskip("Stemmer")
    assert split_names(["running runs"], stemmer="english") == [["run", "run"]]
    with pytest.raises(ValueError, match=r"stemmer: must be one of .*, got 'klingon'"):
        split_names(["one"], stemmer="klingon")


def test_a_stemmer_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "Stemmer", None)
    with pytest.raises(MissingExtraError, match="stemming"):
        split_names(["one"], stemmer="english")
