from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.graph.support import Tiny, check, sizes


def _conv(norm: nn.Module) -> Tiny:
    return Tiny(lambda s, x: s.b(s.norm(s.a(x)).relu()), a=nn.Conv2d(3, 12, 1), norm=norm, b=nn.Conv2d(12, 2, 1))


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(12), nn.InstanceNorm2d(12, affine=True), nn.BatchNorm2d(12, affine=False)]
)
def test_norms_of_single_channels(norm: nn.Module) -> None:
    mask = bool(norm.affine)
    assert sizes(check(_conv(norm), torch.randn(3, 3, 4, 4), mask=mask)) == [12]


def test_group_norm_bends_groups_and_channels_of_a_group() -> None:
    assert sizes(check(_conv(nn.GroupNorm(3, 12)), torch.randn(3, 3, 4, 4), mask=False)) == [3, 4]


@pytest.mark.parametrize("groups", [1, 12])
def test_group_norm_at_its_ends(groups: int) -> None:
    assert sizes(check(_conv(nn.GroupNorm(groups, 12)), torch.randn(3, 3, 4, 4), mask=False)) == [12]


def test_cutting_whole_groups_equals_masking_them() -> None:
    analysis = check(_conv(nn.GroupNorm(3, 12)), torch.randn(3, 3, 4, 4), mask=False)
    assert [axis.size for axis in analysis.axes] == [3, 4]


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.RMSNorm(8), nn.LayerNorm(8, elementwise_affine=False)])
def test_norms_over_features(norm: nn.Module) -> None:
    net = Tiny(lambda s, x: s.b(s.norm(s.a(x))), a=nn.Linear(5, 8), norm=norm, b=nn.Linear(8, 2))
    # Without a scale, the module has no tensor that tells its size: the sizes that it was given are patched.
    assert sizes(check(net, torch.randn(3, 4, 5), mask=False)) == [8]


def test_layer_norm_over_two_dimensions_keeps_the_positions() -> None:
    net = Tiny(lambda s, x: s.b(s.norm(s.a(x))), a=nn.Linear(5, 8), norm=nn.LayerNorm((4, 8)), b=nn.Linear(8, 2))
    assert sizes(check(net, torch.randn(3, 4, 5), mask=False)) == [8]


def test_a_norm_over_a_concatenation() -> None:
    net = Tiny(
        lambda s, x: s.out(s.norm(torch.cat([s.a(x), s.b(x)], 1)).relu()),
        a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 6, 1), norm=nn.BatchNorm2d(10), out=nn.Conv2d(10, 2, 1),
    )  # fmt: skip
    assert sizes(check(net, torch.randn(2, 3, 4, 4))) == [4, 6]


def test_local_response_norm_mixes_neighbours() -> None:
    assert sizes(check(_conv(nn.LocalResponseNorm(3)), torch.randn(2, 3, 4, 4))) == []


def test_softmax_over_an_axis() -> None:
    net = Tiny(lambda s, x: s.b(torch.softmax(s.a(x), -1)), a=nn.Linear(5, 8), b=nn.Linear(8, 2))
    assert sizes(check(net, torch.randn(3, 5), mask=False)) == [8]
