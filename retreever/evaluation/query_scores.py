"""Metrics of single queries, read from a run's score file and aligned for paired tests.

The file is the CSV that `Validation.write_scores` writes. Decides nothing about significance.
"""

import csv
from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import numpy as np

QUERY_COLUMN = "query"


def read_scores(path: Path) -> dict[str, np.ndarray]:
    """Read the metrics by column, one value per query; the column `query` holds the ids."""
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    return {name: np.array(values, str if name == QUERY_COLUMN else np.float64) for name, values in columns.items()}


def align_scores(score_tables: Sequence[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """Reduce several tables to the queries that all of them hold, in one order."""
    common = reduce(np.intersect1d, [scores[QUERY_COLUMN] for scores in score_tables])
    aligned = []
    for scores in score_tables:
        order = np.argsort(scores[QUERY_COLUMN])
        rows = order[np.searchsorted(scores[QUERY_COLUMN], common, sorter=order)]
        aligned.append({name: values[rows] for name, values in scores.items()})
    return aligned
