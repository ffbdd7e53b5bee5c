"""A small world where texts and encodings agree: each topic has words of its own and a direction of its own."""

import numpy as np
import pytest
import torch

from retreever.data.dataset import Passage, Query, RetrievalDataset
from retreever.encoding.encoding_store import EncodedDataset
from retreever.encoding.tokenized_texts import TokenizedTexts

TOPICS, DIM = 60, 40
OTHER_WORDS = 20


class Vectors:
    """Encodings in memory: pooled vectors, and three token states of each text whose mean they are."""

    has_tokens = True

    def __init__(self, pooled: np.ndarray):
        self.pooled = self.last_layer = pooled
        self.dim = pooled.shape[1]

    def __len__(self) -> int:
        return len(self.pooled)

    def batch(self, rows: np.ndarray, tokens: bool = False) -> tuple[torch.Tensor, torch.Tensor | None]:
        x = torch.from_numpy(self.pooled[rows])
        if not tokens:
            return x, None
        return x[:, None] * torch.tensor([0.5, 1.0, 1.5])[:, None], torch.ones(len(rows), 3, dtype=torch.bool)


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="session")
def data() -> EncodedDataset:
    """60 passages and 240 queries, four for each passage: two to train on, one for dev, one for test.

    Topics differ along half the dimensions; the other half is noise, which a head trained on pairs learns to leave out
    and the frozen encoder cannot.
    """
    rng = np.random.default_rng(0)
    corpus = tuple(Passage(f"p{i}", f"the word{i} is about topic{i} and more") for i in range(TOPICS))
    queries = tuple(Query(f"q{i}", f"what is the word{i % TOPICS}") for i in range(4 * TOPICS))
    rows = np.arange(4 * TOPICS)
    judged = np.stack([rows, rows % TOPICS, np.ones_like(rows)], axis=1)
    qrels = {"train": judged[: 2 * TOPICS], "dev": judged[2 * TOPICS : 3 * TOPICS], "test": judged[3 * TOPICS :]}
    topics = rng.normal(size=(TOPICS, DIM // 2))
    near = topics[rows % TOPICS] + 0.3 * rng.normal(size=(len(rows), DIM // 2))
    encoded = [unit(np.hstack([half, rng.normal(size=half.shape)])) for half in (near, topics)]
    dataset = RetrievalDataset("demo", corpus, queries, qrels)
    return EncodedDataset(dataset, *map(Vectors, encoded))


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Matrices here are too small to share: threads would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class NumberedWords:
    """Word vectors of this world: the direction of the topic that a word numbers; other words have random ones."""

    def __init__(self, data: EncodedDataset):
        self._words = {f"word{i}": i for i in range(TOPICS)} | {f"topic{i}": TOPICS + i for i in range(TOPICS)}
        topics = data.passages.pooled
        others = np.random.default_rng(1).normal(size=(OTHER_WORDS, DIM))
        self._vectors = np.concatenate([topics, topics, unit(others)])

    def tokenize(self, texts):
        known = [[self._words.setdefault(word, len(self._words)) for word in text.split()] for text in texts]
        ids = np.array([number for text in known for number in text], np.int32)
        return TokenizedTexts(ids, np.cumsum([0, *map(len, known)]))

    def read_sources(self):
        noise = np.random.default_rng(2).normal(size=self._vectors.shape).astype(np.float32)
        return {"table": noise, "alone": self._vectors}


def with_qrels(data: EncodedDataset, qrels) -> EncodedDataset:
    """The same data with other judgements."""
    dataset = RetrievalDataset(data.dataset.name, data.dataset.corpus, data.dataset.queries, qrels)
    return EncodedDataset(dataset, data.queries, data.passages)
