"""Parameters and bytes: ties, views, and the real file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pliant.measure import Bytes, Params
from pliant.measure.weights import distinct_state


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.small = nn.Parameter(torch.randn(3, 5, dtype=torch.float16))
        self.norm = nn.BatchNorm1d(7)  # floats, and one int64
        self.big = nn.Parameter(torch.randn(2, dtype=torch.float64))
        self.register_buffer("flags", torch.zeros(5, dtype=torch.bool))
        self.register_buffer("größe", torch.zeros(1))
        self.register_buffer("scratch", torch.zeros(99), persistent=False)


def test_parameters_count_once_when_tied() -> None:
    assert Params().measure(nn.Linear(4, 3)).value == 15
    assert Params().measure(Tied()).value == 40
    with torch.device("meta"):
        assert Params().measure(Tied()).value == 40


def test_two_parameters_over_the_same_memory_are_one() -> None:
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    net[1].weight = nn.Parameter(net[0].get_parameter("weight").data)
    assert net[0].weight is not net[1].weight
    assert Params().measure(net).value == 16


def test_a_view_counts_its_own_share_of_the_storage() -> None:
    shared = torch.randn(100, 100)
    net = nn.Linear(10, 20, bias=False)
    net.weight = nn.Parameter(shared[:20, :10])
    assert Params().measure(net).value == 200


@pytest.mark.parametrize("net", [nn.Linear(4, 3), Tied(), Mixed(), nn.Sequential(*[nn.Linear(3, 3)] * 3)])
def test_bytes_equal_the_file(net: nn.Module, tmp_path: Path) -> None:
    tensors, tied = distinct_state(net)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "x.safetensors", tied or None)
    assert Bytes().measure(net).value == (tmp_path / "x.safetensors").stat().st_size
