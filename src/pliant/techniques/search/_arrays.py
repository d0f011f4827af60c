"""Configs in bulk, as arrays of option indices, for searchers that predict many at once."""

from __future__ import annotations

from random import Random

import numpy as np

from ...space import Problem, Space


def generator(rng: Random) -> np.random.Generator:
    """Return a numpy generator that ``rng`` decides."""
    return np.random.default_rng(rng.getrandbits(64))


def onehot(space: Space, indices: np.ndarray) -> np.ndarray:
    """Return the one-hot encoding (n, options of all choices) of option ``indices`` (n, choices)."""
    parts = [np.eye(len(choice.options))[indices[:, at]] for at, choice in enumerate(space.choices)]
    return np.concatenate(parts, axis=1) if parts else np.zeros((len(indices), 0))


def draws(space: Space, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``count`` option indices (count, choices) drawn evenly, repeats included."""
    columns = [rng.choice(allowed, count) for allowed in space.allowed()]
    return np.stack(columns, axis=1) if columns else np.zeros((count, 0), dtype=np.int64)


def leaning(space: Space, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``count`` option indices (count, choices), each leaning to small options or to large ones as a whole."""
    lean = rng.random(count)
    columns = [allowed[rng.binomial(len(allowed) - 1, lean)] for allowed in space.allowed()]
    return np.stack(columns, axis=1) if columns else np.zeros((count, 0), dtype=np.int64)


def pool(space: Space, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return the whole space (size, choices) where it has at most ``count`` configs, else ``count`` even draws."""
    if space.size > count:
        return draws(space, count, rng)
    grids = np.meshgrid(*space.allowed(), indexing="ij")
    return np.stack([grid.ravel() for grid in grids], axis=1) if grids else np.zeros((1, 0), dtype=np.int64)


def mutated(
    space: Space, parents: np.ndarray, rate: float, rng: np.random.Generator, crossover: bool = True
) -> np.ndarray:
    """Return a child (n, choices) per row of ``parents``: half mixed with another row, then options redrawn.

    Args:
        space: gives the options.
        parents: option indices (n, choices).
        rate: probability per choice to draw its option anew.
        rng: decides.
        crossover: whether to mix at all.
    """
    children = parents.copy()
    if crossover and len(parents) > 1:
        mates = parents[rng.permutation(len(parents))]
        swap = (rng.random(children.shape) < 0.5) & (rng.random((len(children), 1)) < 0.5)
        children = np.where(swap, mates, children)
    fresh = draws(space, len(children), rng)
    return np.where(rng.random(children.shape) < rate, fresh, children)


def limits(problem: Problem, indices: np.ndarray) -> np.ndarray:
    """Return by how much configs break the constraints that need no measurement (n,)."""
    if problem.violation is None:
        return np.zeros(len(indices))
    return np.asarray(problem.violation(indices), dtype=float)
