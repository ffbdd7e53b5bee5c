"""The protocol of baselines: how each is fitted, indexed, searched and measured.

A baseline reads the train pairs, chooses its settings on dev, and ranks the indexed passages for queries of the same
data. Knows neither the tree nor the split and metric that it is judged by.
"""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol, Self

import numpy as np
from jaxtyping import Float, Int

from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset
from retreever.errors import DataError
from retreever.evaluation.metrics import RelevantPassages, evaluate_rankings, group_judgements
from retreever.evaluation.ranking import select_top_k
from retreever.system.progress import Track, track_silently

Ranking = tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"]]
BYTES_PER_FLOAT32 = 4
SCORES_PER_BATCH = 1 << 24  # 64 MiB of float32
FLOAT32_CODE = "float32"
MISSING_ROW = -2
"""Row that fills the ranking where a baseline scores only some passages and finds fewer than k."""


class Form(NamedTuple):
    """One way in which a system stores passages, or searches them.

    Attributes:
        dims: numbers per text; None where the size is fixed.
        code: how they are stored (`float32`, `float16`, `int8`, `pq64`: a product quantiser of 64 bytes), or how they
            are searched (`beam 8`, `nprobe 4`).
    """

    dims: int | None = None
    code: str = FLOAT32_CODE

    def __str__(self) -> str:
        return self.code if self.dims is None else f"{self.dims} {self.code}"


class Ranker(Protocol):
    """A way to rank passages, in one form or in several."""

    name: str

    @property
    def forms(self) -> tuple[Form, ...]:
        """Forms that `search` takes; those in float32 ascend in size. Valid after `index`."""

    def index(self, data: EncodedDataset, track: Track = track_silently) -> None:
        """Index the passages of `data`; `search` then takes rows of its queries."""

    def search(self, query_rows: Int[np.ndarray, " queries"], k: int, form: Form) -> Ranking:
        """Find the best k passages for each query, best first.

        Args:
            query_rows: rows of queries of the indexed data.
            form: one of `forms`.

        Returns:
            Passage rows and scores; `MISSING_ROW` and minus infinity where fewer than k are found.
        """

    def bytes_per_document(self, form: Form) -> float:
        """Bytes that the index needs per passage, without its text. Valid after `index`."""


class ScoringRanker(Ranker, Protocol):
    """A ranker that can score every passage, so that its scores can be added to another system's."""

    def score_all(self, query_rows: Int[np.ndarray, " queries"], form: Form) -> Float[np.ndarray, "queries passages"]:
        """Score every passage for every query; `search` ranks by the same scores."""

    def measure_scale(self, form: Form) -> float:
        """Unit of the scores: a positive constant of the indexed passages, which no query changes."""


class Baseline(Ranker, Protocol):
    """A ranker that is fitted for a comparison and cached.

    Attributes:
        depends: settings that decide the fitted baseline, by dotted name, besides data and encoder. With `train.seed`
            among them, each seed is fitted separately.
    """

    depends: ClassVar[tuple[str, ...]]

    @classmethod
    def for_config(cls, config: Config) -> Self:
        """Make a baseline with the training budget of a tree of this configuration."""

    def fit(self, data: EncodedDataset, track: Track = track_silently) -> None:
        """Learn from the train pairs and choose settings by NDCG@10 on dev; `data` is indexed afterwards.

        Raises:
            DataError: a split that it needs is missing or empty.
        """

    def save(self, folder: Path) -> None:
        """Write the result of `fit` to `folder`, whole or not at all."""

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, instead of `fit`.

        Raises:
            BundleError: a file is missing or damaged, or the folder holds another baseline.
        """


def read_dev_judgements(data: EncodedDataset) -> tuple[Int[np.ndarray, " queries"], RelevantPassages]:
    """Read the dev query rows and what is relevant to each.

    Raises:
        DataError: the data set has no dev judgements.
    """
    queries, relevant = group_judgements(data.dataset.qrels.get("dev", np.empty((0, 3), np.int64)))
    if not len(queries):
        raise DataError(f"data set {data.dataset.name}: qrels/dev.tsv is missing or empty; baselines are tuned on it")
    return queries, relevant


def read_train_pairs(data: EncodedDataset) -> Int[np.ndarray, "pairs 2"]:
    """Read the train pairs as query and passage rows.

    Raises:
        DataError: the data set has no train judgements.
    """
    pairs = data.dataset.pairs("train") if "train" in data.dataset.qrels else np.empty((0, 2), np.int64)
    if not len(pairs):
        raise DataError(f"data set {data.dataset.name}: qrels/train.tsv is missing or empty; baselines learn from it")
    return pairs


def evaluate_on_dev(ranker: Ranker, data: EncodedDataset) -> float:
    """Compute dev NDCG@10 of a baseline that has indexed `data`: the mean over its sizes in float32."""
    queries, relevant = read_dev_judgements(data)
    plain = [form for form in ranker.forms if form.code == FLOAT32_CODE]
    return float(
        np.mean([evaluate_rankings(ranker.search(queries, 10, form)[0], relevant)["ndcg_at_10"] for form in plain])
    )


def search_in_batches(
    score: Callable[[Int[np.ndarray, " some"]], Float[np.ndarray, "some passages"]],
    query_rows: Int[np.ndarray, " queries"],
    passages: int,
    k: int,
) -> Ranking:
    """Rank all passages by `score`, for as many queries at a time as memory allows; equal scores by row."""
    found = [select_top_k(score(part), k) for part in split_queries(query_rows, passages)]
    rows, scores = zip(*found, strict=True)
    return np.concatenate(rows), np.concatenate(scores).astype(np.float32)


def split_queries(query_rows: Int[np.ndarray, " queries"], passages: int) -> list[Int[np.ndarray, " some"]]:
    """Split rows of queries into batches whose scores of all passages fit in `SCORES_PER_BATCH`."""
    return np.array_split(query_rows, max(1, -(-len(query_rows) * passages // SCORES_PER_BATCH)))


def measure_deviation(similarities: Float[np.ndarray, "n n"]) -> float:
    """Average standard deviation of a passage's similarities to the others; 1 where there is none."""
    others = similarities[~np.eye(len(similarities), dtype=bool)].reshape(len(similarities), -1)
    deviation = float(others.std(axis=1, dtype=np.float64).mean()) if others.size else 0.0
    return deviation or 1.0


def l2_normalize(vectors: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, "n dim"]:
    """Scale vectors to length one (zero stays zero), float32, so that inner products are cosines."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)
