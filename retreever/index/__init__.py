"""Search over a corpus that a tree has routed, by nodes alone or with its words; encoders are not known here."""

from retreever.index.index_layout import Layout
from retreever.index.lexical.hybrid_query import Hybrid
from retreever.index.lexical.words import LexicalSettings
from retreever.index.tree_index import TreeIndex

__all__ = ["Hybrid", "Layout", "LexicalSettings", "TreeIndex"]
