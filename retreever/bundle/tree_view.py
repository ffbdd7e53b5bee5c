"""The tree as the page at `/` shows it: what its nodes mean, where a query goes, and why a passage was found.

In an answer to a search with `explain: true` the page reads `flow`, a list of `NodeMass` beside `hits`, and `why`, a
`HitPath` in every hit.
"""

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, Field

from retreever.bundle.node_explanation import agreement
from retreever.bundle.retriever import Retreever

THINNEST = 0.1  # of what a node has where a text goes everywhere alike; below that it is left out of a flow
LEAVES = 3  # that matched, told of a passage found
TINY = 1e-12
EXCERPT = 400  # characters of an example's text


class NodeSummary(BaseModel):
    """A node: what sets it apart from the rest of its level."""

    id: int = Field(description="place in heap order: the root is 0, the children of t are 2t + 1 and 2t + 2")
    level: int
    words: list[str] = Field(description="whose presence goes with the node best, the clearest first")
    size: float = Field(description="passages that reach it: the sum of their probabilities")


class TreeView(BaseModel):
    """All nodes in heap order."""

    depth: int
    passages: int = Field(description="of the corpus when it was explained")
    sampled: int = Field(description="how many of them the words, sizes and examples are taken from")
    nodes: list[NodeSummary]


class Example(BaseModel):
    """A passage that reaches a node with a probability that few others have."""

    id: str
    title: str
    text: str = Field(description=f"its first {EXCERPT} characters")
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
    """A node on the way to where query and passage agree most, as against the average passage."""

    id: int
    level: int
    words: list[str]
    query: float = Field(description="probability with which the query reaches it")
    passage: float = Field(description="probability with which the passage reaches it")
    share: float = Field(description="of all they agree in more than query and average passage do, what lies below it")


class LeafMatch(BaseModel):
    """A node of the level searched on which query and passage agree more than query and average passage do."""

    id: int
    words: list[str]
    share: float = Field(description="of all they agree in more, what lies on this node")


class HitPath(BaseModel):
    """Why a passage was found."""

    path: list[PathNode] = Field(description="from below the root to the first of the leaves")
    leaves: list[LeafMatch] = Field(description="that matched, the first most")


def tree_view(retreever: Retreever) -> TreeView:
    """Every node with its words and size."""
    known = retreever.explanation
    nodes = [_summary(retreever, node) for node in range(len(known.words))]
    return TreeView(depth=retreever.tree.tree.depth, passages=known.passages, sampled=known.sampled, nodes=nodes)


def node_view(retreever: Retreever, id: int) -> NodeView:
    """A node with its examples, the ones that are still in the index; none of the root, which all passages reach.

    Raises:
        KeyError: the tree has no such node.
    """
    tree, known = retreever.tree.tree, retreever.explanation
    if not 0 <= id < tree.nodes:
        raise KeyError(f"node {id}: must be a whole number in [0, {tree.nodes - 1}]")
    return NodeView(
        **_summary(retreever, id).model_dump(),
        parent=tree.parent(id) if id else None,
        children=list(tree.children(id)) if id < tree.splits else [],
        examples=[
            _example(retreever, int(number), float(probability))
            for number, probability in zip(known.examples[id], known.memberships[id], strict=True)
            if id and retreever.index.find([retreever.documents[int(number)].id])[0] == number
        ],
    )


def flow(retreever: Retreever, query: str) -> list[NodeMass]:
    """How a query goes through the tree, in heap order.

    Raises:
        ValueError: an empty query.
    """
    return flow_of(retreever.nodes([query], "query")[0])


def flow_of(query_distribution: np.ndarray) -> list[NodeMass]:
    """The same of a query that is routed already: probabilities of all nodes; hardly reached ones are left out."""
    levels = np.floor(np.log2(np.arange(1, len(query_distribution) + 1)))
    reached = np.flatnonzero(query_distribution >= THINNEST * 0.5**levels)
    return [NodeMass(id=int(node), mass=float(f"{query_distribution[node]:.4g}")) for node in reached]


def explain(
    retreever: Retreever, query_distribution: np.ndarray, ids: Sequence[str], level: int | None = None
) -> list[HitPath]:
    """Why passages were found, by their ids; an empty path for one that has been deleted meanwhile.

    Query and average passage agree to some degree already, and where a tree routes softly to a high one. What tells is
    where a passage agrees with the query more than the average passage does.

    Args:
        query_distribution: the query's probabilities of all nodes, as `Retreever.nodes` gives them.
        level: searched; the finest where it is None.
    """
    tree, index, known = retreever.tree.tree, retreever.index, retreever.explanation
    chosen = tree.depth if level is None else level
    numbers = index.find(ids)
    levels = {d: index.probabilities(numbers, d) for d in range(1, chosen + 1)}
    asked, average = (side[None, tree.level(chosen)] for side in (query_distribution, known.average))
    more = agreement(index.layout, asked, levels[chosen]) - agreement(index.layout, asked, average)
    more = more.clip(min=0)
    shares = more / np.maximum(more.sum(axis=1, keepdims=True), TINY)
    routes = [{d: rows[i] for d, rows in levels.items()} for i in range(len(numbers))]
    return [
        _why(retreever, query_distribution, route, share) if number >= 0 else HitPath(path=[], leaves=[])
        for number, route, share in zip(numbers, routes, shares, strict=True)
    ]


def _why(retreever: Retreever, query: np.ndarray, route: dict[int, np.ndarray], shares: np.ndarray) -> HitPath:
    """The way to the node with the largest share.

    Args:
        route: probabilities of the passage on the nodes of every level down to that of `shares`.
    """
    tree, words = retreever.tree.tree, retreever.explanation.words
    level = max(route)
    best = np.argsort(-shares, kind="stable")[:LEAVES].tolist()
    path = []
    for d, passage in route.items():
        place = best[0] >> (level - d)
        node = tree.level(d).start + place
        below = shares.reshape(2**d, -1)[place]
        reached = {"query": float(query[node]), "passage": float(passage[place])}
        path.append(PathNode(id=node, level=d, words=words[node], share=float(below.sum()), **reached))
    first = tree.level(level).start
    leaves = [LeafMatch(id=first + n, words=words[first + n], share=float(shares[n])) for n in best]
    return HitPath(path=path, leaves=leaves)


def _summary(retreever: Retreever, node: int) -> NodeSummary:
    known = retreever.explanation
    return NodeSummary(
        id=node, level=(node + 1).bit_length() - 1, words=known.words[node], size=round(float(known.sizes[node]), 2)
    )


def _example(retreever: Retreever, number: int, probability: float) -> Example:
    passage = retreever.documents[number]
    return Example(id=passage.id, title=passage.title, text=passage.text[:EXCERPT], probability=probability)
