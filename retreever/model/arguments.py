"""Rules that constructor arguments of this package keep, and the messages for broken ones.

Every message has the field, the rule and the value found. This module does not know what the fields mean.
"""

import math
from collections.abc import Collection


def require_at_least(name: str, value: int, low: int) -> int:
    """`value`, if it is at least `low`.

    >>> require_at_least("hidden", 0, 1)
    Traceback (most recent call last):
    ValueError: hidden: must be at least 1, got 0
    """
    if value < low:
        raise ValueError(f"{name}: must be at least {low}, got {value}")
    return value


def require_within(name: str, value: int, low: int, high: int) -> int:
    """`value`, if it lies in low..high, both included.

    >>> require_within("depth", 11, 1, 10)
    Traceback (most recent call last):
    ValueError: depth: must lie in 1..10, got 11
    """
    if not low <= value <= high:
        raise ValueError(f"{name}: must lie in {low}..{high}, got {value}")
    return value


def require_positive(name: str, value: float) -> float:
    """`value`, if it is finite and above zero.

    >>> require_positive("scale", 0.0)
    Traceback (most recent call last):
    ValueError: scale: must be finite and above 0, got 0.0
    """
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}: must be finite and above 0, got {value}")
    return value


def require_fraction(name: str, value: float) -> float:
    """`value`, if it is at least zero and below one.

    >>> require_fraction("dropout", 1.0)
    Traceback (most recent call last):
    ValueError: dropout: must be at least 0 and below 1, got 1.0
    """
    if not 0 <= value < 1:
        raise ValueError(f"{name}: must be at least 0 and below 1, got {value}")
    return value


def require_one_of(name: str, value: str, choices: Collection[str]) -> str:
    """`value`, if it is one of `choices`.

    >>> require_one_of("values", "half", ("full", "projected"))
    Traceback (most recent call last):
    ValueError: values: must be one of full, projected; got 'half'
    """
    if value not in choices:
        raise ValueError(f"{name}: must be one of {', '.join(choices)}; got {value!r}")
    return value
