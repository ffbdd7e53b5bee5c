"""Where texts come from: BEIR folders, the Hub, docstrings; and which pairs a step sees."""

from retreever.data.dataset import SPLITS, Passage, Query, RetrievalDataset
from retreever.data.hub import from_hub
from retreever.data.paper_datasets import RECIPES, Recipe, hotpotqa, nq, repliqa, topiocqa
from retreever.data.training_pairs import batch_rows, limit

__all__ = [
    "RECIPES",
    "SPLITS",
    "Passage",
    "Query",
    "Recipe",
    "RetrievalDataset",
    "batch_rows",
    "from_hub",
    "hotpotqa",
    "limit",
    "nq",
    "repliqa",
    "topiocqa",
]
