"""What a person sees in a terminal: progress bars on stderr, tables on stdout, one JSON object for scripts.

The only place below the verbs that knows `rich`.
"""

import json
import math
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

T = TypeVar("T")
Branch = tuple[str, Sequence["Branch"]]
"""A label, and what is below it."""


class Screen:
    """Output of one command.

    Args:
        as_json: nothing but one JSON object goes to stdout; all else goes to stderr.
    """

    def __init__(self, as_json: bool = False):
        self.as_json = as_json
        self.err = _console(stderr=True)
        self.out = self.err if as_json else _console(stderr=False)

    def say(self, text: str, style: str | None = None) -> None:
        """A line about what is going on."""
        self.err.print(text, style=style, markup=False, soft_wrap=True)

    def heading(self, text: str) -> None:
        """A step of a longer story."""
        self.say(f"\n{text}", style="bold cyan")

    def track(self, items: Iterable[T], label: str, total: float | None = None) -> Iterator[T]:
        """A progress bar on a terminal; elsewhere a line at the end, so that logs stay short."""
        if total is None and isinstance(items, Sequence):
            total = len(items)
        if not self.err.is_terminal:
            started = time.monotonic()
            yield from items
            self.say(f"  {label}: {'' if total is None else f'{total:g} in '}{time.monotonic() - started:.1f} s")
            return
        with self._progress() as progress:
            yield from progress.track(items, total=total, description=label)

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.err,
        )

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """A table on stdout; numbers are aligned to the right."""
        table = Table(title=title, title_justify="left", title_style="bold")
        body = [[_cell(value) for value in row] for row in rows]
        for i, column in enumerate(columns):
            numeric = all(_is_number(row[i]) for row in body)
            table.add_column(column, justify="right" if numeric else "left")
        for row in body:
            table.add_row(*row)
        self.out.print(table)

    def tree(self, branch: Branch) -> None:
        """A tree on stdout."""

        def grow(onto: Tree, branches: Sequence[Branch]) -> Tree:
            for label, below in branches:
                grow(onto.add(escape(label)), below)
            return onto

        label, below = branch
        self.out.print(grow(Tree(escape(label), guide_style="dim"), below))

    def result(self, value: dict[str, Any]) -> None:
        """The command's result as one line of JSON on stdout, in JSON mode only."""
        if self.as_json:
            sys.stdout.write(json.dumps(_finite(value), ensure_ascii=False) + "\n")
            sys.stdout.flush()


def _console(stderr: bool) -> Console:
    """A terminal is as wide as it is; a file or pipe takes a whole table."""
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, highlight=False, width=None if terminal else 140)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else escape(str(value))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text == "-"
    return True


def _finite(value: Any) -> Any:
    """JSON knows no NaN."""
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def wait_for_interrupt() -> None:
    """Sleep until Ctrl-C."""
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        return
