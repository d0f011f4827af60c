"""The light predictor of DyNAS-T: ridge regression or a support vector machine, whichever explains the data better."""

from __future__ import annotations

import numpy as np

ALPHAS = np.arange(0.1, 10.05, 0.1)
"""Ridge penalties to choose from, as published."""

COSTS = np.geomspace(1.0, 100.0, 9)
"""Costs of the support vector machine to choose from; the published grid has every integer of this range."""

_FOLDS = 5


class Light:
    """A regressor on one-hot features, chosen and tuned by cross-validation.

    Both candidates and their grids are those of DyNAS-T: ridge regression, and a support vector machine with a
    Gaussian kernel of width 1 / features and no insensitive zone, compared by mean absolute percentage error over
    five folds. The costs of the second are searched on nine steps rather than a hundred, which takes a tenth of the
    time.

    Args:
        features: (n, features), at least five rows.
        targets: (n,), finite.
    """

    def __init__(self, features: np.ndarray, targets: np.ndarray) -> None:
        from sklearn.linear_model import Ridge
        from sklearn.svm import SVR

        self._used = np.flatnonzero(features.var(axis=0) > 0)
        largest = float(np.abs(targets).max())
        self._scale = 10.0 ** (np.floor(np.log10(largest)) - 1) if largest > 0 else 1.0
        x, y = features[:, self._used], targets / self._scale
        if not len(self._used):  # all rows are the same: nothing to learn from
            x, self._used = features[:, :0], self._used
        folds = np.array_split(np.arange(len(x)), _FOLDS)
        makers = {("ridge", alpha): Ridge(alpha=alpha) for alpha in ALPHAS}
        scores = dict(zip(makers, _ridge_errors(x, y, folds), strict=True))
        for cost in COSTS if x.shape[1] else ():
            machine = SVR(kernel="rbf", gamma="auto", epsilon=0.0, C=cost, max_iter=1_000_000)
            machine.random_state = 0  # it draws a seed that it does not use, from the global generator if not given one
            makers["svr", cost] = machine
            scores["svr", cost] = _error(machine, x, y, folds)
        self.chosen = min(scores, key=lambda key: scores[key])
        self._model = makers[self.chosen].fit(x, y) if x.shape[1] else None
        self._mean = float(y.mean())

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return the predicted targets (n,) of ``features`` (n, features)."""
        if self._model is None:
            return np.full(len(features), self._mean * self._scale)
        return np.asarray(self._model.predict(features[:, self._used])) * self._scale


def _percentage(targets: np.ndarray, predicted: np.ndarray) -> float:
    floor = np.finfo(float).eps
    return float((np.abs(predicted - targets) / np.maximum(np.abs(targets), floor)).mean())


def _error(model: object, x: np.ndarray, y: np.ndarray, folds: list[np.ndarray]) -> float:
    """Mean absolute percentage error over the folds."""
    found = []
    for held in folds:
        kept = np.setdiff1d(np.arange(len(x)), held)
        found.append(_percentage(y[held], model.fit(x[kept], y[kept]).predict(x[held])))  # type: ignore[attr-defined]
    return float(np.mean(found))


def _ridge_errors(x: np.ndarray, y: np.ndarray, folds: list[np.ndarray]) -> np.ndarray:
    """The same for ridge regression at every penalty at once, from one decomposition a fold."""
    found = np.zeros((len(folds), len(ALPHAS)))
    for row, held in enumerate(folds):
        kept = np.setdiff1d(np.arange(len(x)), held)
        middle, base = x[kept].mean(axis=0), y[kept].mean()
        left, singular, right = np.linalg.svd(x[kept] - middle, full_matrices=False)
        weights = singular[:, None] / (singular[:, None] ** 2 + ALPHAS) * (left.T @ (y[kept] - base))[:, None]
        predicted = base + (x[held] - middle) @ right.T @ weights
        found[row] = [_percentage(y[held], column) for column in predicted.T]
    return found.mean(axis=0)
