"""Compression of a generator of talking faces: a smaller copy, distilled without a discriminator, in mixed precision.

Three steps. The generator loses its residual blocks and most of its channels. What is left learns from the outputs and
inner features of the whole one, which stands in for adversarial training, unstable for small generators. At last every
layer is quantised to INT8 alone, to see how much that hurts; the most sensitive ones stay in FP16. The paper's claim:
Wav2Lip's generator with 28 times fewer parameters and multiply-accumulates performs alike, and mixed precision speeds
it up by up to 19 times on edge GPUs where INT8 for all layers ruins it.

This implementation differs in that it takes any network with residual blocks, and starts the smaller one from the
weights of the channels that stay (the paper trains it from chance). The precisions are simulated: in a copy of the
network, weights (each output channel by its largest value) and inputs (each tensor by the range seen in calibration)
are rounded to the numbers that INT8 or FP16 can hold, so errors are those of the deployed network, but times are not.
The task's losses, Wav2Lip's synchronisation loss for one, come in by the recipe's ``share``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ...checks import WrongShapeError, unknown
from ...family.imitation import Imitation
from ...family.statistics import call, keeping_modes
from ...space.choice import Choice, Option
from ...technique import Distiller, Elastic, Paper, Stage
from ._decoded import Decoded
from ._features import Pairs

if TYPE_CHECKING:
    from ...family.draft import Draft
    from ...family.family import Family
    from ...graph.analysis import Analysis

PRECISIONS = ("int8", "fp16", "fp32")
_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
Measure = Callable[[nn.Module], float]


@dataclass(frozen=True)
class Wav2LipCompression(Distiller):
    """Make a generator small, distil the whole one into it, and choose INT8 or FP16 layer by layer.

    Attributes:
        width: the share of each layer's channels that stays.
        drop: whether all residual blocks that can be left out are.
        layers: pairs of paths, a layer of the small generator and the whole one's that it follows.
        weight: what each pair of layers weighs; the outputs' absolute difference weighs 1.
        multiple: numbers of channels are rounded to a multiple of this.
    """

    width: float = 0.25
    drop: bool = True
    layers: Pairs = ()
    weight: float = 1.0
    multiple: int = 1

    paper: ClassVar[Paper | None] = Paper(
        "Kim, Kang, Seo, Park, Choi, Song, Kim, Lim",
        2023,
        "A Unified Compression Framework for Efficient Speech-Driven Talking-Face Generation",
        "2304.00471",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    gives: ClassVar[frozenset[str]] = frozenset({"distillation"})

    def __post_init__(self) -> None:
        """Check the fields."""
        if not 0 < self.width <= 1 or self.weight < 0 or self.multiple < 1:
            raise WrongShapeError(
                "Wav2LipCompression needs width above 0 and up to 1, weight >= 0 and multiple >= 1; got "
                f"{self.width}, {self.weight} and {self.multiple}"
            )

    def compact(self, generator: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> nn.Module:
        """Return a smaller copy of ``generator``, an ordinary network; it stays as it is.

        Args:
            generator: the whole network.
            args: arguments that it runs on, the batch first.
            kwargs: keyword arguments.

        Raises:
            CaptureError, WrongShapeError: the network cannot be analysed, see :func:`pliant.analyze`.
        """
        from ...family.family import Family

        family = Family(copy.deepcopy(generator), args, [_Smaller(self.width, self.drop, self.multiple)], kwargs)
        family.prepare()
        return family.extract(family.space.smallest()).train(generator.training)

    def start(self, student: Any, teacher: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Imitation:
        """Return the distance of outputs and features, with linear maps where widths differ.

        Raises:
            UnknownNameError: one of the generators has no such layer.
            WrongShapeError: two features, or the outputs, cannot be compared.
        """
        return Decoded.start(self.layers, self.weight, student, teacher, args, kwargs)


@dataclass(frozen=True)
class _Smaller(Elastic):
    """One choice: the whole network, or one without residual blocks and with a share of its channels."""

    width: float
    drop: bool
    multiple: int
    stage: ClassVar[Stage | None] = Stage.SLICE

    def choices(self, analysis: Analysis) -> Sequence[Choice]:
        bends = (self.drop and analysis.blocks) or any(self._size(axis.size) < axis.size for axis in analysis.axes)
        return (Choice("whole", (False, True)),) if bends else ()

    def _size(self, size: int) -> int:
        return min(size, max(1, math.ceil(self.width * size / self.multiple) * self.multiple))

    def apply(self, draft: Draft, options: Mapping[str, Option]) -> None:
        if options["whole"]:
            return
        for axis in draft.analysis.axes:
            draft.keep(axis.name, self._size(axis.size))
        for block in draft.analysis.blocks if self.drop else ():
            draft.drop(block.name)

    def prepare(self, family: Family) -> None:
        orders = {}
        for axis in family.analysis.axes:
            views = [rows.abs().sum(1) for rows in family.weight_views(axis.name).values()]
            if views:
                score = torch.stack([view / view.mean().clamp_min(1e-12) for view in views]).sum(0)
                orders[axis.name] = score.argsort(descending=True, stable=True).tolist()
        if orders:
            family.permute(orders)


def quantizable(net: nn.Module) -> list[str]:
    """Return the paths of the layers that may be quantised: linear ones and convolutions, in the network's order."""
    return [path for path, module in net.named_modules() if isinstance(module, _LAYERS)]


def quantized(net: nn.Module, precision: Mapping[str, str], batches: Iterable[Any]) -> nn.Module:
    """Return a copy of ``net`` whose layers compute with numbers of the given precisions, in evaluation mode.

    Args:
        net: any network.
        precision: path of a layer to ``"int8"``, ``"fp16"`` or ``"fp32"``; layers that are not named keep theirs.
        batches: inputs that the ranges of the layers' inputs are taken from.

    Raises:
        UnknownNameError: there is no such layer or precision; the nearest is offered.
        WrongShapeError: a layer is to be INT8 and no input reaches it.
    """
    able = quantizable(net)
    for path, name in precision.items():
        if path not in able:
            raise unknown("layer to quantise", path, able)
        if name not in PRECISIONS:
            raise unknown("precision", name, PRECISIONS)
    low = [path for path, name in precision.items() if name == "int8"]
    return _rounded(net, precision, ranges(net, low, batches) if low else {})


def sensitivity(net: nn.Module, batches: Iterable[Any], measure: Measure) -> dict[str, float]:
    """Return by how much the error grows when one layer alone is INT8, by path, the most sensitive first.

    Args:
        net: any network.
        batches: inputs for calibration.
        measure: the error of a network, smaller is better.
    """
    able, base = quantizable(net), measure(copy.deepcopy(net).eval())
    seen = ranges(net, able, batches)
    found = {path: measure(_rounded(net, {path: "int8"}, seen)) - base for path in able}
    return dict(sorted(found.items(), key=lambda row: -row[1]))


def protected(scan: Mapping[str, float], count: int, precision: str = "fp16") -> dict[str, str]:
    """Return the precisions in which the ``count`` most sensitive layers keep ``precision`` and the rest are INT8.

    Raises:
        WrongShapeError: there are not so many layers.
    """
    if not 0 <= count <= len(scan):
        raise WrongShapeError(f"0 to {len(scan)} layers can be protected; got {count}")
    order = sorted(scan, key=lambda path: -scan[path])
    return {path: precision if place < count else "int8" for place, path in enumerate(order)}


def choose(net: nn.Module, batches: Sequence[Any], measure: Measure, limit: float) -> tuple[dict[str, str], float]:
    """Return the precisions with the fewest layers in FP16 whose error is at most ``limit``, and that error.

    The most sensitive layers are protected first. Where even all of them in FP16 are not enough, that is returned.

    Args:
        net: any network.
        batches: inputs for calibration.
        measure: the error of a network, smaller is better.
        limit: the largest error that will do.
    """
    scan = sensitivity(net, batches, measure)
    seen = ranges(net, list(scan), batches)
    for count in range(len(scan) + 1):
        precision = protected(scan, count)
        error = measure(_rounded(net, precision, seen))
        if error <= limit:
            break
    return precision, error


def ranges(net: nn.Module, paths: Sequence[str], batches: Iterable[Any]) -> dict[str, tuple[float, float]]:
    """Return the smallest and the largest number that reach each layer, with 0 among them.

    Raises:
        WrongShapeError: nothing reaches one of them.
    """
    seen: dict[str, tuple[float, float]] = {}

    def widen(path: str, value: Tensor) -> None:
        low, high = seen.get(path, (0.0, 0.0))
        seen[path] = (min(low, float(value.min())), max(high, float(value.max())))

    handles = [
        net.get_submodule(path).register_forward_pre_hook(lambda m, args, path=path: widen(path, args[0]))
        for path in paths
    ]
    try:
        with torch.no_grad(), keeping_modes(net):
            net.eval()
            for inputs in batches:
                call(net, inputs)
    finally:
        for handle in handles:
            handle.remove()
    lost = [path for path in paths if path not in seen]
    if lost:
        raise WrongShapeError(f"no input reaches the layers {lost} in calibration; give batches that use them")
    return seen


def _rounded(net: nn.Module, precision: Mapping[str, str], seen: Mapping[str, tuple[float, float]]) -> nn.Module:
    made = copy.deepcopy(net).eval()
    for path, name in precision.items():
        layer: Any = made.get_submodule(path)
        if name == "fp32":
            continue
        with torch.no_grad():
            weight = layer.weight.detach()
            axis = 1 if getattr(layer, "transposed", False) else 0
            layer.weight = nn.Parameter(_int8_weight(weight, axis) if name == "int8" else weight.half().to(weight))
            if name == "fp16" and layer.bias is not None:
                layer.bias = nn.Parameter(layer.bias.half().to(weight))
        low, high = seen[path] if name == "int8" else (0.0, 0.0)

        def before(module: nn.Module, args: Any, name: str = name, low: float = low, high: float = high) -> Any:
            x = args[0]
            return (_int8(x, low, high) if name == "int8" else x.half().to(x), *args[1:])

        layer.register_forward_pre_hook(before)
    return made


def _int8_weight(weight: Tensor, axis: int) -> Tensor:
    """Round weights to 255 steps, each output channel by its largest absolute value."""
    others = [dim for dim in range(weight.dim()) if dim != axis]
    step = weight.abs().amax(others, keepdim=True).clamp_min(1e-12) / 127
    return (weight / step).round().clamp(-127, 127) * step


def _int8(x: Tensor, low: float, high: float) -> Tensor:
    """Round numbers to 256 steps from ``low`` to ``high``; 0 is one of them."""
    step = max(high - low, 1e-12) / 255
    zero = round(-low / step)
    return ((x / step).round().clamp(-zero, 255 - zero)) * step
