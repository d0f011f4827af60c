from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.checks import UnknownNameError, WrongShapeError
from pliant.space import Choice, Space
from tests.space.strategies import spaces_and_configs

SPACE = Space([Choice("depth", (1, 2, 3)), Choice("kind", ("a", "b"), ordered=False)])


def test_by_hand() -> None:
    config = SPACE.check({"depth": 3, "kind": "a"})
    np.testing.assert_array_equal(SPACE.encode(config, "ordinal"), [2, 0])
    np.testing.assert_array_equal(SPACE.encode(config, "onehot"), [0, 0, 1, 1, 0])
    assert SPACE.encode(config).dtype == np.float64


@pytest.mark.slow
@given(spaces_and_configs(), st.sampled_from(["ordinal", "onehot"]))
def test_round_trip(pair, kind: str) -> None:
    space, (config,) = pair
    assert space.decode(space.encode(config, kind), kind) == config


@pytest.mark.slow
@given(spaces_and_configs(2))
def test_different_configs_have_different_vectors(pair) -> None:
    space, (a, b) = pair
    for kind in ("ordinal", "onehot"):
        assert np.array_equal(space.encode(a, kind), space.encode(b, kind)) == (a == b)


@given(st.lists(st.floats(allow_nan=False), min_size=5, max_size=5))
def test_any_vector_decodes_to_a_config_of_the_space(vector: list[float]) -> None:
    assert SPACE.feasible(SPACE.decode(vector, "onehot"))
    assert SPACE.feasible(SPACE.decode(vector[:2], "ordinal"))


def test_decoding_takes_the_nearest() -> None:
    assert SPACE.decode([1.4, 9.0]) == {"depth": 2, "kind": "b"}
    assert SPACE.decode([-3.0, 0.2]) == {"depth": 1, "kind": "a"}
    assert SPACE.decode([0.1, 0.3, 0.2, -1.0, -2.0], "onehot") == {"depth": 2, "kind": "a"}


def test_bad_vectors() -> None:
    with pytest.raises(WrongShapeError, match=r"shape \(2,\) for 'ordinal' of 2 choices, got \(3,\)"):
        SPACE.decode([1, 2, 3])
    with pytest.raises(WrongShapeError, match="nan at position 1"):
        SPACE.decode([1, float("nan")])
    with pytest.raises(UnknownNameError, match=r"no encoding named 'one_hot'; did you mean 'onehot'\?"):
        SPACE.encode(SPACE.largest(), "one_hot")  # type: ignore[arg-type]
