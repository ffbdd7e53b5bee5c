"""The relevance of a hit (ours): the probability that a passage with this score, at this rank, is relevant.

A similarity has no meaning of its own: .95 may be much at one level and little at another. A logistic regression reads
the list that a search returns instead: the score of a hit, its rank, and how far it stands out among the first ten.
`fit_relevance.py` fits one for each level to the judgements of dev.

Not known here: whether the corpus has an answer at all. Every query of dev has one, so a query without any is told too
high a relevance.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from retreever.bundle.fitted_values import load_fitted_values, save_fitted_values
from retreever.errors import BundleError

RELEVANCE_FILE, RELEVANCE_FORMAT = "relevance.json", 1
COMPARED_HITS = 10  # first hits that a hit is compared with; a shorter search looks at as many
SMALLEST_REST = 1e-9  # of the other hits' weights, where one stands out so far that theirs vanish
DECIMALS = 4  # of a relevance


class CalibrationReport(BaseModel):
    """How well the relevance of a level is calibrated, by cross-validation over dev queries."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    queries: int = Field(ge=1, description="dev queries to which relevance was fitted")
    calibration_error: float = Field(
        ge=0, le=1, description="expected calibration error of the first ten hits, over ten bins of equal size"
    )
    first_hit_calibration_error: float = Field(
        ge=0, le=1, description="the same of the first hit alone; some .03 of 1,000 queries are chance"
    )


class HitRegression(BaseModel):
    """A logistic regression from a list of hits to the relevance of each; the signs keep it monotone.

    Relevance rises with a hit's score, all else equal, and never rises from a hit to the next.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    scale: float = Field(gt=0, description="factor on scores in the softmax over the first ten")
    score: float = Field(ge=0, description="coefficient of the score")
    share: float = Field(ge=0, description="coefficient of the log-odds of the softmax over the first ten")
    log_rank: float = Field(le=0, description="coefficient of the logarithm of the rank")
    constant: float

    def predict(self, scores: Float[np.ndarray, "queries hits"]) -> Float[np.ndarray, "queries hits"]:
        """Predict the relevance of every hit, in [0, 1], to four decimals.

        Args:
            scores: of the hits of a search, best first: at least the first ten, or all there are.
        """
        coefficients = np.array([self.score, self.share, self.log_rank])
        logits = make_features(scores, self.scale) @ coefficients + self.constant
        probabilities: np.ndarray = np.exp(-np.logaddexp(0, -logits))
        return probabilities.round(DECIMALS)


class LevelRelevance(HitRegression):
    """The regression of a level, and how well it is calibrated."""

    report: CalibrationReport


def make_features(scores: Float[np.ndarray, "queries hits"], scale: float) -> Float[np.ndarray, "queries hits 3"]:
    """What a hit's relevance is told by: score, log-odds of its share of the first ten, logarithm of its rank.

    The share is the softmax of `scale` times the scores. A hit beyond the tenth is compared with all of the ten.
    """
    scores = np.asarray(scores, np.float64)
    ranks = np.broadcast_to(np.arange(1, scores.shape[1] + 1), scores.shape)
    exponents = scale * (scores - scores[:, :1])
    weights = np.exp(exponents)  # of the first hit 1, of the others less
    first = weights[:, :COMPARED_HITS].sum(axis=1, keepdims=True)
    rest = np.where(ranks <= COMPARED_HITS, first - weights, first)
    return np.stack([scores, exponents - np.log(np.maximum(rest, SMALLEST_REST)), np.log(ranks)], axis=-1)


@dataclass(frozen=True)
class Relevance:
    """The fitted regressions of a bundle, by level.

    Attributes:
        levels: of searches by the tree alone.
        hybrid_levels: of hybrid searches with the bundle's weights.
    """

    levels: Mapping[int, LevelRelevance]
    hybrid_levels: Mapping[int, LevelRelevance] = field(default_factory=dict)

    @property
    def reports(self) -> dict[int, CalibrationReport]:
        """How well each level is calibrated."""
        return {level: fitted.report for level, fitted in self.levels.items()}

    def save(self, folder: Path, model: str) -> None:
        """Write `relevance.json` into a bundle's folder, which is sealed afterwards.

        Args:
            model: digest of the tree.
        """
        kinds = {"levels": self.levels, "hybrid_levels": self.hybrid_levels}
        values = {name: {str(d): fitted.model_dump() for d, fitted in own.items()} for name, own in kinds.items()}
        save_fitted_values(folder / RELEVANCE_FILE, RELEVANCE_FORMAT, model, values)

    @classmethod
    def load(cls, folder: Path, model: str) -> "Relevance | None":
        """Read a bundle's `relevance.json` and compare its checksum; None where the bundle has no such file.

        Args:
            model: digest of the tree.

        Raises:
            BundleError: the file is damaged, or was made for another model or by another version.
        """
        file = folder / RELEVANCE_FILE
        stored = load_fitted_values(file, RELEVANCE_FORMAT, model)
        if stored is None:
            return None
        return cls(
            _read_levels(file, "levels", stored.get("levels")),
            _read_levels(file, "hybrid_levels", stored.get("hybrid_levels", {})),
        )


def _read_levels(file: Path, name: str, stored: Any) -> dict[int, LevelRelevance]:
    try:
        return TypeAdapter(dict[int, LevelRelevance]).validate_python(stored)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, (name, *fault["loc"])))
        raise BundleError(f"{file}: {place}: {fault['msg']}, got {fault['input']!r}") from None
