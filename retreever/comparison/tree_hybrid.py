"""A tree fused with BM25, as the hybrid baselines are, so that like meets like.

The ranking is that of `HybridRanker.search`, which scores every passage. An index that ranks a hybrid itself replaces
it by overriding this one function.
"""

from pathlib import Path

from retreever.baselines import fitted_files
from retreever.baselines.hybrid.hybrid_ranker import HybridRanker
from retreever.comparison.tree_ranker import TreeRanker

TREE_HYBRID = "tree+bm25"


class TreeHybrid(HybridRanker[TreeRanker]):
    """The reported levels of a tree, each with BM25."""

    name = TREE_HYBRID

    def save(self, folder: Path) -> None:
        """Write weights and rank constants to `folder`; the tree has a folder of its own."""
        fitted_files.save_fitted_files(folder, self.name, self.settings)

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, instead of `tune`.

        Raises:
            BundleError: a file is missing or damaged, or the folder holds another system.
        """
        self.settings, _ = fitted_files.load_fitted_files(folder, self.name)
