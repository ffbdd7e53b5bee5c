"""BM25 fused with a dense baseline, by a convex sum and by reciprocal ranks, in every size of the dense one.

Weight and rank constant are chosen on dev, for each size. `score_fusion.py` has the formulas. A subclass names the
dense baseline. A tree's hybrid is ranked by its index, in `retreever/comparison/tree_hybrid.py`.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from jaxtyping import Float, Int

from retreever.baselines import fitted_files
from retreever.baselines.baseline import (
    FLOAT32_CODE,
    Baseline,
    Form,
    Ranking,
    read_dev_judgements,
    search_in_batches,
    split_queries,
)
from retreever.baselines.bm25 import BM25
from retreever.baselines.hybrid.score_fusion import add_reciprocal_ranks, add_scores, rank_scores
from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset
from retreever.evaluation.metrics import evaluate_per_query
from retreever.evaluation.ranking import select_top_k
from retreever.system.progress import Track, track_silently

SUM, RECIPROCAL_RANKS = "sum", "rrf"
FUSED_CODES = (FLOAT32_CODE, "int8")
WEIGHTS = tuple(i / 20 for i in range(21))
RANK_CONSTANTS = (0, 1, 2, 5, 10, 20, 40, 60, 100)
FUSION_TUNING_QUERIES = 1000  # dev queries that settings are compared on, drawn at random
Scores = Float[np.ndarray, "queries passages"]


class HybridBaseline:
    """A baseline that ranks by the scores of two others, which it stores with itself.

    Args:
        lexical, dense: fitted, or fitted by `fit`.

    Attributes:
        settings: weight and rank constant, by the dimensions of the dense side; chosen by `tune`.
    """

    name: str
    depends: ClassVar[tuple[str, ...]]
    dense_baseline: ClassVar[type[Baseline]]

    def __init__(self, lexical: BM25, dense: Any):
        self.lexical, self.dense = lexical, dense
        self.settings: dict[str, dict[str, float]] = {}

    @property
    def forms(self) -> tuple[Form, ...]:
        """The dense side's forms in float32 and int8 with the sum, those in float32 also with reciprocal ranks."""
        fused = [form for form in self.dense.forms if form.code in FUSED_CODES]
        plain = [form for form in fused if form.code == FLOAT32_CODE]
        return (
            *(Form(form.dims, f"{form.code} {SUM}") for form in fused),
            *(Form(form.dims, f"{form.code} {RECIPROCAL_RANKS}") for form in plain),
        )

    @classmethod
    def describe_tuning(cls) -> dict[str, Any]:
        """What `tune` tries; a hybrid that was tuned otherwise is another one."""
        return {"weights": WEIGHTS, "rank_constants": RANK_CONSTANTS, "queries": FUSION_TUNING_QUERIES}

    def tune(self, data: EncodedDataset, track: Track = track_silently) -> None:
        """Choose weight and rank constant of each size by NDCG@10 on dev; `data` stays indexed.

        Raises:
            DataError: the data set has no dev judgements.
        """
        queries, relevant = read_dev_judgements(data)
        drawn = np.sort(np.random.default_rng(0).permutation(len(queries))[:FUSION_TUNING_QUERIES])
        self.index(data)
        judged = {int(queries[i]): relevant[i] for i in drawn}
        plain = [form for form in self.dense.forms if form.code == FLOAT32_CODE]
        for form in track(plain, f"tuning {self.name}", total=len(plain)):
            self.settings[str(form.dims)] = {
                SUM: self._choose(WEIGHTS, form, judged, self._read_scores, add_scores),
                RECIPROCAL_RANKS: self._choose(RANK_CONSTANTS, form, judged, self._read_ranks, add_reciprocal_ranks),
            }

    def index(self, data: EncodedDataset, track: Track = track_silently) -> None:
        """Index the passages of `data` by both sides; `search` then takes rows of its queries."""
        self.lexical.index(data, track)
        self.dense.index(data, track)
        self._passages = len(data.passages)
        self._lexical_unit = self.lexical.measure_scale(Form())
        self._dense_units: dict[int | None, float] = {}

    def search(self, query_rows: Int[np.ndarray, " queries"], k: int, form: Form) -> Ranking:
        """Find passage rows and fused scores of the best k among all passages, equal scores by row."""
        return search_in_batches(lambda part: self._fuse(part, form), query_rows, self._passages, k)

    def bytes_per_document(self, form: Form) -> float:
        """Bytes of both sides."""
        return self.lexical.bytes_per_document(Form()) + self.dense.bytes_per_document(_split_form(form)[0])

    def _fuse(self, rows: Int[np.ndarray, " queries"], form: Form) -> Scores:
        own, fusion = _split_form(form)
        setting = self.settings[str(form.dims)][fusion]
        if fusion == SUM:
            return add_scores(*self._read_scores(rows, own), setting)
        return add_reciprocal_ranks(*self._read_ranks(rows, own), int(setting))

    def _read_scores(self, rows: Int[np.ndarray, " queries"], form: Form) -> tuple[Scores, Scores]:
        """Scores of both sides in their units, the lexical one first."""
        if form.dims not in self._dense_units:
            self._dense_units[form.dims] = self.dense.measure_scale(form)
        lexical, dense = self.lexical.score_all(rows, Form()), self.dense.score_all(rows, form)
        return lexical / np.float32(self._lexical_unit), dense / np.float32(self._dense_units[form.dims])

    def _read_ranks(self, rows: Int[np.ndarray, " queries"], form: Form) -> tuple[Scores, Scores]:
        """Ranks by both sides, the lexical one first; BM25 finds no passage without a word of the query."""
        lexical = self.lexical.score_all(rows, Form())
        return np.where(lexical > 0, rank_scores(lexical), np.inf), rank_scores(self.dense.score_all(rows, form))

    def _choose(
        self,
        options: tuple[float, ...] | tuple[int, ...],
        form: Form,
        judged: Mapping[int, tuple[np.ndarray, np.ndarray]],
        read: Callable[[np.ndarray, Form], tuple[Scores, Scores]],
        fuse: Callable[[Scores, Scores, Any], Scores],
    ) -> float:
        """Return the option with the best NDCG@10 over the `judged` queries; of equal ones the first."""

        def judge_batches() -> Iterator[float]:
            for part in split_queries(np.array(list(judged)), self._passages):
                sides, relevant = read(part, form), [judged[row] for row in part.tolist()]
                for option in options:
                    rows, _ = select_top_k(fuse(*sides, option), 10)
                    yield float(evaluate_per_query(rows, relevant)["ndcg_at_10"].sum())

        totals = np.array(list(judge_batches())).reshape(-1, len(options)).sum(axis=0)
        return options[int(totals.argmax())]

    @classmethod
    def for_config(cls, config: Config) -> Self:
        """Make the baseline from those that this configuration makes."""
        return cls(BM25.for_config(config), cls.dense_baseline.for_config(config))

    @classmethod
    def sides(cls) -> tuple[type[Baseline], type[Baseline]]:
        """The baselines that are fused, BM25 first."""
        return BM25, cls.dense_baseline

    def fit(self, data: EncodedDataset, track: Track = track_silently) -> None:
        """Fit both sides on the train pairs and on dev, then choose weight and rank constant on dev."""
        self.lexical.fit(data, track)
        self.dense.fit(data, track)
        self.tune(data, track)

    def save(self, folder: Path) -> None:
        """Write the settings and both sides to `folder`."""
        fitted_files.save_fitted_files(folder, self.name, self.settings, parts=(self.lexical, self.dense))

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, instead of `fit`.

        Raises:
            BundleError: a file is missing or damaged, or the folder holds another baseline.
        """
        self.settings, _ = fitted_files.load_fitted_files(folder, self.name)
        for part in (self.lexical, self.dense):
            part.load(folder / part.name)


def _split_form(form: Form) -> tuple[Form, str]:
    """The dense side's form, and the kind of fusion."""
    code, fusion = form.code.rsplit(" ", 1)
    return Form(form.dims, code), fusion
