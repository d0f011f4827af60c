"""Elastic width: sizes, rounding, which axes bend, and that smaller members are prefixes of larger ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from pliant.checks import PliantError, UnknownNameError, WrongShapeError
from pliant.family import Family, at
from pliant.graph.analysis import Analysis, analyze
from pliant.techniques.elastic._roles import roles
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.width import Width
from tests.family.nets import ConvNet, Gpt, ViT, images, tokens, vectors
from tests.graph.nets import ZOO


@pytest.fixture(scope="module")
def vit() -> Analysis:
    return analyze(ViT(dim=32, heads=4), (vectors(3, 4, 6),))


def options(width: Width, analysis: Analysis) -> dict[str, tuple[int, ...]]:
    return {choice.name: choice.options for choice in width.choices(analysis)}  # type: ignore[misc]


def test_sizes_are_shares_rounded_to_a_multiple(vit: Analysis) -> None:
    found = options(Width(kinds=("width", "heads", "stream", "head_width")), vit)
    assert found["blocks.0.width"] == (16, 32, 48, 64)
    assert found["blocks.0.attn.heads"] == (1, 2, 3, 4)  # heads are counted, not rounded
    assert found["stream"] == (8, 16, 24, 32)
    assert "blocks.0.attn.head_width" not in found  # 8 wide: no smaller multiple of 8


@pytest.mark.parametrize(
    ("ratios", "multiple", "expected"),
    [
        ((0.5,), 8, (32, 64)),  # the full size is always there
        ((1.0,), 8, None),  # and alone it is no choice
        ((0.3, 0.31, 0.32), 8, (16, 24, 64)),
        ((0.01,), 8, (8, 64)),  # at least one multiple
        ((0.01, 0.5), 1, (1, 32, 64)),
        ((0.9,), 48, (48, 64)),
        ((0.5,), 64, None),
    ],
)
def test_rounding(vit: Analysis, ratios: tuple[float, ...], multiple: int, expected: tuple[int, ...] | None) -> None:
    assert options(Width(ratios, multiple), vit).get("blocks.0.width") == expected


def test_a_full_size_that_is_no_multiple_stays_an_option() -> None:
    analysis = analyze(ConvNet(width=12, hidden=20), (images(),))
    assert options(Width(), analysis)["blocks.0.width"] == (8, 16, 20)


def test_only_the_kinds_asked_for_bend(vit: Analysis) -> None:
    assert set(options(Width(kinds=("heads",)), vit)) == {"blocks.0.attn.heads", "blocks.1.attn.heads"}
    assert set(options(Width(kinds=("stream",)), vit)) == {"stream"}
    with pytest.raises(UnknownNameError, match="no kind of axis named 'head'; did you mean 'heads'"):
        Width(kinds=("head",))


@pytest.mark.parametrize("ratios", [(), (0.0, 1.0), (0.5, 1.5), (-0.5,)])
def test_wrong_shares_are_refused(ratios: tuple[float, ...]) -> None:
    with pytest.raises(WrongShapeError, match="shares of the full size"):
        Width(ratios)


def test_a_wrong_multiple_is_refused() -> None:
    with pytest.raises(PliantError, match="multiple is at least 1; got 0"):
        Width(multiple=0)


def test_smaller_members_are_prefixes_of_larger_ones() -> None:
    family: Any = Family(ConvNet(), (images(),), [Width(multiple=4, kinds=("width", "stream"))])
    full = family.space.largest()
    small, large = (family.member({**full, "blocks.0.width": width}) for width in (4, 12))
    wide, narrow = large.blocks[0].conv1.weight, small.blocks[0].conv1.weight
    assert narrow.shape == (4, 16, 3, 3)
    assert torch.equal(narrow, wide[:4])
    assert narrow.data_ptr() == wide.data_ptr() == family.model.blocks[0].conv1.weight.data_ptr()
    assert torch.equal(small.blocks[0].conv2.weight, family.model.blocks[0].conv2.weight[:, :4])


def test_heads_of_a_fused_projection_keep_their_queries_keys_and_values() -> None:
    family: Any = Family(ViT(), (vectors(3, 4, 6),), [Width(kinds=("heads",))])
    full = family.model.blocks[0].attn.qkv.weight.reshape(3, 4, 4, 16)
    net = family.member(family.space.complete({"blocks.0.attn.heads": 2}))
    assert torch.equal(net.blocks[0].attn.qkv.weight.reshape(3, 2, 4, 16), full[:, :2])
    assert net.blocks[0].attn.num_heads == 2


def test_constraints_speak_about_sizes() -> None:
    family = Family(
        Gpt(), (tokens(),), [Width(multiple=4)], constraints=["blocks.0.width >= 16", "blocks.1.width <= 8"]
    )
    assert family.space.smallest()["blocks.0.width"] == 16
    assert family.space.largest()["blocks.1.width"] == 8


def test_sorting_touches_only_the_axes_that_bend() -> None:
    model = ConvNet()
    family = Family(model, (images(),), [at("blocks.0.*", Width(multiple=4))])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    family.prepare()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"blocks.0.conv1.weight", "blocks.0.conv2.weight"}  # its BatchNorm is the same for all, being new


def test_roles_are_names_that_differ_in_numbers_only() -> None:
    found = options(Width(multiple=4, uniform=True, kinds=("width", "heads")), analyze(Gpt(), (tokens(),)))
    apart = options(Width(multiple=4, kinds=("width", "heads")), analyze(Gpt(), (tokens(),)))
    assert {name for name in found if "*" in name} == {"blocks.*.attn.heads", "blocks.*.width"}
    assert found["blocks.*.width"] == apart["blocks.0.width"] == apart["blocks.1.width"]
    assert len(found) < len(apart)


def test_equal_roles_of_unlike_sizes_are_told_apart() -> None:
    @dataclass(frozen=True)
    class Named:
        name: str
        size: int
        kind: str = "width"

    axes: Any = [Named("a.0.w", 8), Named("a.1.w", 16), Named("a.2.w", 8), Named("b.0.c.0.w", 8), Named("b.0.c.1.w", 8)]
    assert {name: len(group) for name, group in roles(axes, lambda axis: axis.size).items()} == {
        "a.*.w": 2,
        "a.1.w": 1,
        "b.0.c.*.w": 2,
    }
    axes.append(Named("a.3.w", 16))
    assert set(roles(axes, lambda axis: axis.size)) == {"a.*.w.8", "a.*.w.16", "b.0.c.*.w"}


def test_one_choice_bends_all_layers_of_a_role() -> None:
    family: Any = Family(Gpt(), (tokens(),), [Width(multiple=4, uniform=True)])
    family.prepare()
    small = family.space.complete({"blocks.*.width": 8, "blocks.*.attn.heads": 1})
    net = family.member(small)
    shapes = {name: tuple(p.shape) for name, p in net.named_parameters()}
    first = {n.removeprefix("blocks.0."): s for n, s in shapes.items() if n.startswith("blocks.0.")}
    second = {n.removeprefix("blocks.1."): s for n, s in shapes.items() if n.startswith("blocks.1.")}
    assert first == second
    before = {name: p.detach().clone() for name, p in family.model.named_parameters()}
    net(tokens()).square().mean().backward()
    torch.optim.SGD(family.parameters(), lr=0.1).step()
    changed = [name for name, p in family.model.named_parameters() if not torch.equal(p, before[name])]
    assert any(name.startswith("blocks.0.") for name in changed)
    alone = family.extract(small)
    assert torch.equal(alone(tokens()), family.ready(small)(tokens()))


@pytest.mark.slow
def test_uniform_members_are_saved_and_loaded_by_their_own_class(tmp_path: Path) -> None:
    model, args, kwargs = next(entry for entry in ZOO if entry.name == "llama").make()
    full: Any = model
    family: Any = Family(model.eval(), args, [Width(multiple=8, uniform=True), Depth()], kwargs)
    family.prepare()
    small = family.space.smallest()
    assert {"model.layers.*.mlp.width", "model.layers.*.self_attn.heads", "model.layers.depth"} == set(small)
    family.member(small)(**kwargs).logits.square().mean().backward()
    torch.optim.SGD(family.parameters(), lr=0.1).step()
    alone = family.extract(small)
    assert len(alone.model.layers) == small["model.layers.depth"] == alone.config.num_hidden_layers
    assert alone.config.intermediate_size == small["model.layers.*.mlp.width"]
    assert full.config.num_hidden_layers == 2
    alone.save_pretrained(tmp_path)
    back = type(full).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.allclose(back(**kwargs).logits, family.ready(small)(**kwargs).logits, atol=1e-6)
