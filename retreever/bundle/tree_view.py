"""The tree as the page at `/` shows it: nodes, the flow of a query, and the paths of the passages found.

A search with `explain: true` returns, next to `hits`, the `flow`: a list of `NodeMass`. Every hit has a `why`: a
`HitPath`. All probabilities here are of the sharp reading, by which a text takes a way; the order of the hits is that
of the soft reading. HTTP itself is not known here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from retreever.bundle.nodes.node_explanation import read_stored_sharply
from retreever.bundle.nodes.node_names import NodeName, read_names
from retreever.bundle.retriever import Retreever

MIN_FLOW_SHARE = 0.1  # a flow leaves out nodes below this share of the uniform distribution's probability
MAX_LEAF_MATCHES = 3  # nodes named for a hit
EXAMPLE_CHARACTERS = 400  # characters of an example's text


class NodeSummary(BaseModel):
    """A node, and what sets it apart."""

    id: int = Field(description="index in heap order: the root is 0, the children of t are 2t + 1 and 2t + 2")
    level: int
    name: str | None = Field(description="what a person, or a language model, called the node; null: nobody did")
    words: list[str] = Field(
        description="words that tell the node from the corpus and from its sibling, the best first; none is repeated "
        "on a path"
    )
    size: float = Field(
        description="sum of the passages' probabilities on the node: a level's sizes add up to the corpus, a parent's "
        "is that of its children"
    )


class TreeView(BaseModel):
    """All nodes in heap order."""

    depth: int
    passages: int = Field(description="passages of the corpus when the nodes were explained")
    sampled: int = Field(description="how many of them were read for words, sizes and examples")
    sharpness: float = Field(description="factor of the scores in the sharp reading; 1: as soft as ranking reads")
    nodes: list[NodeSummary]


class Example(BaseModel):
    """A passage that is typical of a node: the node holds it, and its words are the node's."""

    id: str
    title: str
    text: str = Field(description=f"its first {EXAMPLE_CHARACTERS} characters")
    probability: float = Field(description="the passage's probability on the node")


class NodeView(NodeSummary):
    """A node with its neighbours and typical passages, the most typical first."""

    parent: int | None
    children: list[int]
    examples: list[Example]


class NodeMass(BaseModel):
    """A query's probability of reaching a node."""

    id: int
    mass: float


class PathNode(BaseModel):
    """A node on a hit's path."""

    id: int
    level: int
    name: str | None = Field(description="what a person, or a language model, called the node; null: nobody did")
    words: list[str]
    query: float = Field(description="the query's probability on the node")
    passage: float = Field(description="the passage's probability on the node")
    share: float = Field(
        description="part of what query and passage have in common on the level (the sum of the smaller probability "
        "of both) that lies on the node"
    )


class LeafMatch(BaseModel):
    """A node of the searched level on which query and passage meet."""

    id: int
    name: str | None = Field(description="what a person, or a language model, called the node; null: nobody did")
    words: list[str]
    share: float = Field(description="part of what query and passage have in common on the level that lies on the node")


class HitPath(BaseModel):
    """Where a passage goes, and where it meets the query."""

    path: list[PathNode] = Field(
        description="nodes from below the root to the one of the searched level where the passage most probably is"
    )
    parting: int | None = Field(
        description="the last node that the query's most probable path shares with this one; 0: they part at the root"
    )
    leaves: list[LeafMatch] = Field(
        description="nodes of the searched level where query and passage meet most, highest share first"
    )


NO_PATH = HitPath(path=[], parting=None, leaves=[])  # of a passage that was deleted meanwhile


def make_tree_view(retreever: Retreever) -> TreeView:
    """Every node with its name, words and size.

    Raises:
        BundleError: the file of names is damaged.
    """
    explanation, names = retreever.explanation, _read_names(retreever)
    return TreeView(
        depth=retreever.tree.depth,
        passages=explanation.passages,
        sampled=explanation.sampled,
        sharpness=explanation.sharpness,
        nodes=[_summarize_node(retreever, names, node) for node in range(len(explanation.words))],
    )


def make_node_view(retreever: Retreever, id: int) -> NodeView:
    """A node with those of its examples that are still in the index; the root, which all passages reach, has none.

    Raises:
        KeyError: the tree has no such node.
        BundleError: the file of names is damaged.
    """
    tree, explanation = retreever.tree, retreever.explanation
    if not 0 <= id < tree.nodes:
        raise KeyError(f"node {id}: must be a whole number in [0, {tree.nodes - 1}]")
    return NodeView(
        **_summarize_node(retreever, _read_names(retreever), id).model_dump(),
        parent=tree.parent(id) if id else None,
        children=list(tree.children(id)) if id < tree.splits else [],
        examples=[
            _make_example(retreever, int(number), float(probability))
            for number, probability in zip(explanation.examples[id], explanation.memberships[id], strict=True)
            if id and retreever.index.find_numbers([retreever.documents[int(number)].id])[0] == number
        ],
    )


def trace_query(retreever: Retreever, query: str) -> list[NodeMass]:
    """The flow of a query: its sharp probability on every node that it clearly reaches, in heap order.

    Raises:
        ValueError: the query is empty.
    """
    return trace_nodes(retreever, retreever.route([query], "query")[0])


def trace_nodes(retreever: Retreever, query_distribution: np.ndarray) -> list[NodeMass]:
    """The flow of a query that is routed already; see `MIN_FLOW_SHARE`.

    Args:
        query_distribution: the query's probabilities of all nodes, as `Retreever.route` returns them, (nodes,).
    """
    masses = _sharpen_query(retreever, query_distribution)
    levels = np.floor(np.log2(np.arange(1, len(masses) + 1)))
    reached = np.flatnonzero(masses >= MIN_FLOW_SHARE * 0.5**levels)
    return [NodeMass(id=int(node), mass=float(f"{masses[node]:.4g}")) for node in reached]


def explain_hits(
    retreever: Retreever, query_distribution: np.ndarray, ids: Sequence[str], level: int | None = None
) -> list[HitPath]:
    """The paths of passages, by their ids; the path is empty for a passage that was deleted meanwhile.

    Args:
        query_distribution: the query's probabilities of all nodes, as `Retreever.route` returns them, (nodes,).
        level: the searched level; the last where it is None.

    Raises:
        BundleError: the file of names is damaged.
    """
    names, numbers = _read_names(retreever), retreever.index.find_numbers(ids)
    chosen = retreever.tree.depth if level is None else level
    query = _sharpen_query(retreever, query_distribution)
    return [
        _explain_hit(retreever, names, query, passage, chosen) if number >= 0 else NO_PATH
        for rows, nodes in read_stored_sharply(retreever.index, numbers, retreever.explanation.sharpness)
        for number, passage in zip(numbers[rows], nodes, strict=True)
    ]


def _explain_hit(
    retreever: Retreever, names: Mapping[int, NodeName], query: np.ndarray, passage: np.ndarray, level: int
) -> HitPath:
    """The path to the passage's most probable node of a level.

    Args:
        query, passage: sharp probabilities of all nodes.
    """
    tree = retreever.tree
    common = np.minimum(query, passage)

    def describe(node: int) -> dict[str, Any]:
        whole = float(common[tree.level((node + 1).bit_length() - 1)].sum())
        share = float(common[node]) / whole if whole else 0.0
        return {**_label_node(retreever, names, node), "share": share}

    own, other = (_list_path(nodes, tree.level(level)) for nodes in (passage, query))
    first = tree.level(level).start
    meeting = np.argsort(-common[tree.level(level)], kind="stable")[:MAX_LEAF_MATCHES] + first
    return HitPath(
        path=[
            PathNode(level=d, query=float(query[node]), passage=float(passage[node]), **describe(node))
            for d, node in enumerate(own, start=1)
        ],
        parting=next((node for node, theirs in zip(own[::-1], other[::-1], strict=True) if node == theirs), 0),
        leaves=[LeafMatch(**describe(node)) for node in meeting.tolist()],
    )


def _list_path(nodes: np.ndarray, level: slice) -> list[int]:
    """The nodes from below the root to the most probable one of a level."""
    node = level.start + int(nodes[level].argmax())
    path: list[int] = []
    while node:
        path.insert(0, node)
        node = (node - 1) // 2
    return path


def _sharpen_query(retreever: Retreever, distribution: np.ndarray) -> np.ndarray:
    tree = retreever.tree
    nodes: np.ndarray = retreever.explanation.read_sharply(distribution[None, tree.level(tree.depth)])[0]
    return nodes


def _read_names(retreever: Retreever) -> dict[int, NodeName]:
    """The names as they are now: somebody may have named a node while the bundle is open."""
    return read_names(retreever.folder, retreever.digest)


def _label_node(retreever: Retreever, names: Mapping[int, NodeName], node: int) -> dict[str, Any]:
    name = names[node].name if node in names else None
    return {"id": node, "name": name, "words": retreever.explanation.words[node]}


def _summarize_node(retreever: Retreever, names: Mapping[int, NodeName], node: int) -> NodeSummary:
    level, size = (node + 1).bit_length() - 1, round(float(retreever.explanation.sizes[node]), 2)
    return NodeSummary(**_label_node(retreever, names, node), level=level, size=size)


def _make_example(retreever: Retreever, number: int, probability: float) -> Example:
    passage = retreever.documents[number]
    return Example(id=passage.id, title=passage.title, text=passage.text[:EXAMPLE_CHARACTERS], probability=probability)
