"""Conflict-aware sampling: costs that change little from step to step, banks of good members, the wide preferred."""

from __future__ import annotations

import copy
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pliant.checks import WrongShapeError
from pliant.family.imitation import View
from pliant.space import Choice, Config, Space
from pliant.techniques.train._levels import Levels, draw_between
from pliant.techniques.train._mean import mean_of
from pliant.techniques.train.elastic_vit import ElasticVit, walk
from pliant.techniques.train.single_path import SinglePath
from pliant.training import Seen, TrainingStep, distillation_loss
from pliant.training.course import Course
from tests.family.nets import vectors
from tests.techniques.train.turns import (
    Notes,
    check_gradient,
    check_resume,
    check_runs,
    digit_batches,
    fresh,
    spread,
    units,
)

SPACE = Space([Choice("depth", (1, 2, 3, 4, 5)), *(Choice(f"{at}.width", tuple(range(4, 33, 4))) for at in range(5))])


def cost(config: Any) -> float:
    """The share of a network whose first ``depth`` layers cost their widths."""
    return sum(config[f"{at}.width"] for at in range(config["depth"])) / 160


class Watched(Notes):
    """A turn of a network that need not exist; what members gave are probabilities by number."""

    def __init__(self, step: int, memory: dict[str, Any], space: Space = SPACE, taught: Any = None) -> None:
        super().__init__(space, step=step, taught=taught)
        self.memory = memory

    def macs(self, config: Config) -> float:
        return cost(config)

    def learn(self, config: Config, **how: Any) -> Any:
        super().learn(config, **how)
        self.losses[config] = abs(units(config, "0.width") - 17) + 0.01 * units(config, "1.width")
        return Seen((View(torch.tensor([[1.0, float(len(self.calls))]])),))


def steps(recipe: ElasticVit, count: int) -> list[Watched]:
    memory: dict[str, Any] = {}
    turns: list[Watched] = []
    for step in range(count):
        turn: Any = Watched(step, memory)
        recipe.step(turn)
        turns.append(turn)
    return turns


def members(turn: Watched) -> list[Config]:
    """The members of a step but for the smallest."""
    return [config for config, _ in turn.learnt[:-1]]


def test_costs_of_adjacent_steps_differ_by_two_levels_at_most_and_all_levels_are_covered() -> None:
    levels = Levels.of(SPACE, cost, 6)
    turns = steps(ElasticVit(), 400)
    seen: Counter[int] = Counter()
    for last, now in pairwise(turns):
        costs = [cost(config) for turn in (last, now) for config in members(turn)]
        assert max(costs) - min(costs) <= 2 * levels.width + 1e-9
        seen.update(levels.level(cost(config)) for config in members(now))
    assert set(seen) == set(range(6))
    assert min(seen.values()) > 0.05 * sum(seen.values())
    uniform = [cost(SPACE.sample(random.Random(k))) for k in range(400)]  # drawn evenly the bound does not hold
    assert max(abs(a - b) for a, b in pairwise(uniform)) > 2 * levels.width


def test_the_smallest_member_of_the_part_learns_from_the_average_of_the_others() -> None:
    smallest: Counter[Config] = Counter()
    for turn in steps(ElasticVit(members=2), 60):
        *_, (least, how) = turn.learnt
        assert how["share"] == 1.0
        probabilities = [torch.tensor([[1.0, k]]).softmax(-1) for k in (1.0, 2.0)]
        assert torch.allclose(how["teacher"].outputs.softmax(-1), torch.cat(probabilities).mean(0, keepdim=True))
        assert cost(least) <= min(cost(config) for config in members(turn)) + 1e-9
        smallest[least] += 1
        assert [("update" in how) for _, how in turn.calls] == [False, False, True, False]
    assert len(smallest) == 3
    assert SPACE.smallest() in smallest


def test_banks_hold_the_best_and_are_drawn_from() -> None:
    memory: dict[str, Any] = {}
    recipe = ElasticVit(bank=6, reuse=0.5)
    losses: dict[str, dict[str, float]] = {}
    reused = 0
    for step in range(500):
        turn: Any = Watched(step, memory)
        before = copy.deepcopy(memory.get("banks", {}))
        recipe.step(turn)
        level = str(memory["known"][memory["level"]][0])
        for config in members(turn):
            losses.setdefault(level, {})[config.to_json()] = turn.losses[config]
            reused += config.to_json() in [known for known, _ in before.get(level, [])]
    assert reused > 200
    for level, bank in memory["banks"].items():
        assert len(bank) == 6
        best = sorted(losses[level].values())[:6]
        assert sorted(loss for _, loss in bank) == pytest.approx(best)


def test_without_reuse_banks_only_fill() -> None:
    turns = steps(ElasticVit(bank=6, reuse=0.0), 60)
    configs = [config for turn in turns for config in members(turn)]
    assert len(set(configs)) > 0.8 * len(configs)


def test_of_equal_cost_the_wide_one_is_preferred() -> None:
    turn: Any = Watched(0, {})
    anchor = Config({"depth": 3, **{f"{at}.width": 16 for at in range(5)}})
    wide = Config({"depth": 2, **{f"{at}.width": 32 for at in range(5)}})
    deep = Config({"depth": 4, **{f"{at}.width": 16 for at in range(5)}})
    assert cost(wide) == cost(deep)
    score = ElasticVit().depth_rather_than_width
    assert score(turn, wide, anchor) == pytest.approx((2 * 16 - 3 * 32) / 160)
    assert score(turn, deep, anchor) == pytest.approx((4 * 16 - 3 * 16) / 160)
    assert ElasticVit(depth="none").depth_rather_than_width(turn, wide, anchor) == 0.0


def test_once_banks_are_half_full_members_are_shallower_than_drawn_evenly() -> None:
    def depth(recipe: ElasticVit) -> float:
        turns = steps(recipe, 150)[50:]
        found = [units(config, "depth") - 5 * cost(config) for turn in turns for config in members(turn)]
        return sum(found) / len(found)

    assert depth(ElasticVit(bank=2, reuse=0.0)) < depth(ElasticVit(bank=2, reuse=0.0, depth="none")) - 0.2


def test_members_learn_from_the_runs_teacher() -> None:
    turn: Any = Watched(0, {}, taught="the teacher's")
    ElasticVit(lead=0.7, members=2).step(turn)
    wanted = {"teacher": "the teacher's", "share": 0.7, "temperature": 1.0, "weight": 0.5}
    assert [how for _, how in turn.learnt[:-1]] == [wanted] * 2


@pytest.mark.parametrize("field", ["levels", "members", "parts", "bank"])
def test_wrong_counts_are_refused(field: str) -> None:
    wrong: dict[str, Any] = {field: 0}
    with pytest.raises(WrongShapeError, match=f"ElasticVit.{field} is a whole number, 1 or more; got 0"):
        ElasticVit(**wrong)


@pytest.mark.parametrize(
    ("wrong", "words"), [({"reuse": 1.5}, "reuse is a share"), ({"lead": -0.5}, "lead is a share")]
)
def test_wrong_fields_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(WrongShapeError, match=words):
        ElasticVit(**wrong)


# ---- its parts -------------------------------------------------------------------------------------------------------
def test_the_walk_goes_one_step_and_stays_within() -> None:
    rng = random.Random(0)
    moves = {at: Counter(walk(at, 4, rng) for _ in range(3000)) for at in range(4)}
    assert {at: set(found) for at, found in moves.items()} == {0: {0, 1}, 1: {0, 1, 2}, 2: {1, 2, 3}, 3: {2, 3}}
    assert all(abs(count / 1000 - 1) < 0.15 for at in (1, 2) for count in moves[at].values())
    assert abs(moves[0][1] / 1000 - 1) < 0.15
    assert walk(0, 1, rng) == 0


def test_draws_keep_the_bounds_and_the_least_member() -> None:
    rng, least = random.Random(1), SPACE.complete({"depth": 2, **{f"{at}.width": 8 for at in range(5)}})
    for at in range(10):
        bounds = (0.1 + 0.09 * at, 0.15 + 0.09 * at)
        found = draw_between(SPACE, cost, bounds, rng, least)
        assert found is not None
        assert bounds[0] <= cost(found) <= bounds[1]
        assert all(found[name] >= least[name] for name in found)  # type: ignore[operator]
    assert draw_between(SPACE, cost, (1.1, 1.2), rng) is None


def test_the_average_is_of_probabilities_for_classes_and_of_values_else() -> None:
    parts = [{"logits": torch.randn(2, 3, 5), "value": torch.randn(2, 1), "ids": torch.tensor([k])} for k in range(3)]
    found: Any = mean_of([Seen((View(part), View(part["value"]))) for part in parts])
    logits, values = torch.stack([part["logits"] for part in parts]), torch.stack([part["value"] for part in parts])
    assert torch.allclose(found.views[0].outputs["logits"].softmax(-1), logits.softmax(-1).mean(0), atol=1e-6)
    assert torch.allclose(found.views[0].outputs["value"], values.mean(0))
    assert int(found.views[0].outputs["ids"]) == 0
    assert torch.allclose(found.views[1].outputs, values.mean(0))


# ---- on networks -----------------------------------------------------------------------------------------------------
def test_the_gradient_is_that_of_separate_networks() -> None:
    x, y = vectors(3, 4, 6), torch.tensor([0, 4, 2])
    family = fresh("vit")
    turn = TrainingStep(family, (x, y), F.cross_entropy, course=Course(family, F.cross_entropy))
    ElasticVit(members=2).step(turn)
    wanted, outputs = [], []
    for config in turn.learnt[:-1]:
        net = family.extract(config)
        outputs.append(net(x))
        (F.cross_entropy(outputs[-1], y) / 2).backward()
        wanted.append(spread(family, config, net))
    net = family.extract(turn.learnt[-1])
    teacher = torch.stack(outputs).softmax(-1).mean(0).log().detach()
    distillation_loss(net(x), teacher).backward()
    check_gradient(family, [*wanted, spread(family, turn.learnt[-1], net)])


def test_gradients_of_successive_members_agree_more_than_with_even_draws() -> None:
    family = fresh("digits")
    batch = next(digit_batches(0))

    def agreement(recipe: Any) -> float:
        course, gradients = Course(family, F.cross_entropy), []
        for step in range(40):
            turn: Any = TrainingStep(family, batch, F.cross_entropy, step, course=course)
            first: list[Tensor] = []
            plain = turn.learn

            def learn(config: Config, **how: Any) -> Any:
                for parameter in family.parameters():
                    parameter.grad = None
                seen = plain(config, **how)  # noqa: B023
                zero = [torch.zeros_like(p) if p.grad is None else p.grad for p in family.parameters()]
                first.append(torch.cat([p.flatten() for p in zero]))  # noqa: B023
                return seen

            turn.learn = learn
            recipe.step(turn)
            gradients.append(first[0])
        pairs = [float(torch.cosine_similarity(a, b, 0)) for a, b in pairwise(gradients)]
        return sum(pairs) / len(pairs)

    assert agreement(ElasticVit(members=1, reuse=0.0)) > agreement(SinglePath()) + 0.03


def test_a_killed_run_goes_on_with_the_same_weights(tmp_path: Path) -> None:
    check_resume(ElasticVit(levels=2, members=2, bank=2, reuse=0.5), tmp_path, steps=8)


def test_it_trains_any_family() -> None:
    check_runs(ElasticVit(members=2))
