"""Rivals of the tree: one interface, one file each."""

from retreever.baselines.baseline import Form, Rival
from retreever.baselines.bm25 import BM25
from retreever.baselines.clustered.hier_gmm import HierGMM
from retreever.baselines.clustered.hier_kmeans import HierKMeans
from retreever.baselines.clustered.raptor import Raptor
from retreever.baselines.dense.frozen_encoder import Frozen
from retreever.baselines.dense.hnsw import HNSW
from retreever.baselines.dense.ivf import IVF
from retreever.baselines.dense.pca import PCA
from retreever.baselines.dense.product_quantizer import PQ
from retreever.baselines.dense.truncated import Truncated
from retreever.baselines.matryoshka.attentive_head import Attentive
from retreever.baselines.matryoshka.matryoshka_head import Matryoshka

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
