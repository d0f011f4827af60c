"""Awkward networks: what real models do and textbook models do not. Each works or gets a message that helps."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pliant import Family, Width
from pliant.graph import Analysis
from pliant.graph.realise import difference, outputs
from tests.graph.support import Tiny, check

KINDS = ("width", "heads", "stream", "head_width", "group")


def tiny(function: Any, width: int = 8, **parts: Any) -> Tiny:
    """A network with a layer ``a`` (5 to ``width``) and a layer ``b`` (``width`` to 2) that ``function`` joins."""
    return Tiny(function, **{"a": nn.Linear(5, width), "b": nn.Linear(width, 2), **parts})


def mlp(width: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 2))


def family_of(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None, tolerance: float = 1e-5
) -> Family:
    """Make a family, and assert of its smallest member that it is smaller, runs, and is what is extracted."""
    family = Family(model, args, [Width(multiple=1, kinds=KINDS)], kwargs)
    family.model.eval()
    whole, small = family.space.largest(), family.space.smallest()
    base = outputs(family.model, args, kwargs or {})
    assert difference(outputs(family.extract(whole), args, kwargs or {}), base) <= tolerance
    net = family.extract(small)
    member = outputs(family.member(small).eval(), args, kwargs or {})
    assert difference(outputs(net, args, kwargs or {}), member) <= 1e-6
    assert [v.shape for v in member] == [v.shape for v in base]
    assert difference(outputs(family.model, args, kwargs or {}), base) == 0, "the user's network is as it was"
    assert sum(p.numel() for p in net.parameters()) < sum(p.numel() for p in family.model.parameters())
    return family


def works(model: nn.Module, *args: Any, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Analysis:
    """Assert the kernel's identities of a network, and that a family of it has a smaller member."""
    analysis = check(model, *args, kwargs=kwargs, **options)
    assert analysis.axes, "nothing bends"
    family_of(model, args, kwargs)
    return analysis


class Counting(nn.Module):
    """Keeps Python-side state, a buffer that counts its calls, and a list of what it computed."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 2)
        self.calls = 0
        self.last: Any = None
        self.history: list[Any] = []
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.count += 1
        self.last = self.a(x)
        self.history.append(self.last.shape)
        return self.b(self.last.relu())


class Locked(nn.Module):
    """Holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.lock = nn.Linear(5, 8), nn.Linear(8, 2), threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            return self.b(self.a(x).relu())


class Straight(torch.autograd.Function):
    """Rounds forwards, lets the gradient pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def checkpointed(s: Tiny, x: Tensor) -> Tensor:
    return s.b(checkpoint(lambda h: s.a(h).relu(), x, use_reentrant=False))
