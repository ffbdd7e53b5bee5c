"""Which words of a query a passage has, and what each adds to its score in a hybrid search."""

import numpy as np

from retreever.index.index_state import IndexState
from retreever.index.lexical.hybrid_query import WeighedWords, count_places


def explain_query_words(state: IndexState, words: WeighedWords, numbers: np.ndarray) -> list[dict[str, float]]:
    """For each passage, by its number, what each word adds that it has; words in the order of the query."""
    added: list[dict[str, float]] = [{} for _ in numbers]
    for view in state.views:
        segment, postings = view.segment, view.segment.postings
        here = np.flatnonzero(np.isin(numbers, segment.numbers))
        if postings is None or not len(here):
            continue
        places = segment.place_by_row[np.searchsorted(segment.numbers, numbers[here])]
        found = postings.find_terms(words.terms)
        for i, word in enumerate(words.words):
            scores = np.zeros(count_places(len(segment)), np.float32)
            postings.add_scores(found[i : i + 1], words.weights[i : i + 1], scores)
            for own, score in zip(here.tolist(), scores[places].tolist(), strict=True):
                if score:
                    added[own][word] = score
    return added
