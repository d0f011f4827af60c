"""Copies of module trees, one after another by the same plans."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pliant.graph.clone import Plans, clone_modules, clone_tree, tree


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)
        self.again = self.first
        self.sizes, self.names, self.turn = (4, 4), {"in": [1]}, torch.arange(3)
        self.inner = nn.Sequential(nn.ReLU(), nn.Linear(4, 2))
        self.act: Callable[[torch.Tensor], torch.Tensor] = lambda x: self.norm(x)  # noqa: PLW0108  (it holds the net)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Use all of them."""
        found: torch.Tensor = self.inner(self.act(self.first(x)))
        return found


def _again(net: nn.Module, plans: Plans) -> nn.Module:
    return clone_modules([module for _, module in tree(net)], plans)[id(net)]


def test_the_tree_is_that_of_named_modules() -> None:
    net = Net()
    assert tree(net) == list(net.named_modules(remove_duplicate=False))


def test_nothing_but_parameters_and_plain_values_is_shared() -> None:
    net, plans, x = Net(), Plans(), torch.randn(2, 4)
    for copy in (clone_tree(net), _again(net, plans), _again(net, plans)):
        assert isinstance(copy, Net)
        assert list(copy.__dict__) == list(net.__dict__)
        assert torch.equal(copy(x), net(x))
        assert copy.first is copy.again
        assert copy.first is not net.first
        assert copy.first.weight is net.first.weight
        assert copy.sizes is net.sizes
        copy.names["in"].append(2)
        copy.first.register_forward_hook(lambda *_: None)
        copy.inner.append(nn.ReLU())
        copy.norm._parameters["bias"] = None
        copy.act.__closure__[0].cell_contents.norm.eps = 7.0  # type: ignore[index]
        assert copy.norm.eps == 7.0
    assert net.names == {"in": [1]}
    assert not net.first._forward_hooks
    assert len(net.inner) == 2
    assert net.norm.bias is not None
    assert net.norm.eps != 7.0


def _set_an_attribute(net: Net) -> None:
    net.norm.eps = 0.5


def _add_an_attribute(net: Net) -> None:
    net.inner.told = "so"  # type: ignore[assignment]


def _rename_an_attribute(net: Net) -> None:
    net.__dict__["called"] = net.__dict__.pop("sizes")


def _fill_what_was_empty(net: Net) -> None:
    net.inner[1].register_forward_hook(lambda _m, _a, out: out + 1)


def _another_module(net: Net) -> None:
    net.inner[1] = nn.Linear(4, 3)


def _one_module_more(net: Net) -> None:
    net.inner.append(nn.Sequential(nn.Linear(2, 5)))


def _evaluate(net: Net) -> None:
    net.eval()


@pytest.mark.parametrize(
    "change",
    [
        _set_an_attribute,
        _add_an_attribute,
        _rename_an_attribute,
        _fill_what_was_empty,
        _another_module,
        _one_module_more,
        _evaluate,
    ],
)
def test_a_copy_follows_what_has_changed_since_the_last(change: Callable[[Net], None]) -> None:
    net, plans, x = Net(), Plans(), torch.randn(2, 4)
    _again(net, plans)
    change(net)
    copy = _again(net, plans)
    assert torch.equal(copy(x), net(x))
    for (path, one), (other_path, other) in zip(tree(net), tree(copy), strict=True):
        assert path == other_path
        assert list(one.__dict__) == list(other.__dict__)
        assert {k: v for k, v in one.__dict__.items() if isinstance(v, (int, float, str))} == {
            k: v for k, v in other.__dict__.items() if isinstance(v, (int, float, str))
        }
        assert len(one._forward_hooks) == len(other._forward_hooks)
