"""While a family trains, the garbage collector leaves alone what was there before."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from pliant.checks import TrainingDivergedError
from pliant.training import train
from pliant.training.heap import set_aside
from tests.training.toy import batches, loss, mlp


@pytest.fixture(autouse=True)
def nothing_set_aside() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_what_was_there_is_set_aside_and_given_back() -> None:
    with set_aside():
        assert gc.get_freeze_count() > 1000
    assert gc.get_freeze_count() == 0


def test_what_the_caller_set_aside_stays_so() -> None:
    gc.freeze()
    with set_aside():
        pass
    assert gc.get_freeze_count() > 0


def test_training_gives_it_back_also_where_it_fails() -> None:
    seen = []
    train(mlp(), batches, loss, steps=2, on_step=lambda state: seen.append(gc.get_freeze_count()))
    assert min(seen) > 1000
    assert gc.get_freeze_count() == 0
    with pytest.raises(TrainingDivergedError):
        train(mlp(), batches, lambda outputs, targets: outputs.sum() * float("nan"), steps=2)
    assert gc.get_freeze_count() == 0


def test_garbage_made_in_training_is_still_collected() -> None:
    class Node:
        gone = 0

        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            Node.gone += 1

    with set_aside():
        for _ in range(50):
            Node()
        gc.collect()
    assert Node.gone == 50
