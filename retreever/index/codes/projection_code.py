"""A code for inner products (Bhattacharyya): coordinates in main directions, and residuals (ours).

Let u be a passage's vector, v a query's, m the mean of the corpus, P an orthonormal basis of its main directions (PCA),
x the coded coordinates P(u - m). With the residual r = u - m - P'x split into its parts within and outside the basis,

    <u, v> = <x, P(v - m)> + <r, v - m> + <u, m> + <v, m> - <m, m>
    <r, v - m>  <=  |r within| |P(v - m)|  +  |r outside| |(v - m) outside|          (Cauchy-Schwarz)

A coordinate has 8 bits on a grid, stored as two digits of 4 bits: a scan reads the upper digits of all passages, and
refining reads the lower digits of the survivors. The hierarchy's own bound, the similarity at a coarser level, is the
special case in which P has one given direction for each node of that level. Main directions are fitted to the corpus
and need no hierarchy.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Float, Int, UInt8

from retreever.index.codes.code_survival import SurvivalProbe
from retreever.index.codes.passage_code import (
    NOTHING_ADDED,
    ROUNDING_SLACK,
    UNMEASURED_SURVIVAL,
    CandidateBuffer,
    CodeUse,
    PackedCodes,
)
from retreever.index.kernels.coordinate_kernels import centre_vectors, pack_rows, quantize_rows, weigh_queries
from retreever.index.kernels.digit_kernels import (
    GROUP_BYTES,
    TILE_PASSAGES,
    bound_digits,
    refine_digits,
    scan_digits,
    unpack_digits,
)
from retreever.index.kernels.similarity_kernels import BLOCK_PASSAGES, dot_rows
from retreever.system.threads import map_in_threads

DIMENSION_CHOICES = (64, 96, 128, 160, 192, 216)  # main directions to choose from; half as many bytes are scanned
COMPACT_DIMENSIONS = 256  # main directions in a compact index, at most
GRID_POINTS = 256  # of a coordinate
GRID_STEP = 0.0223  # distance of two grid points in standard deviations: the grid ends at 2.85 of them
GRID_MIDDLE = (GRID_POINTS - 1) / 2
SMALLEST_DEVIATION = 1e-7  # standard deviation assumed for a direction without variance
SQUARED_LENGTH_ERROR = 1e-7  # relative error of a squared length in float32
PACKING_CHUNK_BLOCKS = 64  # blocks that a thread packs at a time
DIMENSION_MULTIPLE = 8  # digits that the scan processes at once


@dataclass(frozen=True)
class ProjectionQueries:
    """Encoded queries, a row each; v - m is a query's centred vector.

    Attributes:
        coordinates: P(v - m), then 1, float32 (queries, dims + 1).
        weights: of a passage's upper digits, in `units`, int8 (queries, 2 * dims), in the scan's order.
        units: (queries,).
        lengths: of v - m within the basis, and outside it; then the constant of every bound, (queries, 3).
        lower: weights of a passage's lower digits, then a constant, float32 (queries, dims + 1).
    """

    coordinates: np.ndarray
    weights: np.ndarray
    units: np.ndarray
    lengths: np.ndarray
    lower: np.ndarray


class ProjectionCode:
    """Main directions of a level and the grid of coordinates.

    Attributes:
        mean: float32 (nodes,).
        basis: orthonormal columns, float32 (nodes, dims); dims is a multiple of 8, padded with zero columns.
        step: distance of two grid points in each direction, float32 (dims,).
        measured: `Survival.array` of the sample, float64 (3,).
    """

    files: ClassVar[tuple[str, ...]] = ("mean", "basis", "step", "measured")

    def __init__(
        self, mean: np.ndarray, basis: np.ndarray, step: np.ndarray, measured: np.ndarray = UNMEASURED_SURVIVAL
    ):
        self.mean, self.basis, self.step, self.measured = mean, basis, step, measured
        self._directions = np.ascontiguousarray(basis.T)

    @classmethod
    def fit(cls, sample: Float[np.ndarray, "rows nodes"], probe: SurvivalProbe, use: CodeUse = "last") -> Self:
        """Fit main directions to a sample of vectors in stored form; choose the number that is cheapest to search.

        Above the last level there are at most a quarter as many as nodes, or 64. A compact index takes
        `COMPACT_DIMENSIONS`, enough for good estimates.
        """
        most = min(sample.shape[1], COMPACT_DIMENSIONS if use == "alone" else DIMENSION_CHOICES[-1])
        if use == "between":
            most = min(most, max(DIMENSION_CHOICES[0], sample.shape[1] // 4))
        widest = cls._fit_directions(sample, most)
        if use == "alone" or most <= DIMENSION_CHOICES[0]:
            return widest
        tried = [widest.truncate(dims) for dims in DIMENSION_CHOICES if dims <= most]
        exact, sums = widest._project(probe.passages.copy())

        def cost(code: Self) -> float:
            encoded = code._quantize(np.ascontiguousarray(exact[:, : len(code.step)]), sums)
            return probe.measure(code, encoded).estimate_cost(code.bytes_scanned)

        return tried[int(np.argmin(map_in_threads(cost, tried)))]

    @classmethod
    def _fit_directions(cls, sample: np.ndarray, dims: int) -> Self:
        mean = sample.mean(axis=0, dtype=np.float64)
        centred = sample - mean.astype(np.float32)
        values, vectors = np.linalg.eigh((centred.T @ centred).astype(np.float64) / len(sample))
        basis = np.zeros((sample.shape[1], -(-dims // DIMENSION_MULTIPLE) * DIMENSION_MULTIPLE), np.float32)
        basis[:, :dims] = vectors[:, ::-1][:, :dims]
        spread = np.full(basis.shape[1], SMALLEST_DEVIATION)
        spread[:dims] = np.sqrt(np.maximum(values[::-1][:dims], SMALLEST_DEVIATION**2))
        return cls(mean.astype(np.float32), basis, (GRID_STEP * spread).astype(np.float32))

    def truncate(self, dims: int) -> Self:
        """The code of the first `dims` directions, a multiple of 8."""
        return type(self)(self.mean, np.ascontiguousarray(self.basis[:, :dims]), self.step[:dims])

    def encode(self, vectors: Float[np.ndarray, "rows nodes"]) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates on the grid, uint8 (rows, dims), and four terms of the bound, float32 (4, rows).

        The terms are <u, m>, |r within| for the upper digits alone, |r outside|, and |r within| for both digits. The
        vectors are overwritten.
        """
        return self._quantize(*self._project(vectors))

    def _project(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates, (rows, dims), and the sums of `centre_vectors`, (2, rows); the vectors are overwritten."""
        sums = np.empty((2, len(vectors)), np.float32)
        centre_vectors(vectors, self.mean, sums)
        return vectors @ self.basis, sums

    def _quantize(self, exact: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The result of `encode`, from that of `_project`."""
        rows = len(exact)
        digits, squares = np.empty(exact.shape, np.uint8), np.empty((3, rows), np.float32)
        quantize_rows(exact, self.step, digits, squares)
        terms = np.empty((4, rows), np.float32)
        terms[0] = sums[0]
        terms[1], terms[3] = np.sqrt(squares[1]), np.sqrt(squares[2])
        terms[2] = np.sqrt(np.maximum(sums[1] - squares[0], 0) + SQUARED_LENGTH_ERROR * sums[1])
        return digits, terms

    def _dequantize(self, digits: np.ndarray) -> np.ndarray:
        return (digits - np.float32(GRID_MIDDLE)) * self.step

    def pack(
        self,
        digits: UInt8[np.ndarray, "rows dims"],
        terms: Float[np.ndarray, "four rows"],
        rows: Int[np.ndarray, " places"],
    ) -> PackedCodes:
        """Upper digits in blocks, lower digits by place, two a byte each."""
        blocks, dims = len(rows) // BLOCK_PASSAGES, digits.shape[1]
        tiles = np.empty((len(rows) // TILE_PASSAGES, dims // 2 // GROUP_BYTES, TILE_PASSAGES), np.uint32)
        lower, sums = np.empty((len(rows), dims // 2), np.uint8), np.empty((blocks, dims), np.float64)

        def pack_chunk(first: int) -> None:
            own = slice(first, first + PACKING_CHUNK_BLOCKS)
            places, parts = (
                slice(own.start * size, own.stop * size) for size in (BLOCK_PASSAGES, BLOCK_PASSAGES // TILE_PASSAGES)
            )
            pack_rows(digits, rows[places], tiles[parts], lower[places], sums[own])

        map_in_threads(pack_chunk, range(0, blocks, PACKING_CHUNK_BLOCKS))
        units = np.maximum(terms[1:].max(axis=1), SMALLEST_DEVIATION) / 255
        residuals = np.minimum(np.ceil(terms[1:] / units[:, None]), 255).astype(np.uint8)
        base = terms[0, rows]
        means = [self._dequantize(sums / BLOCK_PASSAGES), base.reshape(-1, BLOCK_PASSAGES).mean(axis=1)]
        return PackedCodes(
            tiles.view(np.uint8).reshape(blocks, -1),
            lower,
            base,
            np.ascontiguousarray(residuals[:, rows]),
            (units * (1 + SQUARED_LENGTH_ERROR * 10)).astype(np.float32),
            np.column_stack(means).astype(np.float32),
        )

    @property
    def bytes_scanned(self) -> float:
        """Bytes of the upper digits, of the constant, and of two lengths."""
        return len(self.step) / 2 + 4 + 2

    def encode_queries(self, vectors: Float[np.ndarray, "queries nodes"]) -> ProjectionQueries:
        """Encode queries' vectors in stored form, float32 (queries, nodes)."""
        queries, dims = len(vectors), len(self.step)
        coordinates, lower = (np.empty((queries, dims + 1), np.float32) for _ in range(2))
        weights, terms = np.empty((queries, 2 * dims), np.int8), np.empty((queries, 4))
        weigh_queries(vectors, self.mean, self._directions, self.step, coordinates, weights, lower, terms)
        unit, within, whole, constant = terms.T
        lengths = np.empty((queries, 3))
        lengths[:, 0] = np.sqrt(within)
        lengths[:, 1] = np.sqrt(np.maximum(whole - within, 0) + SQUARED_LENGTH_ERROR * whole)
        lengths[:, 2] = constant + ROUNDING_SLACK
        return ProjectionQueries(coordinates, weights, unit, lengths, lower)

    def score_blocks(self, queries: ProjectionQueries, centres: np.ndarray) -> np.ndarray:
        """Inner products with the blocks' means, up to a constant."""
        return np.asarray(dot_rows(queries.coordinates, centres))

    def scan(
        self,
        queries: ProjectionQueries,
        codes: PackedCodes,
        alive: np.ndarray,
        order: np.ndarray,
        start: int,
        thresholds: np.ndarray,
        candidates: CandidateBuffer,
        added: np.ndarray = NOTHING_ADDED,
    ) -> int:
        """Bound by the upper digits; see `PassageCode.scan`."""
        scales = self._scale_bounds(queries, codes)
        passage_arguments = (codes.blocks, codes.base, codes.residuals, alive, order, start)
        query_arguments = (queries.weights, scales, thresholds)
        return int(scan_digits(*passage_arguments, *query_arguments, *candidates.kernel_arrays, added))

    @staticmethod
    def scale_queries(queries: ProjectionQueries, factors: np.ndarray) -> ProjectionQueries:
        """Encoded queries for `refine` that tighten bounds which `add_bounds` has added with these factors."""
        columns = factors[:, None].astype(np.float32)
        return replace(queries, lengths=queries.lengths * columns, lower=queries.lower * columns)

    @staticmethod
    def _scale_bounds(queries: ProjectionQueries, codes: PackedCodes) -> np.ndarray:
        """Factors of the weighted sum and of two residual lengths, and the constant, float32 (queries, 4)."""
        scales = np.empty((len(queries.units), 4), np.float32)
        scales[:, 0], scales[:, 3] = queries.units, queries.lengths[:, 2]
        scales[:, 1:3] = queries.lengths[:, :2] * codes.units[:2]
        return scales

    def add_bounds(
        self, queries: ProjectionQueries, codes: PackedCodes, factors: np.ndarray, bounds: np.ndarray
    ) -> None:
        """Add the bounds of all places by the upper digits, times a factor of each query, to `bounds`.

        To encode a shorter vector instead would leave its bounds as loose as the mean is long.

        Args:
            factors: float32 (queries,).
            bounds: float32 (queries, places).
        """
        own = (queries.weights, self._scale_bounds(queries, codes))
        bound_digits(codes.blocks, codes.base, codes.residuals, *own, factors, bounds)

    def select_query(self, queries: ProjectionQueries, query: int) -> ProjectionQueries:
        """One of the queries."""
        return ProjectionQueries(
            *(getattr(queries, name)[query : query + 1] for name in ProjectionQueries.__match_args__)
        )

    def prepare_first_estimates(self, queries: ProjectionQueries) -> ProjectionQueries:
        """Queries without the residuals' share of the bound."""
        return replace(queries, lengths=queries.lengths * [0, 0, 1])

    def prepare_estimate_bounds(self, queries: ProjectionQueries) -> ProjectionQueries:
        """Queries without the share of the bound that residuals outside the basis have."""
        return replace(queries, lengths=queries.lengths * [1, 0, 1])

    def bound_estimate_error(self, queries: ProjectionQueries, codes: PackedCodes) -> np.ndarray:
        """Largest difference of inner products with both digits and with the exact coordinates, (queries,)."""
        return np.asarray(queries.lengths[:, 0] * (255 * codes.units[2]) + ROUNDING_SLACK)

    def estimate(
        self,
        queries: ProjectionQueries,
        codes: PackedCodes,
        candidates: CandidateBuffer,
        added: np.ndarray = NOTHING_ADDED,
    ) -> None:
        """Estimate by inner products with both digits; what was added to the bounds stays in them."""
        within = (queries.lengths[:, 0] * codes.units[0]).astype(np.float32)
        no_residuals, thresholds = np.zeros(len(within), np.float32), np.full(len(within), -np.inf, np.float32)
        factors = (within, no_residuals, thresholds)
        refine_digits(codes.lower, codes.residuals, queries.lower, *factors, *candidates.kernel_arrays)

    def decode(self, codes: PackedCodes, places: np.ndarray) -> np.ndarray:
        """The grid points of codes as vectors, none below zero."""
        upper = unpack_digits(codes.blocks.reshape(len(codes.blocks) * BLOCK_PASSAGES // TILE_PASSAGES, -1), places)
        lower = codes.lower[places]
        digits = upper << 4 | np.stack([lower & 15, lower >> 4], axis=2).reshape(upper.shape)
        return np.maximum(self.mean + self._dequantize(digits) @ self.basis.T, 0).astype(np.float32)

    def refine(
        self,
        queries: ProjectionQueries,
        codes: PackedCodes,
        thresholds: np.ndarray,
        candidates: CandidateBuffer,
        added: np.ndarray = NOTHING_ADDED,
    ) -> None:
        """Bound by both digits; what was added to the bounds stays in them."""
        within = (queries.lengths[:, :1] * codes.units).astype(np.float32).T
        coarse, fine = np.ascontiguousarray(within[0]), np.ascontiguousarray(within[2])
        factors = (coarse, fine, thresholds)
        refine_digits(codes.lower, codes.residuals, queries.lower, *factors, *candidates.kernel_arrays)
