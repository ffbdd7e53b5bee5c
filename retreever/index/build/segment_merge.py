"""Compacting: merge small segments, and rewrite those with many deleted passages.

Small segments at the end are merged when they become many: first those without codes, then those of up to 32 times
their size. So a passage is copied a few times in its life, even if passages were added one by one. A segment is
rewritten when more than half of it has been deleted. Files are not known here.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from retreever.index.codes.passage_code import PassageCode
from retreever.index.index_layout import Layout
from retreever.index.lexical.postings import PassageWords, join_words
from retreever.index.segment import MIN_CODED_PASSAGES, SegmentView, make_segment
from retreever.index.string_array import StringArray

MAX_SEGMENTS_PER_TIER = 8  # more segments of a tier are merged into one
MERGE_TIERS = (MIN_CODED_PASSAGES, 32 * MIN_CODED_PASSAGES)  # passages of a segment stay below these


def compact_segments(
    views: Sequence[SegmentView], layout: Layout, codes: Mapping[int, PassageCode]
) -> tuple[SegmentView, ...]:
    """The same living passages in fewer segments; segments that need no change stay the same objects."""
    if layout.compact:  # without vectors no new codes can be made
        return tuple(views)
    kept = [_rewrite_if_sparse(view, layout, codes) for view in views]
    kept = [view for view in kept if len(view.segment)]
    for tier in MERGE_TIERS:
        tail = len(kept)
        while tail and len(kept[tail - 1].segment) < tier:
            tail -= 1
        if len(kept) - tail > MAX_SEGMENTS_PER_TIER:
            kept[tail:] = [merge_segments(kept[tail:], layout, codes)]
    return tuple(kept)


def _rewrite_if_sparse(view: SegmentView, layout: Layout, codes: Mapping[int, PassageCode]) -> SegmentView:
    return view if 2 * int(view.rows_alive.sum()) >= len(view.segment) else merge_segments([view], layout, codes)


def merge_segments(views: Sequence[SegmentView], layout: Layout, codes: Mapping[int, PassageCode]) -> SegmentView:
    """One segment of the living passages of several adjacent segments."""
    alive = [np.flatnonzero(view.rows_alive) for view in views]
    pairs = list(zip(views, alive, strict=True))
    vectors = {d: np.concatenate([v.segment.vectors[d][rows] for v, rows in pairs]) for d in layout.vector_widths}
    ids = StringArray.pack(v.segment.ids[int(row)] for v, rows in pairs for row in rows)
    numbers = np.concatenate([v.segment.numbers[rows] for v, rows in pairs])
    return SegmentView.of(make_segment(numbers, ids, vectors, layout, codes, _merge_words(pairs)))


def _merge_words(pairs: Sequence[tuple[SegmentView, np.ndarray]]) -> PassageWords | None:
    """Words of the chosen rows of adjacent segments; None where the index has no lexical side."""
    parts, first = [], 0
    for view, rows in pairs:
        postings = view.segment.postings
        if postings is None:
            return None
        own = postings.list_words(view.segment.row_by_place)
        new_rows = np.full(len(view.segment), -1)
        new_rows[rows] = np.arange(first, first + len(rows))
        kept = new_rows[own.rows] >= 0
        parts.append(PassageWords(own.terms[kept], new_rows[own.rows[kept]], own.impacts[kept]))
        first += len(rows)
    return join_words(parts)
