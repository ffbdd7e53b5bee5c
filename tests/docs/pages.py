"""Pages of the documentation, and the command blocks in them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RUN_PAGES = [DOCS / "quickstart.md", *sorted((DOCS / "guides").glob("*.md"))]
"""Pages whose command blocks are executed."""
BLOCK_PATTERN = re.compile(
    r"(?:<!-- not run: (?P<why>[^>]+) -->\n+)?```(?P<language>bash|python)\n(?P<code>.*?)```", re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A fenced block; `why_not` says why it is not executed, where it is not."""

    language: str
    code: str
    why_not: str | None


def read_blocks(page: Path) -> list[Block]:
    """The command blocks of a page, in order."""
    found = BLOCK_PATTERN.finditer(page.read_text(encoding="utf-8"))
    return [Block(block["language"], block["code"], block["why"]) for block in found]


def read_commands(page: Path) -> list[str]:
    """Every `retreever` command line of a page, also of blocks that are not executed; continued lines are joined."""
    code = "\n".join(block.code for block in read_blocks(page) if block.language == "bash").replace("\\\n", " ")
    return [line.strip() for line in code.splitlines() if line.strip().startswith("retreever ")]
