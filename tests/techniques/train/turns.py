"""What the tests of recipes share: turns that write down, runs that are killed, references, and real digits."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.family import Family
from pliant.space import Config, Space
from pliant.technique import Recipe
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.width import Width
from pliant.training import Progress, train
from tests.family.nets import ConvNet, ViT, images, vectors
from tests.training.toy import batch, same, state


class Notes:
    """Stands in for a training step: writes down who is asked to learn."""

    def __init__(self, space: Space, seed: int = 0, step: int = 0, steps: int = 1, taught: Any = None) -> None:
        self.step, self.steps, self.space, self.rng = step, steps, space, random.Random(f"{seed}:{step}")
        self.memory: dict[str, Any] = {}
        self.rate = 1.0
        self.calls: list[tuple[Config, dict[str, Any]]] = []
        self.rates: list[float] = []
        self.losses: dict[Config, float] = {}
        self._taught = taught
        self._kept: dict[str, Config] = {}

    def learn(self, config: Config, **how: Any) -> str:
        self.calls.append((config, how))
        self.rates.append(self.rate)
        self.losses[config] = 1.0
        return f"outputs {len(self.calls)}"

    def update(self) -> None:
        self.calls.append((self.space.largest(), {"update": True}))

    def taught(self) -> Any:
        return self._taught

    def keep(self, name: str, config: Config) -> None:
        self._kept[name] = config

    def kept(self, name: str) -> bool:
        return name in self._kept

    def recall(self, name: str) -> str:
        return f"kept {self._kept[name].to_json()}"

    @property
    def learnt(self) -> list[tuple[Config, dict[str, Any]]]:
        """The calls but for optimizer steps."""
        return [(config, how) for config, how in self.calls if "update" not in how]


class Largest(Recipe):
    """Ordinary training: only the full network learns."""

    def step(self, turn: Any) -> None:
        turn.learn(turn.space.largest())


def plain(done: float) -> float:
    """A constant learning rate."""
    return 1.0


# ---- families and runs ---------------------------------------------------------------------------------------------
@cache
def _made(kind: str) -> tuple[Family, dict[str, Tensor]]:
    torch.manual_seed(0)
    if kind == "vit":
        family = Family(ViT(), (vectors(3, 4, 6),), [Width(multiple=8), Depth()])
    elif kind == "convnet":
        family = Family(ConvNet(), (images(),), [Width(multiple=8), Depth()])
    elif kind == "digits":
        family = Family(Deep(), (digits()[1][0][:4],), [Width(ratios=(0.25, 1.0)), Depth(least=0.25)])
    else:
        family = Family(ViT(depth=1), (vectors(3, 4, 6),))
    return family, state(family)


def fresh(kind: str) -> Any:
    """Return a family as it was made, always the same object: making one takes as long as a hundred steps.

    Args:
        kind: ``vit`` or ``convnet`` with elastic widths and depth, ``digits`` of :class:`Deep`, or ``one`` in which
            nothing bends.
    """
    family, weights = _made(kind)
    family.model.load_state_dict(weights)
    family.model.eval()
    family.prepared = False
    family.forget()
    family.calibrate_with([])
    for parameter in family.parameters():
        parameter.grad = None
    return family


def data_of(kind: str) -> Callable[[int], Iterator[Any]]:
    """Return the batches of one of these families, from any step on."""
    if kind == "digits":
        return digit_batches
    shape = (1, 8, 8) if kind == "convnet" else (4, 6)

    def batches(start: int) -> Iterator[Any]:
        while True:
            yield batch(start, shape, 5)
            start += 1

    return batches


def run(family: Family, kind: str, recipe: Recipe, steps: int, **how: Any) -> dict[str, Tensor]:
    """Train by gradient descent with momentum and return the weights."""
    optimizer = torch.optim.SGD(family.parameters(), lr=0.05, momentum=0.9)
    last = train(family, data_of(kind), F.cross_entropy, steps=steps, recipe=recipe, optimizer=optimizer, **how)
    assert last.step == steps
    return state(family)


class Killed(Exception):  # noqa: N818
    """Stands for a kill."""


def check_runs(recipe: Recipe, steps: int = 4) -> None:
    """A recipe trains a transformer, a convolutional network and a space of one member: weights change, finitely."""
    for kind in ("vit", "convnet", "one"):
        family = fresh(kind)
        family.prepare()
        before = state(family)
        after = run(family, kind, recipe, steps)
        assert all(torch.isfinite(value).all() for value in after.values())
        assert not same(before, after)
        smallest, inputs = family.space.smallest(), next(data_of(kind)(99))[0]
        cut, shared = family.extract(smallest), family.ready(smallest)  # statistics estimated, where there are any
        assert torch.allclose(cut(inputs), shared(inputs), atol=1e-6)


def check_resume(recipe: Recipe, folder: Path, kind: str = "vit", steps: int = 6) -> None:
    """A run that is killed between two checkpoints and started again ends with the weights of one never killed."""
    kill_at = steps // 2 | 1  # odd: the step before was saved, this one is lost

    def kill(progress: Progress) -> None:
        if progress.step == kill_at:
            raise Killed

    whole = run(fresh(kind), kind, recipe, steps, folder=folder / "whole", save_every=2)
    with pytest.raises(Killed):
        run(fresh(kind), kind, recipe, steps, folder=folder / "parts", save_every=2, on_step=kill)
    family = fresh(kind)
    with torch.no_grad():
        for parameter in family.parameters():  # other weights: everything must come from the checkpoint
            parameter.add_(1.0)
    assert same(run(family, kind, recipe, steps, folder=folder / "parts", save_every=2), whole)


def units(config: Config, name: str) -> int:
    """Return the option of a choice that counts something."""
    option = config[name]
    assert isinstance(option, int)
    return option


# ---- references ----------------------------------------------------------------------------------------------------
def spread(family: Family, config: Config, net: nn.Module) -> dict[str, Tensor]:
    """Return the gradients of an extracted member where its weights lie in the family, zero elsewhere."""
    slicing = family.draft(config).slicing()
    found = {name: torch.zeros_like(p) for name, p in family.model.named_parameters()}
    for name, parameter in net.named_parameters():
        picks = slicing.picks(name) or (None,) * parameter.dim()
        shape = found[name].shape
        kept = [torch.arange(s)[p if p is not None else slice(None)] for p, s in zip(picks, shape, strict=True)]
        if parameter.grad is not None:
            found[name][torch.meshgrid(*kept, indexing="ij")] += parameter.grad
    return found


def check_gradient(family: Family, wanted: Sequence[dict[str, Tensor]]) -> None:
    """The family's gradients are the sum of ``wanted``, up to rounding."""
    for name, parameter in family.model.named_parameters():
        goal = sum((each[name] for each in wanted), torch.zeros_like(parameter))
        assert parameter.grad is not None
        assert float((parameter.grad - goal).abs().max()) <= 1e-6 * max(1.0, float(goal.abs().max()))


# ---- real data -----------------------------------------------------------------------------------------------------
@cache
def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return scikit-learn's digits, inputs (B, 64) from 0 to 1 and classes: 1200 for training, the rest for testing."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x, y = torch.tensor(bunch.data, dtype=torch.float32) / 16, torch.tensor(bunch.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return (x[order[:1200]], y[order[:1200]]), (x[order[1200:]], y[order[1200:]])


def digit_batches(start: int) -> Iterator[Any]:
    """Random batches of 64 digits, from any step on."""
    x, y = digits()[0]
    while True:
        chosen = torch.randint(0, len(x), (64,), generator=torch.Generator().manual_seed(start))
        yield x[chosen], y[chosen]
        start += 1


class Deep(nn.Module):
    """``(B, 64) -> (B, 10)``: residual blocks with hidden layers, each closed by a normalisation."""

    def __init__(self, width: int = 32, hidden: int = 64, depth: int = 4) -> None:
        super().__init__()
        self.stem = nn.Linear(64, width)
        self.blocks = nn.Sequential(*(_Block(width, hidden) for _ in range(depth)))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


class _Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2, self.norm = nn.Linear(width, hidden), nn.Linear(hidden, width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.fc2(torch.relu(self.fc1(x))))


def digit_errors(recipe: Recipe, seed: int, steps: int, lr: float = 0.005, **how: Any) -> dict[Config, float]:
    """Train a network for digits, its weights drawn by ``seed``; return members' shares of errors in testing.

    The members are the ends, all depths of whole width, and every ninth of the others.
    """
    family = fresh("digits")
    torch.manual_seed(seed)
    for module in family.model.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
    optimizer = torch.optim.AdamW(family.parameters(), lr=lr, fused=True)
    train(family, digit_batches, F.cross_entropy, steps=steps, recipe=recipe, optimizer=optimizer, seed=seed, **how)
    (x, y), found = digits()[1], {}
    with torch.no_grad():
        exits = (family.space.complete({"blocks.depth": depth}) for depth in (1, 2, 3))
        for config in {*exits, family.space.largest(), *list(family.space.enumerate())[::9]}:
            found[config] = float((family.extract(config)(x).argmax(1) != y).float().mean())
    return found


@cache
def ordinary(seed: int) -> dict[Config, float]:
    """Return :func:`digit_errors` of a network that was trained as a whole, for 100 steps."""
    return digit_errors(Largest(), seed, 100)
