import pytest

from retreever.model import Tree


@pytest.mark.parametrize("depth", [1, 2, 3, 7])
def test_levels_partition_the_nodes(depth):
    tree = Tree(depth)
    nodes = [node for d in range(depth + 1) for node in range(tree.nodes)[tree.level(d)]]
    assert nodes == list(range(tree.nodes))
    assert tree.splits + tree.leaves == tree.nodes
    assert tree.level(depth) == slice(tree.splits, tree.nodes)


def test_children_parents_and_ancestors_agree():
    tree = Tree(5)
    for node in range(tree.splits):
        for child in tree.children(node):
            assert tree.parent(child) == node
            assert tree.ancestors(child) == (node, *tree.ancestors(node))


def test_a_level_holds_the_children_of_the_one_above():
    tree = Tree(4)
    above, below = (range(tree.nodes)[tree.level(d)] for d in (2, 3))
    assert [child for node in above for child in tree.children(node)] == list(below)


def test_a_tree_of_one_node():
    assert (Tree(0).nodes, Tree(0).leaves, Tree(0).splits) == (1, 1, 0)


@pytest.mark.parametrize(
    "call", [lambda: Tree(-1), lambda: Tree(3).level(4), lambda: Tree(3).children(7), lambda: Tree(3).parent(0)]
)
def test_missing_nodes_and_levels_are_refused(call):
    with pytest.raises(ValueError, match="must"):
        call()
