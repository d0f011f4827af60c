"""Growth keeps the function; what would not is refused."""

from __future__ import annotations

import copy
from random import Random

import pytest
import torch
from torch import nn

from pliant.checks import UnknownNameError, VerificationError, WrongShapeError
from pliant.graph import analyze
from pliant.graph.growing import branched, deeper, wider
from pliant.tasks import load_task


def convnet() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3), nn.BatchNorm2d(12), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4),
    )  # fmt: skip
    net.train()(torch.randn(32, 3, 9, 9))  # statistics that are not 0 and 1
    return net.eval()


ARGS = (torch.randn(2, 3, 9, 9),)


def params(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("task", ["digits", "digits:convnet", "charlm"])
def test_widths_and_heads_grow_in_real_networks(task: str) -> None:
    made = load_task(task)
    net, args = made.model().eval(), made.example_args()
    analysis = analyze(net, args)
    units = {axis.name: axis.size * 3 // 2 for axis in analysis.axes if axis.kind in ("width", "heads")}
    grown = wider(net, analysis, units)
    assert params(grown) > 1.2 * params(net)
    torch.testing.assert_close(grown(*args), net(*args), rtol=1e-4, atol=1e-5)
    again = analyze(grown, args)
    assert {axis.name: axis.size for axis in again.axes if axis.name in units} == units


def test_the_parameters_are_as_predicted_and_the_model_is_left_alone() -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
    before = copy.deepcopy(net.state_dict())
    analysis = analyze(net, (torch.randn(3, 5),))
    [axis] = [axis.name for axis in analysis.axes]
    grown = wider(net, analysis, {axis: 20})
    assert params(grown) == 5 * 20 + 20 + 20 * 2 + 2
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
    assert grown[0].out_features == 20  # type: ignore[index]


def test_a_stream_under_a_layer_norm_grows_by_whole_multiples_only() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3))
    args = (torch.randn(5, 4),)
    analysis = analyze(net, args)
    [axis] = [axis.name for axis in analysis.axes]
    torch.testing.assert_close(wider(net, analysis, {axis: 12})(*args), net(*args))
    with pytest.raises(VerificationError, match="a normalisation over the units"):
        wider(net, analysis, {axis: 9})


def test_noise_breaks_the_symmetry() -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
    analysis = analyze(net, (torch.randn(3, 5),))
    [axis] = [axis.name for axis in analysis.axes]
    exact, noisy = wider(net, analysis, {axis: 16}), wider(net, analysis, {axis: 16}, noise=0.01)
    assert torch.equal(exact[0].weight, noisy[0].weight)  # type: ignore[index]
    gap = (exact[2].weight - noisy[2].weight).abs()  # type: ignore[index]
    assert 0 < gap.max() < 0.1


@pytest.mark.parametrize("at", ["2", "5", "9"])
def test_a_layer_more(at: str) -> None:
    net = convnet()
    grown = deeper(net, analyze(net, ARGS), at)
    assert params(grown) > params(net)
    torch.testing.assert_close(grown(*ARGS), net(*ARGS), rtol=1e-4, atol=1e-6)


def test_an_activation_that_is_not_the_same_twice_is_refused() -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 2))
    with pytest.raises(VerificationError, match="not the same when applied twice"):
        deeper(net, analyze(net, (torch.randn(3, 5),)), "1")


def shape_after(net: nn.Module, at: str) -> torch.Size:
    seen: list[torch.Size] = []
    handle = net.get_submodule(at).register_forward_hook(lambda module, args, output: seen.append(output.shape))
    net(*ARGS)
    handle.remove()
    return seen[0]


def test_any_sequence_of_edits_keeps_the_function(rng: Random) -> None:
    net = start = convnet()
    analysis = analyze(net, ARGS)
    count = params(net)
    for _ in range(8):
        kind = rng.randrange(4)
        relus = [name for name, each in net.named_modules() if isinstance(each, nn.ReLU)]
        if kind == 3:
            at = rng.choice(relus)
            shape = shape_after(net, at)
            net = deeper(net, analysis, at)
            assert params(net) == count + shape[1] ** 2 * (9 if len(shape) == 4 else 1) + shape[1]
        elif kind == 0:
            now = analyze(net, ARGS)
            axis = rng.choice(now.axes)
            net = wider(net, now, {axis.name: axis.size + rng.randrange(1, 6)}, seed=rng.randrange(100))
        else:
            names = [name for name, each in net.named_modules() if isinstance(each, (nn.Conv2d, nn.Linear))]
            at, copies = rng.choice(names), rng.choice([2, 3])
            size = params(net.get_submodule(at))
            net = branched(net, analysis, at, copies, concatenate=kind == 1)
            assert params(net) == count + (0 if kind == 1 else (copies - 1) * size)
        count = params(net)
    torch.testing.assert_close(net(*ARGS), start(*ARGS), rtol=1e-4, atol=1e-5)


def test_branches_in_branches() -> None:
    net = convnet()
    analysis = analyze(net, ARGS)
    cell = branched(net, analysis, "3", 2)
    cell = branched(cell, analysis, "3.branches.1", 3, concatenate=True)
    cell = branched(cell, analysis, "3.branches.1.branches.0", 2)
    torch.testing.assert_close(cell(*ARGS), net(*ARGS), rtol=1e-4, atol=1e-6)


def test_what_does_nothing_is_shared_out_too() -> None:
    net = nn.Sequential(nn.Conv2d(3, 7, 3), nn.Identity(), nn.Flatten(), nn.Linear(7 * 49, 2)).eval()
    analysis = analyze(net, ARGS)
    grown = branched(net, analysis, "1", 3, concatenate=True)
    assert grown(*ARGS).equal(net(*ARGS))
    widths = []
    for branch in grown[1].branches:  # type: ignore[index]
        branch.register_forward_hook(lambda module, args, output: widths.append(output.shape[1]))
    grown(*ARGS)
    assert widths == [3, 2, 2]
    with pytest.raises(WrongShapeError, match="7 features on, which cannot be shared out among 8"):
        branched(net, analysis, "1", 8, concatenate=True)


def test_noise_moves_branches_apart_and_keeps_their_mean() -> None:
    net = convnet()
    analysis = analyze(net, ARGS)
    grown = branched(net, analysis, "3", 3, noise=0.1, seed=1)
    weights = torch.stack([branch.weight for branch in grown[3].branches])  # type: ignore[index]
    torch.testing.assert_close(weights.mean(dim=0), net[3].weight)  # type: ignore[index]
    apart = (weights / net[3].weight).std(dim=0).mean()  # type: ignore[index]
    assert 0.05 < apart < 0.15
    torch.testing.assert_close(grown(*ARGS), net(*ARGS), rtol=1e-4, atol=1e-5)  # a convolution is linear
    again = branched(net, analysis, "3", 3, noise=0.1, seed=1)
    assert all(map(torch.equal, again.state_dict().values(), grown.state_dict().values()))


def test_bad_requests() -> None:
    net = convnet()
    analysis = analyze(net, ARGS)
    name = analysis.axes[0].name
    with pytest.raises(WrongShapeError, match="can grow here, not shrink"):
        wider(net, analysis, {name: 2})
    with pytest.raises(UnknownNameError):
        wider(net, analysis, {"nothing": 20})
    with pytest.raises(UnknownNameError, match="module"):
        deeper(net, analysis, "22")
    with pytest.raises(WrongShapeError, match="no layer fits"):
        deeper(net, analysis, "2", dim=2)
    with pytest.raises(WrongShapeError, match="at least 2"):
        branched(net, analysis, "3", 1)
    with pytest.raises(WrongShapeError, match="only a linear layer"):
        branched(net, analysis, "2", concatenate=True)
