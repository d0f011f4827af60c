"""Steps that are taken back: half of a batch, and what a loop must be able to do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pliant.checks import PliantError, WrongShapeError
from pliant.techniques.train.single_path import SinglePath
from pliant.training import Compute, TrainingStep, train
from pliant.training.tentative import halves
from tests.training.toy import batch, loss, mlp


class Foreseeing(SinglePath):
    """Looks ahead and notes what it sees."""

    def step(self, turn: Any) -> None:
        turn.memory.setdefault("seen", []).append(turn.foresee(turn.space.largest(), 0.5))
        turn.memory["losses"] = len(turn.losses), len(turn.learnt), turn.rate
        super().step(turn)


def test_a_batch_is_split_by_its_samples() -> None:
    x, y, table = torch.arange(10.0).reshape(5, 2), torch.arange(5), torch.zeros(3)
    first, second = halves(({"x": x, "table": table, "n": 7}, y))
    assert first[0]["x"].tolist() == x[:2].tolist()
    assert second[0]["x"].tolist() == x[2:].tolist()
    assert (first[1].tolist(), second[1].tolist()) == ([0, 1], [2, 3, 4])
    assert first[0]["table"] is table
    assert second[0]["n"] == 7


def test_one_sample_cannot_be_split() -> None:
    with pytest.raises(WrongShapeError, match="two samples or more, not 1"):
        halves((torch.zeros(1, 3), torch.zeros(1)))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_is_foreseen_is_what_a_step_on_the_first_half_gives(accumulate: int) -> None:
    family, twin = mlp(dropout=0.0), mlp(dropout=0.0)
    twin.model.load_state_dict(family.model.state_dict())
    for each in (family, twin):
        each.prepare()
    data = [batch(0), batch(1)]
    optimizer = torch.optim.SGD(family.parameters(), lr=0.1)
    how: Any = {"clip": None, "warmup": 0.0, "schedule": lambda done: 1.0, "compute": Compute(accumulate=accumulate)}
    done = train(family, data, loss, steps=1, recipe=Foreseeing(), optimizer=optimizer, **how)

    parts = [halves(one) for one in data[:accumulate]]
    own = torch.optim.SGD(twin.parameters(), lr=0.05)
    twin.model.train()
    torch.stack([loss(twin.model(x), y) for (x, y), _ in parts]).mean().backward()
    own.step()
    with torch.no_grad():
        wanted = sum(float(loss(twin.model(x), y)) for _, (x, y) in parts) / accumulate
    assert done.memory["seen"] == [pytest.approx(wanted, rel=1e-5)]
    assert done.memory["losses"] == (0, 0, 1.0)


def test_a_loop_that_cannot_take_steps_back_says_so() -> None:
    family: Any = mlp()
    with pytest.raises(PliantError, match=r"cannot take optimizer steps back; train by pliant\.train"):
        TrainingStep(family, batch(0), loss).foresee(family.space.largest())


def test_waiting_gradients_are_not_lost() -> None:
    class Late(SinglePath):
        def step(self, turn: Any) -> None:
            super().step(turn)
            turn.foresee(turn.space.largest())

    with pytest.raises(PliantError, match="comes before learn"):
        train(mlp(), [batch(0)], loss, steps=1, recipe=Late())


def test_gradients_that_no_step_takes_may_wait() -> None:
    family: Any = mlp()
    last = family.model.fc2
    optimizer = torch.optim.SGD(last.parameters(), lr=0.1)
    done = train(family, [batch(0), batch(1)], loss, steps=2, recipe=Foreseeing(), optimizer=optimizer)
    assert len(done.memory["seen"]) == 2
    assert family.model.fc1.weight.grad is not None


def test_a_step_that_fails_is_taken_back_too() -> None:
    family: Any = mlp()
    family.prepare()  # sorts
    before = [p.detach().clone() for p in family.parameters()]

    class Failing(SinglePath):
        def step(self, turn: Any) -> None:
            rate, parts = turn.rate, turn.parts
            turn.loss = lambda outputs, targets: outputs.sum() * float("nan")
            with pytest.raises(PliantError):
                turn.foresee(turn.space.largest(), 7.0)
            assert (turn.rate, turn.parts) == (rate, parts)
            assert turn.losses == {}
            turn.loss = loss
            turn.learn(turn.space.largest())

    optimizer = torch.optim.SGD(family.parameters(), lr=0.0)
    train(family, [batch(0)], loss, steps=1, recipe=Failing(), optimizer=optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before, family.parameters(), strict=True))
