"""The weights that hybrid search gives to words and to the frozen encoder, as a bundle stores them (ours).

`fit_hybrid.py` chooses them. They are the same for all queries, so that a hybrid's ranking can be certified.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from retreever.bundle.fitted_values import load_fitted_values, save_fitted_values
from retreever.errors import BundleError

HYBRID_FILE, HYBRID_FORMAT = "hybrid.json", 1
HybridChoice = Literal["auto", "off", "rrf"] | float
"""How a search is asked for: with the bundle's weights, by the tree alone, by reciprocal ranks, or with this weight of
words in [0, 1000]."""


class WeightCurve(BaseModel):
    """What dev and guard sets say of some weights: NDCG@10 at the last level, one number for each that was tried."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    queries: int = Field(ge=1, description="dev queries that were searched")
    weights: tuple[float, ...] = Field(min_length=1, description="weights of words; 0 is the tree alone")
    encoding_weights: tuple[float, ...] = Field((), description="weights of encodings; empty where all are 0")
    ndcg_at_10: tuple[float, ...] = Field(min_length=1, description="on dev")
    guards: Mapping[str, tuple[float, ...]] = Field({}, description="on each guard set")


@dataclass(frozen=True)
class HybridWeights:
    """The weights of a hybrid search, at every level, and the curve they were chosen by.

    Attributes:
        words: of BM25.
        encodings: of the cosine of the frozen encoder; 0 where the index keeps no encodings.
        curve: None for weights that no data chose.
    """

    words: float
    encodings: float = 0.0
    curve: WeightCurve | None = None

    def save(self, folder: Path, model: str) -> None:
        """Write `hybrid.json` into a bundle's folder, which is sealed afterwards.

        Args:
            model: digest of the tree.
        """
        curve = None if self.curve is None else self.curve.model_dump()
        values = {"weight": self.words, "encoding_weight": self.encodings, "curve": curve}
        save_fitted_values(folder / HYBRID_FILE, HYBRID_FORMAT, model, values)

    @classmethod
    def load(cls, folder: Path, model: str) -> "HybridWeights | None":
        """Read a bundle's `hybrid.json` and compare its checksum; None where the bundle has no such file.

        Args:
            model: digest of the tree.

        Raises:
            BundleError: the file is damaged, or was made for another model or by another version.
        """
        file = folder / HYBRID_FILE
        stored = load_fitted_values(file, HYBRID_FORMAT, model)
        if stored is None:
            return None
        try:
            curve = WeightCurve.model_validate(stored["curve"])
            return cls(float(stored["weight"]), float(stored.get("encoding_weight", 0.0)), curve)
        except (KeyError, TypeError, ValueError, ValidationError) as error:
            raise BundleError(f"{file}: cannot be read ({error})") from None


def choose_usual_weights(with_encodings: bool) -> HybridWeights:
    """The weights of a bundle that no data chose: what suits qa-mix, docstrings and arxiv-titles, each on dev."""
    return HybridWeights(3.0, 0.3) if with_encodings else HybridWeights(2.0)
