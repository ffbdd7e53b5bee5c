"""Texts of synthetic passages: words of the passages that each is mixed of, and rare words of its own."""

from collections.abc import Iterator

import numpy as np

from benchmarks.synthetic_corpus import PASSAGES_PER_CHUNK, SyntheticCorpus

SHARE_OF_FIRST = 0.7  # of a text's words that come from the first of the mixed passages; the others from the second
SHARE_OF_RARE = 0.05  # of a text's words that no real passage has
ZIPF_EXPONENT = 1.1  # of the rare words


def generate_texts(corpus: SyntheticCorpus, count: int, seed: int = 0) -> Iterator[list[str]]:
    """Yield the texts of the chunks that `corpus.generate(count, t, seed)` yields, whatever t.

    A text is as long as the first passage's. Its words are drawn from the first and the second passage, so they go with
    the topic and are as frequent as in the real corpus. Some are replaced by words that only synthetic passages have,
    with frequencies after Zipf, since a larger corpus has more words.
    """
    draw, words = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    real = [text.split() or ["empty"] for text in corpus.texts]
    for start in range(0, count, PASSAGES_PER_CHUNK):
        size = min(PASSAGES_PER_CHUNK, count - start)
        first, second, _ = draw.integers(len(corpus.passages), size=(3, size)).tolist()
        yield [_mix_words(real[a], real[b], words) for a, b in zip(first, second, strict=True)]


def _mix_words(first: list[str], second: list[str], draw: np.random.Generator) -> str:
    kinds, which = draw.random((2, len(first)))
    rare = iter(draw.zipf(ZIPF_EXPONENT, int((kinds < SHARE_OF_RARE).sum())).tolist())
    mixed = []
    for kind, at in zip(kinds.tolist(), which.tolist(), strict=True):
        if kind < SHARE_OF_RARE:
            mixed.append(f"rare{next(rare)}")
        else:
            own = first if kind < SHARE_OF_RARE + (1 - SHARE_OF_RARE) * SHARE_OF_FIRST else second
            mixed.append(own[int(at * len(own))])
    return " ".join(mixed)
