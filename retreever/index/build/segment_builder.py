"""From node probabilities to segments, a chunk at a time.

Memory holds two segments, however large the corpus. The module decides when codes are fitted, and to which sample.
Files are not known here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from retreever.index.codes.code_survival import SurvivalProbe
from retreever.index.codes.passage_code import CodeUse, PassageCode
from retreever.index.codes.probability_code import ProbabilityCode
from retreever.index.codes.projection_code import ProjectionCode
from retreever.index.index_layout import (
    ENCODINGS,
    Layout,
    are_probable,
    check_node_shape,
    check_nodes,
    scale_to_unit_length,
)
from retreever.index.kernels.float16_kernels import narrow_rows
from retreever.index.lexical.lexical_side import LexicalSide
from retreever.index.segment import MAX_SEGMENT_PASSAGES, MIN_CODED_PASSAGES, Segment, make_segment
from retreever.index.string_array import StringArray
from retreever.model.tree import Tree
from retreever.system.threads import map_in_threads

CODE_FITTING_SAMPLE = 16_384  # vectors that codes are fitted to

LevelVectors = dict[int, np.ndarray]


def choose_code(similarity: str) -> type[ProjectionCode] | type[ProbabilityCode]:
    """The kind of code that bounds a similarity: Bhattacharyya's or nTVD's."""
    return ProjectionCode if similarity == "bhattacharyya" else ProbabilityCode


def choose_code_at(layout: Layout, key: int) -> type[ProjectionCode] | type[ProbabilityCode]:
    """The kind of code at one of `layout.code_keys`; cosines of encodings are inner products."""
    return ProjectionCode if key == ENCODINGS else choose_code(layout.similarity)


def make_level_vectors(
    nodes: Float[np.ndarray, "rows nodes"], layout: Layout, encodings: Float[np.ndarray, "rows dim"] | None = None
) -> LevelVectors:
    """Node probabilities as vectors of the stored levels, and encodings, in stored form and type.

    Raises:
        ValueError: they are not node probabilities.
    """
    vectors = _allocate_vectors(layout, len(nodes))
    _fill_vectors(vectors, nodes, layout, "nodes")
    _fill_encodings(vectors, encodings)
    return vectors


def _fill_encodings(vectors: LevelVectors, encodings: Float[np.ndarray, "rows dim"] | None) -> None:
    """Write encodings, scaled to length one, where the index keeps them."""
    if encodings is not None and ENCODINGS in vectors:
        vectors[ENCODINGS][:] = scale_to_unit_length(encodings)


def _fill_vectors(vectors: LevelVectors, nodes: Float[np.ndarray, "rows nodes"], layout: Layout, what: str) -> None:
    """Write node probabilities to vectors of as many rows.

    Raises:
        ValueError: they are not node probabilities; the message names `what`.
    """
    check_node_shape(nodes, layout.depth, what)
    checked = layout.dtype != "float32"
    for d, array in vectors.items():
        if d == ENCODINGS:
            continue
        level = Tree(layout.depth).level(d)
        if layout.dtype == "float32":
            array[:] = layout.to_stored_form(nodes[:, level])
        else:
            largest = narrow_rows(nodes, level.start, layout.similarity == "bhattacharyya", array)
            checked = checked and are_probable(largest)
    if not checked:
        check_nodes(nodes, layout.depth, what)


def fit_codes(vectors: Mapping[int, np.ndarray], layout: Layout, seed: int = 0) -> dict[int, PassageCode]:
    """Fit the codes of all coded levels to vectors, or to a sample of many.

    Args:
        vectors: in stored form by stored level, (rows, nodes).
        seed: of the sample.
    """
    rows = len(vectors[layout.depth])
    chosen = np.sort(np.random.default_rng(seed).permutation(rows)[:CODE_FITTING_SAMPLE])
    finest = {d: array[chosen].astype(np.float32) for d, array in vectors.items()}

    def fit_code(d: int) -> PassageCode:
        if d == ENCODINGS:
            probe = SurvivalProbe(finest[d], roots=True)
            return ProjectionCode.fit(finest[d], probe)
        sample = layout.merge_to_level(finest[min(s for s in finest if s >= d)], d)
        last: CodeUse = "alone" if layout.compact else "last"
        probe = SurvivalProbe(sample, layout.similarity == "bhattacharyya")
        code = choose_code(layout.similarity).fit(sample, probe, last if d == layout.depth else "between")
        code.measured = probe.measure(code).array
        return code

    with threadpool_limits(1, user_api="blas"):
        codes = map_in_threads(fit_code, layout.code_keys[::-1])
    return dict(zip(layout.code_keys, codes[::-1], strict=True))


def batch_passages(
    nodes: Iterable[Float[np.ndarray, "chunk nodes"]],
    ids: Iterable[str],
    layout: Layout,
    size: int = MAX_SEGMENT_PASSAGES,
    encodings: Float[np.ndarray, "passages dim"] | None = None,
) -> Iterator[tuple[list[str], LevelVectors]]:
    """Ids and vectors, `size` passages at a time.

    Args:
        encodings: of all passages; needed where the index keeps them.

    Raises:
        ValueError: there are more or fewer passages than ids, or rows are not node probabilities.
    """
    names, filled = iter(ids), 0
    vectors = _allocate_vectors(layout, size)
    batch_ids: list[str] = []
    start = 0
    for chunk in nodes:
        what = f"nodes: passages {start} to {start + len(chunk) - 1}"
        check_node_shape(chunk, layout.depth, what)
        for part in np.array_split(chunk, range(size - filled, len(chunk), size)):
            taken = [name for _, name in zip(range(len(part)), names, strict=False)]
            if len(taken) < len(part):
                raise ValueError(
                    f"ids: there are {start + len(taken)}, the chunks hold at least {start + len(part)} passages"
                )
            own = {d: array[filled : filled + len(part)] for d, array in vectors.items()}
            _fill_vectors(own, part, layout, what)
            _fill_encodings(own, None if encodings is None else encodings[start : start + len(part)])
            batch_ids += taken
            filled, start = filled + len(part), start + len(part)
            if filled == size:
                yield batch_ids, vectors
                vectors, batch_ids, filled = _allocate_vectors(layout, size), [], 0
    missing = len(list(names))
    if missing:
        raise ValueError(f"ids: there are {start + missing}, the chunks hold {start} passages")
    if filled:
        yield batch_ids, {d: array[:filled].copy() for d, array in vectors.items()}


def _allocate_vectors(layout: Layout, size: int) -> LevelVectors:
    return {d: np.empty((size, width), layout.dtype) for d, width in layout.vector_widths.items()}


def build_segments(
    nodes: Iterable[Float[np.ndarray, "chunk nodes"]],
    ids: Sequence[str],
    layout: Layout,
    codes: dict[int, PassageCode],
    first: int = 0,
    lexical: LexicalSide | None = None,
    texts: Sequence[str] | None = None,
    encodings: Float[np.ndarray, "passages dim"] | None = None,
) -> Iterator[Segment]:
    """Segments of passages numbered from `first`; each is built while the vectors of the next one are collected.

    Args:
        codes: fitted codes by coded level. If it is empty and a segment needs codes, they are fitted to that segment
            and put there.
        lexical: constants of the lexical side; segments get posting lists where it is given.
        texts: of the passages, one for each id; needed where `lexical` is given, else not read.
        encodings: of the passages, (passages, dim); needed where the index keeps them.
    """
    start = first

    def build_segment(vectors: LevelVectors, names: list[str], first: int) -> Segment:
        words = None
        if lexical is not None and texts is not None:
            words = lexical.weigh_passages(texts[first - start : first - start + len(names)])
        if not codes and (len(names) >= MIN_CODED_PASSAGES or layout.compact):
            codes.update(fit_codes(vectors, layout))
        numbers = np.arange(first, first + len(names))
        return make_segment(numbers, StringArray.pack(names), vectors, layout, codes, words)

    with ThreadPoolExecutor(1) as pool:
        pending: Future[Segment] | None = None
        for own, vectors in batch_passages(nodes, ids, layout, encodings=encodings):
            if pending:
                yield pending.result()
            pending = pool.submit(build_segment, vectors, own, first)
            first += len(own)
        if pending:
            yield pending.result()
