"""Larger networks that compute what the smaller one did: wider, deeper, and with branches.

Units are replicated and what reads them is divided by how many there are (Net2Wider); a layer that changes nothing is
put after an activation that changes nothing twice (Net2Deeper; Chen, Goodfellow and Shlens, 2015, Net2Net:
Accelerating Learning via Knowledge Transfer, arXiv 1511.05641). A layer is replaced by copies whose results are
averaged, or by parts whose results are concatenated, again and again (Cai, Yang, Zhang, Han and Yu, 2018, Path-Level
Network Transformation for Efficient Architecture Search, arXiv 1806.02639). Which axes there are and what reads them is
taken from the analysis, so that any network can grow, not only chains; what would change the function is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..checks import VerificationError, WrongShapeError, unknown
from .analysis import Analysis
from .module_form import ModuleForm
from .realise import difference, outputs
from .slicing import Slicing, take
from .tensors import full_tensors
from .trace import Call

_CLOSE = 1e-5

# Which argument of an operation holds the weight, and which of the weight's dimensions is summed over.
_SUMMED: dict[str, tuple[str, int]] = {
    "linear": ("weight", 1),
    "addmm": ("mat2", 0),
    "mm": ("mat2", 0),
    "matmul": ("other", -2),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), ("weight", 1)),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), ("weight", 0)),
}


class _Widening(Slicing):
    """A slicing in which units may be taken more than once."""

    def __init__(self, analysis: Analysis, places: Mapping[str, np.ndarray]) -> None:
        super().__init__(analysis)
        for name, picked in places.items():
            self._keep[analysis.axis(name).atom.root()] = picked


def wider(
    model: nn.Module, analysis: Analysis, units: Mapping[str, int], *, seed: int = 0, noise: float = 0.0
) -> nn.Module:
    """Return an independent network in evaluation mode with more units on some axes, of the same function.

    Args:
        model: the network.
        analysis: of it.
        units: axis name to its new number of units, at least the old.
        seed: of which units are replicated: each once before any twice.
        noise: relative standard deviation of noise on what reads the copies, so that they learn different things.

    Raises:
        UnknownNameError: there is no such axis; offers the nearest.
        WrongShapeError: fewer units than there are.
        VerificationError: the function would change: a normalisation over the axis, products of units with each other.
    """
    rng = np.random.default_rng(seed)
    places = {}
    for name, count in units.items():
        size = analysis.axis(name).size
        if count < size:
            raise WrongShapeError(f"axis {name!r} has {size} units and can grow here, not shrink to {count}")
        rounds = -(-(count - size) // size)
        extra = np.concatenate([np.empty(0, dtype=np.int64), *(rng.permutation(size) for _ in range(rounds))])
        places[name] = np.concatenate([np.arange(size), extra[: count - size]])
    slicing = _Widening(analysis, {name: each for name, each in places.items() if len(each) > analysis.axis(name).size})
    tensors, summed = full_tensors(model, analysis.capture), _summed(analysis)
    generator = torch.Generator().manual_seed(seed)

    def supply(name: str) -> Tensor:
        tensor, picks = tensors[name], slicing.picks(name)
        grown = take(tensor.detach(), picks).clone()
        for dim in summed.get(name, ()):
            picked = picks[dim] if picks else None
            if isinstance(picked, np.ndarray):
                copies = np.bincount(picked, minlength=tensor.shape[dim])[picked]
                shape = [1] * grown.dim()
                shape[dim] = -1
                scale = torch.as_tensor(1.0 / copies, dtype=grown.dtype).reshape(shape)
                if noise:
                    drawn = torch.randn(grown.shape, generator=generator, dtype=grown.dtype)
                    scale = scale * (1 + noise * drawn * (torch.as_tensor(copies).reshape(shape) > 1))
                grown *= scale
        return nn.Parameter(grown, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else grown

    net = ModuleForm(model, analysis).build(slicing, supply).eval()
    if not noise:
        check_same(model, net, analysis, f"widening {', '.join(units)}")
    return net


def _summed(analysis: Analysis) -> dict[str, set[int]]:
    """Return for each tensor which of its dimensions are summed over when it is used."""
    capture = analysis.capture
    names = {}
    for node in capture.graph.nodes:
        if node.op == "placeholder" and (spec := capture.inputs.get(str(node.target))) is not None and spec.target:
            names[node] = capture.aliases.get(spec.target, spec.target)
    found: dict[str, set[int]] = {}
    for node in capture.graph.nodes:
        if node.op != "call_function" or not hasattr(node.target, "_schema"):
            continue
        call = Call(node)
        if call.name in _SUMMED:
            argument, dim = _SUMMED[call.name]
            weight = call.get(argument)
            if weight in names:
                found.setdefault(names[weight], set()).add(dim % len(weight.meta["val"].shape))
    return found


def deeper(model: nn.Module, analysis: Analysis, at: str, dim: int = 1) -> nn.Module:
    """Return an independent network in evaluation mode with one more layer after the activation ``at``.

    A layer with weights that copy is put there, and the activation again: a convolution of the kernel 3 where features
    are the first dimension after the batch and more follow, else a linear layer.

    Args:
        model: the network.
        analysis: gives the example that the place is measured on; it may be of the network before any growth.
        at: path of a ReLU (or another module that changes nothing when it is applied twice).
        dim: the dimension of features in what comes out there: 1, or -1.

    Raises:
        UnknownNameError: there is no module ``at``.
        WrongShapeError: no layer fits there.
        VerificationError: the function would change: the activation is of another kind.
    """
    shape = output_at(model, analysis, at).shape
    grown = copy.deepcopy(model).eval()
    old = grown.get_submodule(at)
    convolutions: dict[int, Callable[..., nn.Module]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
    layer: Any
    if dim % len(shape) == len(shape) - 1:
        layer = nn.Linear(shape[-1], shape[-1])
        nn.init.eye_(layer.weight)
    elif dim == 1 and len(shape) in convolutions:
        layer = convolutions[len(shape)](shape[1], shape[1], 3, padding=1)
        nn.init.dirac_(layer.weight)
    else:
        raise WrongShapeError(
            f"what comes out of {at!r} has the shape {tuple(shape)}: no layer fits its dimension {dim}"
        )
    nn.init.zeros_(layer.bias)
    put(grown, at, nn.Sequential(old, layer, copy.deepcopy(old)))
    check_same(model, grown, analysis, f"a layer after {at!r}")
    return grown


class Branches(nn.Module):
    """Runs several modules on the same input, or each on its part of it, and averages or concatenates what they give.

    Args:
        branches: the modules.
        concatenate: along the features rather than averaged.
        dim: of the features, where they are concatenated.
        share: whether the features of the input are shared out among the branches.
    """

    def __init__(self, branches: Sequence[nn.Module], concatenate: bool, dim: int = 1, share: bool = False) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.concatenate, self.dim, self.share = concatenate, dim, share

    def forward(self, x: Tensor) -> Tensor:
        """Run all branches on ``x``."""
        inputs = x.tensor_split(len(self.branches), dim=self.dim) if self.share else [x] * len(self.branches)
        results = [branch(each) for branch, each in zip(self.branches, inputs, strict=True)]
        if self.concatenate:
            return torch.cat(results, dim=self.dim)
        return torch.stack(results).mean(dim=0)


def branched(
    model: nn.Module,
    analysis: Analysis,
    at: str,
    count: int = 2,
    *,
    concatenate: bool = False,
    dim: int = 1,
    seed: int = 0,
    noise: float = 0.0,
) -> nn.Module:
    """Return an independent network in evaluation mode in which ``count`` branches stand for the layer ``at``.

    Args:
        model: the network; it may have branches already, and ``at`` may be in one (``"features.3.branches.0"``).
        analysis: gives the example that the result is checked on; it may be of the network before any growth.
        at: path of a module that takes one tensor.
        count: how many branches.
        concatenate: whether each gives a part of the outputs rather than all of them: of a linear layer, a convolution
            without groups, or an ``nn.Identity``, whose input is shared out.
        dim: the dimension of features, 1 or -1, where an ``nn.Identity`` is shared out.
        seed: of the noise.
        noise: relative standard deviation of what the parameters of branches that are averaged differ by, so that they
            learn different things. The mean over the branches stays, and with it what linear layers compute; other
            modules change a little, and are not checked.

    Raises:
        UnknownNameError: there is no module ``at``.
        WrongShapeError: fewer than two branches, or a layer whose outputs cannot be shared out.
        VerificationError: the function would change.
    """
    if count < 2:
        raise WrongShapeError(f"count is at least 2, got {count}")
    layer = _module(model, at)
    grown = copy.deepcopy(model).eval()
    if concatenate and isinstance(layer, nn.Identity) and (size := output_at(model, analysis, at).shape[dim]) < count:
        raise WrongShapeError(f"{at!r} passes {size} features on, which cannot be shared out among {count} branches")
    put(grown, at, parted(layer, at, count, concatenate, dim, Noise(seed, noise)))
    if not noise:
        check_same(model, grown, analysis, f"branches at {at!r}")
    return grown


@dataclass(frozen=True)
class Noise:
    """What copies differ by: a relative standard deviation, and the seed that it is drawn with."""

    seed: int = 0
    level: float = 0.0


def parted(layer: nn.Module, at: str, count: int, concatenate: bool, dim: int, noise: Noise) -> Branches:
    """Return ``count`` branches that compute what ``layer`` does, which is at ``at``; see :func:`branched`.

    Raises:
        WrongShapeError: its outputs cannot be shared out.
    """
    if concatenate and isinstance(layer, nn.Identity):
        return Branches([nn.Identity() for _ in range(count)], True, dim, share=True)
    if concatenate:
        return Branches(_parts(layer, at, count), True, -1 if isinstance(layer, nn.Linear) else 1)
    copies = [copy.deepcopy(layer) for _ in range(count)]
    _spread(copies, noise.seed, noise.level)
    return Branches(copies, concatenate=False)


def _spread(copies: Sequence[nn.Module], seed: int, noise: float) -> None:
    """Move the parameters of ``copies`` apart, in place, so that their means stay."""
    generator = torch.Generator().manual_seed(seed)
    for same in zip(*(each.parameters() for each in copies), strict=True):
        if noise and same[0].is_floating_point():
            drawn = torch.randn((len(same), *same[0].shape), generator=generator, dtype=same[0].dtype)
            away = noise * (drawn - drawn.mean(dim=0))
            for parameter, off in zip(same, away, strict=True):
                parameter.data.mul_(1 + off.to(parameter.device))


def shareable(layer: nn.Module, count: int) -> bool:
    """Return whether the outputs of ``layer`` can be shared out among ``count`` layers of its kind."""
    weight = getattr(layer, "weight", None)
    convolution = isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and layer.groups == 1
    return isinstance(weight, Tensor) and (isinstance(layer, nn.Linear) or convolution) and weight.shape[0] >= count


def _parts(layer: nn.Module, at: str, count: int) -> list[nn.Module]:
    if not shareable(layer, count):
        raise WrongShapeError(
            f"{at!r} is {type(layer).__name__}: only a linear layer, or a convolution without groups, of at least "
            f"{count} outputs can be shared out; leave concatenate=False"
        )
    weight: Tensor = layer.weight  # type: ignore[assignment]
    found = []
    for rows in np.array_split(np.arange(weight.shape[0]), count):
        part = copy.deepcopy(layer)
        part.weight = nn.Parameter(weight.detach()[rows].clone())
        if part.bias is not None:
            part.bias = nn.Parameter(part.bias.detach()[rows].clone())  # type: ignore[operator]
        setattr(part, "out_features" if isinstance(layer, nn.Linear) else "out_channels", len(rows))
        found.append(part)
    return found


def _module(model: nn.Module, at: str) -> nn.Module:
    known = dict(model.named_modules())
    if not at or at not in known:
        raise unknown("module", at, [name for name in known if name])
    return known[at]


def put(model: nn.Module, at: str, module: nn.Module) -> None:
    """Put ``module`` in the place ``at`` of ``model``."""
    parent, _, last = at.rpartition(".")
    model.get_submodule(parent)._modules[last] = module


def output_at(model: nn.Module, analysis: Analysis, at: str) -> Tensor:
    """Return what the module ``at`` gives on the example.

    Raises:
        UnknownNameError: there is no such module.
        WrongShapeError: it gives no tensor.
    """
    found: list[Tensor] = []

    def see(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            found.append(output.detach())

    handle = _module(model, at).register_forward_hook(see)
    try:
        outputs(model.eval(), analysis.capture.args, dict(analysis.capture.kwargs))
    finally:
        handle.remove()
    if not found:
        raise WrongShapeError(f"{at!r} gives no single tensor on the example: nothing can be put there")
    return found[0]


def check_same(model: nn.Module, grown: nn.Module, analysis: Analysis, what: str) -> None:
    """Raise VerificationError unless ``grown`` computes what ``model`` does on the example."""
    training = model.training
    args, kwargs = analysis.capture.args, dict(analysis.capture.kwargs)
    try:
        gap = difference(outputs(grown, args, kwargs), outputs(model.eval(), args, kwargs))
    finally:
        model.train(training)
    if not gap <= _CLOSE:
        raise VerificationError(
            f"{what} would change what the network computes, by {gap:.1e} on the example (at most {_CLOSE:g} "
            "expected): a normalisation over the units, products of units with each other, or an activation that is "
            "not the same when applied twice. Grow elsewhere"
        )
