"""Draw a text's way through the upper levels of a bundle's tree by the sharp reading, as the README shows it.

python -m benchmarks.tree_picture workspace/runs/NAME/bundle "how do I read a csv file"
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from retreever import Retreever
from retreever.model import Tree

LEVELS = 3
LEAF_WIDTH = 8  # characters


def draw_tree(nodes: np.ndarray, levels: int = LEVELS) -> str:
    """The probabilities of the upper nodes, (nodes,) in heap order, as a tree of text.

    >>> print(draw_tree(np.array([1.0, 0.75, 0.25]), levels=1))
    level 0       1.00
               ┌───┴───┐
    level 1   0.75    0.25
    """
    lines = []
    for level in range(levels + 1):
        width = LEAF_WIDTH * 2 ** (levels - level)
        values = nodes[Tree(levels).level(level)]
        if level:
            lines.append(" " * 8 + "".join(_draw_branch(2 * width) for _ in values[::2]))
        lines.append(f"level {level} " + "".join(f"{value:.2f}".center(width) for value in values))
    return "\n".join(line.rstrip() for line in lines)


def _draw_branch(width: int) -> str:
    """A fork over two children, each in the middle of its half."""
    arm = "─" * (width // 4 - 1)
    return f"┌{arm}┴{arm}┐".center(width)


def main(
    bundle: Annotated[Path, typer.Argument(help="a bundle's folder")],
    text: Annotated[str, typer.Argument(help="what to route")],
) -> None:
    """Draw a text's way through the upper levels of a bundle's tree, by the sharp reading."""
    retreever = Retreever.load(bundle)
    print(draw_tree(retreever.explanation.read_sharply(retreever.embed([text]))[0]))


if __name__ == "__main__":
    typer.run(main)
