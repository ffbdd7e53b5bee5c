"""Sources of texts (BEIR folders, the Hub, docstrings), and the pairs of a training step."""

from retreever.data.dataset import DATASET_SPLITS, Passage, Query, RetrievalDataset
from retreever.data.hub import read_hub_dataset
from retreever.data.paper_datasets import (
    PAPER_DATASETS,
    PaperDataset,
    read_hotpotqa,
    read_nq,
    read_repliqa,
    read_topiocqa,
)
from retreever.data.training_pairs import draw_batch_rows, limit_pairs

__all__ = [
    "DATASET_SPLITS",
    "PAPER_DATASETS",
    "PaperDataset",
    "Passage",
    "Query",
    "RetrievalDataset",
    "draw_batch_rows",
    "limit_pairs",
    "read_hotpotqa",
    "read_hub_dataset",
    "read_nq",
    "read_repliqa",
    "read_topiocqa",
]
