"""SortedNet: sub-models are prefixes and nested, gradients are averages, and that it helps."""

from __future__ import annotations

import copy
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pliant.checks import WrongShapeError
from pliant.space import Choice, Space
from pliant.techniques.train.sorted_net import SortedNet
from pliant.training import TrainingStep
from tests.family.nets import vectors
from tests.techniques.train.turns import (
    Notes,
    check_gradient,
    check_resume,
    check_runs,
    digit_errors,
    fresh,
    ordinary,
    spread,
    units,
)

SPACE = Space([Choice("a", (1, 2, 3)), Choice("b", (1, 2, 3, 4, 5))])


@pytest.mark.parametrize("accumulate", [1, 3])
def test_random_sub_models_share_one_update(accumulate: int) -> None:
    seen: Counter[Any] = Counter()
    for step in range(300):
        turn: Any = Notes(SPACE, step=step)
        SortedNet(accumulate=accumulate).step(turn)
        assert [how for _, how in turn.calls] == [{"weight": 1 / accumulate}] * accumulate
        seen.update(config for config, _ in turn.calls)
    assert set(seen) == set(SPACE.enumerate())


def test_they_learn_from_the_runs_teacher() -> None:
    turn: Any = Notes(SPACE, taught="the teacher's")
    SortedNet(lead=0.7, accumulate=2).step(turn)
    wanted = {"teacher": "the teacher's", "share": 0.7, "temperature": 1.0, "weight": 0.5}
    assert [how for _, how in turn.calls] == [wanted] * 2


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"accumulate": 0}, "accumulate is a whole number, 1 or more; got 0"), ({"lead": -1.0}, "lead is a share")],
)
def test_wrong_fields_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(WrongShapeError, match=words):
        SortedNet(**wrong)


def test_the_gradient_is_the_mean_over_separate_networks() -> None:
    x, y = vectors(3, 4, 6), torch.tensor([0, 4, 2])
    family = fresh("vit")
    turn = TrainingStep(family, (x, y), F.cross_entropy, step=2)
    SortedNet(accumulate=3).step(turn)
    wanted = []
    for config in turn.learnt:
        net = family.extract(config)
        (F.cross_entropy(net(x), y) / 3).backward()
        wanted.append(spread(family, config, net))
    assert len(wanted) == 3
    check_gradient(family, wanted)


def test_a_sub_model_cut_out_is_the_network_with_the_rest_masked() -> None:
    """Hidden units and heads behind the prefix give nothing, and left-out blocks pass their input on."""
    x = vectors(3, 4, 6)
    family = fresh("vit")
    family.prepare()
    for config in list(family.space.enumerate())[::13]:
        masked: Any = copy.deepcopy(family.model)
        for at, block in enumerate(masked.blocks):
            kept, heads = units(config, f"blocks.{at}.width"), units(config, f"blocks.{at}.attn.heads")
            with torch.no_grad():
                block.fc2.weight[:, kept:] = 0
                block.attn.proj.weight[:, heads * block.attn.head_dim :] = 0
        masked.blocks = masked.blocks[: units(config, "blocks.depth")]
        assert torch.allclose(family.extract(config)(x), masked(x), atol=1e-6)


# ---- picking by a budget ---------------------------------------------------------------------------------------------
def test_a_budget_picks_a_sub_model_without_a_search() -> None:
    def cost(config: Any) -> float:
        return float(config["a"] * config["b"])

    picked = [dict(SortedNet().fitting(SPACE, cost, budget)) for budget in (1, 2, 3.9, 6, 11.9, 12, 1e9)]
    assert picked == [
        {"a": 1, "b": 1}, {"a": 1, "b": 1}, {"a": 1, "b": 1}, {"a": 2, "b": 3}, {"a": 2, "b": 3},
        {"a": 3, "b": 4}, {"a": 3, "b": 5},
    ]  # fmt: skip
    with pytest.raises(WrongShapeError, match=r"smallest sub-model costs 1, above the budget of 0\.5"):
        SortedNet().fitting(SPACE, cost, 0.5)


def test_smaller_budgets_nest_in_larger_ones_and_cost_less() -> None:
    family = fresh("vit")
    turn = TrainingStep(family, (vectors(3, 4, 6), torch.tensor([0, 4, 2])), F.cross_entropy)
    budgets = [0.3, 0.5, 0.7, 1.0]
    picked = [SortedNet().fitting(family.space, turn.macs, budget) for budget in budgets]
    for config, budget in zip(picked, budgets, strict=True):
        assert turn.macs(config) <= budget
    for small, large in pairwise(picked):
        assert all(small[name] <= large[name] for name in small)  # type: ignore[operator]
    assert picked[-1] == family.space.largest()


def test_a_killed_run_goes_on_with_the_same_weights(tmp_path: Path) -> None:
    check_resume(SortedNet(accumulate=2), tmp_path)


def test_it_trains_any_family() -> None:
    check_runs(SortedNet(accumulate=2))


@pytest.mark.slow
def test_on_digits_sub_models_beat_slices_of_an_ordinary_network() -> None:
    space = fresh("digits").space
    for seed in range(3):
        errors, plain = digit_errors(SortedNet(), seed, 100), ordinary(seed)
        assert sum(errors.values()) < 0.5 * sum(plain.values()), seed
        assert all(errors[config] < plain[config] + 0.03 for config in errors), seed
        assert errors[space.smallest()] < 0.25 * plain[space.smallest()]
        assert max(errors.values()) < 0.12
