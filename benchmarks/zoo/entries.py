"""The networks of the zoo, by name: what they are, how they are made, and what they run on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

Inputs = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Net:
    """One network.

    Attributes:
        name: ``group/network``.
        make: builds it with random weights, and the arguments that it runs on.
        attention: whether it has attention heads that must bend.
    """

    name: str
    make: Callable[[], Inputs]
    attention: bool = False

    @property
    def group(self) -> str:
        """Where it comes from: torchvision, timm, transformers or own."""
        return self.name.partition("/")[0]


def vision(*shape: int) -> tuple[Tensor, ...]:
    """Return one batch of two random images (or videos) of ``shape``."""
    import torch

    return (torch.randn(2, *shape),)


def networks() -> Mapping[str, Net]:
    """Return the whole zoo, cheap groups first."""
    from . import of_timm, of_torchvision, of_transformers, own

    rows = [*own.NETWORKS, *of_transformers.networks(), *of_torchvision.networks(), *of_timm.networks()]
    return {net.name: net for net in rows}


def chosen(patterns: str) -> list[Net]:
    """Return the networks whose names match one of the comma-separated ``patterns`` (with wildcards, or a part)."""
    wanted = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
    return [
        net
        for net in networks().values()
        if not wanted or any(fnmatchcase(net.name, p) or fnmatchcase(net.name, f"*{p}*") for p in wanted)
    ]
