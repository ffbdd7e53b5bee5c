"""What a rival of the tree must offer, so that all are fitted, indexed, asked and weighed in the same way.

A rival sees the train pairs, chooses its settings on dev and answers for the queries of the data it has
indexed. Which split it is judged on, and by which metric, is decided elsewhere.
"""

from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol, Self

import numpy as np
from jaxtyping import Float, Int

from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset
from retreever.errors import DataError
from retreever.evaluation.metrics import Relevant, evaluate, relevance
from retreever.system.progress import Track, silent

Ranking = tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"]]
BYTES = 4  # of a float32
PLAIN = "float32"
NOTHING = -2
"""Row of a passage that was not found: fills up the ranking of a rival that looks at some passages only."""


class Form(NamedTuple):
    """One way in which a rival holds a passage, or searches.

    Attributes:
        dims: numbers kept of a text; None where size cannot be chosen.
        code: how they are kept (`float32`, `float16`, `int8`, `pq64`: a product quantiser of 64 bytes), or how they
            are searched (`beam 8`, `nprobe 4`).
    """

    dims: int | None = None
    code: str = PLAIN

    def __str__(self) -> str:
        return self.code if self.dims is None else f"{self.dims} {self.code}"


class Ranker(Protocol):
    """A way to rank passages, in one form or in several."""

    name: str

    @property
    def forms(self) -> tuple[Form, ...]:
        """Forms on offer; those in float32 ascend in size. Valid after `index`."""

    def index(self, data: EncodedDataset, track: Track = silent) -> None:
        """Hold the passages of `data`, to be asked by its queries."""

    def search(self, query_rows: Int[np.ndarray, " queries"], k: int, form: Form) -> Ranking:
        """Passage rows and scores of the best k for each query of the data indexed, best first.

        Args:
            form: one of `forms`.

        Returns:
            Rows and scores; `NOTHING` and minus infinity where fewer than k are found.
        """

    def bytes_per_document(self, form: Form) -> float:
        """What the index holds for a passage, in bytes, without its text; valid after `index`."""


class Rival(Ranker, Protocol):
    """A ranker that is fitted for a comparison and kept.

    Attributes:
        depends: settings that decide it, by dotted name, besides data and encoder; with `train.seed` among them another
            seed gives another rival.
    """

    depends: ClassVar[tuple[str, ...]]

    @classmethod
    def for_config(cls, config: Config) -> Self:
        """A rival with the budget that a tree of this configuration is trained with."""

    def fit(self, data: EncodedDataset, track: Track = silent) -> None:
        """Learn from the train pairs and choose settings by NDCG@10 on dev; `data` is indexed then.

        Raises:
            DataError: a split that is needed is missing or empty.
        """

    def save(self, folder: Path) -> None:
        """Write what `fit` has found to `folder`, whole or not at all."""

    def load(self, folder: Path) -> None:
        """Take over what `save` wrote, instead of `fit`.

        Raises:
            BundleError: a file is missing or damaged, or the folder holds another rival.
        """


def dev_judgements(data: EncodedDataset) -> tuple[Int[np.ndarray, " queries"], Relevant]:
    """Dev query rows and what is relevant to each.

    Raises:
        DataError: the data set has no dev judgements.
    """
    queries, relevant = relevance(data.dataset.qrels.get("dev", np.empty((0, 3), np.int64)))
    if not len(queries):
        raise DataError(f"data set {data.dataset.name}: qrels/dev.tsv is missing or empty; rivals are tuned on it")
    return queries, relevant


def train_pairs(data: EncodedDataset) -> Int[np.ndarray, "pairs 2"]:
    """Train pairs as query and passage rows.

    Raises:
        DataError: there are none.
    """
    pairs = data.dataset.pairs("train") if "train" in data.dataset.qrels else np.empty((0, 2), np.int64)
    if not len(pairs):
        raise DataError(f"data set {data.dataset.name}: qrels/train.tsv is missing or empty; rivals learn from it")
    return pairs


def dev_ndcg(rival: Ranker, data: EncodedDataset) -> float:
    """Dev NDCG@10 of a rival that has indexed `data`: the mean over its sizes in float32."""
    queries, relevant = dev_judgements(data)
    plain = [form for form in rival.forms if form.code == PLAIN]
    return float(np.mean([evaluate(rival.search(queries, 10, form)[0], relevant)["ndcg_at_10"] for form in plain]))


def normalized(vectors: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, "n dim"]:
    """Vectors of length one (zero stays zero), float32, so that inner products are cosines."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)
