from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.graph.support import Tiny, check, codes, sizes


def _net(middle) -> Tiny:
    return Tiny(lambda s, x: s.b(middle(s.a(x))), a=nn.Linear(5, 8), b=nn.Linear(8, 2))


@pytest.mark.parametrize(
    "middle",
    [
        lambda h: torch.fft.fft(h, dim=1).real,
        lambda h: torch.fft.irfft(torch.fft.rfft(h, dim=1) * 2, n=6, dim=1),
        lambda h: torch.fft.fftn(h, dim=(1,)).abs(),
        lambda h: torch.fft.rfft2(h[:, :, None], dim=(1, 2)).imag[:, :, 0],
    ],
)
def test_units_beside_a_transform_bend(middle) -> None:
    assert sizes(check(_net(middle), torch.randn(2, 6, 5))) == [8]


@pytest.mark.parametrize(
    "middle",
    [
        lambda h: torch.fft.fft(h).real,
        lambda h: torch.fft.fft2(h).real,
        lambda h: torch.fft.fftshift(h, dim=-1),
        lambda h: torch.fft.fftn(h, dim=(1, 2)).real,
    ],
)
def test_units_that_are_transformed_stay(middle) -> None:
    analysis = check(_net(middle), torch.randn(2, 6, 5))
    assert sizes(analysis) == []
    assert "order" in codes(analysis)
