"""Search over a corpus that a tree has routed; texts and encoders are not known here."""

from retreever.index.index_layout import Layout
from retreever.index.tree_index import TreeIndex

__all__ = ["Layout", "TreeIndex"]
