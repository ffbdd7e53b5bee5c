"""The batches of a training: pairs, encodings and masks, loaded ahead of the step that needs them.

Everything random is a pure function of (seed, number of the batch, rank), so that workers agree and a resumed run
repeats itself. This module does not know what a step computes from a batch.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from retreever.config import Config
from retreever.data.training_pairs import draw_batch_rows, limit_pairs
from retreever.encoding.encoding_store import EncodedDataset
from retreever.errors import TrainingError
from retreever.model import negatives_mask
from retreever.training import distributed
from retreever.training.learner import EncodingBatch, PairMasks
from retreever.training.prefetch import Prefetcher

SAMPLED_PASSAGES, SAMPLED_TOKEN_PASSAGES = 32_768, 1_024
"""Passages from which a tree starts, at most: their pooled encodings, or the states of their tokens."""
SAMPLED_PAIRS = 16_384  # pairs by which rows are turned, at most
SAMPLE_STREAM = 1  # second part of the sample's seed


class TrainingBatch(NamedTuple):
    """A global batch.

    Attributes:
        pairs: (query row, passage row) of the whole batch, int64 (batch, 2).
        queries, passages: encodings of this worker's share.
    """

    pairs: np.ndarray
    queries: EncodingBatch
    passages: EncodingBatch


class TrainingBatches:
    """Global batches by number; a thread loads the next one.

    Attributes:
        pairs: training pairs, (query row, passage row), int64 (pairs, 2); none are needed where `train.steps` is 0.
        batch_size: pairs in a global batch.

    Raises:
        DataError: the data set has no train pairs, and `train.steps` is not 0.
        TrainingError: there are more workers than pairs in a batch.
    """

    def __init__(self, config: Config, data: EncodedDataset, device: str):
        self.config, self.data, self.device = config, data, device
        self.pairs = limit_pairs(_list_train_pairs(config, data), config.data.max_pairs, config.train.seed)
        self.batch_size = min(config.train.batch_size, len(self.pairs))
        self._check_batch_size()
        self._tokens = config.tree.split == "cross_attention"
        self._prefetcher = Prefetcher(self._load, config.train.steps * config.train.accumulate)

    def _check_batch_size(self) -> None:
        size = distributed.world_size()
        if self.config.train.steps and self.batch_size < max(2, size):
            raise TrainingError(
                f"train.batch_size: {size} workers need a batch of {max(2, size)} pairs or more, it has "
                f"{self.batch_size}"
            )

    def __call__(self, number: int) -> TrainingBatch:
        """The batch of that number, from 0; consecutive numbers are loaded ahead."""
        return self._prefetcher(number)

    def close(self) -> None:
        """End the loading thread."""
        self._prefetcher.close()

    def load_sample(self) -> EncodingBatch:
        """Encodings of training passages, of any without pairs; drawn by seed, the same on every worker."""
        passages = np.unique(self.pairs[:, 1]) if len(self.pairs) else np.arange(len(self.data.passages))
        draw = np.random.default_rng((self.config.train.seed, SAMPLE_STREAM))
        size = SAMPLED_TOKEN_PASSAGES if self._tokens else SAMPLED_PASSAGES
        return self.data.passages.batch(np.sort(draw.permutation(passages)[:size]), self._tokens)

    def load_pair_sample(self) -> tuple[Tensor, Tensor]:
        """Pooled encodings of the queries and the passages of training pairs, drawn by seed."""
        draw = np.random.default_rng((self.config.train.seed, SAMPLE_STREAM))
        pairs = self.pairs[draw.permutation(len(self.pairs))[:SAMPLED_PAIRS]]
        return self.data.queries.batch(pairs[:, 0])[0], self.data.passages.batch(pairs[:, 1])[0]

    def draw_masks(self, pairs: np.ndarray) -> PairMasks:
        """Masks of the pairs of a global batch that count; negatives are drawn by torch's default generator."""
        queries, passages = torch.from_numpy(pairs[:, 0].copy()), torch.from_numpy(pairs[:, 1].copy())
        draw = torch.default_generator
        negatives = self.config.loss.negatives
        keep_queries = negatives_mask(passages, queries, negatives, draw).to(self.device)
        if negatives is None:
            return keep_queries, None  # the same pairs count in both directions
        return keep_queries, negatives_mask(queries, passages, negatives, draw).to(self.device)

    def _draw_pairs(self, number: int) -> np.ndarray:
        return self.pairs[draw_batch_rows(len(self.pairs), self.batch_size, number, self.config.train.seed)]

    def _load(self, number: int) -> TrainingBatch:
        pairs = self._draw_pairs(number)
        own_pairs = pairs[distributed.worker_slice(len(pairs))]
        return TrainingBatch(pairs, self._load_encodings(own_pairs, 0), self._load_encodings(own_pairs, 1))

    def _load_encodings(self, pairs: np.ndarray, column: int) -> EncodingBatch:
        encodings = (self.data.queries, self.data.passages)[column]
        x, mask = encodings.batch(pairs[:, column], self._tokens, torch.bfloat16)
        if self.device == "cpu" or x.device.type != "cpu":
            return x, mask
        return x.pin_memory(), None if mask is None else mask.pin_memory()


def _list_train_pairs(config: Config, data: EncodedDataset) -> np.ndarray:
    """Pairs of the train split; none are needed for a tree that is not trained."""
    if config.train.steps:
        data.dataset.require_pairs("train", "training learns from its pairs, train.steps=0 needs none")
    return data.dataset.pairs("train") if data.dataset.has_pairs("train") else np.empty((0, 2), np.int64)


def derive_step_seed(seed: int, number: int, stream: int = 0) -> int:
    """Seed of the random numbers of a batch: a pure function, so that a resumed run draws the same ones.

    Args:
        number: number of the batch.
        stream: 0 is shared by all workers (negatives), 1 + rank is a worker's own (dropout).
    """
    return (seed * 1_000_003 + number * 1_009 + stream * 7_368_787) % 2**63
