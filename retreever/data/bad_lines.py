"""Handling of bad lines: stop with place and rule, or skip and count.

It also holds the rules for ids and texts that every source shares.
"""

from collections import Counter
from typing import Any, Literal

from retreever.data.dataset import FORBIDDEN_IN_IDS, is_valid_utf8
from retreever.errors import DataError

OnBad = Literal["refuse", "skip"]


class BadLine(Exception):
    """A line that breaks a rule. `rule` is short and is counted; `detail` holds the value found."""

    def __init__(self, rule: str, detail: str = ""):
        self.rule, self.detail = rule, detail
        super().__init__(rule)


class BadLineHandler:
    """Refuses the first bad line, or counts all of them by source and rule."""

    def __init__(self, on_bad: OnBad):
        if on_bad not in ("refuse", "skip"):
            raise DataError(f"on_bad: must be 'refuse' or 'skip', got {on_bad!r}")
        self.refuse = on_bad == "refuse"
        self.counts: Counter[str] = Counter()

    def add(self, source: str, place: str, bad: BadLine) -> None:
        """Refuse or count a bad line.

        Args:
            source: key of the count, e.g. the name of the file.
            place: file and line, or split and row, for the message.

        Raises:
            DataError: bad lines are refused.
        """
        if self.refuse:
            raise DataError(f"{place}: {bad.rule}" + (f" ({bad.detail})" if bad.detail else ""))
        self.counts[f"{source}: {bad.rule}"] += 1


def parse_id(value: Any, what: str = "_id") -> str:
    """Check an id and return it as a string; a whole number becomes its digits.

    Raises:
        BadLine: neither a string nor a whole number, empty, or with tabs, line breaks or unpaired surrogates.

    >>> parse_id(7)
    '7'
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise BadLine(f"{what} must be a string or a whole number", f"got {shorten_repr(value)}")
    if not value or FORBIDDEN_IN_IDS.search(value):
        raise BadLine(f"{what} must not be empty nor hold tabs or line breaks", f"got {value!r}")
    return require_string(value, what)


def require_string(value: Any, what: str) -> str:
    """Return `value` if it is a string, possibly empty, that UTF-8 can encode.

    Raises:
        BadLine: it is not.
    """
    if not isinstance(value, str):
        raise BadLine(f"{what} must be a string", f"got {shorten_repr(value)}")
    if not is_valid_utf8(value):
        raise BadLine("unpaired surrogate", f"in {what}")
    return value


def shorten_repr(value: Any) -> str:
    """The repr of a value for a message, at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
