"""Sorted fine-tuning: the depths and their exits, the sum of their losses, and that exits get better."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pliant.checks import WrongShapeError
from pliant.family import Family
from pliant.space import Choice, Config, Space
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.width import Width
from pliant.techniques.train.sorted_fine_tuning import SortedFineTuning
from pliant.training import TrainingStep
from tests.family.nets import Gpt, ViT, tokens, vectors
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
    units,
)
from tests.training.toy import same

SPACE = Space([Choice("a.depth", (2, 3, 4, 5, 6)), Choice("b.depth", (1, 2, 3)), Choice("c.width", (8, 16))])


def depths(recipe: SortedFineTuning, space: Space = SPACE) -> list[tuple[Any, ...]]:
    turn: Any = Notes(space)
    recipe.step(turn)
    assert all(how == {} for _, how in turn.calls)
    return [tuple(config.values()) for config, _ in turn.calls]


def test_every_depth_learns_and_all_else_is_whole() -> None:
    assert depths(SortedFineTuning()) == [(6, 3, 16), (5, 3, 16), (4, 2, 16), (3, 2, 16), (2, 1, 16)]
    assert depths(SortedFineTuning(every=2)) == [(6, 3, 16), (4, 2, 16), (2, 1, 16)]
    assert depths(SortedFineTuning(every=9)) == [(6, 3, 16)]
    assert depths(SortedFineTuning(depth="a.*")) == [(d, 3, 16) for d in (6, 5, 4, 3, 2)]


def test_they_learn_from_the_runs_teacher() -> None:
    turn: Any = Notes(SPACE, taught="the teacher's")
    SortedFineTuning(lead=0.7).step(turn)
    assert all(how == {"teacher": "the teacher's", "share": 0.7, "temperature": 1.0} for _, how in turn.calls)


def test_a_family_without_depths_is_refused() -> None:
    turn: Any = Notes(Space([Choice("c.width", (8, 16))]))
    with pytest.raises(WrongShapeError, match=r"no choice's name fits '\*depth': there are \['c.width'\]"):
        SortedFineTuning().step(turn)


@pytest.mark.parametrize(
    ("wrong", "words"), [({"every": 0}, "every is a whole number, 1 or more; got 0"), ({"lead": 2.0}, "lead is a")]
)
def test_wrong_fields_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(WrongShapeError, match=words):
        SortedFineTuning(**wrong)


@pytest.mark.slow
@pytest.mark.parametrize("make", [ViT, Gpt])
def test_a_shallower_network_gives_what_an_exit_behind_its_last_layer_gives(make: Any) -> None:
    net = make(depth=4).eval()
    x = tokens() if make is Gpt else vectors(3, 4, 6)
    family = Family(net, (x,), [Depth(least=0.25)])
    hidden: list[torch.Tensor] = []
    handles = [block.register_forward_hook(lambda m, args, out: hidden.append(out)) for block in net.blocks]
    net(x)
    for handle in handles:
        handle.remove()
    for config in family.space.enumerate():
        last = net.norm(hidden[units(config, "blocks.depth") - 1])
        wanted = net.head(last if make is Gpt else last.mean(1))
        assert torch.allclose(family.extract(config)(x), wanted, atol=1e-6)


def test_the_gradient_is_the_sum_over_the_exits_of_one_pass() -> None:
    """One network with an exit behind every layer, by hand."""
    x, y = vectors(3, 4, 6), torch.tensor([0, 4, 2])
    family = Family(ViT(depth=4), (x,), [Width(multiple=8), Depth(least=0.25)])
    net: Any = copy.deepcopy(family.model)
    SortedFineTuning().step(TrainingStep(family, (x, y), F.cross_entropy))
    hidden, total = net.embed(x) + net.pos, torch.zeros(())
    for block in net.blocks:
        hidden = block(hidden)
        total = total + F.cross_entropy(net.head(net.norm(hidden).mean(1)), y)
    total.backward()
    check_gradient(family, [spread(family, family.space.largest(), net)])


def test_with_the_last_layer_alone_it_is_plain_fine_tuning_bit_for_bit() -> None:
    runs = []
    for recipe in (SortedFineTuning(every=99), Largest()):
        runs.append(run(fresh("vit"), "vit", recipe, 4))
    assert same(*runs)
    fixed = Space([Choice("a.depth", (2, 3, 4))], ["a.depth >= 4"])
    assert depths(SortedFineTuning(), fixed) == [(4,)]


def test_a_killed_run_goes_on_with_the_same_weights(tmp_path: Path) -> None:
    check_resume(SortedFineTuning(), tmp_path)


def test_it_trains_any_family() -> None:
    check_runs(SortedFineTuning())


@pytest.mark.slow
def test_on_digits_the_exits_of_a_tuned_network_beat_those_of_an_untuned_one() -> None:
    space = fresh("digits").space
    exits = [space.complete({"blocks.depth": depth}) for depth in (1, 2, 3)]
    for seed in range(3):
        tuned, plain = digit_errors(SortedFineTuning(), seed, 100), ordinary(seed)
        assert tuned[exits[0]] < 0.7 * plain[exits[0]], (seed, tuned[exits[0]], plain[exits[0]])
        assert sum(tuned[config] for config in exits) < sum(plain[config] for config in exits)
        assert tuned[exits[0]] < 0.1
        assert tuned[space.largest()] < 0.1


def test_configs_are_nested() -> None:
    turn: Any = Notes(SPACE)
    SortedFineTuning().step(turn)
    chain: list[Config] = [config for config, _ in turn.calls]
    for large, small in pairwise(chain):
        assert all(small[name] <= large[name] for name in small)  # type: ignore[operator]
