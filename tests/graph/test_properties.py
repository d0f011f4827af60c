"""Random networks, all invariants: ten in every run, forty in the slow tests, as many as wanted on demand.

``PLIANT_NETWORKS=500 pytest tests/graph/test_properties.py -k demand`` draws that many, other ones with
``PLIANT_SEED``; a failure prints the recipe of the smallest network that fails.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, note, seed, settings

from tests.graph.invariants import check_everything
from tests.graph.random_networks import Drawn, networks

_ON_DEMAND = int(os.environ.get("PLIANT_NETWORKS", "0"))
_SEED = int(os.environ.get("PLIANT_SEED", "0"))
_SLOW_DATA = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def check(drawn: Drawn) -> None:
    note(f"recipe: {drawn.recipe}")
    check_everything(drawn)


@pytest.mark.slow
@settings(max_examples=10, suppress_health_check=_SLOW_DATA)
@given(networks())
def test_a_few_random_networks(drawn: Drawn) -> None:
    check(drawn)


@pytest.mark.slow
@seed(20240601)
@settings(max_examples=40, suppress_health_check=_SLOW_DATA, derandomize=False, database=None)
@given(networks())
def test_random_networks(drawn: Drawn) -> None:
    check(drawn)


@pytest.mark.skipif(not _ON_DEMAND, reason="set PLIANT_NETWORKS=500 to draw that many networks")
def test_random_networks_on_demand() -> None:
    found: Counter[str] = Counter()

    @seed(_SEED)
    @settings(max_examples=_ON_DEMAND, suppress_health_check=_SLOW_DATA, derandomize=False, database=None)
    @given(networks())
    def run(drawn: Drawn) -> None:
        note(f"recipe: {drawn.recipe}")
        result = check_everything(drawn)
        found.update(networks=1, bend=bool(result.axes), shorten=bool(result.blocks), module=result.module)

    run()
    assert found["networks"] >= _ON_DEMAND
    assert found["bend"] >= 0.99 * found["networks"]
    assert found["module"] >= 0.9 * found["networks"], found
