"""RAPTOR's clustering (Sarthi 2024): UMAP, then soft Gaussian mixtures, globally, then locally.

UMAP reduces vectors to ten dimensions under the cosine distance. The number of Gaussians, up to 50, is the one with the
least BIC; a point belongs to every Gaussian whose responsibility for it exceeds 0.1. A cluster whose texts are too long
together is clustered again.

Departures, for speed: neighbours are exact, by one matrix product; UMAP starts from principal components; the number of
Gaussians is searched on a geometric grid, upwards until BIC has grown twice, on a sample; a cluster that is too long is
split again in the same dimensions, without another UMAP.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from retreever.baselines.baseline import l2_normalize
from retreever.evaluation.ranking import top_k
from retreever.system.extras import import_extra
from retreever.system.progress import Track, track_silently

UMAP_DIM = 10
GLOBAL_NEIGHBOURS = 100  # at most, in the global step
LOCAL_NEIGHBOURS = 10
GAUSSIAN_COUNTS = (1, 2, 3, 4, 6, 8, 11, 16, 22, 32, 50)
MEMBERSHIP_THRESHOLD = 0.1
BIC_SAMPLE_POINTS = 4_000  # at most, for choosing the number of Gaussians
MAX_CLUSTER_TOKENS = 3500
Members = Int[np.ndarray, " members"]
Reduction = Callable[[np.ndarray, int, int], np.ndarray]


def reduce_by_umap(vectors: Float[np.ndarray, "n dim"], neighbours: int, seed: int) -> Float[np.ndarray, "n 10"]:
    """Reduce at least twelve vectors to ten dimensions by UMAP."""
    unit, near = l2_normalize(vectors), max(2, neighbours)
    rows, cosines = top_k(unit, unit, near, "inner")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # UMAP's own: threads, numba, no transform of new points
        umap = import_extra("umap", "baselines")
        settings = {"n_neighbors": near, "n_components": UMAP_DIM, "metric": "cosine", "init": "pca"}
        known = (rows, np.maximum(1 - cosines, 0))
        reducer = umap.UMAP(**settings, random_state=seed, n_jobs=1, precomputed_knn=known)
        return np.asarray(reducer.fit_transform(vectors), np.float64)


def find_soft_clusters(
    vectors: Float[np.ndarray, "n dim"],
    tokens: Float[np.ndarray, " n"],
    seed: int,
    reduce: Reduction = reduce_by_umap,
    track: Track = track_silently,
) -> list[Members]:
    """Find the rows of each cluster. Every row belongs to a cluster, some rows to several.

    Args:
        tokens: length of each vector's text.
        reduce: maps vectors to ten dimensions, given a number of neighbours and a seed.
    """
    if len(vectors) <= UMAP_DIM + 1:
        return [np.arange(len(vectors))]
    neighbours = min(GLOBAL_NEIGHBOURS, int((len(vectors) - 1) ** 0.5))
    found = []
    wide = cluster_by_mixture(reduce(vectors, neighbours, seed), seed)
    for members in track(wide, "clustering raptor, global clusters", total=len(wide)):
        if len(members) <= UMAP_DIM + 1:
            found.append(members)
        else:
            reduced = reduce(vectors[members], min(LOCAL_NEIGHBOURS, len(members) - 1), seed)
            found += [members[part] for part in _split_long_clusters(reduced, tokens[members], seed)]
    return found


def _split_long_clusters(points: np.ndarray, tokens: np.ndarray, seed: int) -> Iterator[Members]:
    """Yield clusters of `points`, split again while they are too long and a split makes them shorter."""
    todo = cluster_by_mixture(points, seed)
    while todo:
        members = todo.pop()
        parts = [members]
        if tokens[members].sum() > MAX_CLUSTER_TOKENS and len(members) > UMAP_DIM + 1:
            parts = [members[part] for part in cluster_by_mixture(points[members], seed)]
        if len(parts) == 1 or max(map(len, parts)) == len(members):
            yield members
        else:
            todo += parts


def cluster_by_mixture(points: Float[np.ndarray, "n dim"], seed: int) -> list[Members]:
    """Find soft clusters by the mixture with the least BIC; every point belongs at least to its likeliest Gaussian."""
    rows = np.random.default_rng(seed).permutation(len(points))[:BIC_SAMPLE_POINTS]
    shares = _fit_mixture(points[rows], seed).predict_proba(points)
    is_member = shares > MEMBERSHIP_THRESHOLD
    is_member[np.arange(len(points)), shares.argmax(axis=1)] = True
    return [members for column in is_member.T if len(members := np.flatnonzero(column))]


def _fit_mixture(points: np.ndarray, seed: int) -> Any:
    """Fit mixtures of more and more Gaussians; return the one with the least BIC."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    best, least, worse = None, np.inf, 0
    for count in (count for count in GAUSSIAN_COUNTS if count < len(points)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            tried = GaussianMixture(count, random_state=seed, reg_covar=1e-4, max_iter=50).fit(points)
        bic = tried.bic(points)
        worse = 0 if bic < least else worse + 1
        best, least = (tried, bic) if bic < least else (best, least)
        if worse == 2:
            break
    return best
