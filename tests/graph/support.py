"""What the tests of the kernel share: tiny networks, random cuts, and the identities that hold for every network."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pliant.graph import Analysis, analyze
from pliant.graph.realise import compare_forms, difference, outputs, sliced_copy
from pliant.graph.slicing import Slicing

TOLERANCE = 1e-5


class Tiny(nn.Module):
    """A network from a function and its parts: modules, parameters, or plain tensors (which become buffers)."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, (nn.Module, nn.Parameter)) or not isinstance(part, Tensor):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    def __getattr__(self, name: str) -> Any:  # the parts, whatever they are
        return super().__getattr__(name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * 0.5)


def randomise(model: nn.Module) -> nn.Module:
    """Change what a fresh network has in common: norms, biases, running statistics, heads that begin at zero."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() <= 1 or not parameter.any():
                parameter.add_(torch.rand(parameter.shape, generator=generator) * 0.3)
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.add_(torch.rand(buffer.shape, generator=generator) * 0.5)
    return model.eval()


def permutation(analysis: Analysis, rng: random.Random) -> dict[str, list[int]]:
    return {axis.name: rng.sample(range(axis.size), axis.size) for axis in analysis.axes}


def half(analysis: Analysis, rng: random.Random) -> dict[str, list[int]]:
    return {axis.name: rng.sample(range(axis.size), max(1, axis.size // 2)) for axis in analysis.axes}


def some(analysis: Analysis, rng: random.Random) -> dict[str, list[int]]:
    return {axis.name: rng.sample(range(axis.size), rng.randint(1, axis.size)) for axis in analysis.axes}


def masked(model: nn.Module, slicing: Slicing) -> nn.Module:
    """Return the full network with every parameter entry that the slicing cuts away set to zero."""
    net = copy.deepcopy(model)
    aliases = slicing.analysis.capture.aliases
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            for dim, pick in enumerate(slicing.picks(aliases.get(name, name))):
                if pick is not None:
                    keep = torch.zeros(parameter.shape[dim])
                    keep[pick if isinstance(pick, slice) else torch.from_numpy(np.asarray(pick))] = 1
                    parameter.mul_(keep.reshape([-1 if i == dim else 1 for i in range(parameter.dim())]))
    return net.eval()


def check(
    model: nn.Module,
    *args: Any,
    kwargs: Mapping[str, Any] | None = None,
    mask: bool = True,
    form: str = "module",
    batch: bool = True,
) -> Analysis:
    """Assert the identities of one network and return its analysis.

    ``mask``: a cut equals the original with the same entries zeroed (not where a normalisation or a mean runs over an
    axis). ``form="graph"``: the user's class cannot run with the smaller sizes, which is then asserted too.
    ``batch``: the graph form must run with another batch size.
    """
    rng, kwargs = random.Random(3), dict(kwargs or {})
    randomise(model)
    base = outputs(model, args, kwargs)
    analysis = analyze(model, args, kwargs)
    whole = Slicing(analysis)
    assert difference(outputs(sliced_copy(model, whole, "module"), args, kwargs), base) == 0
    assert difference(outputs(sliced_copy(model, whole, "graph"), args, kwargs), base) <= TOLERANCE
    for _ in range(2):
        permuted = sliced_copy(model, Slicing(analysis, permutation(analysis, rng)), "graph")
        assert difference(outputs(permuted, args, kwargs), base) <= 1e-4, "a permutation changes the outputs"
    failures = []
    for kind in (half, some, half):
        slicing = Slicing(analysis, kind(analysis, rng))
        cut = outputs(sliced_copy(model, slicing, "graph"), args, kwargs)
        assert [value.shape for value in cut] == [value.shape for value in base]
        if mask:
            gap = difference(cut, outputs(masked(model, slicing), args, kwargs))
            assert gap <= 1e-4, f"cut and masked differ by {gap:.1e}"
        gap, _, error = compare_forms(model, slicing, analysis)
        failures.append("" if gap <= TOLERANCE else error or f"forms differ by {gap:.1e}")
    assert form == "graph" or not any(failures), failures
    assert form == "module" or any(failures), "the module form runs: say so"
    if batch:
        check_dynamic_batch(model, analysis, args, kwargs)
    return analysis


def check_dynamic_batch(model: nn.Module, analysis: Analysis, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Assert that the graph form, whole and cut, runs with a batch of its own."""
    larger = [torch.cat([a, a, a[:1]]) if isinstance(a, Tensor) else a for a in args]
    named = {n: torch.cat([a, a, a[:1]]) if isinstance(a, Tensor) else a for n, a in kwargs.items()}
    got = outputs(sliced_copy(model, Slicing(analysis), "graph"), larger, named)
    assert difference(got, outputs(model, larger, named)) <= 1e-4
    cut = sliced_copy(model, Slicing(analysis, half(analysis, random.Random(1))), "graph")
    assert [v.shape for v in outputs(cut, larger, named)] == [v.shape for v in got]


def sizes(analysis: Analysis) -> list[int]:
    """Return the sizes of the axes, sorted."""
    return sorted(axis.size for axis in analysis.axes)


def codes(analysis: Analysis) -> set[str]:
    """Return the codes of all reasons for what is fixed."""
    assert all(fixed.reason.text for fixed in analysis.fixed)
    return {fixed.reason.code for fixed in analysis.fixed}
