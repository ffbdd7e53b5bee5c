"""Baselines of the tree: one protocol for all, one file each."""

from retreever.baselines.baseline import Baseline, Form
from retreever.baselines.bm25 import BM25
from retreever.baselines.clustered.hier_gmm import HierGMM
from retreever.baselines.clustered.hier_kmeans import HierKMeans
from retreever.baselines.clustered.raptor import Raptor
from retreever.baselines.dense.frozen_encoder import FrozenEncoder
from retreever.baselines.dense.hnsw import HNSW
from retreever.baselines.dense.ivf import IVF
from retreever.baselines.dense.pca import PCA
from retreever.baselines.dense.product_quantizer import PQ
from retreever.baselines.dense.truncated import TruncatedEncoder
from retreever.baselines.matryoshka.attentive_head import AttentiveMatryoshka
from retreever.baselines.matryoshka.matryoshka_head import Matryoshka

BASELINES: dict[str, type[Baseline]] = {
    baseline.name: baseline
    for baseline in (
        BM25, FrozenEncoder, TruncatedEncoder, PCA, Matryoshka, AttentiveMatryoshka, IVF, HNSW, PQ, HierKMeans,
        HierGMM, Raptor,
    )
}  # fmt: skip

__all__ = [
    "BASELINES",
    "BM25",
    "HNSW",
    "IVF",
    "PCA",
    "PQ",
    "AttentiveMatryoshka",
    "Baseline",
    "Form",
    "FrozenEncoder",
    "HierGMM",
    "HierKMeans",
    "Matryoshka",
    "Raptor",
    "TruncatedEncoder",
]  # fmt: skip
