"""BM25 fused with the Matryoshka head: the trained hybrid to beat, at every prefix."""

from typing import ClassVar

from retreever.baselines.baseline import Baseline
from retreever.baselines.hybrid.hybrid_ranker import HybridBaseline
from retreever.baselines.matryoshka.matryoshka_head import Matryoshka


class BM25WithHead(HybridBaseline):
    """BM25 and the cosine of prefixes of the head's outputs."""

    name = "bm25+head"
    depends: ClassVar[tuple[str, ...]] = Matryoshka.depends
    dense_baseline: ClassVar[type[Baseline]] = Matryoshka
