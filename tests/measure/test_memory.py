"""Peak memory on nets worked out by hand."""

from __future__ import annotations

import torch
from torch import nn

from pliant.measure import PeakMemory


def peak(net: nn.Module, *args: torch.Tensor) -> dict[str, float]:
    measurement = PeakMemory(args).measure(net)
    return {"total": measurement.value, **{k: measurement.details[k] for k in ("weights", "inputs", "activations")}}


def test_a_chain_holds_two_neighbours_at_a_time() -> None:
    # inside Sequential the input of a layer lives until its output is there: 100 + 50 floats, then 50 + 10
    net = nn.Sequential(nn.Linear(20, 100, bias=False), nn.Linear(100, 50, bias=False), nn.Linear(50, 10, bias=False))
    found = peak(net, torch.randn(1, 20))
    assert found["weights"] == 4 * (20 * 100 + 100 * 50 + 50 * 10)
    assert found["inputs"] == 4 * 20
    assert found["activations"] == 4 * (100 + 50)
    assert found["total"] == found["weights"] + found["inputs"] + found["activations"]


def test_a_residual_keeps_its_input() -> None:
    class Residual(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept = x * 2  # alive to the end
            wide = torch.cat([kept, kept, kept])
            narrow = wide[:4].clone()
            del wide
            return kept + narrow

    found = peak(Residual(), torch.randn(4, 8))
    assert found["activations"] == 4 * 32 * (1 + 3 + 1)


def test_views_and_in_place_operations_cost_nothing() -> None:
    class Views(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x + 1).relu_().view(-1).unsqueeze(0).transpose(0, 1)

    assert peak(Views(), torch.randn(4, 8))["activations"] == 4 * 32


def test_a_member_over_a_big_storage_counts_its_share() -> None:
    net = nn.Linear(10, 20, bias=False)
    net.weight = nn.Parameter(torch.randn(100, 100)[:20, :10])
    assert peak(net, torch.randn(1, 10))["total"] == 4 * (200 + 10 + 20)


def test_the_same_every_time() -> None:
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    x = torch.randn(2, 5, 8)
    assert len({PeakMemory((x,)).measure(net).value for _ in range(5)}) == 1
