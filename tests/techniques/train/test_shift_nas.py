"""ShiftNAS: costs follow the probabilities, these shift to what changes, and the generator keeps to a cost."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pliant.checks import WrongShapeError
from pliant.space import Choice, Config, Space
from pliant.techniques.train._generator import Architect, Generator, additive
from pliant.techniques.train._levels import Levels
from pliant.techniques.train.shift_nas import ShiftNas
from pliant.training import TrainingStep
from pliant.training.course import Course
from tests.family.nets import vectors
from tests.techniques.train.turns import Notes, check_gradient, check_resume, check_runs, fresh, spread, units

WIDTHS = tuple(range(4, 33, 4))
SPACE = Space([Choice("depth", (2, 3, 4)), *(Choice(f"{at}.width", WIDTHS) for at in range(4)), Choice("one", (1,))])


def cost(config: Any) -> float:
    """The share of a network whose first ``depth`` layers cost their widths."""
    return sum(config[f"{at}.width"] for at in range(config["depth"])) / 128


class Watched(Notes):
    """A turn of a network that need not exist; only in one level do steps lower the losses of members."""

    def __init__(self, step: int, memory: dict[str, Any], space: Space = SPACE, taught: Any = None) -> None:
        super().__init__(space, step=step, steps=200, taught=taught)
        self.memory = memory
        self.foreseen: list[tuple[float, float]] = []

    def macs(self, config: Config) -> float:
        return cost(config)

    def learn(self, config: Config, **how: Any) -> Any:
        super().learn(config, **how)
        self.losses[config] = 2.0 - 0.002 * self.step if cost(config) < 0.25 else 1.0

    def foresee(self, config: Config, rate: float = 1.0) -> float:
        self.foreseen.append((cost(config), rate))
        return 2.0 * (1 - rate * (0.05 if cost(config) < 0.25 else 0.005))


def steps(recipe: ShiftNas, count: int) -> tuple[list[Config], dict[str, Any]]:
    memory: dict[str, Any] = {}
    found = []
    for step in range(count):
        turn: Any = Watched(step, memory)
        recipe.step(turn)
        ((config, how),) = turn.learnt
        assert how == {}
        found.append(config)
    return found, memory


@pytest.mark.slow
def test_costs_follow_the_probabilities_where_even_draws_of_members_pile_up_in_the_middle() -> None:
    levels = Levels.of(SPACE, cost, 5)
    found, _ = steps(ShiftNas(sharpness=0.0, window=10_000), 200)
    shares = Counter(levels.level(cost(config)) for config in found)
    assert all(abs(shares[level] / 200 - 0.2) < 0.1 for level in range(5)), shares
    even = Counter(levels.level(cost(SPACE.sample(random.Random(k)))) for k in range(300))
    assert even[1] + even[2] > 0.65 * 300
    assert even[4] < 0.05 * 300


@pytest.mark.slow
def test_the_probability_shifts_to_the_level_in_which_a_step_still_helps() -> None:
    recipe, memory = ShiftNas(window=10, ahead=80), dict[str, Any]()
    levels, seen = Levels.of(SPACE, cost, 5), []
    for step in range(60):
        turn: Any = Watched(step, memory)
        recipe.step(turn)
        seen.append(recipe.odds(memory["logits"]))
        if (step + 1) % 10 or step < 19:
            assert turn.foreseen == []
            continue
        assert [rate for _, rate in turn.foreseen] == [0.0, 1.0] * 5
        assert [levels.level(at) for at, _ in turn.foreseen[::2]] == pytest.approx([0, 1, 2, 3, 4], abs=1)
    assert seen[18] == pytest.approx([0.2] * 5)  # even at first
    assert all(sum(odds) == pytest.approx(1.0) for odds in seen)
    assert len({odds[0] for odds in seen}) == 6
    assert [odds[0] for odds in seen] == sorted(odds[0] for odds in seen)
    assert seen[-1][0] > 2 * max(seen[-1][1:])
    assert min(seen[-1]) >= 0.2 / 5


def test_nothing_shifts_before_a_tenth_of_the_steps_or_without_sharpness() -> None:
    for recipe, late in ((ShiftNas(window=5, ahead=0), 20), (ShiftNas(window=5, ahead=0, sharpness=0.0), 200)):
        memory: dict[str, Any] = {}
        for step in range(25):
            turn: Any = Watched(step, memory)
            recipe.step(turn)
            assert bool(turn.foreseen) == (step + 1 >= late and (step + 1) % 5 == 0)


def test_shifts_follow_the_gradient_of_the_expected_variation() -> None:
    logits, variations = torch.randn(5, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 0, 0.1, 0.2, 0])
    logits.requires_grad_()
    (logits.softmax(0) * variations).sum().log().backward()
    assert logits.grad is not None
    wanted = (logits + 0.7 * logits.grad).tolist()
    recipe = ShiftNas(sharpness=0.7, even=0.25)
    assert recipe.shifted(logits.tolist(), variations.tolist()) == pytest.approx(wanted, abs=1e-6)
    assert recipe.shifted([0.0, 1.0], [0.0, 0.0]) == [0.0, 1.0]
    even = (0.25 / 5 + 0.75 * logits.softmax(0)).tolist()
    assert recipe.odds(logits.tolist()) == pytest.approx(even, abs=1e-6)


def test_the_nearest_of_what_is_proposed_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    proposed: list[tuple[list[float], list[Config]]] = []
    plain = Architect.propose

    def propose(self: Architect, wanted: list[float]) -> Any:
        found = plain(self, wanted)
        proposed.append((wanted, found[0]))
        return found

    monkeypatch.setattr(Architect, "propose", propose)
    trained, _ = steps(ShiftNas(ahead=0), 20)
    firsts = 0
    for config, (wanted, configs) in zip(trained, proposed, strict=True):
        assert len(configs) == 8
        assert len(set(wanted)) == 1
        assert abs(cost(config) - wanted[0]) == min(abs(cost(each) - wanted[0]) for each in configs)
        firsts += config == configs[0]
    assert firsts < 15


def test_it_learns_from_the_runs_teacher() -> None:
    turn: Any = Watched(0, {}, taught="the teacher's")
    ShiftNas(lead=0.7, ahead=0).step(turn)
    ((_, how),) = turn.learnt
    assert how == {"teacher": "the teacher's", "share": 0.7, "temperature": 1.0}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"levels": 0}, "levels is a whole number, 1 or more; got 0"),
        ({"window": 0}, "window is a whole number"),
        ({"ahead": -1}, "ahead is a whole number, 0 or more"),
        ({"even": 1.5}, "even is a share"),
        ({"merit": -1.0}, "merit is a finite number above 0"),
        ({"sharpness": float("inf")}, "sharpness is a finite number above 0"),
    ],
)
def test_wrong_fields_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(WrongShapeError, match=words):
        ShiftNas(**wrong)


@pytest.mark.slow
# ---- the generator ---------------------------------------------------------------------------------------------------
def test_it_keeps_to_the_cost_that_is_asked_for_over_the_whole_range() -> None:
    memory: dict[str, Any] = {}
    rng = random.Random(0)
    for _ in range(200):
        architect = Architect(SPACE, cost, memory, rng)
        architect.learn(architect.propose([rng.uniform(0.0625, 1.0) for _ in range(8)])[1].mean(), 0.01)
    architect = Architect(SPACE, cost, memory, rng)
    for at in range(10):
        wanted = 0.1 + 0.09 * at
        costs = [cost(config) for config in architect.propose([wanted] * 40)[0]]
        assert abs(sum(costs) / 40 - wanted) < 0.1, (wanted, sum(costs) / 40)
    untrained = Architect(SPACE, cost, {}, random.Random(0)).propose([1.0] * 40)[0]
    assert sum(map(cost, untrained)) / 40 < 0.7


@pytest.mark.slow
def test_with_merit_it_prefers_what_has_lower_losses() -> None:
    """Of members that cost the same, those with a wide first layer get lower losses, or those with a narrow one."""

    def wide(sign: float) -> float:
        memory: dict[str, Any] = {}
        rng = random.Random(3)
        for _ in range(200):
            architect = Architect(SPACE, cost, memory, rng)
            configs, misses, logs = architect.propose([0.5] * 8)
            losses = torch.tensor([-sign * units(config, "0.width") / 32 for config in configs])
            surplus = losses - losses.mean()
            architect.learn(misses.mean() + 0.3 * (surplus * logs).mean(), 0.01)
        configs = Architect(SPACE, cost, memory, rng).propose([0.5] * 40)[0]
        assert abs(sum(map(cost, configs)) / 40 - 0.5) < 0.12
        return sum(units(config, "0.width") for config in configs) / 40

    assert wide(1.0) > wide(-1.0) + 8


def test_log_probabilities_are_those_of_the_choices() -> None:
    """Over all configs of a small space they sum to one, whatever the noise chose."""
    net = Generator([2, 3])
    net.load_state_dict(net.fresh(random.Random(0)), assign=True)
    total = torch.zeros(())
    for a in range(2):
        for b in range(3):
            noise = [torch.full((1, size), -1e4) for size in (2, 3)]
            noise[0][0, a] = noise[1][0, b] = 1e4
            picked, logs = net(torch.tensor([0.3]), noise)
            assert [int(one.argmax()) for one in picked] == [a, b]
            total = total + logs.exp().sum()
    assert float(total.detach()) == pytest.approx(1.0, abs=1e-5)


def test_additive_costs_are_found_exactly_where_costs_add_up() -> None:
    space = Space([Choice("a", (1, 2, 5)), Choice("b", (1, 3))])
    found = additive(space, lambda config: 2.0 * units(config, "a") + units(config, "b"), random.Random(0), ["a", "b"])
    assert found[0][1] - found[0][0] == pytest.approx(2.0, abs=1e-5)
    assert found[0][2] - found[0][0] == pytest.approx(8.0, abs=1e-5)
    assert found[1][1] - found[1][0] == pytest.approx(2.0, abs=1e-5)


def test_it_draws_nothing_from_the_global_generators() -> None:
    before, plain = torch.get_rng_state(), random.getstate()
    steps(ShiftNas(ahead=2), 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == plain


# ---- on networks -----------------------------------------------------------------------------------------------------
def test_the_gradient_is_that_of_the_member_alone() -> None:
    x, y = vectors(3, 4, 6), torch.tensor([0, 4, 2])
    family = fresh("vit")
    turn = TrainingStep(family, (x, y), F.cross_entropy, course=Course(family, F.cross_entropy))
    ShiftNas(ahead=5).step(turn)
    (config,) = turn.learnt
    net = family.extract(config)
    F.cross_entropy(net(x), y).backward()
    check_gradient(family, [spread(family, config, net)])


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_weights(tmp_path: Path) -> None:
    check_resume(ShiftNas(ahead=5, window=2), tmp_path, steps=8)


def test_it_trains_any_family() -> None:
    check_runs(ShiftNas(ahead=5))
