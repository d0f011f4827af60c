"""Elastic kernels against kernels cut by hand, and through training, storage and extraction."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.checks import CorruptFileError, NoEffectWarning, WrongShapeError
from pliant.family import Family, at
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.kernel_size import KernelSize, shrunk
from pliant.techniques.elastic.width import Width
from pliant.techniques.train.sandwich import Sandwich
from pliant.training import TrainingStep, train
from tests.family.nets import images


class Block(nn.Module):
    """A residual path through a depthwise, dilated kernel of 7 and a norm; it can be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(8, 8, 7, padding=6, dilation=2, groups=8)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.norm(self.wide(x)))


class Net(nn.Module):
    """``(B, 1, 8, 8) -> (B, 5)``: kernels of 7 (depthwise, dilated), 5 (strided) and 3, a residual path, a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.block = Block()
        self.mid = nn.Conv2d(8, 16, 5, padding="same", bias=False)
        self.down = nn.Conv2d(16, 16, 5, stride=2, padding=2)
        self.valid = nn.Conv2d(16, 8, 3)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(torch.relu(self.stem(x)))
        x = torch.relu(self.down(torch.relu(self.mid(x))))
        return self.head(torch.relu(self.valid(x)).mean((2, 3)))


class Speech(nn.Module):
    """``(B, 4, 20) -> (B, 3)``: one dimension, two layers that play one role."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(4, 4, 5, padding=2) for _ in range(2))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.head(x.mean(2))


def family(*more: Any, **fields: Any) -> Family:
    torch.manual_seed(0)
    return Family(Net(), (images(),), [KernelSize(**fields), *more])


def by_hand(net: Any, sizes: dict[str, int], matrices: dict[str, Tensor]) -> Net:
    """Return a network whose kernels are cut and multiplied in plain loops."""
    made = copy.deepcopy(net).eval()
    for name, size in sizes.items():
        layer: Any = made.get_submodule(name)
        weight = layer.weight.detach().clone()
        for step in (5, 3):
            if step < weight.shape[-1] and step >= size:
                edge = (weight.shape[-1] - step) // 2
                centre = weight[:, :, edge : edge + step, edge : edge + step]
                matrix = matrices[f"{name}.kernel.to{step}"]
                weight = torch.empty_like(centre)
                for i in range(centre.shape[0]):
                    for j in range(centre.shape[1]):
                        weight[i, j] = (matrix @ centre[i, j].reshape(-1)).reshape(step, step)
        other: Any = nn.Conv2d(layer.in_channels, layer.out_channels, size, layer.stride, dilation=layer.dilation,
                               padding=(size - 1) // 2 * layer.dilation[0], groups=layer.groups)  # fmt: skip
        other.weight, other.bias = nn.Parameter(weight), layer.bias
        owner, _, last = name.rpartition(".")
        setattr(made.get_submodule(owner), last, other)
    return made


@pytest.mark.slow
def test_layers_that_keep_sizes_offer_kernels() -> None:
    made = family()
    found = {choice.name: choice.options for choice in made.space.choices}
    assert found == {"block.wide.kernel": (3, 5, 7), "mid.kernel": (3, 5), "down.kernel": (3, 5)}
    assert set(made.extra) == {
        "block.wide.kernel.to5", "block.wide.kernel.to3", "mid.kernel.to3", "down.kernel.to3"
    }  # fmt: skip
    assert made.extra["block.wide.kernel.to5"].shape == (25, 25)
    assert {c.name: c.options for c in family(sizes=(1, 3)).space.choices}["block.wide.kernel"] == (1, 3, 7)
    assert not family(transform=False).extra
    names = [c.name for c in Family(Net(), (images(),), [at("mid*", KernelSize())]).space.choices]
    assert names == ["mid.kernel"]


@pytest.mark.parametrize(
    "sizes", [{"block.wide": 5}, {"block.wide": 3}, {"mid": 3, "down": 3}, {"block.wide": 5, "mid": 3, "down": 3}]
)
def test_members_are_the_networks_cut_by_hand(sizes: dict[str, int]) -> None:
    made, x = family(), images()
    with torch.no_grad():
        for matrix in made.extra.values():
            matrix.add_(0.1 * torch.randn_like(matrix))
    config = made.space.check({**made.space.largest(), **{f"{name}.kernel": size for name, size in sizes.items()}})
    wanted = by_hand(made.model, sizes, {n: p.detach() for n, p in made.extra.items()})
    member = made.member(config).eval()
    assert torch.allclose(member(x), wanted(x), atol=1e-6)
    copy_of_it: Any = made.extract(config)
    assert torch.equal(copy_of_it(x), member(x))
    assert {n: p.shape for n, p in copy_of_it.named_parameters()} == {n: p.shape for n, p in wanted.named_parameters()}
    assert not hasattr(copy_of_it.block.wide, "parametrizations")


def test_the_largest_is_the_model_itself() -> None:
    made = family()
    assert made.member(made.space.largest()) is made.model
    assert [type(m) for m in made.model.modules()] == [type(m) for m in Net().modules()]


def close(left: Tensor | None, right: Tensor | None) -> bool:
    """Whether two gradients are the same, or both missing."""
    return left is right if left is None or right is None else torch.allclose(left, right, atol=1e-6)


def test_gradients_reach_weights_and_matrices_as_through_plain_autograd() -> None:
    made, x, y = family(), images(), torch.tensor([0, 1, 2, 3, 4, 0])
    made.model.train()
    config = made.space.check({"block.wide.kernel": 3, "mid.kernel": 3, "down.kernel": 5})
    twin = copy.deepcopy(made.model)
    matrices = {n: nn.Parameter(p.detach().clone()) for n, p in made.extra.items()}
    net: Any = twin
    wide = shrunk(
        shrunk(net.block.wide.weight, 5, matrices["block.wide.kernel.to5"]), 3, matrices["block.wide.kernel.to3"]
    )
    mid = shrunk(net.mid.weight, 3, matrices["mid.kernel.to3"])
    h = torch.relu(net.stem(x))
    h = h + torch.relu(net.block.norm(F.conv2d(h, wide, net.block.wide.bias, padding=2, dilation=2, groups=8)))
    h = torch.relu(net.down(torch.relu(F.conv2d(h, mid, padding=1))))
    F.cross_entropy(net.head(torch.relu(net.valid(h)).mean((2, 3))), y).backward()
    TrainingStep(made, (x, y), F.cross_entropy).learn(config)
    for name, parameter in made.model.named_parameters():
        assert close(parameter.grad, twin.get_parameter(name).grad), name
    for name, matrix in matrices.items():
        assert close(made.extra[name].grad, matrix.grad), name


@pytest.mark.slow
def test_with_widths_and_depth_it_trains_resumes_and_is_stored(tmp_path: Path) -> None:
    data = [(images(seed=k), torch.tensor([0, 1, 2, 3, 4, k % 5])) for k in range(6)]

    def run(folder: Path, steps: int, made: Family | None = None) -> Family:
        made = made or family(Width(multiple=4), Depth(per_block=True))
        train(made, data, F.cross_entropy, steps=steps, recipe=Sandwich(between=1), folder=folder, save_every=2)
        return made

    whole = run(tmp_path / "a", 6)

    class Stop(Exception):  # noqa: N818
        pass

    def stop(progress: Any) -> None:
        if progress.step == 5:
            raise Stop

    parts = family(Width(multiple=4), Depth(per_block=True))
    with pytest.raises(Stop):
        train(parts, data, F.cross_entropy, steps=6, recipe=Sandwich(between=1), folder=tmp_path / "b", save_every=2,
              on_step=stop)  # fmt: skip
    torch.manual_seed(7)
    parts = Family(Net(), (images(),), [KernelSize(), Width(multiple=4), Depth(per_block=True)])
    run(tmp_path / "b", 6, parts)
    assert not torch.equal(whole.extra["block.wide.kernel.to5"], torch.eye(25))
    for name, matrix in whole.extra.items():
        assert torch.equal(matrix, parts.extra[name]), name
    config = whole.space.check({**whole.space.smallest(), "block.wide.kernel": 5, "block.keep": True})
    x = images()
    assert torch.equal(whole.extract(config)(x), parts.extract(config)(x))
    whole.save(tmp_path / "family")
    loaded = Family.load(tmp_path / "family", Net())
    loaded.calibrate_with(data)
    whole.calibrate_with(data)
    assert torch.equal(loaded.extract(config)(x), whole.extract(config)(x))


def test_a_store_of_other_extra_parameters_is_refused(tmp_path: Path) -> None:
    made = family()
    made.extra.pop("mid.kernel.to3")
    made.save(tmp_path)
    with pytest.raises(CorruptFileError, match=r"mid\.kernel\.to3"):
        Family.load(tmp_path, Net())


def test_as_a_graph_of_operations_a_smaller_kernel_stands_in_zeros() -> None:
    made, x = family(), images()
    with torch.no_grad():
        for matrix in made.extra.values():
            matrix.add_(0.1 * torch.randn_like(matrix))
    config = made.space.smallest()
    wanted = made.extract(config)(x)
    made.form = "graph"
    made.forget()
    assert torch.allclose(made.member(config).eval()(x), wanted, atol=1e-6)
    assert torch.allclose(made.extract(config)(x), wanted, atol=1e-6)


def test_roles_share_a_choice_and_one_dimension_bends() -> None:
    x = torch.randn(2, 4, 20)
    made = Family(Speech(), (x,), [KernelSize(uniform=True)])
    assert {c.name: c.options for c in made.space.choices} == {"layers.*.kernel": (3, 5)}
    assert made.extra["layers.0.kernel.to3"].shape == (3, 3)
    net: Any = made.extract(made.space.smallest())
    assert [tuple(layer.weight.shape) for layer in net.layers] == [(4, 4, 3)] * 2
    h, full = x, made.model
    assert isinstance(full, Speech)
    for layer in full.layers:
        assert isinstance(layer, nn.Conv1d)
        h = torch.relu(F.conv1d(h, layer.weight[:, :, 1:4], layer.bias, padding=1))
    assert torch.allclose(net(x), full.head(h.mean(2)), atol=1e-6)


def test_extracted_it_is_exported_by_torch_alone() -> None:
    made, x = family(), images()
    net = made.extract(made.space.smallest())
    assert torch.allclose(torch.export.export(net, (x,)).module()(x), net(x), atol=1e-6)


def test_wrong_sizes_and_networks_without_kernels() -> None:
    for sizes in ((), (2, 3), (-1,)):
        with pytest.raises(WrongShapeError, match="odd numbers"):
            KernelSize(sizes=sizes)
    with pytest.warns(NoEffectWarning, match="nothing to bend"):
        Family(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), (torch.randn(2, 4),), [KernelSize()])
