"""Statistics of an index: what it holds, what a passage costs, how well its codes bound a sample.

The sample is the one that the codes were fitted to. Names are those of the service's and the command line's answers.
"""

from typing import Any

import numpy as np

from retreever.index.index_layout import Layout
from retreever.index.index_state import IndexState

SURVIVAL_STATS = ("left_by_first_bound", "left_by_second_bound", "recall_of_estimates")  # as in `Survival.array`


def summarize_index(layout: Layout, state: IndexState) -> dict[str, Any]:
    """Statistics of a state.

    Bytes are given for a passage: all it takes, its share of the posting lists (0 without a lexical side), what every
    search of a level reads of it, and its vector of a level.
    """
    size = np.dtype(layout.dtype).itemsize
    stored = sum(len(view.segment) for view in state.views)
    coded = [d for d in layout.coded_levels if any(view.segment.codes for view in state.views)]
    return {
        "documents": state.alive_count,
        "deleted": stored - state.alive_count,
        "segments": len(state.views),
        "depth": layout.depth,
        "similarity": layout.similarity,
        "exact_hierarchy": layout.exact_hierarchy,
        "dtype": layout.dtype,
        "bytes_per_document": round(sum(view.segment.nbytes for view in state.views) / max(1, stored), 1),
        "bytes_of_words_per_document": round(sum(postings.nbytes for postings in state.postings) / max(1, stored), 1),
        "compact": layout.compact,
        "bytes_scanned_by_level": {d: state.codes[d].bytes_scanned for d in coded},
        "bytes_per_document_by_level": {d: size * 2**d for d in range(1, layout.depth + 1)},
        "of_a_sample": {
            d: dict(zip(SURVIVAL_STATS, state.codes[d].measured.round(5).tolist(), strict=True)) for d in coded
        },
    }
