"""The objective of planned memory: what it counts, and as a limit of a search."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pliant.family import Family
from pliant.family.planned import planned_bytes
from pliant.graph.schedule import plan_memory, record, simulate
from pliant.measure import Metric, PlannedMemory
from pliant.space import Choice, Space
from pliant.study import search
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.low_rank import LowRank
from pliant.techniques.elastic.width import Width
from pliant.techniques.search.regularized_evolution import RegularizedEvolution
from tests.family.nets import ViT, vectors

X = vectors(3, 4, 6)


def test_it_is_of_one_sample_and_leaves_the_weights_where_they_are() -> None:
    net = nn.Sequential(nn.Linear(8, 32, bias=False), nn.ReLU(), nn.Linear(32, 8, bias=False))
    found = PlannedMemory((vectors(5, 8),)).measure(net)
    assert found.value == 4 * (8 + 32)  # the activation takes the place of its input
    assert found.details["weights"] == 4 * 2 * 8 * 32
    assert found.details["batch"] == 1
    assert found.unit == "bytes"
    with_weights = PlannedMemory((vectors(5, 8),), weights=True).measure(net)
    assert with_weights.value == found.value + found.details["weights"]


def test_it_is_the_peak_of_the_buffer_in_which_the_member_runs() -> None:
    torch.manual_seed(0)
    family = Family(ViT(), (X,), [Width(multiple=4), LowRank(multiple=1, per="network"), Depth()])
    objective, loaded = PlannedMemory((X,)), PlannedMemory((X,), weights=True)
    for config in (family.space.largest(), family.space.smallest()):
        net = family.extract(config)
        found = objective.measure(net)
        result, peak = simulate(plan_memory(record(net, (X[:1],))))
        assert found.value == peak
        assert torch.allclose(result, net(X[:1]), atol=1e-6)
        assert found.details["unplanned"] >= found.value
        assert planned_bytes(family, config) == found.value
        assert planned_bytes(family, config, weights=True) == loaded.measure(net).value
    weights = [family.space.largest(), family.space.complete({"rank": family.space.smallest()["rank"]})]
    full, low = (loaded.measure(family.ready(config)).details["weights"] for config in weights)
    assert low < 0.5 * full


@pytest.mark.slow
def test_every_searched_net_fits_the_budget() -> None:
    """Where the space is small it is known beforehand what fits; else what does not is not on the front."""
    torch.manual_seed(0)
    widths = Width(ratios=(0.5, 1.0), kinds=("width",), uniform=True)
    family = Family(ViT(depth=1), (X,), [widths, LowRank(ratios=(0.25,), multiple=4, per="role")])
    memory, sizes = PlannedMemory((X,), weights=True), []
    all_bytes = [planned_bytes(family, config, weights=True) for config in family.space.enumerate()]
    budget = sorted(all_bytes)[len(all_bytes) // 4]
    assert min(all_bytes) < budget < max(all_bytes)
    error = Metric("error", lambda net: -sum(p.numel() for p in net.parameters()))
    for given in (memory, _Uncounted((X,), weights=True)):
        study = search(
            family, [error, given], 6, searcher=RegularizedEvolution(population=3, sample=2),
            constraints=[f"planned_memory <= {budget}"],
        )  # fmt: skip
        sizes.append([trial.values["planned_memory"] for trial in study.trials])
        assert all(trial.values["planned_memory"] <= budget for trial in study.front)
    assert study.trials
    assert max(sizes[0]) <= budget  # counted: every trial
    assert max(sizes[1]) > budget


class _Uncounted(PlannedMemory):
    def count(self, family: object) -> None:
        return None


def test_large_spaces_are_not_counted() -> None:
    torch.manual_seed(0)
    family = Family(ViT(depth=1), (X,), [Width(multiple=8)])
    assert family.space.size <= 512
    count = PlannedMemory((X,)).count(family)
    assert count is not None
    smallest = family.space.smallest()
    assert count(family.space.indices([smallest])).tolist() == [planned_bytes(family, smallest)]
    big = Family(ViT(depth=1), (X,), [Width(multiple=8)])
    big.space = Space([*big.space.choices, Choice("idle", tuple(range(512)))])
    assert PlannedMemory((X,)).count(big) is None


@pytest.mark.slow
def test_members_that_alias_a_family_are_measured_too() -> None:
    family = Family(ViT(), (X,), [Width(multiple=4)])
    config = family.space.smallest()
    objective = PlannedMemory((X,), weights=True)
    assert objective.measure(family.member(config)).value == objective.measure(family.extract(config)).value
