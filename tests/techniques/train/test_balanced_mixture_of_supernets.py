"""Balanced odds against their definition, what they learn, and both ends: one copy, and a copy for each member."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pliant.checks import PliantError, UnknownNameError, WrongShapeError
from pliant.family import Family
from pliant.space import Choice, Config, Space
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.weight_copies import WeightCopies
from pliant.techniques.elastic.width import Width
from pliant.techniques.train.balanced_mixture_of_supernets import BalancedMixtureOfSupernets, balanced
from pliant.techniques.train.single_path import SinglePath
from pliant.training import Progress, train
from tests.family.nets import ViT, vectors
from tests.techniques.train.turns import Killed, Notes, check_runs, plain
from tests.training.toy import Mlp, batches, loss, same, state

X, Y = vectors(3, 4, 6), torch.tensor([0, 4, 2])
SPACE = Space([Choice("depth", (1, 2, 3)), Choice("width", (8, 16)), Choice("copy", (1, 0), ordered=False)])


class Judged(Notes):
    """A turn in which each member has a loss by its config."""

    def __init__(self, judge: Any, step: int, memory: dict[str, Any]) -> None:
        super().__init__(SPACE, step=step, steps=300)
        self.judge, self.memory = judge, memory

    def learn(self, config: Config, **how: Any) -> str:
        seen = super().learn(config, **how)
        self.losses[config] = self.judge(config) + 0.1 * self.rng.gauss(0, 1)
        return seen


def played(judge: Any, recipe: BalancedMixtureOfSupernets) -> tuple[dict[str, Any], list[Config]]:
    memory: dict[str, Any] = {}
    drawn = []
    for step in range(300):
        turn = Judged(judge, step, memory)
        recipe.step(turn)  # type: ignore[arg-type]
        drawn += [config for config, _ in turn.calls]
    return memory, drawn


def configs() -> list[dict[str, Any]]:
    return [{"depth": depth, "width": width} for depth in (1, 2, 3) for width in (8, 16)]


# ---- odds ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sharpness", [0.0, 1.0, 5.0])
def test_odds_are_balanced_and_the_scores_scaled_by_rows_and_columns(sharpness: float) -> None:
    scores = sharpness * vectors(12, 3).double()
    odds = balanced(scores)
    assert torch.allclose(odds.sum(1), torch.ones(12).double())
    assert torch.allclose(odds.sum(0), torch.full((3,), 4.0).double(), atol=1e-5)
    scaled = odds.log() - scores  # a factor for each row, one for each column: no differences of differences
    mixed = scaled - scaled[:1] - scaled[:, :1] + scaled[0, 0]
    assert float(mixed.abs().max()) < 1e-9


def test_it_learns_which_copy_serves_whom() -> None:
    recipe = BalancedMixtureOfSupernets(every=10)
    memory, _ = played(
        lambda config: 1.0 + float(config["copy"] != (config["depth"] + config["width"] // 8) % 2), recipe
    )
    for config in configs():
        assert recipe.assigned(SPACE, memory, config)["copy"] == (config["depth"] + config["width"] // 8) % 2


def test_copies_are_used_alike_though_one_is_better_for_all() -> None:
    recipe = BalancedMixtureOfSupernets(every=10)
    memory, drawn = played(lambda config: 1.0 + float(config["copy"] == 1) * config["depth"] / 3, recipe)
    assert torch.allclose(memory["odds"].sum(0), torch.full((2,), 3.0).double(), atol=1e-4)
    share = Counter(config["copy"] for config in drawn)[1] / len(drawn)
    assert 0.42 < share < 0.58
    # Those that lose most by the worse copy are kept from it.
    assert [recipe.assigned(SPACE, memory, c)["copy"] for c in configs() if c["depth"] != 2] == [1, 1, 0, 0]


def test_choices_that_do_not_decide_share_a_row() -> None:
    recipe = BalancedMixtureOfSupernets(pattern="depth")
    memory, _ = played(lambda config: 1.0, recipe)
    assert memory["odds"].shape == (3, 2)
    assert len({recipe.assigned(SPACE, memory, {"depth": 2, "width": width})["copy"] for width in (8, 16)}) == 1


# ---- both ends -------------------------------------------------------------------------------------------------------
def test_one_copy_is_plain_sharing_bit_for_bit() -> None:
    weights = []
    for copies, recipe in ((1, BalancedMixtureOfSupernets()), (1, SinglePath())):
        torch.manual_seed(0)
        family = Family(Mlp(), (vectors(4, 8),), [Width(multiple=4), WeightCopies(copies)])
        train(family, batches, loss, steps=6, recipe=recipe, schedule=plain)
        weights.append(state(family))
    assert same(*weights)


def test_as_many_copies_as_members_are_independent_networks() -> None:
    torch.manual_seed(0)
    family = Family(ViT(), (X,), [Depth(), WeightCopies(2)])
    family.prepare()
    depth = next(choice for choice in family.space.choices if choice.name != "copy")
    assert len(depth.options) == 2
    alone = {o: family.extract({depth.name: o, "copy": 0}).train() for o in depth.options}
    drawn: list[Config] = []
    train(family, [(X, Y)] * 8, F.cross_entropy, steps=8, recipe=BalancedMixtureOfSupernets(), clip=None, warmup=0.0,
          schedule=plain, optimizer=torch.optim.SGD(family.parameters(), lr=0.1),
          on_step=lambda progress: drawn.extend(progress.learnt))  # fmt: skip
    assert len({(config[depth.name], config["copy"]) for config in drawn}) == 2  # each depth in a copy of its own
    for config in drawn:
        net = alone[config[depth.name]]
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        optimizer.zero_grad()
        F.cross_entropy(net(X), Y).backward()
        optimizer.step()
    for config in set(drawn):
        assert torch.allclose(family.extract(config)(X), alone[config[depth.name]](X), atol=1e-6)


# ---- runs ------------------------------------------------------------------------------------------------------------
def test_killed_and_resumed_it_is_what_it_was(tmp_path: Path) -> None:
    def made(seed: int = 0) -> Any:
        torch.manual_seed(seed)
        return Family(Mlp(), (vectors(4, 8),), [Width(multiple=4), WeightCopies(2)])

    def kill(progress: Progress) -> None:
        if progress.step == 7:
            raise Killed

    recipe = BalancedMixtureOfSupernets(every=3)
    whole, parts = made(), made()
    last = train(whole, batches, loss, steps=10, recipe=recipe, folder=tmp_path / "a", save_every=4)
    with pytest.raises(Killed):
        train(parts, batches, loss, steps=10, recipe=recipe, folder=tmp_path / "b", save_every=4, on_step=kill)
    parts = made(seed=4)
    again = train(parts, batches, loss, steps=10, recipe=recipe, folder=tmp_path / "b", save_every=4)
    assert same(state(whole), state(parts))
    assert all(torch.equal(whole.extra[name], value) for name, value in parts.extra.items())
    assert torch.equal(last.memory["scores"], again.memory["scores"])
    assert last.memory["seen"].sum() == 10


def test_it_trains_families_without_copies() -> None:
    check_runs(BalancedMixtureOfSupernets())


def test_what_is_refused() -> None:
    for fields in ({"sharpness": 0.0}, {"decay": 2.0}, {"lead": -1.0}, {"every": 0}):
        with pytest.raises(WrongShapeError, match=r"BalancedMixtureOfSupernets\."):
            BalancedMixtureOfSupernets(**fields)
    wide = Space([*(Choice(f"{at}.width", (1, 2, 3, 4)) for at in range(7)), Choice("copy", (1, 0))])
    with pytest.raises(WrongShapeError, match="16384 configurations.*pattern"):
        BalancedMixtureOfSupernets().step(Notes(wide))  # type: ignore[arg-type]
    with pytest.raises(PliantError, match=r"Progress\.memory"):
        BalancedMixtureOfSupernets().assigned(SPACE, {}, configs()[0])
    with pytest.raises(UnknownNameError, match="no choice 'copy'"):
        BalancedMixtureOfSupernets().assigned(Space([Choice("depth", (1, 2))]), {}, {"depth": 1})
