"""RAPTOR's summaries of a cluster: its central sentences, or the text of a language model.

A summariser is a function from the texts of a cluster to one text. Knows nothing about clusters or encoders.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from retreever.encoding.text_generator import TextGenerator

Summarizer = Callable[[Sequence[str]], str]
SENTENCE_BOUNDARY = re.compile(r"(?<=[.!?])\s+|\n+")
SUMMARY_WORDS = 100
SUMMARY_PROMPT = "Write a summary of the following, including as many key details as possible: {texts}\n\nSummary:"


class ExtractiveSummarizer:
    """Centroid-based summaries (Radev 2004): the sentences whose TF-IDF vectors are nearest to their mean.

    Args:
        corpus: texts that the inverse document frequencies come from.
    """

    def __init__(self, corpus: Sequence[str]):
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b").fit(corpus)

    def __call__(self, texts: Sequence[str]) -> str:
        """Join sentences of `texts`, the most central first, up to `SUMMARY_WORDS` words; repeats count once."""
        sentences = list(dict.fromkeys(s.strip() for text in texts for s in SENTENCE_BOUNDARY.split(text) if s.strip()))
        vectors = self._vectorizer.transform(sentences)
        centrality = vectors @ np.asarray(vectors.mean(axis=0)).ravel()
        chosen: list[str] = []
        words = 0
        for i in np.argsort(-centrality, kind="stable"):
            chosen.append(sentences[i])
            words += len(sentences[i].split())
            if words >= SUMMARY_WORDS:
                break
        return " ".join(chosen)


class LanguageModelSummarizer:
    """Summaries written by a text-generation model, greedily, from RAPTOR's prompt.

    Args:
        name: a Hugging Face id or a folder of any causal language model.
        longest: tokens read of a cluster, and tokens written of a summary, at most.
    """

    def __init__(self, name: str, longest: tuple[int, int] = (3500, 128)):
        self._generate = TextGenerator(name, *longest)

    def __call__(self, texts: Sequence[str]) -> str:
        """Return what the model writes; the beginning of the texts where it writes nothing."""
        written = self._generate(SUMMARY_PROMPT.format(texts="\n\n".join(texts)))
        return written or " ".join(" ".join(texts).split()[:SUMMARY_WORDS])
