"""A code for inner products (Bhattacharyya): main directions, and how much of a passage lies beside them (ours).

Let u be a passage's vector, v a query's, m the mean of the corpus, P an orthonormal basis of its main directions (PCA),
x the coded coordinates P(u - m). With r = u - m - P'x split into its part within the basis and outside it,

    <u, v> = <x, P(v - m)> + <r, v - m> + <u, m> + <v, m> - <m, m>
    <r, v - m>  <=  |r within| |P(v - m)|  +  |r outside| |(v - m) outside|          (Cauchy-Schwarz)

A coordinate is 8 bits on a grid, kept as two digits of 4: a scan reads the upper digits of all passages, the lower ones
are read of those that remain. The hierarchy's own bound, the similarity at a coarser level, is the special case in
which P has one direction a node of that level, its signs and weights given; main directions are chosen for the corpus,
and need no hierarchy.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Float, Int, UInt8

from retreever.index.codes.code_survival import Trial
from retreever.index.codes.passage_code import SLACK, UNMEASURED, Coded, Room, Use
from retreever.index.kernels.coordinate_kernels import centre_rows, digit_rows, lay_rows, weigh_rows
from retreever.index.kernels.digit_kernels import BLOCK, GROUP, digits_at, refine_digits, scan_digits
from retreever.index.kernels.similarity_kernels import STRIP, dots
from retreever.system.threads import side_by_side

DIMS = (64, 96, 128, 160, 192, 216)  # numbers of main directions to choose from: half as many bytes are scanned
COMPACT = 256  # main directions where nothing else is kept
DIGITS = 256  # of a coordinate
GRID = 0.0223  # distance of two grid points in standard deviations: the grid ends at 2.85 of them
MIDDLE = (DIGITS - 1) / 2
LEAST = 1e-7  # standard deviation taken for a direction in which nothing varies
ROUNDING = 1e-7  # of a squared length in float32
TOGETHER = 64  # strips that a thread lays at a time
WIDTH = 8  # digits that the scan takes at once


@dataclass(frozen=True)
class AskedProjection:
    """Queries' coordinates and the kernels' numbers of them, a row a query.

    Attributes:
        places: their coordinates, then 1.
        weights: of a passage's upper digits, in units of `units`, as the scan takes them.
        lengths: within the basis, outside of it, and what is added to every bound.
        lower: what a unit of a lower digit is worth, float32 (queries, dims), then what is added to all.
    """

    places: np.ndarray
    weights: np.ndarray
    units: np.ndarray
    lengths: np.ndarray
    lower: np.ndarray


class Projection:
    """Main directions of a level and the grid on them.

    Attributes:
        mean: float32 (nodes,).
        basis: orthonormal columns, float32 (nodes, dims); dims is a multiple of eight, zero columns fill it up.
        step: distance of two grid points in each direction, float32 (dims,).
        measured: what it leaves of a sample, float64 (3,): see `Survival`.
    """

    files: ClassVar[tuple[str, ...]] = ("mean", "basis", "step", "measured")

    def __init__(self, mean: np.ndarray, basis: np.ndarray, step: np.ndarray, measured: np.ndarray = UNMEASURED):
        self.mean, self.basis, self.step, self.measured = mean, basis, step, measured
        self._directions = np.ascontiguousarray(basis.T)

    @classmethod
    def fit(cls, sample: Float[np.ndarray, "rows nodes"], trial: Trial, use: Use = "last") -> Self:
        """Main directions of a sample of vectors in stored form, as many as cost least to search it.

        A level between has no more than a quarter of its nodes; a code alone has as many as give good estimates.
        """
        most = min(sample.shape[1], COMPACT if use == "alone" else DIMS[-1])
        if use == "between":
            most = min(most, max(DIMS[0], sample.shape[1] // 4))
        widest = cls._main(sample, most)
        if use == "alone" or most <= DIMS[0]:
            return widest
        tried = [widest.first(dims) for dims in DIMS if dims <= most]
        exact, sums = widest._coordinates(trial.passages.copy())

        def cost(code: Self) -> float:
            encoded = code._rounded(np.ascontiguousarray(exact[:, : len(code.step)]), sums)
            return trial.survival(code, encoded).cost(code.bytes_scanned)

        return tried[int(np.argmin(side_by_side(cost, tried)))]

    @classmethod
    def _main(cls, sample: np.ndarray, dims: int) -> Self:
        mean = sample.mean(axis=0, dtype=np.float64)
        centred = sample - mean.astype(np.float32)
        values, vectors = np.linalg.eigh((centred.T @ centred).astype(np.float64) / len(sample))
        basis = np.zeros((sample.shape[1], -(-dims // WIDTH) * WIDTH), np.float32)
        basis[:, :dims] = vectors[:, ::-1][:, :dims]
        spread = np.full(basis.shape[1], LEAST)
        spread[:dims] = np.sqrt(np.maximum(values[::-1][:dims], LEAST**2))
        return cls(mean.astype(np.float32), basis, (GRID * spread).astype(np.float32))

    def first(self, dims: int) -> Self:
        """The first so many directions, a multiple of eight."""
        return type(self)(self.mean, np.ascontiguousarray(self.basis[:, :dims]), self.step[:dims])

    def encode(self, vectors: Float[np.ndarray, "rows nodes"]) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates on the grid, uint8 (rows, dims), and the four terms of the bound, float32 (4, rows).

        The terms: <u, m>, |r within| with the upper digits alone, |r outside|, |r within| with both digits. The vectors
        are overwritten.
        """
        return self._rounded(*self._coordinates(vectors))

    def _coordinates(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates, (rows, dims), and what `centre_rows` sums, (2, rows); the vectors are overwritten."""
        sums = np.empty((2, len(vectors)), np.float32)
        centre_rows(vectors, self.mean, sums)
        return vectors @ self.basis, sums

    def _rounded(self, exact: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What `encode` returns, of coordinates."""
        rows = len(exact)
        digits, squares = np.empty(exact.shape, np.uint8), np.empty((3, rows), np.float32)
        digit_rows(exact, self.step, digits, squares)
        terms = np.empty((4, rows), np.float32)
        terms[0] = sums[0]
        terms[1], terms[3] = np.sqrt(squares[1]), np.sqrt(squares[2])
        terms[2] = np.sqrt(np.maximum(sums[1] - squares[0], 0) + ROUNDING * sums[1])
        return digits, terms

    def _point(self, digits: np.ndarray) -> np.ndarray:
        return (digits - np.float32(MIDDLE)) * self.step

    def coded(
        self,
        digits: UInt8[np.ndarray, "rows dims"],
        terms: Float[np.ndarray, "four rows"],
        rows: Int[np.ndarray, " places"],
    ) -> Coded:
        """Upper digits in strips, lower digits by place, two a byte each."""
        strips, dims = len(rows) // STRIP, digits.shape[1]
        blocks = np.empty((len(rows) // BLOCK, dims // 2 // GROUP, BLOCK), np.uint32)
        lower, sums = np.empty((len(rows), dims // 2), np.uint8), np.empty((strips, dims), np.float64)

        def lay(first: int) -> None:
            own = slice(first, first + TOGETHER)
            places, parts = (slice(own.start * size, own.stop * size) for size in (STRIP, STRIP // BLOCK))
            lay_rows(digits, rows[places], blocks[parts], lower[places], sums[own])

        side_by_side(lay, range(0, strips, TOGETHER))
        units = np.maximum(terms[1:].max(axis=1), LEAST) / 255
        beside = np.minimum(np.ceil(terms[1:] / units[:, None]), 255).astype(np.uint8)
        base = terms[0, rows]
        means = [self._point(sums / STRIP), base.reshape(-1, STRIP).mean(axis=1)]
        return Coded(
            blocks.view(np.uint8).reshape(strips, -1),
            lower,
            base,
            np.ascontiguousarray(beside[:, rows]),
            (units * (1 + ROUNDING * 10)).astype(np.float32),
            np.column_stack(means).astype(np.float32),
        )

    @property
    def bytes_scanned(self) -> float:
        """Upper digits, what is added, two lengths."""
        return len(self.step) / 2 + 4 + 2

    def ask(self, vectors: Float[np.ndarray, "queries nodes"]) -> AskedProjection:
        """Queries' vectors in stored form."""
        queries, dims = len(vectors), len(self.step)
        places, lower = (np.empty((queries, dims + 1), np.float32) for _ in range(2))
        weights, terms = np.empty((queries, 2 * dims), np.int8), np.empty((queries, 4))
        weigh_rows(vectors, self.mean, self._directions, self.step, places, weights, lower, terms)
        unit, within, whole, constant = terms.T
        lengths = np.empty((queries, 3))
        lengths[:, 0] = np.sqrt(within)
        lengths[:, 1] = np.sqrt(np.maximum(whole - within, 0) + ROUNDING * whole)
        lengths[:, 2] = constant + SLACK
        return AskedProjection(places, weights, unit, lengths, lower)

    def likeness(self, asked: AskedProjection, centres: np.ndarray) -> np.ndarray:
        """Inner products with the strips' means, but for a constant."""
        return np.asarray(dots(asked.places, centres))

    def scan(
        self,
        asked: AskedProjection,
        coded: Coded,
        alive: np.ndarray,
        order: np.ndarray,
        start: int,
        floors: np.ndarray,
        room: Room,
    ) -> int:
        """Bounds by the upper digits."""
        numbers = np.empty((len(asked.units), 4), np.float32)
        numbers[:, 0], numbers[:, 3] = asked.units, asked.lengths[:, 2]
        numbers[:, 1:3] = asked.lengths[:, :2] * coded.units[:2]
        codes = (coded.strips, coded.base, coded.beside, alive, order, start)
        return int(scan_digits(*codes, asked.weights, numbers, floors, *room.found))

    def one(self, asked: AskedProjection, query: int) -> AskedProjection:
        """One query of several."""
        return AskedProjection(*(getattr(asked, name)[query : query + 1] for name in AskedProjection.__match_args__))

    def guess(self, asked: AskedProjection) -> AskedProjection:
        """Queries without what may lie beside codes."""
        return replace(asked, lengths=asked.lengths * [0, 0, 1])

    def nearly(self, asked: AskedProjection) -> AskedProjection:
        """Queries without what may lie outside the basis."""
        return replace(asked, lengths=asked.lengths * [1, 0, 1])

    def allowance(self, asked: AskedProjection, coded: Coded) -> np.ndarray:
        """How far an inner product with a code of both digits may be from one with the coordinates themselves."""
        return np.asarray(asked.lengths[:, 0] * (255 * coded.units[2]) + SLACK)

    def estimates(self, asked: AskedProjection, coded: Coded, room: Room) -> None:
        """Inner products by both digits."""
        within = (asked.lengths[:, 0] * coded.units[0]).astype(np.float32)
        beside, floors = np.zeros(len(within), np.float32), np.full(len(within), -np.inf, np.float32)
        refine_digits(coded.lower, coded.beside, asked.lower, within, beside, floors, *room.found)

    def decoded(self, coded: Coded, places: np.ndarray) -> np.ndarray:
        """The points that codes stand for."""
        upper = digits_at(coded.strips.reshape(len(coded.strips) * STRIP // BLOCK, -1), places)
        lower = coded.lower[places]
        digits = upper << 4 | np.stack([lower & 15, lower >> 4], axis=2).reshape(upper.shape)
        return np.maximum(self.mean + self._point(digits) @ self.basis.T, 0).astype(np.float32)

    def refine(self, asked: AskedProjection, coded: Coded, floors: np.ndarray, room: Room) -> None:
        """Bounds by both digits."""
        within = (asked.lengths[:, :1] * coded.units).astype(np.float32).T
        coarse, fine = np.ascontiguousarray(within[0]), np.ascontiguousarray(within[2])
        refine_digits(coded.lower, coded.beside, asked.lower, coarse, fine, floors, *room.found)
