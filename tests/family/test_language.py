"""The language of modules: leaves against listing them, shapes of all that is built, and residual sums by hand."""

from __future__ import annotations

import itertools
import math
import pickle
from random import Random
from typing import Any

import pytest
import torch
from torch import nn

import pliant
from pliant.checks import UnknownNameError, WrongShapeError
from pliant.family.language import (
    Affine,
    AvgPool2d,
    BatchNorm,
    Concat,
    Conv2d,
    Dropout,
    Empty,
    MaxPool2d,
    MaybeSwap,
    Optional,
    Or,
    Relu,
    Repeat,
    Residual,
    Sigmoid,
    Tanh,
    architectures,
    basic,
)
from pliant.family.language import parts as made
from pliant.space.placeholders import called

FLAT = torch.zeros(3, 6)
IMAGE = torch.zeros(3, 2, 8, 8)

Shown = tuple[Any, ...]


def written(sketch: Shown) -> Any:
    """An expression of the language from nested tuples."""
    word, *rest = sketch
    if word == "affine":
        return Affine(out=list(rest))
    if word == "dropout":
        return Dropout(p=list(rest))
    if word == "relu":
        return Relu()
    if word == "repeat":
        return Repeat(written(rest[0]), rest[1])
    if word == "tied":
        return Repeat(written(rest[0]), rest[1], tied=True)
    combinators: dict[str, Any] = {
        "concat": Concat,
        "or": Or,
        "optional": Optional,
        "residual": Residual,
        "swap": MaybeSwap,
    }
    return combinators[word](*map(written, rest))


def listed(sketch: Shown) -> list[Shown]:
    """Every network that the nested tuples stand for, one after the other, as a sequence of what is in it."""
    word, *rest = sketch
    if word in ("affine", "dropout"):
        name = {"affine": "Affine(out={})", "dropout": "Dropout(p={})"}[word]
        return [(name.format(value),) for value in rest]
    if word == "relu":
        return [("Relu()",)]
    if word == "or":
        return [each for alternative in rest for each in listed(alternative)]
    if word == "optional":
        return [("Empty()",), *listed(rest[0])]
    if word == "residual":
        return [("(", *each, ")") for each in listed(rest[0])]
    if word == "tied":
        return [each * number for number in rest[1] for each in listed(rest[0])]
    if word == "repeat":
        return [sum(each, ()) for number in rest[1] for each in itertools.product(listed(rest[0]), repeat=number)]
    orders = [rest, rest[::-1]] if word == "swap" else [rest]
    return [sum(each, ()) for order in orders for each in itertools.product(*map(listed, order))]


def flat(value: Any) -> Shown:
    """The sequence of what is in a decided expression."""
    if isinstance(value, made.Basic):
        return (repr(value),)
    if isinstance(value, made.Residual):
        return ("(", *flat(value.part), ")")
    if isinstance(value, made.Tied):
        return flat(value.part) * value.times
    inside = value if isinstance(value, (list, tuple)) else value.parts
    return sum(map(flat, inside), ())


ONE = ("affine", 4, 8)
DEEP = ("concat", ("or", ONE, ("relu",), ("affine", 5)), ("optional", ("dropout", 0.25, 0.5)))
SPACES: dict[str, tuple[Shown, int]] = {
    "two values": (ONE, 2),
    "one after the other": (("concat", ONE, ("affine", 1, 2, 3)), 2 * 3),
    "one of three, or nothing": (DEEP, (2 + 1 + 1) * (1 + 2)),
    "repeated": (("repeat", DEEP, [1, 2]), 12 + 12**2),
    "repeated three times": (("repeat", ("or", ONE, ("relu",)), [1, 2, 3]), 3 + 3**2 + 3**3),
    "with gaps": (("repeat", ONE, [1, 4]), 2 + 2**4),
    "tied": (("tied", DEEP, [1, 2, 4]), 3 * 12),
    "the residual of repetitions": (("residual", ("repeat", ("residual", ONE), [2, 3])), 2**2 + 2**3),
    "a choice of choices": (("or", ("or", ONE, ("optional", ONE)), ("repeat", ONE, [1, 2])), 2 + (1 + 2) + (2 + 4)),
    "repetitions in repetitions": (("repeat", ("repeat", ("affine", 4, 8), [1, 2]), [1, 2]), 6 + 6**2),
    "tied repetitions of repetitions": (("tied", ("repeat", ONE, [1, 2]), [1, 3]), 2 * 6),
    "swapped": (("swap", ("optional", ONE), ("or", ("relu",), ("affine", 3))), 2 * 3 * 2),
}


@pytest.mark.parametrize("name", SPACES)
def test_leaves_are_those_of_the_formula(name: str) -> None:
    sketch, count = SPACES[name]
    program = architectures(written(sketch), FLAT)
    assert program.size == len(listed(sketch)) == count
    leaves = list(program.leaves())
    assert len(leaves) == len(set(leaves)) == count
    assert all(program.canonical(leaf) == leaf for leaf in leaves)
    found = [flat(called(list(program.bind(leaf).args))) for leaf in leaves]
    assert sorted(found) == sorted(listed(sketch))


def test_choices_are_named_by_their_place() -> None:
    tree = Concat(Repeat(Affine(out=[4, 8]), [1, 2, 4], hint="net"), Repeat(Relu(), [3, 1]), Optional(Tanh()))
    program = architectures(tree, FLAT, constraints=("0 <= 2",))
    found = {choice.name: (choice.options, choice.ordered) for choice in program.space.choices}
    assert found == {
        "0": ((1, 2, 4), True),  # so that tree search bisects it
        **{f"0.{at}.out": ((4, 8), True) for at in range(4)},
        "1": ((3, 1), False),
        "2": (("0:Empty", "1:Tanh"), False),
    }
    assert len(list(program.leaves())) == (2 + 4) * 2 * 2
    assert [choice.name for choice in program.part("net").space.choices] == ["0"]
    with pytest.raises(UnknownNameError, match="did you mean '0.0.out'"):
        program.build({**program.space.smallest(), "0.0.outt": 4})


def test_the_space_of_the_first_experiment() -> None:
    """Negrinho and Gordon's convolutional networks around a tutorial's: 5 x 3, twice, 3 widths, 3 rates."""
    block = Concat(Conv2d(channels=[4, 6, 8, 12, 16], kernel=[1, 3, 5]), Relu(), MaxPool2d())
    head = Concat(Affine(out=[8, 16, 32]), Relu(), Dropout(p=[0.25, 0.5, 0.75]), Affine(out=10))
    assert architectures(Concat(block, block, head), IMAGE).size == (5 * 3) ** 2 * 3 * 3


def residual_networks() -> pliant.Program:
    """After their residual networks; the sizes are smaller."""

    def unit(channels: list[int]) -> Any:
        inner = Concat(Conv2d(channels=channels, kernel=[1, 3, 4]), MaybeSwap(BatchNorm(), Relu()))
        return Concat(
            Residual(Concat(Repeat(inner, [1, 2], tied=True), Conv2d(channels=channels, kernel=3, stride=[1, 2]))),
            Optional(Dropout(p=[0.25, 0.5])),
        )

    further = Optional(Concat(AvgPool2d(kernel=[2, 3], stride=2), Repeat(unit([6, 8]), [1, 2])))
    return architectures(Concat(Repeat(unit([3, 4]), [1, 2, 3]), further, Affine(out=10)), IMAGE)


def dense_networks() -> pliant.Program:
    layer = Concat(Affine(out=[3, 8]), Or(Relu(), Tanh(), Concat(Sigmoid(), BatchNorm())))
    return architectures(
        Concat(
            Or(Affine(out=[6, 12]), Repeat(layer, [1, 3])), Residual(Repeat(layer, [1, 2], tied=True)), Affine(out=10)
        ),
        IMAGE,
    )


@pytest.mark.parametrize("space", [residual_networks, dense_networks])
def test_whatever_is_drawn_is_built_and_learns(space: Any, rng: Random) -> None:
    program = space()
    seen = set()
    for _ in range(40):
        config = program.space.sample(rng)
        seen.add(program.canonical(config))
        net = program.build(config)
        assert all(each.training for each in net.modules())
        outputs = net(torch.randn(4, 2, 8, 8))
        assert outputs.shape == (4, 10)
        outputs.square().sum().backward()
        assert all(each.grad is not None and each.grad.isfinite().all() for each in net.parameters())
    assert len(seen) > 30


def test_sizes_come_from_the_example() -> None:
    tree = Concat(Conv2d(channels=[5], kernel=[1, 3]), Affine(out=7))
    for channels, side in itertools.product([1, 4], [5, 9]):
        net = architectures(tree, torch.zeros(2, channels, side, side)).build({"0.kernel": 3})
        assert [tuple(each.shape) for each in net.parameters()][::2] == [(5, channels, 3, 3), (7, 5 * side * side)]


@pytest.mark.parametrize("side", [5, 8])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_convolutions_divide_by_the_stride(side: int, kernel: int, stride: int) -> None:
    x = torch.zeros(1, 2, side, side)

    def shape(module: Any) -> tuple[int, ...]:
        return tuple(called(module).make(x, "")[1].shape[2:])

    up = math.ceil(side / stride)
    assert shape(Conv2d(channels=3, kernel=kernel, stride=stride)) == (up, up)
    assert shape(Conv2d(channels=3, kernel=kernel, stride=stride, padding="valid"))[0] == (side - kernel) // stride + 1
    if kernel % 2 or kernel == stride:
        for pool in (MaxPool2d, AvgPool2d):
            assert shape(pool(kernel=kernel, stride=stride)) == (up, up)


@pytest.mark.parametrize(
    ("before", "after", "sizes"),
    [
        ((4,), (4,), (4,)),
        ((4,), (6,), (6,)),
        ((2, 5, 5), (3, 4, 5), (3, 5, 5)),
        ((2, 3), (4,), (6,)),
        ((2, 3), (9,), (9,)),
    ],
)
def test_residual_sums_by_hand(before: tuple[int, ...], after: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    x, y = torch.randn(2, *before), torch.randn(2, *after)
    found = made.added(x, y)
    wanted = torch.zeros(2, *sizes)
    for each in (x, y):
        whole = each if each.ndim == wanted.ndim else each.reshape(2, -1)
        wanted[tuple(slice(0, size) for size in whole.shape)] += whole  # at the beginning, and zeros behind
    assert found.shape == wanted.shape
    assert torch.equal(found, wanted)


def test_a_residual_network_computes_the_sum() -> None:
    net = architectures(Concat(Residual(Affine(out=[4, 9])), Or(Empty(), Relu())), FLAT).build(
        {"0.0.out": 9, "1": "0:Empty"}
    )
    x = torch.randn(5, 6)
    inner = net[0].module
    assert torch.equal(net(x), inner(x) + torch.cat([x, torch.zeros(5, 3)], dim=1))


def test_tied_repetitions_share_values_but_no_weights() -> None:
    program = architectures(Repeat(Affine(out=[4, 8]), [2, 3], tied=True), FLAT)
    net = program.build(program.space.largest())
    assert [tuple(each.weight.shape) for each in net[0]] == [(8, 6), (8, 8), (8, 8)]
    assert len({id(each) for each in net.parameters()}) == 6
    assert not torch.equal(net[0][1].weight, net[0][2].weight)


def test_modules_of_ones_own() -> None:
    class Gated(nn.Module):
        def __init__(self, size: int, hidden: int, slope: float = 0.1) -> None:
            super().__init__()
            self.up, self.down, self.act = nn.Linear(size, hidden), nn.Linear(hidden, size), nn.LeakyReLU(slope)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.down(self.act(self.up(x)))
            return found

    gated = basic(lambda shape, **values: Gated(shape[-1], **values), name="Gated")
    lazy = basic(nn.LazyLinear)
    tree = Concat(gated(hidden=[8, 16], slope=pliant.floatv(0.1, 0.3, 3)), lazy(out_features=[2, 5]), basic(nn.GELU)())
    program = architectures(tree, (torch.zeros(2, 7, 4),))
    assert program.size == 2 * 3 * 2
    assert [choice.name for choice in program.space.choices] == ["0.hidden", "0.slope", "1.out_features"]
    net = program.build({"0.hidden": 16, "0.slope": 0.2, "1.out_features": 5})
    assert net[0].act.negative_slope == 0.2
    assert net(torch.randn(3, 7, 4)).shape == (3, 7, 5)


def test_the_training_may_vary_too() -> None:
    net = architectures(Affine(out=[4, 8]), FLAT).tree
    program = pliant.Program(pliant.symbolic(dict)(net=net, rate=pliant.oneof([0.1, 0.2])))
    built = program.build(program.space.largest())
    assert built["rate"] == 0.2
    assert built["net"](FLAT).shape == (3, 8)


def test_seeds_decide_the_weights_and_the_rest_is_left_alone() -> None:
    program = residual_networks()
    config = program.space.largest()
    outputs = []
    for _ in range(2):
        torch.manual_seed(3)
        outputs.append(program.build(config).eval()(torch.ones(1, 2, 8, 8)))
    assert torch.equal(*outputs)
    net = program.build(config)
    counted = [each for name, each in net.named_buffers() if name.endswith("num_batches_tracked")]
    assert counted
    assert not any(counted)


def test_workers_get_it() -> None:
    program = residual_networks()
    again = pickle.loads(pickle.dumps(program))  # noqa: S301  (our own)
    config = again.space.smallest()
    assert again.space == program.space
    assert again.config_of(again.bind(config)) == again.canonical(config)


def test_expressions_that_teach() -> None:
    with pytest.raises(WrongShapeError, match="Or takes at least one module"):
        Or()
    with pytest.raises(WrongShapeError, match="Concat takes at least one module"):
        Concat()
    for times in (0, [1, 0], [2, -1], [], [1, 1], [1.5], True):
        with pytest.raises(WrongShapeError, match=r"at least 1.*Optional\(Repeat"):
            Repeat(Relu(), times)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match=r"no hyperparameter of Conv2d named 'chanels'; did you mean 'channels'"):
        Conv2d(chanels=[4])
    with pytest.raises(WrongShapeError, match="Affine needs out: a value, or a list"):
        Affine()
    with pytest.raises(WrongShapeError, match="at least one value for out"):
        Affine(out=[])
    for wrong in (nn.ReLU(), nn.ReLU, pliant.symbolic(nn.ReLU)(), 3):
        with pytest.raises(
            WrongShapeError, match=r"Residual takes modules of the language.*basic\(torch.nn.GELU\)\(\)"
        ):
            Residual(wrong)  # type: ignore[arg-type]
    with pytest.raises(WrongShapeError, match="a module would be shared"):
        basic(nn.ReLU())
    with pytest.raises(WrongShapeError, match="one tensor of shape"):
        architectures(Affine(out=[1, 2]), (FLAT, FLAT))  # type: ignore[arg-type]
    with pytest.raises(WrongShapeError, match="no placeholder"):
        architectures(Affine(out=[1]), FLAT)


def test_what_does_not_fit_names_the_place_and_the_shapes() -> None:
    def fails(tree: Any, example: torch.Tensor = IMAGE) -> str:
        program = architectures(tree, example)
        with pytest.raises(WrongShapeError) as caught:
            program.build(program.space.largest())
        return str(caught.value)

    found = fails(Concat(Affine(out=[4, 5]), Residual(Repeat(Concat(Relu(), Conv2d(channels=3)), [1, 2]))))
    assert found.startswith("Concat[1] > Residual > Repeat[0] > Concat[1] > Conv2d(channels=3) takes inputs of shape")
    assert "(channels, height, width), it gets (5,)" in found
    narrow = basic(lambda out: nn.Linear(4, out), name="Narrow")
    found = fails(Concat(Relu(), narrow(out=[1, 2])), FLAT)
    assert found.startswith("Concat[1] > Narrow(out=2) does not fit inputs of shape (6,): ")
    assert "4x2" in found  # what it has, in torch's words
    found = fails(Concat(Conv2d(channels=[1, 2], padding="sane")))
    assert "cannot be made for inputs of shape (2, 8, 8): padding is 'same' or 'valid'" in found
    assert "expected an nn.Module" in fails(Concat(Affine(out=[1, 2]), basic(lambda: 3, name="Three")()))
    pair = basic(_Pair, name="Pair")
    assert "expected a tensor" in fails(Concat(Affine(out=[1, 2]), pair()))
    assert "is no module of the language" in fails(Concat(Affine(out=[1, 2]), pliant.oneof([nn.ReLU()])))


class _Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x
