"""RAPTOR's summaries of a cluster: its central sentences, or the text of a language model.

A summariser is a function from the texts of a cluster to one text. Knows nothing about clusters or encoders.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

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
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model: Any = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=False, use_safetensors=True)
        self._model = model.eval()
        positions = getattr(model.config, "max_position_embeddings", None) or sum(longest)
        self._max_written_tokens = min(longest[1], positions // 4)
        self._max_read_tokens = min(longest[0], positions - self._max_written_tokens)

    def __call__(self, texts: Sequence[str]) -> str:
        """Return what the model writes; the beginning of the texts where it writes nothing."""
        import torch

        prompt = SUMMARY_PROMPT.format(texts="\n\n".join(texts))
        given = self._tokenizer(prompt, return_tensors="pt", truncation=True, max_length=self._max_read_tokens)
        with torch.inference_mode():
            out = self._model.generate(
                input_ids=given["input_ids"],
                attention_mask=given["attention_mask"],
                max_new_tokens=self._max_written_tokens,
                do_sample=False,
                pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id or 0,
            )
        written = self._tokenizer.decode(out[0, given["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        return written or " ".join(" ".join(texts).split()[:SUMMARY_WORDS])
