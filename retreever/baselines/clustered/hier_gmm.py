"""HIER-GMM: recursive mixtures of two diagonal Gaussians on principal components.

Texts are routed by responsibilities. The log-odds of two diagonal Gaussians are linear in a vector and its squares,
so all splits are one matrix product.
"""

import warnings

import numpy as np
from jaxtyping import Float

from retreever.baselines.clustered.clustered_tree import ClusteredTree
from retreever.system.progress import Track

PCA_COMPONENTS = 64
COVARIANCE_REGULARIZATION = 1e-2  # added to variances; components have a mean variance of one
MIN_MIXTURE_POINTS = 4  # a smaller node is not split


class HierGMM(ClusteredTree):
    """A clustered tree of mixtures; temperature 1 gives the fitted responsibilities."""

    name = "hier_gmm"
    temperatures = (1.0, 4.0, 16.0, 64.0)

    def _fit_splits(self, passages: Float[np.ndarray, "passages dim"], track: Track) -> None:
        self._rotate(passages)
        features = self._features(passages)
        width = features.shape[1] // 2
        self._weights = np.zeros((2**self.depth - 1, features.shape[1]), np.float32)
        self._constants = np.zeros(2**self.depth - 1, np.float32)
        node = np.zeros(len(passages), np.int64)
        for level in track(range(self.depth), f"clustering {self.name}, levels", total=self.depth):
            members = np.split(np.argsort(node, kind="stable"), np.cumsum(np.bincount(node, minlength=2**level))[:-1])
            for split, rows in enumerate(members, start=2**level - 1):
                if len(rows) >= MIN_MIXTURE_POINTS:
                    self._weights[split], self._constants[split] = fit_mixture_odds(features[rows, :width], self.seed)
            split = node + 2**level - 1
            odds = np.einsum("nf,nf->n", features, self._weights[split]) + self._constants[split]
            node = 2 * node + (odds < 0)

    def _rotate(self, passages: np.ndarray) -> None:
        from sklearn.decomposition import PCA

        wanted = min(PCA_COMPONENTS, *passages.shape)
        fitted = PCA(wanted, svd_solver="randomized", random_state=self.seed).fit(passages)
        self._mean = fitted.mean_.astype(np.float32)
        self._rotation = (fitted.components_ / np.sqrt(fitted.explained_variance_.mean())).astype(np.float32)

    def _features(self, vectors: np.ndarray) -> Float[np.ndarray, "n features"]:
        """Principal components, then their squares."""
        x = (vectors - self._mean) @ self._rotation.T
        return np.concatenate([x, x * x], axis=1)

    def _odds(self, vectors: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, "n splits"]:
        return self._features(vectors) @ self._weights.T + self._constants

    def _arrays(self) -> dict[str, np.ndarray]:
        names = ("mean", "rotation", "weights", "constants")
        return {name: getattr(self, f"_{name}") for name in names}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self._mean, self._rotation = arrays["mean"], arrays["rotation"]
        self._weights, self._constants = arrays["weights"], arrays["constants"]


def fit_mixture_odds(points: Float[np.ndarray, "n dim"], seed: int) -> tuple[Float[np.ndarray, " features"], float]:
    """Fit two Gaussians and return the log-odds of the first: weights of (x, x^2), and a constant."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = GaussianMixture(
            2, covariance_type="diag", reg_covar=COVARIANCE_REGULARIZATION, max_iter=50, random_state=seed
        ).fit(points)
    precision = 1 / fitted.covariances_
    linear = fitted.means_ * precision
    constant = np.log(fitted.weights_) + 0.5 * (np.log(precision) - fitted.means_ * linear).sum(axis=1)
    weights = np.concatenate([linear[0] - linear[1], -0.5 * (precision[0] - precision[1])])
    return weights.astype(np.float32), float(constant[0] - constant[1])
