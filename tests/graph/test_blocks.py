from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pliant
from pliant import Depth, Family, analyze
from pliant.graph import Analysis
from pliant.graph.realise import compare_forms, difference, outputs, sliced_copy
from pliant.graph.slicing import Slicing
from tests.graph.support import Tiny, check, randomise


class Block(nn.Module):
    def __init__(self, how: str = "pre", width: int = 8) -> None:
        super().__init__()
        self.norm, self.up, self.down, self.how = nn.LayerNorm(width), nn.Linear(width, 12), nn.Linear(12, width), how

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
        h = self.down(torch.relu(self.up(self.norm(x) if self.how != "post" else x)))
        if mask is not None:
            h = h * mask
        if self.how == "post":
            return self.norm(x + h)
        if self.how == "tuple":
            return x + h, None, h
        if self.how == "passed":
            return {"mask": mask, "x": x + h}
        return x + h


def _net(*blocks: nn.Module, forward=None) -> Tiny:
    def plain(s: Tiny, x: Tensor) -> Tensor:
        x = s.inp(x)
        for block in s.blocks:
            x = block(x)
        return s.out(x)

    return Tiny(forward or plain, inp=nn.Linear(5, 8), blocks=nn.ModuleList(blocks), out=nn.Linear(8, 2))


def _dropped(net: nn.Module, analysis: Analysis, names: list[str]) -> list[Tensor]:
    args = analysis.capture.args
    gap, _, error = compare_forms(net, Slicing(analysis, {}, names), analysis)
    assert gap <= 1e-5, error
    return outputs(sliced_copy(net, Slicing(analysis, {}, names), "graph"), args, {})


def test_pre_norm_blocks_form_a_run() -> None:
    net = _net(Block(), Block(), Block())
    analysis = check(net, torch.randn(3, 5), mask=False)
    assert [(b.name, b.run) for b in analysis.blocks] == [(f"blocks.{i}", "blocks") for i in range(3)]
    x = analysis.capture.args[0]
    wanted = net.out(net.blocks[1](net.inp(x)))
    assert difference(_dropped(net, analysis, ["blocks.0", "blocks.2"]), [wanted.detach()]) < 1e-6
    assert difference(_dropped(net, analysis, [f"blocks.{i}" for i in range(3)]), [net.out(net.inp(x)).detach()]) < 1e-6


def test_post_norm_blocks() -> None:
    analysis = check(_net(Block("post"), Block("post")), torch.randn(3, 5), mask=False)
    assert len(analysis.blocks) == 2


def test_blocks_that_return_tuples_with_unused_results() -> None:
    def forward(s: Tiny, x: Tensor) -> Tensor:
        x = s.inp(x)
        for block in s.blocks:
            x = block(x)[0]
        return s.out(x)

    net = _net(Block("tuple"), Block("tuple"), forward=forward)
    analysis = check(net, torch.randn(3, 5), mask=False)
    assert len(analysis.blocks) == 2
    _dropped(net, analysis, ["blocks.0"])


def test_what_a_block_only_hands_on_is_handed_on() -> None:
    def forward(s: Tiny, x: Tensor) -> Tensor:
        x, mask = s.inp(x), (x[:, :1] > 0).float()
        for block in s.blocks:
            result = block(x, mask=mask)
            x, mask = result["x"], result["mask"]
        return s.out(x) * mask

    net = _net(Block("passed"), Block("passed"), forward=forward)
    analysis = check(net, torch.randn(3, 5), mask=False)
    assert len(analysis.blocks) == 2
    _dropped(net, analysis, ["blocks.1"])


def test_a_mask_before_the_hidden_state_is_no_hidden_state() -> None:
    class Masked(Block):
        def forward(self, mask: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x, mask)

    def forward(s: Tiny, x: Tensor) -> Tensor:
        mask, x = (x[:, :1] > 0).float(), s.inp(x)
        for block in s.blocks:
            x = block(mask, x)
        return s.out(x)

    net = _net(Masked(), Masked(), forward=forward)
    analysis = check(net, torch.randn(3, 5), mask=False)
    assert [b.interface.hidden for b in analysis.blocks] == [1, 1]
    _dropped(net, analysis, ["blocks.0"])


def test_a_result_that_is_used_elsewhere_keeps_the_block() -> None:
    def forward(s: Tiny, x: Tensor) -> Tensor:
        x, _, skip = s.blocks[0](s.inp(x))
        return s.out(s.blocks[1](x)[0] + skip)

    analysis = check(_net(Block("tuple"), Block("tuple"), forward=forward), torch.randn(3, 5), mask=False)
    assert [b.name for b in analysis.blocks] == ["blocks.1"]
    (kept,) = [f for f in analysis.fixed if f.what == "blocks.0"]
    assert "used elsewhere" in str(kept.reason)


def test_a_part_of_a_split_that_is_used_elsewhere_keeps_the_block() -> None:
    class Leaky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 16)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            a, b = self.fc(x).chunk(2, -1)
            return x + a, b

    def forward(s: Tiny, x: Tensor) -> Tensor:
        x, extra = s.blocks[0](s.inp(x))
        return s.out(x * extra)

    analysis = check(_net(Leaky(), forward=forward), torch.randn(3, 5))
    assert not analysis.blocks
    assert any(f.what == "blocks.0" for f in analysis.fixed)


def test_a_block_that_is_used_twice_is_kept() -> None:
    shared = Block()
    analysis = check(_net(shared, Block(), shared), torch.randn(3, 5), mask=False)
    assert [b.name for b in analysis.blocks] == ["blocks.1"]
    assert any("more than once" in str(f.reason) for f in analysis.fixed)


def test_stages_are_opened_into_their_blocks() -> None:
    net = _net(nn.Sequential(Block(), Block()), nn.Sequential(Block(), Block(), nn.Sequential(Block(), Block())))
    analysis = check(net, torch.randn(3, 5), mask=False)
    names = ["blocks.0.0", "blocks.0.1", "blocks.1.0", "blocks.1.1", "blocks.1.2.0", "blocks.1.2.1"]
    assert [b.name for b in analysis.blocks] == names
    assert len({b.run for b in analysis.blocks}) == 3


def test_a_module_without_a_residual_path_is_no_block() -> None:
    analysis = check(_net(nn.Linear(8, 8), Block()), torch.randn(3, 5), mask=False)
    assert [b.name for b in analysis.blocks] == ["blocks.1"]


def test_a_block_that_changes_the_width_is_no_block() -> None:
    class Down(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.skip = nn.Conv2d(4, 8, 3, 2, 1), nn.Conv2d(4, 8, 1, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.skip(x)

    net = Tiny(lambda s, x: s.out(s.down(s.inp(x))), inp=nn.Conv2d(3, 4, 1), down=Down(), out=nn.Conv2d(8, 2, 1))
    assert not check(net, torch.randn(2, 3, 6, 6)).blocks


class Sums(nn.Module):
    """A network whose own forward holds the additions."""

    def __init__(self, add: Callable[[Any, Tensor, int], Tensor], parts: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.add = add
        self.into, self.out = nn.Linear(5, 8), nn.Linear(8, 2)
        self.layers = nn.ModuleList(parts() for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(2))
        self.gains = nn.ParameterList(torch.rand(8) for _ in range(2))
        self.drop, self.back = nn.Dropout(0.1), nn.Parameter(torch.randn(2, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        for i in range(2):
            x = self.add(self, x, i)
        return self.out(x)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8))


def pair() -> nn.Module:
    return nn.ModuleList([mlp(), mlp()])


def in_turn(s: Any, x: Tensor, i: int) -> Tensor:
    first, second = s.layers[i]
    x = first(x) + x
    return x + second(s.norms[i](x))


def written_into(s: Any, x: Tensor, i: int) -> Tensor:
    y = s.layers[i](x)
    y += x
    return y


@pytest.mark.parametrize(
    ("add", "parts"),
    [
        (lambda s, x, i: x + s.layers[i](x), mlp),
        (lambda s, x, i: x + s.gains[i] * s.drop(s.layers[i](s.norms[i](x))), mlp),
        (lambda s, x, i: x + s.layers[i](x * x.pow(2).mean(-1, keepdim=True).add(1e-6).rsqrt() * s.gains[i]), mlp),
        (lambda s, x, i: s.norms[i](x + s.layers[i](x)), mlp),
        (written_into, mlp),
        (in_turn, pair),
    ],
    ids=["plain", "scaled", "a norm of its own", "post-norm", "in place", "pairs"],
)
def test_branches_that_the_networks_own_code_adds(add: Any, parts: Any) -> None:
    net, x = randomise(Sums(add, parts)), torch.randn(3, 5)
    analysis = analyze(net, (x,))
    paths = [f"layers.{i}" for i in range(2)] if parts is mlp else [f"layers.{i}.{j}" for i in range(2) for j in (0, 1)]
    assert [block.name for block in analysis.blocks] == paths
    assert {block.run for block in analysis.blocks} == {"layers"}
    gone = paths[1:]
    own = sliced_copy(net, Slicing(analysis, drop=gone), "module")
    graph = sliced_copy(net, Slicing(analysis, drop=gone), "graph")
    for path in gone:
        net.get_submodule(path).register_forward_hook(lambda module, args, out: torch.zeros_like(out))
    assert torch.equal(own(x), net(x))
    assert difference(outputs(graph, (x,), {}), outputs(net, (x,), {})) <= 1e-6


@pytest.mark.parametrize(
    "add",
    [
        lambda s, x, i: torch.add(s.layers[i](x), x, alpha=2),
        lambda s, x, i: s.norms[i](x).exp() + s.layers[i](x),
        lambda s, x, i: x * s.gains[i] + s.layers[i](x),
        lambda s, x, i: x + s.norms[i](s.layers[i](x)),
        lambda s, x, i: (x + (y := s.layers[i](x))) * y,
        lambda s, x, i: x + s.layers[i](s.into(s.out(x) @ s.back)),
        lambda s, x, i: x + s.layers[i](x + s.into(s.out(x) @ s.back)),
    ],
    ids=["doubled", "another function", "a scaled path", "a norm between", "used again", "far ahead", "around all"],
)
def test_what_is_added_to_anything_else_stays(add: Any) -> None:
    assert not analyze(Sums(add, mlp), (torch.randn(3, 5),)).blocks


def test_branches_of_two_lists_that_take_turns() -> None:
    def in_turn(s: Any, x: Tensor, i: int) -> Tensor:
        x = x + s.layers[i](x)
        return x + s.others[i](x)

    net = Sums(in_turn, mlp)
    net.others = nn.ModuleList(mlp() for _ in range(2))
    blocks = analyze(net, (torch.randn(3, 5),)).blocks
    assert [(block.name, block.run) for block in blocks] == [
        ("layers.0", "layers"), ("others.0", "others"), ("layers.1", "layers"), ("others.1", "others"),
    ]  # fmt: skip


def test_a_family_without_its_branches() -> None:
    net, x = Sums(in_turn, pair), torch.randn(3, 5)
    family = Family(net, (x,), [Depth(least=0)])
    assert [(choice.name, choice.options) for choice in family.space.choices] == [("layers.depth", (0, 1, 2, 3, 4))]
    assert family.form == "module"
    count = pliant.Macs((x,)).count(family)
    assert count is not None
    for depth in range(5):
        small = family.extract({"layers.depth": depth})
        assert pliant.Macs((x,)).measure(small).value == count(family.space.indices([{"layers.depth": depth}]))[0]
    family.member({"layers.depth": 0})(x).sum().backward()
    assert not any(p.grad is not None and p.grad.any() for p in net.layers.parameters())
