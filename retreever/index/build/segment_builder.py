"""From node probabilities to segments, a chunk at a time: memory holds two segments, however large the corpus."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from retreever.index.codes.code_survival import Trial
from retreever.index.codes.passage_code import Code, Use
from retreever.index.codes.probability_code import Sums
from retreever.index.codes.projection_code import Projection
from retreever.index.index_layout import Layout, are_probable, checked, shaped
from retreever.index.kernels.similarity_kernels import narrow_rows
from retreever.index.segment import FLAT, LARGEST, Segment, make
from retreever.index.string_array import Names
from retreever.model.tree import Tree
from retreever.system.threads import side_by_side

SAMPLE = 16_384  # vectors that codes are fitted to

Vectors = dict[int, np.ndarray]


def code_for(similarity: str) -> type[Projection] | type[Sums]:
    """The code that bounds a similarity."""
    return Projection if similarity == "bhattacharyya" else Sums


def vectors_of(nodes: Float[np.ndarray, "rows nodes"], layout: Layout) -> Vectors:
    """Node probabilities as the levels that are kept in full, in stored form and type."""
    room = _room(layout, len(nodes))
    _fill(room, nodes, layout, "nodes")
    return room


def _fill(room: Vectors, nodes: Float[np.ndarray, "rows nodes"], layout: Layout, what: str) -> None:
    """Put node probabilities into a room of as many rows.

    Raises:
        ValueError: they are none; the message names `what`.
    """
    shaped(nodes, layout.depth, what)
    likely = layout.dtype != "float32"
    for d, array in room.items():
        level = Tree(layout.depth).level(d)
        if layout.dtype == "float32":
            array[:] = layout.form(nodes[:, level])
        else:
            largest = narrow_rows(nodes, level.start, layout.similarity == "bhattacharyya", array)
            likely = likely and are_probable(largest)
    if not likely:
        checked(nodes, layout.depth, what)


def codes_for(vectors: Mapping[int, np.ndarray], layout: Layout, seed: int = 0) -> dict[int, Code]:
    """Codes fitted to vectors, or to a sample of them where they are many."""
    rows = len(vectors[layout.depth])
    chosen = np.sort(np.random.default_rng(seed).permutation(rows)[:SAMPLE])
    finest = {d: array[chosen].astype(np.float32) for d, array in vectors.items()}

    def fitted(d: int) -> Code:
        sample = layout.coarser(finest[min(s for s in finest if s >= d)], d)
        last: Use = "alone" if layout.compact else "last"
        trial = Trial(sample, layout.similarity == "bhattacharyya")
        code = code_for(layout.similarity).fit(sample, trial, last if d == layout.depth else "between")
        code.measured = trial.survival(code).array
        return code

    with threadpool_limits(1, user_api="blas"):
        codes = side_by_side(fitted, layout.coded_levels[::-1])
    return dict(zip(layout.coded_levels, codes[::-1], strict=True))


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
        what = f"nodes: passages {start} to {start + len(chunk) - 1}"
        shaped(chunk, layout.depth, what)
        for part in np.array_split(chunk, range(size - filled, len(chunk), size)):
            taken = [name for _, name in zip(range(len(part)), names, strict=False)]
            if len(taken) < len(part):
                raise ValueError(
                    f"ids: there are {start + len(taken)}, the chunks hold at least {start + len(part)} passages"
                )
            _fill({d: array[filled : filled + len(part)] for d, array in room.items()}, part, layout, what)
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
    """Segments of passages numbered from `first`, each made while the next one's vectors are collected.

    Where `codes` is empty and a segment needs some, it is filled.
    """

    def segment(vectors: Vectors, names: list[str], first: int) -> Segment:
        if not codes and (len(names) >= FLAT or layout.compact):
            codes.update(codes_for(vectors, layout))
        return make(np.arange(first, first + len(names)), Names.of(names), vectors, layout, codes)

    with ThreadPoolExecutor(1) as pool:
        made: Future[Segment] | None = None
        for own, vectors in batches(nodes, ids, layout):
            if made:
                yield made.result()
            made = pool.submit(segment, vectors, own, first)
            first += len(own)
        if made:
            yield made.result()
