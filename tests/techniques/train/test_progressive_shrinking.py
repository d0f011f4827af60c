"""Progressive shrinking: what is open when, who teaches, the size of the paper's space, and that it helps."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pliant.checks import WrongShapeError
from pliant.family import Family
from pliant.space import Choice, Config, Space
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.width import Width
from pliant.techniques.train._sorting import within
from pliant.techniques.train.progressive_shrinking import ProgressiveShrinking
from pliant.training import TrainingStep, distillation_loss
from pliant.training.course import Course
from tests.family.nets import ConvNet, images, vectors
from tests.techniques.train.turns import (
    Largest,
    Notes,
    check_gradient,
    check_resume,
    check_runs,
    digit_errors,
    fresh,
    ordinary,
    run,
    spread,
)
from tests.training.toy import same

SPACE = Space([Choice("a.kernel", (3, 5, 7)), Choice("b.depth", (2, 3, 4)), Choice("c.width", (8, 16)),
               Choice("d.width", (4, 8, 16, 24, 32)), Choice("e.width", (5,))])  # fmt: skip


class Still(Notes):
    """Notes of a family in which nothing is sorted."""

    family = SimpleNamespace(orders=dict)


def test_what_is_open_when() -> None:
    """Ten steps alone, twelve for each of three kinds: kernels in two parts, depths in two, widths in four."""
    recipe = ProgressiveShrinking(full=10 / 46)
    wanted = {
        0: ((7,), (4,), (16,), (32,)),
        10: ((5, 7), (4,), (16,), (32,)),
        16: ((3, 5, 7), (4,), (16,), (32,)),
        22: ((3, 5, 7), (3, 4), (16,), (32,)),
        28: ((3, 5, 7), (2, 3, 4), (16,), (32,)),
        34: ((3, 5, 7), (2, 3, 4), (8, 16), (24, 32)),
        37: ((3, 5, 7), (2, 3, 4), (8, 16), (16, 24, 32)),
        40: ((3, 5, 7), (2, 3, 4), (8, 16), (8, 16, 24, 32)),
        43: ((3, 5, 7), (2, 3, 4), (8, 16), (4, 8, 16, 24, 32)),
    }
    now = wanted[0]
    for step in range(46):
        now = wanted.get(step, now)
        assert tuple(recipe.opened(SPACE, step, 46).values())[:4] == now, step


def test_kinds_open_in_the_order_that_is_asked_for_within_the_constraints() -> None:
    space = Space([Choice("b.depth", (2, 3, 4)), Choice("d.width", (4, 8, 16))], ["b.depth >= 3", "d.width < 16"])
    recipe = ProgressiveShrinking(full=0.0, order=("*width", "*"))
    assert recipe.opened(space, 0, 10) == {"b.depth": (4,), "d.width": (4, 8)}
    assert recipe.opened(space, 5, 10) == {"b.depth": (3, 4), "d.width": (4, 8)}


def test_members_of_what_is_open_learn_from_the_kept_network() -> None:
    recipe = ProgressiveShrinking(full=0.25, members=3, share=0.4, temperature=2.0, again=0.6)
    drawn: dict[str, set[Any]] = {choice.name: set() for choice in SPACE.choices}
    for step in range(40):
        turn: Any = Still(SPACE, step=step, steps=40)
        recipe.step(turn)
        if step < 10:
            assert turn.calls == [(SPACE.largest(), {})]
            assert turn.rates == [pytest.approx(0.5 * (1 + math.cos(math.pi * step / 10)))]
            assert not turn.kept("full")
            continue
        opened = recipe.opened(SPACE, step, 40)
        assert len(turn.calls) == 3
        assert turn.rates == [pytest.approx(0.3 * (1 + math.cos(math.pi * (step - 10) / 30)))] * 3
        for config, how in turn.calls:
            assert how == {"teacher": f"kept {SPACE.largest().to_json()}", "share": 0.4, "temperature": 2.0}
            for name, option in config.items():
                assert option in opened[name]
                drawn[name].add(option)
    assert drawn == {choice.name: set(choice.options) for choice in SPACE.choices}
    assert recipe.rate(0.0) == recipe.rate(1.0) == 1.0


def test_the_full_network_learns_from_the_runs_teacher() -> None:
    turn: Any = Notes(SPACE, steps=10, taught="the teacher's")
    ProgressiveShrinking(lead=0.7).step(turn)
    assert turn.calls == [(SPACE.largest(), {"teacher": "the teacher's", "share": 0.7, "temperature": 1.0})]


def test_a_space_of_one_member_learns_as_it_is() -> None:
    for step in (0, 9):
        turn: Any = Notes(Space([]), step=step, steps=10)
        ProgressiveShrinking().step(turn)
        assert [config for config, _ in turn.calls] == [Space([]).largest()]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"full": 1.0}, "full is a share of the steps, 0 or more and below 1; got 1.0"),
        ({"members": 0}, "members is a whole number, 1 or more"),
        ({"share": -1.0}, "share is a share"),
        ({"again": 0.0}, "again is a finite number above 0"),
        ({"order": "*"}, "order is a tuple of patterns"),
        ({"order": (1,)}, "order is a tuple of patterns"),
    ],
)
def test_wrong_fields_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(WrongShapeError, match=words):
        ProgressiveShrinking(**wrong)


def test_a_choice_that_would_never_open_is_told() -> None:
    turn: Any = Notes(SPACE, steps=10)
    with pytest.raises(WrongShapeError, match=r"fits the choice 'c\.width'.*end it with '\*'"):
        ProgressiveShrinking(order=("*kernel*", "*depth*", "d*")).step(turn)


# ---- on networks -----------------------------------------------------------------------------------------------------
def test_the_first_phase_is_plain_training_bit_for_bit() -> None:
    def cosine(done: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * done))

    class Phase(Exception):  # noqa: N818
        """The end of the phase."""

    def stop(progress: Any) -> None:
        if progress.step == 4:
            raise Phase

    family = fresh("vit")
    with pytest.raises(Phase):
        run(family, "vit", ProgressiveShrinking(full=0.4), 10, on_step=stop, warmup=0)
    found = {name: value.clone() for name, value in family.model.state_dict().items()}
    # Of as many steps as the phase has, with its first step at the full rate.
    plain = run(fresh("vit"), "vit", Scheduled(), 4, schedule=lambda done: 1.0, warmup=0)
    assert same(found, plain)


class Scheduled(Largest):
    """Ordinary training with the rate of a cosine over four steps."""

    def step(self, turn: Any) -> None:
        turn.rate = 0.5 * (1 + math.cos(math.pi * turn.step / 4))
        super().step(turn)


def test_the_gradient_is_that_of_separate_networks_taught_by_the_network_of_the_first_step() -> None:
    """Between two steps the weights change; the teacher does not."""
    x, y = vectors(3, 4, 6), torch.tensor([0, 4, 2])
    family = fresh("vit")
    course = Course(family, F.cross_entropy, steps=10)
    recipe = ProgressiveShrinking(full=0.0, members=2, share=0.3, temperature=1.5)
    teacher = family.extract(family.space.largest())(x).detach()
    for step in (7, 9):
        for parameter in family.parameters():
            parameter.grad = None
            if step == 9:
                with torch.no_grad():
                    parameter.mul_(0.9)
        turn = TrainingStep(family, (x, y), F.cross_entropy, step, course=course)
        recipe.step(turn)
        wanted = []
        for config in turn.learnt:
            net = family.extract(config)
            outputs = net(x)
            (0.3 * distillation_loss(outputs, teacher, 1.5) + 0.7 * F.cross_entropy(outputs, y)).backward()
            wanted.append(spread(family, config, net))
        check_gradient(family, wanted)
        assert not any(parameter.grad is not None for parameter in course.network("full").parameters())


# ---- sorting ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("widths", [[24], [24, 16], [24, 16, 8, 4]])
def test_units_are_sorted_as_in_the_authors_code(widths: list[int]) -> None:
    """There, 10^5 more is given to the importance of each group of units than to the next one's; then all are sorted.

    Args:
        widths: those that are open beside the full one, 32.
    """
    importance = torch.rand(32, generator=torch.Generator().manual_seed(0))
    shifted, right = importance.double(), 32
    for at, left in enumerate([*widths, 0]):
        shifted[left:right] += at * 1e5
        right = left
    wanted = shifted.argsort(descending=True, stable=True).tolist()
    assert within(importance.argsort(descending=True, stable=True).tolist(), widths) == wanted


def test_before_smaller_widths_open_the_units_that_matter_are_sorted_to_the_front() -> None:
    """What is open computes what it did, and the width that opens keeps more of what there is."""
    x, y = vectors(3, 4, 6), torch.tensor([0, 4, 2])
    family = fresh("vit")
    family.prepare()
    recipe = ProgressiveShrinking(full=0.0, order=("*",))
    opened = [recipe.opened(family.space, step, 40) for step in range(40)]
    first = next(at for at in range(1, 40) if opened[at] != opened[at - 1])
    with torch.no_grad():  # the run up to there changes which units matter
        draw = torch.Generator().manual_seed(3)
        for parameter in family.parameters():
            parameter.mul_(torch.rand(parameter.shape, generator=draw) * 4)
    before = [Config({**family.space.largest(), name: few[0]}) for name, few in opened[first - 1].items()]
    wanted = [family.extract(config)(x).detach() for config in before]

    def kept(config: Config) -> dict[str, float]:
        cut = family.draft(config).kept
        return {axis: sum(float((rows.abs().sum(1) / rows.abs().sum(1).mean())[: cut[axis]].sum())
                          for rows in family.weight_views(axis).values()) for axis in cut}  # fmt: skip

    opening = [Config({**family.space.largest(), name: few[0]}) for name, few in opened[first].items()]
    old = [kept(config) for config in opening]
    turn = TrainingStep(family, (x, y), F.cross_entropy, first, course=Course(family, F.cross_entropy, steps=40))
    recipe.step(turn)
    for config, outputs in zip(before, wanted, strict=True):
        assert torch.allclose(family.extract(config)(x), outputs, atol=1e-4 * float(outputs.abs().max()))
    new = [kept(config) for config in opening]
    assert all(b[axis] >= a[axis] - 1e-4 for a, b in zip(old, new, strict=True) for axis in a)
    assert any(b[axis] > 1.02 * a[axis] for a, b in zip(old, new, strict=True) for axis in a)


def test_a_killed_run_goes_on_with_the_same_weights(tmp_path: Path) -> None:
    check_resume(ProgressiveShrinking(full=0.3), tmp_path, steps=8)  # the copy is in the checkpoint


def test_it_trains_any_family() -> None:
    check_runs(ProgressiveShrinking(), steps=6)


# ---- the paper's space -----------------------------------------------------------------------------------------------
def test_the_papers_space_has_2e19_members() -> None:
    """Five units of 2, 3 or 4 layers, each with kernels of 3, 5, 7 and expansions of 3, 4, 6."""
    layers = [Choice(f"{at}.{what}", options) for at in range(4)
              for what, options in (("kernel", (3, 5, 7)), ("expand", (3, 4, 6)))]  # fmt: skip
    unit = Space([Choice("depth", (2, 3, 4)), *layers])
    assert unit.size == 3 * 9**4
    members = {
        (config["depth"], *(config[choice.name] for choice in layers[: 2 * int(config["depth"])]))  # type: ignore[arg-type]
        for config in unit.enumerate()
    }
    assert len(members) == 9**2 + 9**3 + 9**4
    assert f"{len(members) ** 5:.2e}" == "2.18e+19"


def test_a_family_of_such_a_unit_knows_which_configs_are_one_member() -> None:
    """Nine widths for each of four blocks, of which two to four stay."""
    net = ConvNet(hidden=18, blocks=4)
    family = Family(net, (images(),), [Width(ratios=tuple(k / 9 for k in range(1, 10)), multiple=2), Depth()])
    assert family.space.size == 3 * 9**4
    assert family.counts is not None
    grid = np.indices([len(choice.options) for choice in family.space.choices]).reshape(len(family.space.choices), -1).T
    assert len(np.unique(family.counts.canonical(grid), axis=0)) == 9**2 + 9**3 + 9**4


@pytest.mark.slow
def test_on_digits_the_smallest_member_beats_the_same_slice_of_an_ordinary_network() -> None:
    smallest, largest = fresh("digits").space.smallest(), fresh("digits").space.largest()
    for seed in range(3):
        errors, plain = digit_errors(ProgressiveShrinking(), seed, 200), ordinary(seed)
        assert errors[smallest] < 0.5 * plain[smallest], (seed, errors[smallest], plain[smallest])
        assert errors[smallest] < 0.25
        assert errors[largest] < 0.1
