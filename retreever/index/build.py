"""From node probabilities to segments, a chunk at a time: memory holds one segment, whatever the size of the corpus."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from retreever.index.codes import Code, Use
from retreever.index.kernels import narrow_rows
from retreever.index.layout import Layout, checked
from retreever.index.names import Names
from retreever.index.projection import Projection
from retreever.index.segment import FLAT, LARGEST, Segment, make
from retreever.index.sums import Sums
from retreever.index.survival import Trial
from retreever.model.tree import Tree

SAMPLE = 16_384  # vectors that codes are fitted to

Vectors = dict[int, np.ndarray]


def code_for(similarity: str) -> type[Projection] | type[Sums]:
    """The code that bounds a similarity."""
    return Projection if similarity == "bhattacharyya" else Sums


def vectors_of(nodes: Float[np.ndarray, "rows nodes"], layout: Layout) -> Vectors:
    """Node probabilities as the levels that are kept in full, in stored form and type."""
    tree = Tree(layout.depth)
    if layout.dtype == "float32":
        return {d: layout.form(nodes[:, tree.level(d)]) for d in layout.stored_levels}
    roots = layout.similarity == "bhattacharyya"
    return {d: narrow_rows(nodes, tree.level(d), roots) for d in layout.stored_levels}


def codes_for(vectors: Mapping[int, np.ndarray], layout: Layout, seed: int = 0) -> dict[int, Code]:
    """Codes fitted to vectors, or to a sample of them where they are many."""
    rows = len(vectors[layout.depth])
    chosen = np.sort(np.random.default_rng(seed).permutation(rows)[:SAMPLE])
    finest = {d: array[chosen].astype(np.float32) for d, array in vectors.items()}
    codes: dict[int, Code] = {}
    for d in layout.coded_levels:
        sample = layout.coarser(finest[min(s for s in finest if s >= d)], d)
        last: Use = "alone" if layout.compact else "last"
        trial = Trial(sample, layout.similarity == "bhattacharyya")
        codes[d] = code_for(layout.similarity).fit(sample, trial, last if d == layout.depth else "between")
        codes[d].measured = trial.survival(codes[d]).array
    return codes


def batches(
    nodes: Iterable[Float[np.ndarray, "chunk nodes"]], ids: Iterable[str], layout: Layout, size: int = LARGEST
) -> Iterator[tuple[list[str], Vectors]]:
    """Ids and vectors, `size` passages at a time.

    Raises:
        ValueError: another number of passages than of ids, or rows that are not node probabilities.
    """
    names, filled = iter(ids), 0
    room = _room(layout, size)
    own: list[str] = []
    start = 0
    for chunk in nodes:
        checked(chunk, layout.depth, f"nodes: passages {start} to {start + len(chunk) - 1}")
        for part in np.array_split(chunk, range(size - filled, len(chunk), size)):
            taken = [name for _, name in zip(range(len(part)), names, strict=False)]
            if len(taken) < len(part):
                raise ValueError(
                    f"ids: there are {start + len(taken)}, the chunks hold at least {start + len(part)} passages"
                )
            for d, array in vectors_of(part, layout).items():
                room[d][filled : filled + len(part)] = array
            own += taken
            filled, start = filled + len(part), start + len(part)
            if filled == size:
                yield own, room
                room, own, filled = _room(layout, size), [], 0
    missing = len(list(names))
    if missing:
        raise ValueError(f"ids: there are {start + missing}, the chunks hold {start} passages")
    if filled:
        yield own, {d: array[:filled].copy() for d, array in room.items()}


def _room(layout: Layout, size: int) -> Vectors:
    return {d: np.empty((size, 2**d), layout.dtype) for d in layout.stored_levels}


def segments(
    nodes: Iterable[Float[np.ndarray, "chunk nodes"]],
    ids: Sequence[str],
    layout: Layout,
    codes: dict[int, Code],
    first: int = 0,
) -> Iterator[Segment]:
    """Segments of passages numbered from `first`. Where `codes` is empty and a segment needs some, it is filled."""
    for own, vectors in batches(nodes, ids, layout):
        if not codes and (len(own) >= FLAT or layout.compact):
            codes.update(codes_for(vectors, layout))
        yield make(np.arange(first, first + len(own)), Names.of(own), vectors, layout, codes)
        first += len(own)
