"""Terminal output: progress bars on stderr, tables on stdout, one JSON object for scripts.

The only module that knows `rich`.
"""

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.tree import Tree

ItemT = TypeVar("ItemT")
Branch = tuple[str, Sequence["Branch"]]
"""A label and its children."""


class Screen:
    """Output of one command.

    Args:
        as_json: print one JSON object on stdout, and everything else on stderr.
    """

    def __init__(self, as_json: bool = False):
        self.as_json = as_json
        self.err = _make_console(stderr=True)
        self.out = self.err if as_json else _make_console(stderr=False)

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line on stderr."""
        self.err.print(text, style=style, markup=False, soft_wrap=True)

    def print_heading(self, text: str) -> None:
        """Print the heading of a step on stderr."""
        self.say(f"\n{text}", style="bold cyan")

    def track(self, items: Iterable[ItemT], label: str, total: float | None = None) -> Iterator[ItemT]:
        """Show a progress bar on a terminal; elsewhere print one line at the end, so that logs stay short."""
        if total is None and isinstance(items, Sequence):
            total = len(items)
        if not self.err.is_terminal:
            started = time.monotonic()
            yield from items
            self.say(f"  {label}: {'' if total is None else f'{total:g} in '}{time.monotonic() - started:.1f} s")
            return
        with self._make_progress() as progress:
            yield from progress.track(items, total=total, description=label)

    def _make_progress(self) -> Progress:
        return Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.err,
        )

    def print_table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Print a table on stdout, numbers aligned to the right."""
        table = Table(title=title, title_justify="left", title_style="bold")
        body = [[_format_cell(value) for value in row] for row in rows]
        for i, column in enumerate(columns):
            numeric = all(_is_number(row[i]) for row in body)
            table.add_column(column, justify="right" if numeric else "left")
        for row in body:
            table.add_row(*row)
        self.out.print(table)

    def print_tree(self, branch: Branch) -> None:
        """Print a tree on stdout."""

        def grow(onto: Tree, branches: Sequence[Branch]) -> Tree:
            for label, below in branches:
                grow(onto.add(escape(label)), below)
            return onto

        label, below = branch
        self.out.print(grow(Tree(escape(label), guide_style="dim"), below))

    def print_result(self, value: dict[str, Any]) -> None:
        """Print the command's result as one line of JSON on stdout, in JSON mode only."""
        if self.as_json:
            sys.stdout.write(json.dumps(_replace_non_finite(value), ensure_ascii=False) + "\n")
            sys.stdout.flush()


def _make_console(stderr: bool) -> Console:
    """A terminal has its own width; a file or pipe takes a whole table."""
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, highlight=False, width=None if terminal else 140)


def _format_cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else escape(str(value))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text == "-"
    return True


def _replace_non_finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON lacks, by None."""
    if isinstance(value, dict):
        return {str(k): _replace_non_finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_non_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def wait_for_interrupt() -> None:
    """Sleep until Ctrl-C or SIGTERM."""
    interrupted = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: interrupted.set())
    try:
        interrupted.wait()
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGTERM, before)
