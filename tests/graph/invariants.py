"""What must hold for every network: checked on one that was drawn at random."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pliant import Depth, Family, Width
from pliant.graph import Analysis, analyze
from pliant.graph.realise import compare_forms, difference, outputs, sliced_copy
from pliant.graph.slicing import Slicing
from tests.graph.random_networks import Drawn
from tests.graph.support import half, masked, permutation, randomise, some

KINDS = ("width", "heads", "stream", "head_width", "group")


@dataclass(frozen=True)
class Found:
    """What came of one network: whether something bends, and whether the user's class runs with smaller sizes."""

    axes: int
    blocks: int
    module: bool


def check_everything(drawn: Drawn) -> Found:
    """Assert all invariants of one network."""
    model, args, rng = randomise(drawn.model), (drawn.x,), random.Random(5)
    base = outputs(model, args, {})
    analysis = analyze(model, args)
    whole = Slicing(analysis)
    assert difference(outputs(sliced_copy(model, whole, "module"), args, {}), base) == 0
    assert difference(outputs(sliced_copy(model, whole, "graph"), args, {}), base) <= 1e-5
    turned = sliced_copy(model, Slicing(analysis, permutation(analysis, rng)), "graph")
    assert difference(outputs(turned, args, {}), base) <= 1e-4, "a permutation changes the outputs"
    module = _cuts(drawn, model, analysis, rng)
    _without_blocks(drawn, model, analysis)
    if analysis.axes or analysis.blocks:
        _gradients(model, drawn.x, analysis)
    return Found(len(analysis.axes), len(analysis.blocks), module)


def _cuts(drawn: Drawn, model: nn.Module, analysis: Analysis, rng: random.Random) -> bool:
    """Assert that cuts equal the masked original, and both forms each other; returns whether the module form runs."""
    runs = True
    for kind in (half, some):
        slicing = Slicing(analysis, kind(analysis, rng))
        cut = outputs(sliced_copy(model, slicing, "graph"), (drawn.x,), {})
        if drawn.maskable:
            gap = difference(cut, outputs(masked(model, slicing), (drawn.x,), {}))
            assert gap <= 1e-4, f"cut and masked differ by {gap:.1e}"
        gap, _, error = compare_forms(model, slicing, analysis)
        assert error or gap <= 1e-5, f"the two forms differ by {gap:.1e}"
        runs = runs and not error
    return runs


def _without_blocks(drawn: Drawn, model: nn.Module, analysis: Analysis) -> None:
    """Assert that a network without its blocks is the one in which those steps hand their input on."""
    if not analysis.blocks:
        return
    names = [block.name for block in analysis.blocks]
    shortened = outputs(sliced_copy(model, Slicing(analysis, drop=names), "graph"), (drawn.x,), {})
    handles = []
    for name in names:
        module = model.get_submodule(name)
        handles.append(module.register_forward_hook(lambda module, args, out: args[0]))
    try:
        reference = outputs(model, (drawn.x,), {})
    finally:
        for handle in handles:
            handle.remove()
    assert difference(shortened, reference) <= 1e-5, f"without {names}"
    own = outputs(sliced_copy(model, Slicing(analysis, drop=names), "module"), (drawn.x,), {})
    assert difference(own, reference) == 0


def _gradients(model: nn.Module, x: Tensor, analysis: Analysis) -> None:
    """Assert that a member's gradients are those of the network that is extracted, where it has its weights."""
    width = [Width(ratios=(0.5, 1.0), multiple=1, kinds=KINDS)] if analysis.axes else []
    family = Family(model, (x,), [*width, *([Depth()] if analysis.blocks else [])], analysis=analysis)
    config = family.space.smallest()
    slicing = family.draft(config).slicing()
    net = family.extract(config)
    model.eval()
    member = family.member(config)
    model.zero_grad()
    member(x).square().sum().backward()
    net(x).square().sum().backward()
    aliases = analysis.capture.aliases
    shared = {aliases.get(name, name): parameter for name, parameter in model.named_parameters()}
    for name, parameter in net.named_parameters():
        canonical = aliases.get(name, name)
        wanted = parameter.grad
        given = shared[canonical].grad
        if wanted is None:
            assert given is None or not given.any(), name
            continue
        assert given is not None, f"{name} got no gradient"
        part = slicing.cut(canonical, given)
        torch.testing.assert_close(part, wanted, rtol=1e-4, atol=1e-5)
        outside = float(given.abs().sum()) - float(part.abs().sum())
        assert abs(outside) <= 1e-3 * max(1.0, float(part.abs().sum())), f"{name}: gradients outside the member"
    model.zero_grad(set_to_none=True)
