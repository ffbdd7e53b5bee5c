"""Every query's figures, as `Validation.write_scores` keeps them: read, and brought into one order for paired tests."""

import csv
from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import numpy as np

QUERY = "query"


def read_scores(path: Path) -> dict[str, np.ndarray]:
    """Figures by column, one value a query; `query` holds the ids."""
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    return {name: np.array(values, str if name == QUERY else np.float64) for name, values in columns.items()}


def aligned(several: Sequence[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """The same scores, of the queries that all have, in one order."""
    common = reduce(np.intersect1d, [scores[QUERY] for scores in several])
    found = []
    for scores in several:
        order = np.argsort(scores[QUERY])
        rows = order[np.searchsorted(scores[QUERY], common, sorter=order)]
        found.append({name: values[rows] for name, values in scores.items()})
    return found
