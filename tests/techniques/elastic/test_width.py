"""Elastic width: sizes, rounding, which axes bend, and that smaller members are prefixes of larger ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pliant.checks import PliantError, UnknownNameError, WrongShapeError
from pliant.family import Family, at
from pliant.graph.analysis import Analysis, analyze
from pliant.techniques.elastic.width import Width
from tests.family.nets import ConvNet, Gpt, ViT, images, tokens, vectors


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
