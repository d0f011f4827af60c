"""Configs as vectors of numbers, for searchers and predictors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from ..checks import WrongShapeError, unknown
from .choice import Choice

if TYPE_CHECKING:
    import numpy as np

Encoding: TypeAlias = Literal["ordinal", "onehot"]
_KINDS = ("ordinal", "onehot")


def length(choices: Sequence[Choice], kind: str) -> int:
    """Return how many numbers a config takes: one per choice, or one per option."""
    if kind not in _KINDS:
        raise unknown("encoding", kind, _KINDS)
    return len(choices) if kind == "ordinal" else sum(len(choice.options) for choice in choices)


def encode(choices: Sequence[Choice], indices: Sequence[int], kind: str) -> np.ndarray:
    """Return option ``indices`` (one per choice) as a float64 vector ``(length,)``.

    ``"ordinal"`` holds the indices themselves, ``"onehot"`` a 1 for every option that was picked.
    """
    import numpy as np

    vector = np.zeros(length(choices, kind))
    if kind == "ordinal":
        vector[:] = indices
        return vector
    start = 0
    for choice, index in zip(choices, indices, strict=True):
        vector[start + index] = 1.0
        start += len(choice.options)
    return vector


def decode(choices: Sequence[Choice], vector: Sequence[float] | np.ndarray, kind: str) -> list[int]:
    """Return the option indices nearest to ``vector``: rounded and clipped, or the largest of each one-hot group.

    Raises:
        WrongShapeError: if the vector has another length, or holds nan.
    """
    import numpy as np

    found, expected = np.asarray(vector, dtype=float), length(choices, kind)
    if found.shape != (expected,):
        raise WrongShapeError(
            f"expected a vector of shape ({expected},) for {kind!r} of {len(choices)} choices, got {found.shape}"
        )
    if np.isnan(found).any():
        raise WrongShapeError(f"expected numbers, got nan at position {int(np.isnan(found).argmax())} of the vector")
    if kind == "ordinal":
        tops = np.array([len(choice.options) - 1 for choice in choices])
        return [int(index) for index in np.clip(np.rint(found), 0, tops)]
    indices, start = [], 0
    for choice in choices:
        stop = start + len(choice.options)
        indices.append(int(found[start:stop].argmax()))
        start = stop
    return indices
