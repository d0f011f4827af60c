"""Gradient matching: cuts against brute force, cosines against plain autograd, parts that are the family's members."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pliant.checks import WrongShapeError
from pliant.family import Family
from pliant.space import Choice
from pliant.technique import Elastic, Stage
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.width import Width
from pliant.techniques.train.gm_nas import GmNas, minimum_cut
from pliant.training import train
from tests.family.nets import ConvNet, images, vectors
from tests.techniques.train.turns import check_resume, check_runs, spread
from tests.training.toy import Mlp, batch, batches, loss, pictures, same, state

GIVEN = [batch(k) for k in range(3)]


@dataclass(frozen=True)
class Idle(Elastic):
    """Offers a choice between two options that are the same."""

    stage = Stage.KERNEL

    def choices(self, analysis: Any) -> Sequence[Choice]:
        return (Choice("idle", (0, 1)),)

    def apply(self, draft: Any, options: Mapping[str, Any]) -> None:
        """Do nothing."""


def mlp(*techniques: Elastic, constraints: Sequence[str] = (), dropout: float = 0.0) -> Family:
    torch.manual_seed(0)
    net = Mlp(dropout)
    return Family(net, (vectors(4, 8),), [Width(multiple=4, ratios=(0.25, 0.5, 1.0)), *techniques], None, constraints)


# ---- cuts ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
def test_cuts_are_those_of_brute_force(count: int) -> None:
    for seed in range(5):
        raw = vectors(count, count, seed=seed)
        similarity = raw + raw.t()
        costs = []
        for sides in product((0, 1), repeat=count):
            if abs(2 * sum(sides) - count) <= 1:
                pairs = [float(similarity[i, j]) for i in range(count) for j in range(count) if sides[i] < sides[j]]
                costs.append((sum(pairs) / len(pairs), sides))
        half, cost = minimum_cut(similarity)
        assert cost == pytest.approx(min(costs)[0], abs=1e-6)
        assert min(abs(c - cost) for c, sides in costs if {i for i in range(count) if sides[i]} == half) < 1e-6


def test_what_cannot_be_cut() -> None:
    for count in (1, 17):
        with pytest.raises(WrongShapeError, match=f"this one has {count}"):
            minimum_cut(torch.zeros(count, count))


# ---- cosines ---------------------------------------------------------------------------------------------------------
def test_options_that_are_the_same_match_fully() -> None:
    family = mlp(Idle(), dropout=0.3)
    found = GmNas().matching(family, "idle", GIVEN, loss)
    assert torch.allclose(found, torch.ones(2, 2).double())


def test_cosines_are_those_of_plain_autograd_over_what_both_hold() -> None:
    family = mlp(constraints=["fc2.width <= 8"])
    name, other = (choice.name for choice in family.space.choices)
    found = GmNas().matching(family, name, GIVEN[:1], loss, {name: (4, 8, 16), other: (8,)})
    rows = []
    for units in (4, 8, 16):
        config = family.space.check({name: units, other: 8})
        net = family.extract(config)
        loss(net(GIVEN[0][0]), GIVEN[0][1]).backward()
        gradient = spread(family, config, net)
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
        rows.append((flat(gradient), flat(spread(family, config, net)) > 0))
    for i, (left, mine) in enumerate(rows):
        for j, (right, theirs) in enumerate(rows):
            a, b = left[mine & theirs], right[mine & theirs]
            assert float(found[i, j]) == pytest.approx(float(a @ b / (a.norm() * b.norm())), abs=1e-5)
    assert torch.allclose(found, found.t())
    assert float(found[0, 2]) < 0.999


def flat(rows: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([rows[name].reshape(-1) for name in sorted(rows)])


# ---- splits ----------------------------------------------------------------------------------------------------------
def test_every_member_is_in_one_part_and_computes_what_it_did() -> None:
    family, x = mlp(), vectors(5, 8)
    before, draw = state(family), torch.get_rng_state()
    parts = GmNas(families=3, samples=2).split(family, iter(GIVEN), loss)
    assert len(parts) == 3
    assert torch.equal(torch.get_rng_state(), draw)
    assert all(parameter.grad is None for parameter in family.parameters())
    family.model.eval()
    members = [config for part in parts for config in part.space.enumerate()]
    assert len(members) == len(set(members)) == family.space.size
    for part in parts:
        part.model.eval()
        for config in part.space.enumerate():
            assert torch.equal(part.member(config)(x), family.member(config)(x))
    train(parts[0], batches, loss, steps=2, recipe=GmNas())
    assert not same(state(parts[0]), before)
    assert same(state(parts[1]), before)
    assert same(state(family), before)


def test_the_choice_that_is_split_is_that_of_least_agreement() -> None:
    family, recipe = mlp(), GmNas(families=2, samples=3)
    costs = {c.name: minimum_cut(recipe.matching(family, c.name, GIVEN, loss))[1] for c in family.space.choices}
    least = min(costs, key=lambda name: costs[name])
    parts = recipe.split(family, GIVEN, loss)
    for choice in family.space.choices:
        rows = [next(c.options for c in part.space.choices if c.name == choice.name) for part in parts]
        if choice.name == least:
            assert sorted(rows[0] + rows[1]) == sorted(choice.options)
            assert math.fabs(len(rows[0]) - len(rows[1])) <= 1
        else:
            assert rows == [choice.options, choice.options]


def test_budgets_patterns_and_constraints() -> None:
    family = mlp(constraints=["fc1.width <= 8"])
    few = GmNas(samples=1, families=1)
    (whole,) = few.split(family, GIVEN, loss)
    assert set(whole.space.enumerate()) == set(family.space.enumerate())
    many = GmNas(samples=1, families=99).split(family, GIVEN, loss)
    assert sorted(part.space.size for part in many) == [1, 1, 2, 2]  # each choice was split once, and no more
    assert {config for part in many for config in part.space.enumerate()} == set(family.space.enumerate())
    halves = GmNas(samples=1, families=99, pattern="fc2*").split(family, GIVEN, loss)
    assert len(halves) == 2


@pytest.mark.slow
def test_parts_of_a_network_with_statistics_and_blocks_are_stored(tmp_path: Path) -> None:
    torch.manual_seed(0)
    family = Family(ConvNet(), (images(),), [Width(multiple=8), Depth()])
    before = state(family)
    given = [batch for batch, _ in zip(pictures(), range(2), strict=False)]
    parts = GmNas(families=2, samples=2, pattern="*depth").split(family, given, loss)
    assert same(state(family), before)
    family.model.eval()
    assert [part.space.size * 2 for part in parts] == [family.space.size] * 2
    config = parts[0].space.smallest()
    parts[0].save(tmp_path)
    loaded = Family.load(tmp_path, ConvNet())
    assert loaded.space == parts[0].space
    for part in (parts[0], loaded):
        part.model.eval()
        assert torch.equal(part.member(config)(images()), family.member(config)(images()))


# ---- runs ------------------------------------------------------------------------------------------------------------
def test_its_steps_train_and_go_on_after_a_kill(tmp_path: Path) -> None:
    check_runs(GmNas(), steps=2)
    check_resume(GmNas(), tmp_path)


def test_what_is_refused() -> None:
    for fields in ({"families": 0}, {"samples": 0}, {"lead": 2.0}, {"temperature": 0.0}):
        with pytest.raises(WrongShapeError, match=r"GmNas\."):
            GmNas(**fields)
    with pytest.raises(WrongShapeError, match="8 batches; got 3"):
        GmNas().split(mlp(), GIVEN, loss)
    with pytest.raises(WrongShapeError, match="one number"):
        GmNas(samples=1).split(mlp(), GIVEN, lambda outputs, targets: outputs)
