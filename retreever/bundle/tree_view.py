"""The tree as the page at `/` shows it: nodes, the flow of a query, and why a passage was found.

A search with `explain: true` returns, next to `hits`, the `flow`: a list of `NodeMass`. Every hit has a `why`: a
`HitPath`. HTTP itself is not known here.
"""

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, Field

from retreever.bundle.node_explanation import compute_agreement
from retreever.bundle.retriever import Retreever

MIN_FLOW_SHARE = 0.1  # a flow leaves out nodes below this share of the uniform distribution's probability
MAX_LEAF_MATCHES = 3  # leaves named for a hit
SMALLEST_AGREEMENT = 1e-12  # divisor where query and passage agree nowhere
EXAMPLE_CHARACTERS = 400  # characters of an example's text


class NodeSummary(BaseModel):
    """A node, and what sets it apart from the rest of its level."""

    id: int = Field(description="index in heap order: the root is 0, the children of t are 2t + 1 and 2t + 2")
    level: int
    words: list[str] = Field(description="words whose presence correlates with the node, highest first")
    size: float = Field(description="sum of the passages' probabilities on the node")


class TreeView(BaseModel):
    """All nodes in heap order."""

    depth: int
    passages: int = Field(description="passages of the corpus when the nodes were explained")
    sampled: int = Field(description="how many of them were read for words, sizes and examples")
    nodes: list[NodeSummary]


class Example(BaseModel):
    """One of the passages most probable on a node."""

    id: str
    title: str
    text: str = Field(description=f"its first {EXAMPLE_CHARACTERS} characters")
    probability: float


class NodeView(NodeSummary):
    """A node with its neighbours and the passages most probable on it."""

    parent: int | None
    children: list[int]
    examples: list[Example]


class NodeMass(BaseModel):
    """A query's probability of reaching a node."""

    id: int
    mass: float


class PathNode(BaseModel):
    """A node on the path to the leaf where a hit exceeds the average passage most in agreement with the query."""

    id: int
    level: int
    words: list[str]
    query: float = Field(description="the query's probability on the node")
    passage: float = Field(description="the passage's probability on the node")
    share: float = Field(description="part of the hit's agreement beyond the average passage that lies below the node")


class LeafMatch(BaseModel):
    """A node of the searched level on which the hit agrees with the query more than the average passage does."""

    id: int
    words: list[str]
    share: float = Field(description="part of the hit's agreement beyond the average passage that lies on the node")


class HitPath(BaseModel):
    """Why a passage was found."""

    path: list[PathNode] = Field(description="nodes from below the root to the first of `leaves`")
    leaves: list[LeafMatch] = Field(description="nodes that contribute most, highest share first")


def make_tree_view(retreever: Retreever) -> TreeView:
    """Every node with its words and size."""
    explanation = retreever.explanation
    nodes = [_summarize_node(retreever, node) for node in range(len(explanation.words))]
    return TreeView(
        depth=retreever.tree.tree.depth, passages=explanation.passages, sampled=explanation.sampled, nodes=nodes
    )


def make_node_view(retreever: Retreever, id: int) -> NodeView:
    """A node with those of its examples that are still in the index; the root, which all passages reach, has none.

    Raises:
        KeyError: the tree has no such node.
    """
    tree, explanation = retreever.tree.tree, retreever.explanation
    if not 0 <= id < tree.nodes:
        raise KeyError(f"node {id}: must be a whole number in [0, {tree.nodes - 1}]")
    return NodeView(
        **_summarize_node(retreever, id).model_dump(),
        parent=tree.parent(id) if id else None,
        children=list(tree.children(id)) if id < tree.splits else [],
        examples=[
            _make_example(retreever, int(number), float(probability))
            for number, probability in zip(explanation.examples[id], explanation.memberships[id], strict=True)
            if id and retreever.index.find_numbers([retreever.documents[int(number)].id])[0] == number
        ],
    )


def trace_query(retreever: Retreever, query: str) -> list[NodeMass]:
    """The flow of a query: its probability on every node that it clearly reaches, in heap order.

    Raises:
        ValueError: the query is empty.
    """
    return trace_nodes(retreever.route([query], "query")[0])


def trace_nodes(query_distribution: np.ndarray) -> list[NodeMass]:
    """The flow of a query that is routed already, from its probabilities of all nodes; see `MIN_FLOW_SHARE`."""
    levels = np.floor(np.log2(np.arange(1, len(query_distribution) + 1)))
    reached = np.flatnonzero(query_distribution >= MIN_FLOW_SHARE * 0.5**levels)
    return [NodeMass(id=int(node), mass=float(f"{query_distribution[node]:.4g}")) for node in reached]


def explain_hits(
    retreever: Retreever, query_distribution: np.ndarray, ids: Sequence[str], level: int | None = None
) -> list[HitPath]:
    """Why passages were found, by their ids; the path is empty for a passage that was deleted meanwhile.

    The average passage agrees with a query too, and highly where a tree routes softly. So an explanation shows where a
    passage agrees with the query more than the average passage does.

    Args:
        query_distribution: the query's probabilities of all nodes, as `Retreever.route` returns them, (nodes,).
        level: the searched level; the last where it is None.
    """
    tree, index, explanation = retreever.tree.tree, retreever.index, retreever.explanation
    chosen = tree.depth if level is None else level
    numbers = index.find_numbers(ids)
    levels = {d: index.read_probabilities(numbers, d) for d in range(1, chosen + 1)}
    query, average = (nodes[None, tree.level(chosen)] for nodes in (query_distribution, explanation.average))
    excess = compute_agreement(index.layout, query, levels[chosen]) - compute_agreement(index.layout, query, average)
    excess = excess.clip(min=0)
    shares = excess / np.maximum(excess.sum(axis=1, keepdims=True), SMALLEST_AGREEMENT)
    routes = [{d: rows[i] for d, rows in levels.items()} for i in range(len(numbers))]
    return [
        _explain_hit(retreever, query_distribution, route, share) if number >= 0 else HitPath(path=[], leaves=[])
        for number, route, share in zip(numbers, routes, shares, strict=True)
    ]


def _explain_hit(retreever: Retreever, query: np.ndarray, route: dict[int, np.ndarray], shares: np.ndarray) -> HitPath:
    """The path to the node with the largest share.

    Args:
        route: the passage's probabilities on every level down to the searched one, by level.
        shares: of the nodes of the searched level.
    """
    tree, words = retreever.tree.tree, retreever.explanation.words
    level = max(route)
    best = np.argsort(-shares, kind="stable")[:MAX_LEAF_MATCHES].tolist()
    path = []
    for d, passage in route.items():
        column = best[0] >> (level - d)  # within its level
        node = tree.level(d).start + column
        share = float(shares.reshape(2**d, -1)[column].sum())
        probabilities = {"query": float(query[node]), "passage": float(passage[column])}
        path.append(PathNode(id=node, level=d, words=words[node], share=share, **probabilities))
    first = tree.level(level).start
    leaves = [LeafMatch(id=first + n, words=words[first + n], share=float(shares[n])) for n in best]
    return HitPath(path=path, leaves=leaves)


def _summarize_node(retreever: Retreever, node: int) -> NodeSummary:
    explanation = retreever.explanation
    return NodeSummary(
        id=node,
        level=(node + 1).bit_length() - 1,
        words=explanation.words[node],
        size=round(float(explanation.sizes[node]), 2),
    )


def _make_example(retreever: Retreever, number: int, probability: float) -> Example:
    passage = retreever.documents[number]
    return Example(id=passage.id, title=passage.title, text=passage.text[:EXAMPLE_CHARACTERS], probability=probability)
