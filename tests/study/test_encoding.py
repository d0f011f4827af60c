"""Configs as Optuna's parameters."""

from __future__ import annotations

import json
from random import Random

import pytest

from pliant.checks import CorruptFileError
from pliant.space import Choice, Space
from pliant.study.encoding import distributions, from_params, to_params

SPACE = Space(
    [
        Choice("width", (8, 16, 32)),
        Choice("kernel", ((3,), (3, 3), (3, (5, 7))), ordered=False),
        Choice("act", ("relu", "[3]", "gelu"), ordered=False),
        Choice("odd", ("[1]", (1,), 2, True), ordered=False),
        Choice("ratio", (0.25, 0.5)),
    ]
)


def test_round_trip_through_json(rng: Random) -> None:
    for _ in range(100):
        config = SPACE.sample(rng)
        params = to_params(SPACE, config)
        assert from_params(SPACE, json.loads(json.dumps(params))) == config
        for name, distribution in distributions(SPACE).items():
            internal = distribution.to_internal_repr(params[name])
            assert json.dumps(distribution.to_external_repr(internal)) == json.dumps(params[name])


def test_foreign_parameters() -> None:
    with pytest.raises(CorruptFileError, match="width"):
        from_params(SPACE, {"width": 9})
