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
from retreever.baselines.hybrid.bm25_frozen import BM25WithFrozenEncoder
from retreever.baselines.hybrid.bm25_head import BM25WithHead
from retreever.baselines.matryoshka.attentive_head import AttentiveMatryoshka
from retreever.baselines.matryoshka.matryoshka_head import Matryoshka
from retreever.baselines.quantized.binary_rescored import BinaryRescored
from retreever.baselines.quantized.optimized_quantizer import OPQ
from retreever.baselines.quantized.rabitq import RaBitQ
from retreever.baselines.sparse.sparse_codes import SparseCodes
from retreever.baselines.static.static_words import StaticWords

BASELINES: dict[str, type[Baseline]] = {
    baseline.name: baseline
    for baseline in (
        BM25, FrozenEncoder, TruncatedEncoder, PCA, StaticWords, Matryoshka, AttentiveMatryoshka, SparseCodes, IVF,
        HNSW, PQ, OPQ, RaBitQ, BinaryRescored, HierKMeans, HierGMM, Raptor, BM25WithFrozenEncoder, BM25WithHead,
    )
}  # fmt: skip

__all__ = [
    "BASELINES",
    "BM25",
    "HNSW",
    "IVF",
    "OPQ",
    "PCA",
    "PQ",
    "AttentiveMatryoshka",
    "BM25WithFrozenEncoder",
    "BM25WithHead",
    "Baseline",
    "BinaryRescored",
    "Form",
    "FrozenEncoder",
    "HierGMM",
    "HierKMeans",
    "Matryoshka",
    "RaBitQ",
    "Raptor",
    "SparseCodes",
    "StaticWords",
    "TruncatedEncoder",
]  # fmt: skip
