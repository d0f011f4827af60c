"""What a searcher is given."""

from __future__ import annotations

import re
from random import Random

import numpy as np
import pytest

from pliant.checks import UnknownNameError, WrongShapeError
from pliant.space import Choice, Forms, Problem, Space

SPACE = Space([Choice("a", (8, 16, 32)), Choice("b", ("relu", "gelu"), ordered=False)], ["a >= 16"])


def test_indices_and_configs_are_each_other_backwards(rng: Random) -> None:
    configs = [SPACE.sample(rng) for _ in range(20)]
    indices = SPACE.indices(configs)
    assert indices.shape == (20, 2)
    assert indices.dtype == np.int64
    assert SPACE.configs(indices) == configs
    assert SPACE.indices([]).shape == (0, 2)


def test_indices_of_another_space() -> None:
    with pytest.raises(UnknownNameError, match="no option 9"):
        SPACE.indices([{"a": 9, "b": "relu"}])


def test_allowed_keeps_the_constraints() -> None:
    assert [each.tolist() for each in SPACE.allowed()] == [[1, 2], [0, 1]]


def test_same_maps_to_what_stands_for_a_network() -> None:
    def folded(indices: np.ndarray) -> np.ndarray:
        found = indices.copy()
        found[:, 1] = 0
        return found

    configs = list(SPACE.enumerate())
    assert Problem(SPACE).same(configs) == configs
    assert Problem(SPACE, forms=Forms(folded)).same(configs[:2]) == [configs[0]] * 2


def test_bad_problems() -> None:
    with pytest.raises(WrongShapeError, match="at least one objective"):
        Problem(SPACE, 0)
    with pytest.raises(WrongShapeError, match=re.escape("none at position 2")):
        Problem(SPACE, 2, exact={2: lambda indices: indices[:, 0]})
