"""The weight that hybrid search gives to words, as a bundle stores it (ours).

`fit_hybrid.py` chooses it on dev. It is one number for all queries, so that a hybrid's ranking can be certified.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from retreever.bundle.fitted_values import load_fitted_values, save_fitted_values
from retreever.errors import BundleError

HYBRID_FILE, HYBRID_FORMAT = "hybrid.json", 1
UNFITTED_WEIGHT = 2.0  # of a bundle without dev queries: between what docstrings and qa-mix choose
HybridChoice = Literal["auto", "off"] | float
"""How a search is asked for: with the bundle's weight, without words, or with a weight in [0, 1000]."""


class WeightCurve(BaseModel):
    """What dev says of some weights."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    queries: int = Field(ge=1, description="dev queries that were searched")
    weights: tuple[float, ...] = Field(min_length=1, description="weights tried; 0 is the tree alone")
    ndcg_at_10: tuple[float, ...] = Field(min_length=1, description="NDCG@10 of each, at the last level")


@dataclass(frozen=True)
class HybridWeight:
    """The weight of words in a hybrid search, at every level, and the curve it was chosen by."""

    weight: float
    curve: WeightCurve

    def save(self, folder: Path, model: str) -> None:
        """Write `hybrid.json` into a bundle's folder, which is sealed afterwards.

        Args:
            model: digest of the tree.
        """
        values = {"weight": self.weight, "curve": self.curve.model_dump()}
        save_fitted_values(folder / HYBRID_FILE, HYBRID_FORMAT, model, values)

    @classmethod
    def load(cls, folder: Path, model: str) -> "HybridWeight | None":
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
            return cls(float(stored["weight"]), WeightCurve.model_validate(stored["curve"]))
        except (KeyError, TypeError, ValueError, ValidationError) as error:
            raise BundleError(f"{file}: cannot be read ({error})") from None
