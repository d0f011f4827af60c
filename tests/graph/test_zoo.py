"""The invariants of the design over well-known networks.

Each is captured once. Norm parameters, running statistics, biases and heads that begin at zero are randomised first:
what a fresh network has in common hides mix-ups.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pliant.graph import Analysis, analyze
from pliant.graph.realise import compare_forms, difference, outputs, sliced_copy
from pliant.graph.slicing import Slicing
from tests.graph import support
from tests.graph.nets import ZOO, Entry

FAST = {"timm vit", "llama", "lstm", "gru", "branches", "tied"}


@dataclass(frozen=True)
class Case:
    entry: Entry
    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    base: list[Tensor]
    analysis: Analysis

    def run(self, net: nn.Module) -> list[Tensor]:
        return outputs(net, self.args, self.kwargs)

    def agree(self, slicing: Slicing) -> None:
        """Assert that both forms of a slicing compute the same, or that only the graph form runs, as was said."""
        gap, _, error = compare_forms(self.model, slicing, self.analysis)
        if self.entry.graph:
            cut = self.run(sliced_copy(self.model, slicing, "graph"))
            assert [v.shape for v in cut] == [v.shape for v in self.base]
        else:
            assert gap <= 1e-5, error or f"the two forms differ by {gap:.1e}"


@cache
def _case(name: str) -> Case:
    entry = next(entry for entry in ZOO if entry.name == name)
    torch.manual_seed(11)
    model, args, kwargs = entry.make()
    support.randomise(model)
    return Case(entry, model, args, kwargs, outputs(model, args, kwargs), analyze(model, args, kwargs))


@pytest.fixture(
    scope="module",
    params=[pytest.param(e.name, marks=() if e.name in FAST else pytest.mark.slow, id=e.name) for e in ZOO],
)
def case(request: pytest.FixtureRequest) -> Any:
    yield _case(request.param)
    _case.cache_clear()


def test_it_bends(case: Case) -> None:
    analysis = case.analysis
    assert {axis.kind for axis in analysis.axes} >= case.entry.kinds
    assert len(analysis.blocks) >= case.entry.blocks
    assert not analysis.trace.unknown
    assert all(fixed.reason.text for fixed in analysis.fixed)
    assert not {"rule", "operation"} & support.codes(analysis)
    total = sum(p.numel() for p in case.model.parameters())
    cut = sliced_copy(case.model, Slicing(analysis, support.half(analysis, random.Random(0))), "graph")
    share = sum(p.numel() for p in cut.parameters()) / total
    assert share < 0.75


def test_the_full_network_is_the_original(case: Case) -> None:
    whole = Slicing(case.analysis)
    own = case.run(sliced_copy(case.model, whole, "module"))
    assert all(torch.equal(a, b) for a, b in zip(own, case.base, strict=True))
    assert difference(case.run(sliced_copy(case.model, whole, "graph")), case.base) <= 1e-5


def test_permuting_every_axis_changes_nothing(case: Case) -> None:
    for seed in range(2):
        slicing = Slicing(case.analysis, support.permutation(case.analysis, random.Random(seed)))
        assert difference(case.run(sliced_copy(case.model, slicing, "graph")), case.base) <= 1e-4


def test_both_forms_of_a_cut_agree(case: Case) -> None:
    rng = random.Random(5)
    case.agree(Slicing(case.analysis, support.half(case.analysis, rng)))
    case.agree(Slicing(case.analysis, support.some(case.analysis, rng)))


def test_leaving_blocks_out(case: Case) -> None:
    rng = random.Random(6)
    drop = [block.name for block in case.analysis.blocks if rng.random() < 0.5]
    gap, _, error = compare_forms(case.model, Slicing(case.analysis, {}, drop), case.analysis)
    assert gap <= 1e-5, error or gap
    every = [block.name for block in case.analysis.blocks]
    gap, _, error = compare_forms(case.model, Slicing(case.analysis, {}, every), case.analysis)
    assert gap <= 1e-5, error or gap
    case.agree(Slicing(case.analysis, support.half(case.analysis, rng), drop))


def test_a_cut_equals_the_original_with_the_same_units_masked(case: Case) -> None:
    """Independent of both forms. Only axes over which no mean or norm runs: hidden widths without one, and heads."""
    analysis, rng = case.analysis, random.Random(8)
    keep = {
        axis.name: rng.sample(range(axis.size), max(1, axis.size // 2))
        for axis in analysis.axes
        if axis.kind in ("heads", "group") or (axis.kind == "width" and not _normalised(case, axis))
    }
    assert keep
    slicing = Slicing(analysis, keep)
    cut = case.run(sliced_copy(case.model, slicing, "graph"))
    assert difference(cut, case.run(support.masked(case.model, slicing))) <= 1e-4


def _normalised(case: Case, axis: Any) -> bool:
    """Tell whether a layer norm runs over an axis, or an activation that does not map zero to zero follows it."""
    nodes = {node.name: node for node in case.analysis.capture.graph.nodes}
    names = {getattr(nodes[op].target, "_opname", "") for op in axis.operations}
    return bool(names & {"layer_norm", "rms_norm", "group_norm", "softmax", "mean", "hardsigmoid", "sigmoid"})


def test_another_batch_runs_in_graph_form(case: Case) -> None:
    support.check_dynamic_batch(case.model, case.analysis, case.args, case.kwargs)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_the_hidden_width_of_recurrent_layers_bends_their_gates_stay(name: str) -> None:
    analysis = _case(name).analysis
    assert sorted(axis.size for axis in analysis.axes) == [16, 24, 32]
    reasons = [str(fixed.reason) for fixed in analysis.fixed if fixed.what.startswith("rnn")]
    assert reasons
    assert all("gates of a recurrent layer" in reason for reason in reasons)
