"""RAPTOR's clustering (Sarthi 2024): UMAP, then Gaussian mixtures with soft membership, globally, then locally.

Vectors are reduced to ten dimensions by UMAP under the cosine distance. The number of Gaussians, up to 50, is the one
with the least BIC, over a geometric grid: each of the 50 would be fitted for nothing. A point belongs to every Gaussian
that has more than a tenth of it.
"""

import warnings
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Int

from retreever.progress import Track, silent

DIM = 10
NEIGHBOURS = 100  # at most, in the global step
LOCAL_NEIGHBOURS = 10
COUNTS = (1, 2, 3, 4, 6, 8, 11, 16, 22, 32, 50)
MEMBER = 0.1
SAMPLE = 5_000  # points by which the number of Gaussians is chosen
Members = Int[np.ndarray, " members"]
Reduce = Callable[[np.ndarray, int, int], np.ndarray]


def by_umap(vectors: Float[np.ndarray, "n dim"], neighbours: int, seed: int) -> Float[np.ndarray, "n 10"]:
    """UMAP's ten dimensions of at least twelve vectors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own making: threads, numba
        from umap import UMAP

        settings = {"n_neighbors": max(2, neighbours), "n_components": DIM, "metric": "cosine"}
        return np.asarray(UMAP(**settings, random_state=seed, n_jobs=1).fit_transform(vectors), np.float64)


def soft_clusters(
    vectors: Float[np.ndarray, "n dim"], seed: int, reduce: Reduce = by_umap, track: Track = silent
) -> list[Members]:
    """Rows of each cluster; together they hold every row, some rows lie in several.

    Args:
        reduce: from vectors, neighbours to look at and a seed to ten dimensions.
    """
    if len(vectors) <= DIM + 1:
        return [np.arange(len(vectors))]
    neighbours = min(NEIGHBOURS, int((len(vectors) - 1) ** 0.5))
    wide = mixture(reduce(vectors, neighbours, seed), seed)
    return list(_locally(vectors, wide, seed, reduce, track))


def _locally(vectors: np.ndarray, wide: list[Members], seed: int, reduce: Reduce, track: Track) -> Iterator[Members]:
    for members in track(wide, "clustering raptor, global clusters", total=len(wide)):
        if len(members) <= DIM + 1:
            yield members
        else:
            reduced = reduce(vectors[members], min(LOCAL_NEIGHBOURS, len(members) - 1), seed)
            yield from (members[part] for part in mixture(reduced, seed))


def mixture(points: Float[np.ndarray, "n dim"], seed: int) -> list[Members]:
    """Soft clusters of the mixture with the least BIC; who has a tenth of nobody goes to the likeliest Gaussian."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    rows = np.random.default_rng(seed).permutation(len(points))[:SAMPLE]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        tried = [
            GaussianMixture(count, random_state=seed, reg_covar=1e-4).fit(points[rows])
            for count in COUNTS
            if count < len(rows)
        ]
    fitted = min(tried, key=lambda model: model.bic(points[rows]))
    shares = fitted.predict_proba(points)
    held = shares > MEMBER
    held[np.arange(len(points)), shares.argmax(axis=1)] = True
    return [members for column in held.T if len(members := np.flatnonzero(column))]
