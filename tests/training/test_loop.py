"""The training loop: resuming changes nothing, and whatever is wrong is said before it does harm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pliant import catalog
from pliant.checks import PliantError, TrainingDivergedError, WrongShapeError
from pliant.family import Family
from pliant.technique import Recipe
from pliant.techniques.train.sandwich import Sandwich
from pliant.training import Progress, train
from pliant.training.checkpoint import latest_checkpoint
from tests.training.toy import batch, batches, convnet, loss, mlp, pictures, same, state


class Largest(Recipe):
    """Ordinary training: one optimizer step in each step."""

    def step(self, turn: Any) -> None:
        turn.learn(turn.space.largest())


class Stopped(Exception):  # noqa: N818
    """Stands for a kill."""


def stop_at(step: int) -> Callable[[Progress], None]:
    def on_step(progress: Progress) -> None:
        if progress.step == step:
            raise Stopped

    return on_step


def adam(family: Family) -> torch.optim.Optimizer:
    return torch.optim.AdamW(family.parameters(), lr=0.01, weight_decay=0.1)


def momentum(family: Family) -> torch.optim.Optimizer:
    return torch.optim.SGD(family.parameters(), lr=0.01, momentum=0.9)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [adam, momentum])
@pytest.mark.parametrize(("make", "data"), [(mlp, batches), (convnet, pictures)])
def test_resumed_equals_uninterrupted_bit_for_bit(
    make: Callable[..., Family], data: Any, optimizer: Any, tmp_path: Path
) -> None:
    whole = make()
    last = train(whole, data, loss, steps=9, optimizer=optimizer(whole), folder=tmp_path / "a", save_every=2)
    for stop in (5, 7):  # killed twice, each time after one unsaved step
        parts = make(seed=stop)  # other initial weights: everything must come from the checkpoint
        if stop == 5:
            parts = make()
        with pytest.raises(Stopped):
            train(parts, data, loss, steps=9, optimizer=optimizer(parts), folder=tmp_path / "b", save_every=2,
                  on_step=stop_at(stop))  # fmt: skip
    parts = make(seed=3)
    again = train(parts, data, loss, steps=9, optimizer=optimizer(parts), folder=tmp_path / "b", save_every=2)
    assert same(state(parts), state(whole))
    assert again == last
    for config in (whole.space.smallest(), whole.space.largest()):
        x = batch(0)[0] if make is mlp else batch(0, (1, 8, 8))[0]
        assert torch.equal(parts.extract(config)(x), whole.extract(config)(x))


def test_batches_from_an_iterable_are_skipped_as_they_were_drawn(tmp_path: Path) -> None:
    def drawn() -> Iterator[Any]:
        while True:  # draws from torch's global generator, as many loaders do
            yield torch.randn(6, 8), torch.randint(0, 3, (6,))

    whole, parts = mlp(dropout=0.0), mlp(dropout=0.0)
    train(whole, drawn(), loss, steps=6)
    with pytest.raises(Stopped):
        train(parts, drawn(), loss, steps=6, folder=tmp_path, save_every=2, on_step=stop_at(5))
    parts = mlp(dropout=0.0)
    train(parts, drawn(), loss, steps=6, folder=tmp_path, save_every=2)
    assert same(state(parts), state(whole))


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    family = mlp()
    train(family, batches, loss, steps=3, folder=tmp_path)
    before = state(family)
    steps: list[Progress] = []
    last = train(family, batches, loss, steps=3, folder=tmp_path, on_step=steps.append)
    assert not steps
    assert last.step == 3
    assert same(state(family), before)


def test_the_same_seed_gives_the_same_weights() -> None:
    runs = [mlp(), mlp(), mlp()]
    for family, seed in zip(runs, (1, 1, 2), strict=True):
        train(family, batches, loss, steps=4, seed=seed)
    assert same(state(runs[0]), state(runs[1]))
    assert not same(state(runs[0]), state(runs[2]))


def test_progress_tells_every_members_loss() -> None:
    family = mlp()
    told: list[Progress] = []
    last = train(family, batches, loss, steps=4, warmup=0.5, recipe=Sandwich(), on_step=told.append)
    assert [each.step for each in told] == [1, 2, 3, 4]
    assert told[-1] == last
    assert last.steps == 4
    assert family.space.largest() in last.losses
    assert family.space.smallest() in last.losses
    assert last.loss == next(iter(last.losses.values())) == last.losses[family.space.largest()]
    assert [round(each.lr / 1e-3, 6) for each in told] == [0.5, 1.0, 1.0, 0.5]


def poisoned(at: int) -> Callable[[int], Iterator[Any]]:
    def data(start: int) -> Iterator[Any]:
        for k, (x, y) in enumerate(batches(start), start):
            yield (x * float("nan") if k == at else x), y

    return data


def test_nan_stops_keeps_the_last_checkpoint_and_names_the_member(tmp_path: Path) -> None:
    family = mlp()
    with pytest.raises(TrainingDivergedError, match=r"loss of member \{.*fc1.width.*16.*\} is nan at step 5"):
        train(family, poisoned(5), loss, steps=9, folder=tmp_path, save_every=2)
    assert all(torch.isfinite(value).all() for value in state(family).values())
    path = latest_checkpoint(tmp_path)
    assert path is not None
    assert path.name == "checkpoint-00000004.safetensors"
    train(family, batches, loss, steps=9, folder=tmp_path, save_every=2)  # with the data mended it goes on
    whole = mlp()
    train(whole, batches, loss, steps=9)
    assert same(state(family), state(whole))


def test_a_smaller_member_that_diverges_is_the_one_named() -> None:
    family = mlp()
    values = iter([0.0, float("inf")])

    def bad(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.sum() * 0 + next(values)

    with pytest.raises(TrainingDivergedError, match=r"\{.*\} is inf at step 0") as caught:
        train(family, batches, bad, steps=1, recipe=Sandwich())
    assert family.space.largest().to_json() not in str(caught.value)


def test_gradients_that_are_not_finite_change_nothing() -> None:
    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.sum()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return torch.full((6, 3), float("inf"))

    family = mlp()
    family.prepare()
    before = state(family)
    with pytest.raises(TrainingDivergedError, match=r"gradients are .* at step 0"):
        train(family, batches, lambda outputs, targets: Steep.apply(outputs), steps=1)
    assert same(state(family), before)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (torch.zeros(4, 8), "a pair .*got Tensor"),
        ((torch.zeros(4, 8),), "got tuple of 1"),
        ([1, 2, 3], "got list of 3"),
        (None, "got NoneType"),
    ],
)
def test_a_batch_that_is_no_pair(wrong: Any, text: str) -> None:
    with pytest.raises(WrongShapeError, match=text):
        train(mlp(), [wrong], loss, steps=1)


@pytest.mark.parametrize("given", [[batch(k) for k in range(3)], lambda start: iter([batch(0)] * 3), []])
def test_too_few_batches(given: Any) -> None:
    count = 3 if callable(given) or given else 0
    with pytest.raises(WrongShapeError, match=rf"ended after {count} of 5 steps"):
        train(mlp(), given, loss, steps=5)


def test_a_loss_that_is_no_number() -> None:
    with pytest.raises(WrongShapeError, match=r"a loss is one number.*\(6, 3\)"):
        train(mlp(), batches, lambda outputs, targets: outputs, steps=1)
    with pytest.raises(WrongShapeError, match=r"a loss is one number.*0\.5"):
        train(mlp(), batches, lambda outputs, targets: 0.5, steps=1)  # type: ignore[arg-type,return-value]


def test_wrong_arguments() -> None:
    with pytest.raises(WrongShapeError, match="steps is a whole number, 0 or more; got -1"):
        train(mlp(), batches, loss, steps=-1)
    with pytest.raises(PliantError, match="recipe is a training technique"):
        train(mlp(), batches, loss, steps=1, recipe="sandwich")  # type: ignore[arg-type]


def test_another_seed_in_the_folder_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    train(mlp(), batches, loss, steps=2, folder=tmp_path, seed=1)
    files = sorted(tmp_path.iterdir())
    family = mlp(seed=5)
    before = state(family)
    with pytest.raises(PliantError, match="seed 1, this run has seed 2; use the same seed or another folder"):
        train(family, batches, loss, steps=2, folder=tmp_path, seed=2)
    assert same(state(family), before)
    assert sorted(tmp_path.iterdir()) == files


@pytest.mark.parametrize("clip", [0.01, None])
def test_clipping(clip: float | None) -> None:
    family = mlp(dropout=0.0)
    family.prepare()
    before = state(family)
    optimizer = torch.optim.SGD(family.parameters(), lr=1.0)
    last = train(family, batches, loss, steps=1, recipe=Largest(), optimizer=optimizer, clip=clip, warmup=0)
    moved = torch.stack([(value - before[name]).norm() for name, value in state(family).items()]).norm()
    assert last.gradient_norm > 0.01
    assert float(moved) == pytest.approx(clip if clip is not None else last.gradient_norm, rel=1e-3)


def test_without_a_recipe_the_catalogues_default_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe: Any = catalog.default("train")
    asked: list[str] = []

    def default(kind: str) -> Any:
        asked.append(kind)
        return recipe

    monkeypatch.setattr(catalog, "default", default)
    left, right = mlp(), mlp()
    train(left, batches, loss, steps=2)
    train(right, batches, loss, steps=2, recipe=recipe)
    assert asked == ["train"]
    assert same(state(left), state(right))


def test_evaluating_on_the_way_does_not_disturb_training() -> None:
    left, right = convnet(), convnet()
    modes: list[bool] = []

    def evaluate(progress: Progress) -> None:
        modes.append(left.model.training)
        left.model.eval()
        left.extract(left.space.smallest())
        with torch.no_grad():
            left.ready(left.space.smallest())(batch(0, (1, 8, 8))[0])

    train(left, pictures, loss, steps=4, on_step=evaluate)
    train(right, pictures, loss, steps=4)
    assert modes == [True] * 4
    assert same(state(left), state(right))


def test_modes_are_given_back() -> None:
    family = convnet()
    family.model.train()
    family.model.norm.eval()
    train(family, pictures, loss, steps=1)
    assert family.model.training
    assert not family.model.norm.training


@pytest.mark.parametrize("given", ["function", "list", "iterator"])
def test_members_have_statistics_after_training(given: str) -> None:
    """Nobody called ``calibrate_with``: what training saw is enough to evaluate a convnet's members."""
    family = convnet()
    data: Any = {"function": pictures, "list": [next(pictures(k)) for k in range(12)], "iterator": pictures()}[given]
    train(family, data, loss, steps=12)
    assert not family.uncalibrated
    net = family.ready(family.space.smallest())
    seen = [next(pictures(k))[0] for k in range(16 if given == "function" else 12)]
    with torch.no_grad():
        mean = torch.stack([net.stem(x).mean((0, 2, 3)) for x in seen]).mean(0)
    assert torch.allclose(net.norm.running_mean, mean, atol=1e-5)


@pytest.mark.parametrize("inputs", ["tuple", "dict"])
def test_inputs_of_any_structure(inputs: str) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x + y)))

    from pliant.techniques.elastic.width import Width

    x, y = torch.randn(6, 8), torch.randn(6, 8)
    family = Family(Two(), (x, y), [Width(multiple=4)])
    given: Any = (x, y) if inputs == "tuple" else {"x": x, "y": y}
    if inputs == "dict":
        family = Family(Two(), (), [Width(multiple=4)], {"x": x, "y": y})
    assert train(family, [(given, torch.zeros(6, dtype=torch.long))] * 2, loss, steps=2).step == 2
