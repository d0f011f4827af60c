"""A Gaussian process with few hyperparameters, for tens to hundreds of points and any number of features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import LinAlgError, cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

_ROOT5 = np.sqrt(5.0)
_OFFSET = 10.0
"""Prior variance of the mean: the data decide it."""
_TINY = 1e-12
_FEW = 40
"""Up to so many points, hyperparameters are searched from the prior too: what was likely may be so no more."""


def distances(groups: Sequence[slice], left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return for each group of columns the squared distances (groups, n, m) between the rows of ``left`` (n, width) and
    of ``right`` (m, width), in double precision whatever they come in.
    """
    found = np.empty((len(groups), len(left), len(right)))
    for at, group in enumerate(groups):
        a, b = left[:, group], right[:, group]
        np.multiply(a @ b.T, -2.0, out=found[at])
        found[at] += np.einsum("ij,ij->i", a, a)[:, None]
        found[at] += np.einsum("ij,ij->i", b, b)
    return np.maximum(found, 0.0, out=found)


class GaussianProcess:
    """Regression with a Matérn-5/2 kernel whose squared distance sums over groups, each with one length scale.

    Beside it, what single options add: a kernel that counts in how many choices two configs agree, which is the linear
    kernel of their one-hot features.

    Hyperparameters are logarithms: a length scale per group, the amplitude, that of the sum, the noise; all with normal
    priors, so that few points do not decide what they cannot. They are found by L-BFGS on the posterior (Rasmussen and
    Williams, 2006, Gaussian Processes for Machine Learning, chapters 4 and 5). The length-scale prior grows with the
    square root of a group's size (Hvarfner, Hellsten and Nardi, 2024, Vanilla Bayesian Optimization Performs Great in
    High Dimensions, arXiv 2402.02229), for distances do.

    Args:
        sizes: how many features each group has.
        overlap: of how many choices the first group holds one-hot features, each of one 1; 0 where it does not.
        noise: mean and standard deviation of the prior of the logarithm of the noise, in units of the data's spread.
    """

    def __init__(self, sizes: Sequence[int], overlap: int = 0, noise: tuple[float, float] = (-3.0, 1.0)) -> None:
        scales = [0.8 + 0.5 * np.log(max(1, size)) for size in sizes]
        self._overlap = overlap
        self._mean = np.array([*scales, 0.5, -1.0, noise[0]])
        self._deviation = np.array([0.7] * len(scales) + [0.7, 1.0, noise[1]])
        self.theta = self._mean.copy()

    def _kernel(self, squares: np.ndarray, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the smooth kernel, its derivative by half the negative squared distance, and that of the sum."""
        squared = np.tensordot(np.exp(-2.0 * theta[:-3]), squares, axes=1)
        distance = np.sqrt(squared + _TINY)
        decay = np.exp(2.0 * theta[-3] - _ROOT5 * distance)
        slope = 1.0 + _ROOT5 * distance
        return (slope + squared * (5.0 / 3.0)) * decay, slope * decay * (5.0 / 3.0), self._sum(squares, theta)

    def _sum(self, squares: np.ndarray, theta: np.ndarray) -> np.ndarray:
        if not self._overlap:
            return np.zeros(squares.shape[1:])
        return np.exp(2.0 * theta[-2]) * (1.0 - squares[0] / (2.0 * self._overlap))

    def loss(self, theta: np.ndarray, squares: np.ndarray, values: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the negative log posterior of ``theta`` (up to a constant) and its gradient."""
        kernel, derivative, summed = self._kernel(squares, theta)
        noise = np.exp(2.0 * theta[-1])
        covariance = kernel + summed + _OFFSET
        covariance.flat[:: len(values) + 1] += noise
        try:
            root = cholesky(covariance, lower=True, check_finite=False)
        except LinAlgError:
            return 1e12, np.zeros_like(theta)
        weights = cho_solve((root, True), values, check_finite=False)
        inner = cho_solve((root, True), np.eye(len(values)), check_finite=False) - np.outer(weights, weights)
        found = 0.5 * values @ weights + np.log(np.diag(root)).sum()
        shaped = inner * derivative
        scales = [0.5 * np.exp(-2.0 * each) * np.vdot(shaped, at) for each, at in zip(theta, squares, strict=False)]
        gradient = np.array([*scales, np.vdot(inner, kernel), np.vdot(inner, summed), noise * np.trace(inner)])
        pull = (theta - self._mean) / self._deviation
        return found + 0.5 * pull @ pull, gradient + pull / self._deviation

    def fit(self, squares: np.ndarray, values: np.ndarray, *, iterations: int = 0) -> None:
        """Take in ``values`` (n,) with the squared distances (groups, n, n) of their points, after up to ``iterations``
        steps of the search for hyperparameters: from where they stand, and from the prior.
        """
        self._centre = float(values.mean())
        self._spread = float(values.std()) or 1.0
        scaled = (values - self._centre) / self._spread
        if iterations and len(values) > 2:
            bounds = [(mean - 5.0, mean + 5.0) for mean in self._mean]
            few = len(values) <= _FEW and not np.array_equal(self.theta, self._mean)
            starts = [self.theta, self._mean] if few else [self.theta]
            best = min(
                (
                    minimize(self.loss, start, (squares, scaled), "L-BFGS-B", True, bounds=bounds,
                             options={"maxiter": iterations})
                    for start in starts
                ),
                key=lambda found: float(found.fun),
            )  # fmt: skip
            if np.isfinite(best.fun):
                self.theta = best.x
        kernel, _, summed = self._kernel(squares, self.theta)
        covariance = kernel + summed + _OFFSET
        covariance.flat[:: len(values) + 1] += np.exp(2.0 * self.theta[-1]) + 1e-9
        self._root = cholesky(covariance, lower=True, check_finite=False)
        self._weights = cho_solve((self._root, True), scaled, check_finite=False)

    def predict(self, squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation (m,), without the noise, of what lies behind the values.

        Args:
            squares: squared distances (groups, m, n) of the points asked about to those of :meth:`fit`.
        """
        smooth, _, summed = self._kernel(squares, self.theta)
        kernel = smooth + summed + _OFFSET
        mean = kernel @ self._weights
        half = solve_triangular(self._root, kernel.T, lower=True, check_finite=False)
        prior = np.exp(2.0 * self.theta[-3]) + _OFFSET + (np.exp(2.0 * self.theta[-2]) if self._overlap else 0.0)
        variance = prior - np.einsum("ij,ij->j", half, half)
        deviation = np.sqrt(np.maximum(variance, 1e-10))
        return mean * self._spread + self._centre, deviation * self._spread
