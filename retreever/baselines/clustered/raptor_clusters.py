"""RAPTOR's clustering (Sarthi 2024): UMAP, then Gaussian mixtures with soft membership, globally, then locally.

Vectors are reduced to ten dimensions by UMAP under the cosine distance. The number of Gaussians, up to 50, is the one
with the least BIC; a point belongs to every Gaussian that has more than a tenth of it. A cluster whose texts are too
long together is clustered again.

Departures, for speed: neighbours are exact, by one matrix product; UMAP starts from principal components; the number of
Gaussians is looked for on a geometric grid, upwards until BIC has grown twice, on a sample; a cluster that is too long
is split again in the dimensions it was found in, without another UMAP.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from retreever.baselines.baseline import normalized
from retreever.evaluation.ranking import top_k
from retreever.system.progress import Track, silent

DIM = 10
NEIGHBOURS = 100  # at most, in the global step
LOCAL_NEIGHBOURS = 10
COUNTS = (1, 2, 3, 4, 6, 8, 11, 16, 22, 32, 50)
MEMBER = 0.1
SAMPLE = 4_000  # points by which the number of Gaussians is chosen
LONGEST = 3500  # tokens of a cluster
Members = Int[np.ndarray, " members"]
Reduce = Callable[[np.ndarray, int, int], np.ndarray]


def by_umap(vectors: Float[np.ndarray, "n dim"], neighbours: int, seed: int) -> Float[np.ndarray, "n 10"]:
    """UMAP's ten dimensions of at least twelve vectors."""
    unit, near = normalized(vectors), max(2, neighbours)
    rows, cosines = top_k(unit, unit, near, "inner")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own making: threads, numba, no transform of further points
        from umap import UMAP

        settings = {"n_neighbors": near, "n_components": DIM, "metric": "cosine", "init": "pca"}
        known = (rows, np.maximum(1 - cosines, 0))
        reducer = UMAP(**settings, random_state=seed, n_jobs=1, precomputed_knn=known)
        return np.asarray(reducer.fit_transform(vectors), np.float64)


def soft_clusters(
    vectors: Float[np.ndarray, "n dim"],
    tokens: Float[np.ndarray, " n"],
    seed: int,
    reduce: Reduce = by_umap,
    track: Track = silent,
) -> list[Members]:
    """Rows of each cluster; together they hold every row, some rows lie in several.

    Args:
        tokens: how long the text of each vector is.
        reduce: from vectors, neighbours to look at and a seed to ten dimensions.
    """
    if len(vectors) <= DIM + 1:
        return [np.arange(len(vectors))]
    neighbours = min(NEIGHBOURS, int((len(vectors) - 1) ** 0.5))
    found = []
    wide = mixture(reduce(vectors, neighbours, seed), seed)
    for members in track(wide, "clustering raptor, global clusters", total=len(wide)):
        if len(members) <= DIM + 1:
            found.append(members)
        else:
            reduced = reduce(vectors[members], min(LOCAL_NEIGHBOURS, len(members) - 1), seed)
            found += [members[part] for part in _short_enough(reduced, tokens[members], seed)]
    return found


def _short_enough(points: np.ndarray, tokens: np.ndarray, seed: int) -> Iterator[Members]:
    """Clusters of `points`, split again and again while they are too long and a split makes them shorter."""
    todo = mixture(points, seed)
    while todo:
        members = todo.pop()
        parts = [members]
        if tokens[members].sum() > LONGEST and len(members) > DIM + 1:
            parts = [members[part] for part in mixture(points[members], seed)]
        if len(parts) == 1 or max(map(len, parts)) == len(members):
            yield members
        else:
            todo += parts


def mixture(points: Float[np.ndarray, "n dim"], seed: int) -> list[Members]:
    """Soft clusters of the mixture with the least BIC; who has a tenth of nobody goes to the likeliest Gaussian."""
    rows = np.random.default_rng(seed).permutation(len(points))[:SAMPLE]
    shares = _fitted(points[rows], seed).predict_proba(points)
    held = shares > MEMBER
    held[np.arange(len(points)), shares.argmax(axis=1)] = True
    return [members for column in held.T if len(members := np.flatnonzero(column))]


def _fitted(points: np.ndarray, seed: int) -> Any:
    """The mixture of the number of Gaussians with the least BIC."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    best, least, worse = None, np.inf, 0
    for count in (count for count in COUNTS if count < len(points)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            tried = GaussianMixture(count, random_state=seed, reg_covar=1e-4, max_iter=50).fit(points)
        bic = tried.bic(points)
        worse = 0 if bic < least else worse + 1
        best, least = (tried, bic) if bic < least else (best, least)
        if worse == 2:
            break
    return best
