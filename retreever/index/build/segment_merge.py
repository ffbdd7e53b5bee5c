"""Keeping the list of segments short, and free of what was deleted.

Small segments at the end are merged when they become many: first those without codes, then those of up to 32 times
their size, so that a passage is copied a few times in its life, however one by one it came. A segment of which half has
been deleted is written anew.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from retreever.index.codes.passage_code import Code
from retreever.index.index_layout import Layout
from retreever.index.segment import FLAT, View, make
from retreever.index.string_array import Names

MANY = 8  # segments of a size, before they become one
TIERS = (FLAT, 32 * FLAT)


def tidied(views: Sequence[View], layout: Layout, codes: Mapping[int, Code]) -> tuple[View, ...]:
    """The same living passages in fewer segments; segments that need no change are kept as they are."""
    if layout.compact:  # there are no vectors to make codes of
        return tuple(views)
    kept = [_rewritten(view, layout, codes) for view in views]
    kept = [view for view in kept if len(view.segment)]
    for tier in TIERS:
        tail = len(kept)
        while tail and len(kept[tail - 1].segment) < tier:
            tail -= 1
        if len(kept) - tail > MANY:
            kept[tail:] = [merged(kept[tail:], layout, codes)]
    return tuple(kept)


def _rewritten(view: View, layout: Layout, codes: Mapping[int, Code]) -> View:
    return view if 2 * int(view.rows_alive.sum()) >= len(view.segment) else merged([view], layout, codes)


def merged(views: Sequence[View], layout: Layout, codes: Mapping[int, Code]) -> View:
    """One segment of the living passages of several that follow one another."""
    alive = [np.flatnonzero(view.rows_alive) for view in views]
    pairs = list(zip(views, alive, strict=True))
    vectors = {d: np.concatenate([v.segment.vectors[d][rows] for v, rows in pairs]) for d in layout.stored_levels}
    ids = Names.of(v.segment.ids[int(row)] for v, rows in pairs for row in rows)
    numbers = np.concatenate([v.segment.numbers[rows] for v, rows in pairs])
    return View.of(make(numbers, ids, vectors, layout, codes))
