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

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Float, UInt8

from retreever.index.codes import SLACK, Coded, Found, in_strips
from retreever.index.kernels import STRIP, refine_projection, scan_projection

DIMS = 128  # main directions kept: 64 bytes of upper digits
DIGITS = 256  # of a coordinate
GRID = 0.0223  # distance of two grid points in standard deviations: the grid ends at 2.85 of them
MIDDLE = (DIGITS - 1) / 2
LEAST = 1e-7  # standard deviation taken for a direction in which nothing varies
ROUNDING = 1e-7  # of a squared length in float32
WIDTH = 8  # digits that the scan takes at once
SPAN = 31_000  # largest sum of weighted digits; with all roundings up, 128 * 15 / 2, it stays within 16 bits


@dataclass(frozen=True)
class AskedProjection:
    """A query's coordinates and the kernels' numbers of it.

    Attributes:
        place: its coordinates, then 1.
        weights: of a passage's upper digits, int16 (dims,), in units of `unit`.
        lengths: within the basis, outside of it, and what is added to every bound.
        lower: what a unit of a lower digit is worth, float32 (dims,), then what is added to all.
    """

    place: np.ndarray
    weights: np.ndarray
    unit: np.float32
    lengths: tuple[float, float, float]
    lower: np.ndarray


class Projection:
    """Main directions of a level and the grid on them.

    Attributes:
        mean: float32 (nodes,).
        basis: orthonormal columns, float32 (nodes, dims); dims is a multiple of eight, zero columns fill it up.
        step: distance of two grid points in each direction, float32 (dims,).
    """

    files: ClassVar[tuple[str, ...]] = ("mean", "basis", "step")

    def __init__(self, mean: np.ndarray, basis: np.ndarray, step: np.ndarray):
        self.mean, self.basis, self.step = mean, basis, step

    @classmethod
    def fit(cls, sample: Float[np.ndarray, "rows nodes"], dims: int = DIMS) -> Self:
        """Main directions of a sample of vectors in stored form."""
        mean = sample.mean(axis=0, dtype=np.float64)
        centred = (sample - mean).astype(np.float32)
        values, vectors = np.linalg.eigh((centred.T @ centred).astype(np.float64) / len(sample))
        kept = min(dims, sample.shape[1])
        basis = np.zeros((sample.shape[1], -(-kept // WIDTH) * WIDTH), np.float32)
        basis[:, :kept] = vectors[:, ::-1][:, :kept]
        spread = np.full(basis.shape[1], LEAST)
        spread[:kept] = np.sqrt(np.maximum(values[::-1][:kept], LEAST**2))
        return cls(mean.astype(np.float32), basis, (GRID * spread).astype(np.float32))

    def encode(self, vectors: Float[np.ndarray, "rows nodes"]) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates on the grid, uint8 (rows, dims), and the four terms of the bound, float32 (4, rows).

        The terms: <u, m>, |r within| with the upper digits alone, |r outside|, |r within| with both digits.
        """
        centred = vectors - self.mean
        exact = centred @ self.basis
        digits = np.clip(np.rint(exact / self.step + MIDDLE), 0, DIGITS - 1).astype(np.uint8)
        within, whole = np.einsum("rd,rd->r", exact, exact), np.einsum("rd,rd->r", centred, centred)
        terms = np.empty((4, len(vectors)), np.float32)
        terms[0] = vectors @ self.mean
        terms[1] = np.linalg.norm(exact - self._point((digits & 0xF0) + np.float32(7.5)), axis=1)
        terms[2] = np.sqrt(np.maximum(whole - within, 0) + ROUNDING * whole)
        terms[3] = np.linalg.norm(exact - self._point(digits), axis=1)
        return digits, terms

    def _point(self, digits: np.ndarray) -> np.ndarray:
        return (digits - np.float32(MIDDLE)) * self.step

    def coded(self, digits: UInt8[np.ndarray, "places dims"], terms: Float[np.ndarray, "four places"]) -> Coded:
        """Upper digits in strips, lower digits by place, two a byte each."""
        means = self._point(digits.reshape(-1, STRIP, digits.shape[1]).mean(axis=1))
        bases = terms[0].reshape(-1, STRIP).mean(axis=1)
        units = np.maximum(terms[1:].max(axis=1), LEAST) / 255
        return Coded(
            in_strips((digits[:, ::2] >> 4) | (digits[:, 1::2] & 0xF0)),
            (digits[:, ::2] & 0x0F) | (digits[:, 1::2] << 4),
            terms[0],
            np.minimum(np.ceil(terms[1:] / units[:, None]), 255).astype(np.uint8),
            (units * (1 + ROUNDING * 10)).astype(np.float32),
            np.column_stack([means, bases]).astype(np.float32),
        )

    def ask(self, vector: Float[np.ndarray, " nodes"]) -> AskedProjection:
        """A query's vector in stored form."""
        centred = vector - self.mean
        place = (centred @ self.basis).astype(np.float64)
        worth = place * self.step * 16  # of one upper digit
        unit = max(worth[worth > 0].sum(), -worth[worth < 0].sum(), 1e-12) * 15 / SPAN
        weights = np.rint(worth / unit)
        whole = float(centred @ centred)
        outside = np.sqrt(max(whole - place @ place, 0) + ROUNDING * whole)
        lost = 7.5 * np.abs(worth - weights * unit).sum()
        constant = centred @ self.mean - 7.5 * unit * weights.sum() + lost + SLACK
        return AskedProjection(
            np.append(place, 1).astype(np.float32),
            weights.astype(np.int16),
            np.float32(unit),
            (float(np.linalg.norm(place)), float(outside), float(constant)),
            np.append(place * self.step, -7.5 * (place * self.step).sum()).astype(np.float32),
        )

    def likeness(self, asked: AskedProjection, centres: np.ndarray) -> np.ndarray:
        """Inner products with the strips' means, but for a constant."""
        return centres @ asked.place

    def scan(
        self, asked: AskedProjection, coded: Coded, order: np.ndarray, alive: np.ndarray, floor: np.float32, room: Found
    ) -> Found:
        """Bounds by the upper digits."""
        own = (asked.weights, asked.unit, _shares(asked, coded))
        codes = (coded.strips, coded.base, coded.beside)
        return room.first(scan_projection(*codes, order, alive, *own, floor, room.places, room.bounds))

    def refine(self, asked: AskedProjection, coded: Coded, floor: np.float32, found: Found) -> Found:
        """Bounds by both digits."""
        own = (asked.lower, _shares(asked, coded))
        return found.first(refine_projection(coded.lower, coded.beside, *own, floor, found.places, found.bounds))


def _shares(asked: AskedProjection, coded: Coded) -> np.ndarray:
    """What a unit of each number in `beside` adds to a bound, and what is added to all."""
    within, outside, constant = asked.lengths
    return np.append(coded.units * np.array([within, outside, within], np.float32), np.float32(constant))
