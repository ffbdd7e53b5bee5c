"""Rivals of the tree: one interface, one file each."""

from retreever.baselines.attentive import Attentive
from retreever.baselines.bm25 import BM25
from retreever.baselines.frozen import Frozen
from retreever.baselines.hier_gmm import HierGMM
from retreever.baselines.hier_kmeans import HierKMeans
from retreever.baselines.hnsw import HNSW
from retreever.baselines.interface import Form, Rival
from retreever.baselines.ivf import IVF
from retreever.baselines.matryoshka import Matryoshka
from retreever.baselines.pca import PCA
from retreever.baselines.pq import PQ
from retreever.baselines.raptor import Raptor
from retreever.baselines.truncated import Truncated

RIVALS: dict[str, type[Rival]] = {
    rival.name: rival
    for rival in (
        BM25, Frozen, Truncated, PCA, Matryoshka, Attentive, IVF, HNSW, PQ, HierKMeans, HierGMM, Raptor,
    )
}  # fmt: skip

__all__ = [
    "BM25", "HNSW", "IVF", "PCA", "PQ", "RIVALS", "Attentive", "Form", "Frozen", "HierGMM", "HierKMeans", "Matryoshka",
    "Raptor", "Rival", "Truncated",
]  # fmt: skip
