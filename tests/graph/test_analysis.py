from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from pliant.checks import UnknownNameError
from pliant.graph import Analysis, analyze
from tests.graph.support import Tiny


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    net = nn.Sequential(nn.Linear(5, 8), Block(), Block(), nn.Linear(8, 2))
    return analyze(net, (torch.randn(3, 5),))


def test_axes_are_named_after_the_module_that_holds_them(analysis: Analysis) -> None:
    assert [axis.name for axis in analysis.axes] == ["stream", "1.width", "2.width"]
    stream = analysis.axes[0]
    assert (stream.kind, stream.size) == ("stream", 8)
    assert stream.parameters == (
        "0.weight", "0.bias", "1.up.weight", "1.down.weight", "1.down.bias",
        "2.up.weight", "2.down.weight", "2.down.bias", "3.weight",
    )  # fmt: skip


def test_it_describes_itself_as_plain_data(analysis: Analysis) -> None:
    plain = json.loads(json.dumps(analysis.describe()))
    assert [axis["name"] for axis in plain["axes"]] == ["stream", "1.width", "2.width"]
    assert [block["name"] for block in plain["blocks"]] == ["1", "2"]
    assert len(plain["sites"]) == 6
    assert plain["summary"]["axes"] == 3
    assert plain["summary"]["unknown_operations"] == {}
    assert {fixed["code"] for fixed in plain["fixed"]} == {"input", "output"}
    assert all(fixed["why"] for fixed in plain["fixed"])


def test_only_a_part_of_it(analysis: Analysis) -> None:
    part = analysis.only("1*")
    assert [axis.name for axis in part.axes] == ["1.width"]
    assert [block.name for block in part.blocks] == ["1"]
    with pytest.raises(UnknownNameError, match="no part named"):
        analysis.only("nothing.*")


def test_unknown_names_get_the_nearest(analysis: Analysis) -> None:
    assert analysis.axis("stream").size == 8
    assert analysis.block("2").module == "2"
    with pytest.raises(UnknownNameError, match="did you mean 'stream'"):
        analysis.axis("steam")
    with pytest.raises(UnknownNameError, match="no block named '9'"):
        analysis.block("9")


def test_an_activation_written_by_hand_is_no_stream() -> None:
    def gelu(x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(x + 0.044715 * x**3))

    net = Tiny(lambda s, x: s.b(gelu(s.a(x))), a=nn.Linear(5, 8), b=nn.Linear(8, 2))
    assert [axis.kind for axis in analyze(net, (torch.randn(2, 5),)).axes] == ["width"]


def test_sites_are_the_operations_with_weights() -> None:
    net = nn.Sequential(nn.Embedding(10, 8), nn.Conv1d(4, 4, 1), nn.Linear(8, 2))
    sites = analyze(net, (torch.randint(0, 10, (2, 4)),)).sites
    assert [(site.name, site.kind, site.weight) for site in sites] == [
        ("0", "embedding", "0.weight"), ("1", "conv1d", "1.weight"), ("2", "linear", "2.weight"),
    ]  # fmt: skip


def test_names_of_axes_are_unique() -> None:
    net = Tiny(lambda s, x: s.b(s.a(x).view(-1, 4, 2, 3).sum(1).flatten(1)), a=nn.Linear(5, 24), b=nn.Linear(6, 2))
    names = [axis.name for axis in analyze(net, (torch.randn(2, 5),)).axes]
    assert len(names) == len(set(names)) == 3


def test_the_time_is_told(analysis: Analysis) -> None:
    assert set(analysis.seconds) == {"capture", "analysis"}
