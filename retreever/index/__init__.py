"""Search over a corpus routed by a tree."""

from retreever.index.index_layout import Layout
from retreever.index.tree_index import TreeIndex

__all__ = ["Layout", "TreeIndex"]
