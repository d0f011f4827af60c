from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.graph.support import Tiny, check, codes, sizes, weight

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def _image(n: int, channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, *([6] * n))


def _pair(a: nn.Module, b: nn.Module, act=torch.relu) -> Tiny:
    return Tiny(lambda s, x: s.b(act(s.a(x))), a=a, b=b)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_plain(n: int) -> None:
    analysis = check(_pair(CONV[n](3, 8, 3, padding=1), CONV[n](8, 4, 1)), _image(n))
    assert sizes(analysis) == [8]
    assert codes(analysis) >= {"kernel", "input", "output"}


@pytest.mark.parametrize("n", [1, 2, 3])
def test_depthwise(n: int) -> None:
    net = Tiny(
        lambda s, x: s.c(torch.relu(s.b(torch.relu(s.a(x))))),
        a=CONV[n](3, 8, 1), b=CONV[n](8, 8, 3, padding=1, groups=8), c=CONV[n](8, 4, 1),
    )  # fmt: skip
    assert sizes(check(net, _image(n))) == [8]


def test_depthwise_with_a_multiplier() -> None:
    net = Tiny(
        lambda s, x: s.c(torch.relu(s.b(torch.relu(s.a(x))))),
        a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(6, 12, 3, groups=6), c=nn.Conv2d(12, 4, 1),
    )  # fmt: skip
    assert sizes(check(net, _image(2))) == [2, 6]


def test_grouped_bends_groups_and_widths_within_them() -> None:
    net = Tiny(
        lambda s, x: s.c(torch.relu(s.b(torch.relu(s.a(x))))),
        a=nn.Conv2d(3, 12, 1), b=nn.Conv2d(12, 20, 3, groups=4), c=nn.Conv2d(20, 4, 1),
    )  # fmt: skip
    assert sizes(check(net, _image(2))) == [3, 4, 5]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_transposed(n: int) -> None:
    net = Tiny(
        lambda s, x: s.c(torch.relu(s.b(torch.relu(s.a(x))))),
        a=CONV[n](3, 8, 1), b=TRANSPOSED[n](8, 6, 2, stride=2), c=CONV[n](6, 4, 1),
    )  # fmt: skip
    assert sizes(check(net, _image(n))) == [6, 8]


@pytest.mark.parametrize("groups", [2, 8])
def test_transposed_grouped(groups: int) -> None:
    net = Tiny(
        lambda s, x: s.c(torch.relu(s.b(torch.relu(s.a(x))))),
        a=nn.Conv2d(3, 8, 1), b=nn.ConvTranspose2d(8, 24, 2, groups=groups), c=nn.Conv2d(24, 4, 1),
    )  # fmt: skip
    assert sizes(check(net, _image(2))) == ([2, 4, 12] if groups == 2 else [3, 8])


def test_unbatched_and_computed_weights() -> None:
    net = Tiny(
        lambda s, x: s.b(F.conv2d(s.a(x).relu(), s.w * s.gain, groups=2).relu()),
        a=nn.Conv2d(3, 8, 1), w=weight(6, 4, 3, 3), gain=weight(6, 1, 1, 1), b=nn.Conv2d(6, 2, 1),
    )  # fmt: skip
    check(net, torch.randn(3, 6, 6), batch=False)


def test_weight_norm_is_followed() -> None:
    net = _pair(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 1)), nn.Conv2d(8, 2, 1))
    assert sizes(check(net, _image(2), mask=False)) == [8]  # the norm of a masked row is zero: 0 / 0


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        nn.AvgPool2d(3, 1, 1),
        nn.AdaptiveAvgPool2d(2),
        nn.AdaptiveMaxPool2d(2),
        nn.LPPool2d(2, 2),
        nn.Upsample(scale_factor=2),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.ZeroPad2d(1),
        nn.ReflectionPad2d(1),
    ],
    ids=lambda pool: f"{type(pool).__name__} {getattr(pool, 'mode', '')}",
)
def test_pooling_resizing_and_padding_pass_channels_on(pool: nn.Module) -> None:
    net = Tiny(lambda s, x: s.b(s.pool(torch.relu(s.a(x)))), a=nn.Conv2d(3, 8, 1), pool=pool, b=nn.Conv2d(8, 2, 1))
    assert sizes(check(net, _image(2))) == [8]


def test_pooling_over_features_keeps_them() -> None:
    """A 1-d pooling of (batch, features) mixes neighbouring features even where it leaves their number as it is."""
    net = _pair(nn.Linear(5, 8), nn.Linear(8, 2), act=lambda x: F.avg_pool1d(x.relu(), 3, 1, 1))
    analysis = check(net, torch.randn(4, 5))
    assert sizes(analysis) == []
    assert "space" in codes(analysis)


@pytest.mark.parametrize("shape", [(2, 3, 6, 6), (3, 6, 6)])
def test_pooling_over_depth_keeps_it(shape: tuple[int, ...]) -> None:
    net = Tiny(
        lambda s, x: s.b(F.avg_pool3d(torch.relu(s.a(x)).unsqueeze(-4), 3, 1, 1).squeeze(-4)),
        a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 2, 1),
    )  # fmt: skip
    assert sizes(check(net, torch.randn(shape), batch=False)) == []


@pytest.mark.parametrize("amount", [(0, 2), (1, 0), (1, -1), (-1, 0)])
def test_padded_cropped_or_shifted_features_are_kept(amount: tuple[int, int]) -> None:
    net = _pair(nn.Linear(5, 8), nn.Linear(8 + sum(amount), 2), act=lambda x: F.pad(x.relu(), amount))
    analysis = check(net, torch.randn(4, 5))
    assert sizes(analysis) == []
    assert "pad" in codes(analysis)


def test_pixel_shuffle_and_back() -> None:
    net = Tiny(
        lambda s, x: s.c(F.pixel_unshuffle(s.b(F.pixel_shuffle(torch.relu(s.a(x)), 2).relu()).relu(), 3)),
        a=nn.Conv2d(3, 24, 1), b=nn.Conv2d(6, 5, 1), c=nn.Conv2d(45, 2, 1),
    )  # fmt: skip
    assert sizes(check(net, _image(2))) == [5, 6]


def test_channel_shuffle() -> None:
    net = Tiny(
        lambda s, x: s.c(s.b(s.shuffle(torch.relu(s.a(x)))).relu()),
        a=nn.Conv2d(3, 12, 1), shuffle=nn.ChannelShuffle(3), b=nn.Conv2d(12, 8, 1, groups=4), c=nn.Conv2d(8, 2, 1),
    )  # fmt: skip
    analysis = check(net, _image(2))
    assert 2 in sizes(analysis)


def test_unfold_and_fold() -> None:
    net = Tiny(
        lambda s, x: s.b(F.fold(F.unfold(torch.relu(s.a(x)), 2, stride=2) * 2, (6, 6), 2, stride=2)),
        a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 2, 1),
    )  # fmt: skip
    assert sizes(check(net, _image(2))) == [8]


def test_grid_sample() -> None:
    net = Tiny(
        lambda s, x, g: s.b(F.grid_sample(torch.relu(s.a(x)), g, align_corners=False)),
        a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 2, 1),
    )  # fmt: skip
    assert sizes(check(net, _image(2), torch.rand(2, 4, 4, 2))) == [8]


def test_a_kernel_of_one_lets_the_other_dimension_bend() -> None:
    """A convolution over stacked features mixes the stack only: each feature stands for itself."""
    net = Tiny(
        lambda s, x: s.b(s.mix(torch.stack([s.a(x).relu(), s.c(x).relu(), s.a(x).tanh()], 1))[:, 0]),
        a=nn.Linear(5, 8), c=nn.Linear(5, 8), mix=nn.Conv1d(3, 1, 1), b=nn.Linear(8, 2),
    )  # fmt: skip
    assert sizes(check(net, torch.randn(2, 5))) == [8]


@pytest.mark.parametrize(
    "mix", [nn.Conv1d(3, 1, 3, padding=1), nn.Conv1d(3, 1, 1, stride=2), nn.Conv1d(3, 1, 1, padding=1)]
)
def test_a_wider_kernel_a_step_or_a_border_keep_it(mix: nn.Module) -> None:
    net = Tiny(
        lambda s, x: s.b(s.mix(torch.stack([s.a(x).relu(), s.c(x).relu(), s.a(x).tanh()], 1))[:, 0, :4]),
        a=nn.Linear(5, 8), c=nn.Linear(5, 8), mix=mix, b=nn.Linear(4, 2),
    )  # fmt: skip
    analysis = check(net, torch.randn(2, 5))
    assert sizes(analysis) == []
    assert "space" in codes(analysis)
