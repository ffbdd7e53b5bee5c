"""What happens at a bad line: stop with its place and rule, or leave it out and count.

Also the rules that every source shares: what may be an id, what may be a text.
"""

from collections import Counter
from typing import Any, Literal

from retreever.data.dataset import BREAKS, encodable
from retreever.errors import DataError

OnBad = Literal["refuse", "skip"]


class BadLine(Exception):
    """A line breaks a rule. `rule` is short and counted; `detail` tells the value found."""

    def __init__(self, rule: str, detail: str = ""):
        self.rule, self.detail = rule, detail
        super().__init__(rule)


class Faults:
    """Refuses the first bad line, or counts all of them by source and rule."""

    def __init__(self, on_bad: OnBad):
        if on_bad not in ("refuse", "skip"):
            raise DataError(f"on_bad: must be 'refuse' or 'skip', got {on_bad!r}")
        self.refuse = on_bad == "refuse"
        self.counts: Counter[str] = Counter()

    def add(self, source: str, place: str, bad: BadLine) -> None:
        """Take note of a bad line.

        Args:
            source: what the count is filed under, e.g. the name of the file.
            place: where exactly, for the message.

        Raises:
            DataError: bad lines are refused.
        """
        if self.refuse:
            raise DataError(f"{place}: {bad.rule}" + (f" ({bad.detail})" if bad.detail else ""))
        self.counts[f"{source}: {bad.rule}"] += 1


def identity(value: Any, what: str = "_id") -> str:
    """An id as a string; whole numbers are written out.

    >>> identity(7)
    '7'
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise BadLine(f"{what} must be a string or a whole number", f"got {shown(value)}")
    if not value or BREAKS.search(value):
        raise BadLine(f"{what} must not be empty nor hold tabs or line breaks", f"got {value!r}")
    return string(value, what)


def string(value: Any, what: str) -> str:
    """A string, possibly empty, that can be written as UTF-8."""
    if not isinstance(value, str):
        raise BadLine(f"{what} must be a string", f"got {shown(value)}")
    if not encodable(value):
        raise BadLine("unpaired surrogate", f"in {what}")
    return value


def shown(value: Any) -> str:
    """A value for a message, cut short."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
