"""What teams run without training anything: BM25 fused with the frozen encoder's last layer."""

from typing import ClassVar

from retreever.baselines.baseline import Baseline
from retreever.baselines.dense.frozen_encoder import FrozenEncoder
from retreever.baselines.hybrid.hybrid_ranker import HybridBaseline


class BM25WithFrozenEncoder(HybridBaseline):
    """BM25 and the cosine of pooled encodings at full width."""

    name = "bm25+frozen"
    depends: ClassVar[tuple[str, ...]] = FrozenEncoder.depends
    dense_baseline: ClassVar[type[Baseline]] = FrozenEncoder
