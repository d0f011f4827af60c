"""LLaMA-NAS: whole and members in turn, on a small language model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pliant.checks import WrongShapeError
from pliant.family import Family
from pliant.space import Choice, Space
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.width import Width
from pliant.techniques.train.llama_nas import LlamaNas
from pliant.training import TrainingStep
from tests.family.nets import Gpt, tokens, vectors
from tests.techniques.train.turns import Notes, check_gradient, check_resume, check_runs, fresh, spread, units

SPACE = Space([Choice("a", (1, 2, 3)), Choice("b", (1, 2, 3, 4))])


@pytest.mark.parametrize("period", [2, 3])
def test_the_whole_network_and_random_members_in_turn(period: int) -> None:
    whole, drawn = [], set()
    for step in range(120):
        turn: Any = Notes(SPACE, step=step)
        LlamaNas(period=period).step(turn)
        ((config, how),) = turn.calls
        assert how == {}
        if step % period == 0:
            whole.append(config)
        else:
            drawn.add(config)
    assert set(whole) == {SPACE.largest()}
    assert drawn == set(SPACE.enumerate())


def test_the_whole_network_alone_learns_from_the_runs_teacher() -> None:
    for step in (0, 1):
        turn: Any = Notes(SPACE, step=step, taught="the teacher's")
        LlamaNas(lead=0.7).step(turn)
        wanted = {} if step else {"teacher": "the teacher's", "share": 0.7, "temperature": 1.0}
        assert turn.calls[0][1] == wanted


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"period": 1}, "period is a whole number, 2 or more; got 1"), ({"lead": 1.5}, "lead is a share")],
)
def test_wrong_fields_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(WrongShapeError, match=words):
        LlamaNas(**wrong)


def test_the_whole_configuration_is_the_original_and_members_are_the_masked_model() -> None:
    """Feed-forward units behind the prefix give nothing, and left-out layers pass their input on."""
    net, x = Gpt(depth=3).eval(), tokens()
    given = copy.deepcopy(net)
    family = Family(net, (x,), [Width(multiple=8, kinds=("width",)), Depth(least=0.34)])
    assert torch.equal(family.extract(family.space.largest())(x), given(x))
    family.prepare()
    sampled = [family.space.smallest(), *list(family.space.enumerate())[::61]]
    for config in sampled:
        masked: Any = copy.deepcopy(net)
        for at, block in enumerate(masked.blocks):
            with torch.no_grad():
                block.fc2.weight[:, units(config, f"blocks.{at}.width") :] = 0
        masked.blocks = masked.blocks[: units(config, "blocks.depth")]
        assert torch.allclose(family.extract(config)(x), masked(x), atol=1e-6)


def test_a_step_is_that_of_one_network_alone() -> None:
    x, y = vectors(3, 4, 6), torch.tensor([0, 4, 2])
    family = fresh("vit")
    for step in (0, 1):
        for parameter in family.parameters():
            parameter.grad = None
        turn = TrainingStep(family, (x, y), F.cross_entropy, step)
        LlamaNas().step(turn)
        (config,) = turn.learnt
        assert (config == family.space.largest()) == (step == 0)
        net = family.extract(config)
        F.cross_entropy(net(x), y).backward()
        check_gradient(family, [spread(family, config, net)])


def test_a_killed_run_goes_on_with_the_same_weights(tmp_path: Path) -> None:
    check_resume(LlamaNas(), tmp_path)


def test_it_trains_any_family() -> None:
    check_runs(LlamaNas())
