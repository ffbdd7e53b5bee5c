"""A perfect binary tree in heap order: integers only, without anything learned.

The root is node 0; node t has the children 2t + 1 (left) and 2t + 2 (right). A level is a slice of the nodes,
and the nodes down to a level are a prefix, so one (batch, nodes) tensor holds every level of a
representation.
"""

from dataclasses import dataclass

from retreever.model.arguments import require_at_least, require_within


@dataclass(frozen=True)
class Tree:
    """Nodes of a perfect binary tree.

    Attributes:
        depth: levels below the root; 0 is a lone root.

    >>> tree = Tree(3)
    >>> tree.splits, tree.leaves, tree.nodes
    (7, 8, 15)
    """

    depth: int

    def __post_init__(self) -> None:
        require_at_least("depth", self.depth, 0)

    @property
    def splits(self) -> int:
        """Nodes with children, 2**depth - 1; they come first in heap order."""
        return 2**self.depth - 1

    @property
    def leaves(self) -> int:
        """Nodes of the last level, 2**depth."""
        return 2**self.depth

    @property
    def nodes(self) -> int:
        """All nodes, 2**(depth + 1) - 1."""
        return 2 ** (self.depth + 1) - 1

    def level(self, d: int) -> slice:
        """The slice of all nodes that holds the 2**d nodes of level `d`; level 0 is the root.

        Raises:
            ValueError: the tree has no such level.

        >>> Tree(3).level(2)
        slice(3, 7, None)
        """
        require_within("level", d, 0, self.depth)
        return slice(2**d - 1, 2 ** (d + 1) - 1)

    def children(self, node: int) -> tuple[int, int]:
        """Left and right child of a split node.

        Raises:
            ValueError: `node` is a leaf or no node at all.

        >>> Tree(3).children(1)
        (3, 4)
        """
        require_within("node", node, 0, self.splits - 1)
        return 2 * node + 1, 2 * node + 2

    def parent(self, node: int) -> int:
        """The parent of a node.

        Raises:
            ValueError: `node` is the root or no node at all.

        >>> Tree(3).parent(4)
        1
        """
        require_within("node", node, 1, self.nodes - 1)
        return (node - 1) // 2

    def ancestors(self, node: int) -> tuple[int, ...]:
        """All ancestors of a node, the parent first and the root last; empty for the root.

        >>> Tree(3).ancestors(9)
        (4, 1, 0)
        """
        require_within("node", node, 0, self.nodes - 1)
        above = []
        while node:
            node = (node - 1) // 2
            above.append(node)
        return tuple(above)


def default_levels(depth: int) -> tuple[int, ...]:
    """The levels that are trained and reported: 4, 6, 8, ... and the last; every level of a shallower tree.

    >>> default_levels(10), default_levels(7), default_levels(3)
    ((4, 6, 8, 10), (4, 6, 7), (1, 2, 3))
    """
    return tuple(sorted({*range(4, depth + 1, 2), depth})) if depth > 3 else tuple(range(1, depth + 1))
