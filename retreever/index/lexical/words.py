"""From texts to words, as `bm25s` makes them, and from words to terms.

A word is lower-cased and has at least two letters, digits or underscores. Characters of Chinese and Japanese, and of
Korean where they lie between those, have no spaces: a run of them becomes its pairs of neighbours, as in Lucene's
analyser. A *term* is a word's digest of 64 bits, so that no list of words is kept: documents that are added bring new
words without a change to what is stored. What a word is worth is not known here.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retreever.system.extras import import_extra

TERM_BYTES = 8  # of a digest: two of a million words share one with a probability of 3e-8
_UNSPACED = "\\u3040-\\u30ff\\u3400-\\u4dbf\\u4e00-\\u9fff\\uf900-\\ufaff\\uac00-\\ud7af"
_UNSPACED_RUN = re.compile(f"[{_UNSPACED}]+")
_WORD_PATTERN = rf"(?u)\b\w\w+\b|(?<!\w)[{_UNSPACED}](?!\w)"


@dataclass(frozen=True)
class LexicalSettings:
    """How texts become words, and how often a word must occur to be worth more.

    Attributes:
        k1: how slowly a word's worth grows with its count in a passage, above 0.
        b: how much long passages are held back, in [0, 1].
        stopwords: language whose stop words are left out, as `bm25s` names it ("en"); None: none are.
        stemmer: Snowball's algorithm ("english") that takes endings off; None: words stay whole.
    """

    k1: float
    b: float
    stopwords: str | None
    stemmer: str | None

    def __post_init__(self) -> None:
        if not 0 < self.k1 < np.inf:
            raise ValueError(f"k1: must be above 0, got {self.k1}")
        if not 0 <= self.b <= 1:
            raise ValueError(f"b: must lie within [0, 1], got {self.b}")


def split_words(texts: Sequence[str], settings: LexicalSettings) -> tuple[list[list[int]], list[str]]:
    """Words of texts: for each text the numbers of its words, in their order, and the words by number.

    Raises:
        ValueError: `bm25s` has no stop words of the language, or Snowball no such algorithm.
        MissingExtraError: a stemmer is asked for and PyStemmer is not installed.

    >>> split_words(["The cats of 東京都", "a cat"], LexicalSettings(1.5, 0.75, "en", None))
    ([[0, 1, 2], [3]], ['cats', '東京', '京都', 'cat'])
    """
    import bm25s  # takes a second

    spaced = [_UNSPACED_RUN.sub(_space_pairs, text) for text in texts]
    try:
        found = bm25s.tokenize(
            spaced,
            token_pattern=_WORD_PATTERN,
            stopwords=settings.stopwords or [],
            stemmer=_make_stemmer(settings.stemmer),
            show_progress=False,
        )
    except ValueError:
        raise ValueError(f"stopwords: bm25s has none of the language {settings.stopwords!r}") from None
    return found.ids, sorted(found.vocab, key=found.vocab.__getitem__)


def _space_pairs(run: re.Match[str]) -> str:
    letters = run.group()
    pairs = [letters[i : i + 2] for i in range(max(1, len(letters) - 1))]
    return f" {' '.join(pairs)} "


def _make_stemmer(algorithm: str | None) -> Any:
    if algorithm is None:
        return None
    snowball = import_extra("Stemmer", "stemming")
    if algorithm not in snowball.algorithms():
        raise ValueError(f"stemmer: must be one of {', '.join(snowball.algorithms())}, got {algorithm!r}")
    return snowball.Stemmer(algorithm)


def digest_words(words: Iterable[str]) -> np.ndarray:
    """Terms of words, uint64 (words,)."""
    digests = [hashlib.blake2b(word.encode(errors="surrogatepass"), digest_size=TERM_BYTES).digest() for word in words]
    return np.frombuffer(b"".join(digests), np.dtype("<u8")).astype(np.uint64)
