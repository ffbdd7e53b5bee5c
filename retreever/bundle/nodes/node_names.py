"""Names of nodes that people, or a language model, gave: kept in the bundle's `names.json`, apart from the explanation.

Explaining the nodes anew leaves names alone. A name belongs to a node of one trained tree: those of another tree, in a
bundle that was made anew at the same place, do not count. What a node holds is not known here.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retreever.errors import BundleError
from retreever.model.tree import Tree
from retreever.system.files import read_json, write_json

NAMES_FILE, NAMES_FORMAT = "names.json", 1
MAX_NAME_CHARACTERS = 200


@dataclass(frozen=True)
class NodeName:
    """What a node is called.

    Attributes:
        generated: a language model wrote it.
    """

    name: str
    generated: bool


def read_names(folder: Path, model: str) -> dict[int, NodeName]:
    """The names of a bundle's nodes, by node; none where nobody named one.

    Args:
        folder: of the bundle.
        model: digest of the tree.

    Raises:
        BundleError: the file is damaged.
    """
    file = folder / NAMES_FILE
    if not file.is_file():
        return {}
    stored = read_json(file)
    try:
        if stored["format"] != NAMES_FORMAT or stored["model"] != model:
            return {}
        return {int(node): _check_stored(value) for node, value in stored["names"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{file}: is no list of names ({error!r}); remove it, or name the nodes anew") from None


def _check_stored(value: Any) -> NodeName:
    return NodeName(str(value["name"]), bool(value["generated"]))


def rename_nodes(folder: Path, model: str, tree: Tree, names: Mapping[int, str]) -> None:
    """Give nodes names of a person's own; an empty one takes a node's name away.

    Args:
        folder: of the bundle.
        model: digest of the tree.

    Raises:
        ValueError: the tree has no such node, or a name is too long or not one line. No name is changed then.
        BundleError: the file of names is damaged.
    """
    wanted = {_check_node(node, tree): _check_name(node, name) for node, name in names.items()}
    known = read_names(folder, model)
    own = {node: NodeName(name, generated=False) for node, name in wanted.items() if name}
    _write_names(folder, model, {node: name for node, name in known.items() if node not in wanted} | own)


def keep_generated_names(folder: Path, model: str, names: Mapping[int, str]) -> None:
    """Add names that a language model wrote, in place of earlier ones of that kind; a person's own names stay.

    Args:
        folder: of the bundle.
        model: digest of the tree.
        names: by node; each a line of at most `MAX_NAME_CHARACTERS` characters.

    Raises:
        BundleError: the file of names is damaged.
    """
    known = read_names(folder, model)
    own = {node: name for node, name in known.items() if not name.generated}
    _write_names(folder, model, known | {node: NodeName(name, generated=True) for node, name in names.items()} | own)


def carry_names(old: Path, new: Path, model: str) -> None:
    """Copy the names of a bundle to the one that takes its place, if both are of one tree.

    Args:
        model: digest of the new bundle's tree.
    """
    if read_names(old, model):
        shutil.copy2(old / NAMES_FILE, new / NAMES_FILE)


def _write_names(folder: Path, model: str, names: Mapping[int, NodeName]) -> None:
    by_node = {str(node): asdict(names[node]) for node in sorted(names)}
    write_json(folder / NAMES_FILE, {"format": NAMES_FORMAT, "model": model, "names": by_node})


def _check_node(node: int, tree: Tree) -> int:
    if not 0 <= node < tree.nodes:
        raise ValueError(f"node {node}: must be a whole number in [0, {tree.nodes - 1}]")
    return node


def _check_name(node: int, name: str) -> str:
    name = name.strip()
    if len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        raise ValueError(
            f"name of node {node}: must be one line of at most {MAX_NAME_CHARACTERS} characters, got {name[:60]!r}"
        )
    return name
