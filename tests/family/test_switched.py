"""A program with shared weights, and the same program under several searchers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pliant
from pliant.checks import WrongShapeError
from pliant.family import Switched
from pliant.family.switched import Switch
from pliant.space import Program, manyof, oneof, symbolic
from pliant.technique import Searcher
from pliant.techniques.search.bayesian import Bayesian
from pliant.techniques.search.random_search import RandomSearch


class Net(nn.Module):
    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.head = first, second, nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(x + self.second(self.first(x)))
        return found


def program() -> Program:
    linear, identity = symbolic(nn.Linear)(8, 8), symbolic(nn.Identity)()
    gated = symbolic(nn.Sequential)(linear, oneof([symbolic(nn.ReLU)(), symbolic(nn.Tanh)()]))
    return Program(symbolic(Net)(first=oneof([identity, linear, gated]), second=oneof([identity, linear])))


def test_a_switched_network_is_the_standalone_one() -> None:
    shared = Switched(program())
    x = torch.randn(4, 8)
    for config in shared.space.enumerate():
        alone = program().build(config)
        shared.select(config)
        own = dict(shared.model.named_parameters())
        for name, parameter in alone.named_parameters():  # copy what is shared, by where it lies
            matches = [value for key, value in own.items() if _plain(key, shared) == name]
            assert len(matches) == 1
            parameter.data.copy_(matches[0].data)
        assert torch.equal(shared.ready(config)(x), alone.eval()(x))


def _plain(key: str, shared: Switched) -> str:
    """Take the switches out of a parameter's name; one that is not switched on gives a name that nobody has."""
    parts, here, found = key.split("."), shared.model, []
    while parts:
        part = parts.pop(0)
        if part == "alternatives":
            chosen = parts.pop(0)
            assert isinstance(here, Switch)
            if int(chosen) != here.at:
                return "not taken"
            here = here.alternatives[int(chosen)]
            continue
        found.append(part)
        here = getattr(here, part)
    return ".".join(found)


def test_training_one_path_leaves_the_others_alone() -> None:
    shared = Switched(program())
    config = shared.space.smallest()
    shared.select(config)(torch.randn(4, 8)).sum().backward()
    grads = {name: parameter.grad for name, parameter in shared.model.named_parameters()}
    assert grads["head.weight"] is not None
    assert all(grad is None for name, grad in grads.items() if "alternatives" in name)


@pytest.mark.parametrize("searcher", [RandomSearch(), Bayesian(candidates=50), pliant.Nsga2(population=4)], ids=str)
@pytest.mark.parametrize("sharing", [False, True])
def test_the_same_program_under_any_searcher(searcher: Searcher, sharing: bool) -> None:
    made = program()
    searched = Switched(made) if sharing else made
    weight = pliant.Metric("layers", lambda net: float(sum(1 for each in net.modules())))
    study = pliant.search(searched, [weight, pliant.Params()], 6, searcher=searcher)
    assert len(study.trials) == 6
    assert len({made.canonical(trial.config) for trial in study.trials}) == 6


def test_what_cannot_be_switched() -> None:
    with pytest.raises(WrongShapeError, match="bend it by pliant.Family"):
        Switched(Program(symbolic(nn.Linear)(8, oneof([4, 8]))))
    with pytest.raises(WrongShapeError, match="only oneof can be switched"):
        Switched(Program(symbolic(nn.Sequential)(manyof(1, [symbolic(nn.ReLU)(), symbolic(nn.Tanh)()]))))
    with pytest.raises(WrongShapeError, match="bind what is decided"):
        Switched(program().given({"second": "1:Linear"}))
    part = program().part(lambda path, placeholder: path == "second")
    assert Switched(Program(part.bind(part.space.largest()))).space.size == 3 * 2
    with pytest.raises(WrongShapeError, match="no network"):
        Switched(Program(symbolic(list)([oneof([symbolic(nn.ReLU)()])])))
