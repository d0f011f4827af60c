"""Turbo-VAED: a video autoencoder's decoder, rebuilt from operations that small devices are fast at.

Three-dimensional convolutions become depthwise-separable ones, a depthwise convolution and a pointwise one, with
``k^3 C_in + C_in C_out`` weights instead of ``k^3 C_in C_out``. Upsampling becomes a decoupled pixel shuffle: a
pointwise convolution, then a shuffle of channels into space, frame by frame, then one into time, each of at most five
dimensions, where the usual 3D shuffle needs eight. The encoder is left as it is; only the new decoder is trained,
against the outputs and inner features of the old one, which is frozen. The paper's claim: decoders of four video
autoencoders are up to 84.5 times faster at 720p with 17.5% of the parameters and 96.9% of the reconstruction quality,
and the first to decode 720p in real time on a phone.

This implementation differs in that the new decoder starts from the old one's weights rather than from chance: what can
be rewritten exactly is (transposed convolutions without overlap, and nearest-neighbour upsampling, are pointwise
convolutions and a shuffle), and a convolution's separable form is the nearest in least squares. The paper trains with
the reconstruction error of real videos, a perceptual loss and a discriminator beside the distance of features; here the
outputs are held to the teacher's by their absolute difference, and a recipe may add the task's loss by its ``share``.
Which channels to leave out is the family's business.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...checks import NoEffectWarning, WrongShapeError, unknown
from ...family.imitation import Imitation
from ...family.statistics import keeping_modes
from ...technique import Distiller, Paper
from ._decoded import Decoded
from ._features import Pairs, fixed_draws


def decoupled_shuffle(x: Tensor, space: int, time: int) -> Tensor:
    """Return ``(B, C, T * time, H * space, W * space)`` from ``(B, C * time * space^2, T, H, W)``: space, then time.

    Raises:
        WrongShapeError: the channels cannot be shared out so.
    """
    if x.dim() != 5 or x.shape[1] % (time * space**2):
        raise WrongShapeError(
            f"a shuffle by {space} in space and {time} in time needs (B, C, T, H, W) with C a multiple of "
            f"{time * space**2}; got {tuple(x.shape)}"
        )
    batch, channels, frames, height, width = x.shape
    x = F.pixel_shuffle(x.transpose(1, 2), space)  # frame by frame: leading dimensions are a batch
    channels //= space**2 * time
    x = x.reshape(batch, frames, channels, time, -1).permute(0, 2, 1, 3, 4)
    return x.reshape(batch, channels, frames * time, height * space, width * space)


def decoupled_unshuffle(x: Tensor, space: int, time: int) -> Tensor:
    """Undo :func:`decoupled_shuffle`.

    Raises:
        WrongShapeError: the sizes are not multiples.
    """
    if x.dim() != 5 or x.shape[2] % time or x.shape[3] % space or x.shape[4] % space:
        raise WrongShapeError(
            f"frames are a multiple of {time}, heights and widths of {space}, in (B, C, T, H, W); got {tuple(x.shape)}"
        )
    batch, channels, frames, height, width = x.shape
    x = x.reshape(batch, channels, frames // time, time, height * width).permute(0, 2, 1, 3, 4)
    x = x.reshape(batch, frames // time, channels * time, height, width)
    return F.pixel_unshuffle(x, space).transpose(1, 2)


class SeparableConv3d(nn.Module):
    """A depthwise convolution and a pointwise one: ``(B, C_in, T, H, W) -> (B, C_out, T', H', W')``.

    Args:
        conv: the convolution that it stands for, of one group; its sizes are taken over.
        warm: start from the nearest weights in least squares, rather than from chance.
    """

    def __init__(self, conv: nn.Conv3d, warm: bool = True) -> None:
        super().__init__()
        a, b, k = conv.in_channels, conv.out_channels, cast(Any, conv.kernel_size)
        sizes: Any = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
        self.depthwise = nn.Conv3d(a, a, k, groups=a, bias=False, padding_mode=conv.padding_mode, **sizes)
        self.pointwise = nn.Conv3d(a, b, 1, bias=conv.bias is not None)
        self.to(conv.weight)
        with torch.no_grad():
            if conv.bias is not None and self.pointwise.bias is not None and warm:
                self.pointwise.bias.copy_(conv.bias)
            if warm:
                # For each input channel, the best product of one kernel and one column of weights: the leading pair of
                # singular vectors of its (kernel size, outputs) matrix.
                left, values, right = torch.linalg.svd(conv.weight.flatten(2).permute(1, 2, 0), full_matrices=False)
                root = values[:, :1].sqrt()
                self.depthwise.weight.copy_((left[:, :, 0] * root).view_as(self.depthwise.weight))
                self.pointwise.weight.copy_((right[:, 0] * root).T.view_as(self.pointwise.weight))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve each channel, then mix them."""
        return self.pointwise(self.depthwise(x))


class ShuffleUpsample3d(nn.Module):
    """A pointwise convolution and a decoupled shuffle.

    Shapes: ``(B, inputs, T, H, W) -> (B, outputs, T * time, H * space, W * space)``.
    """

    def __init__(self, inputs: int, outputs: int, space: int, time: int, bias: bool = True) -> None:
        super().__init__()
        self.space, self.time = space, time
        self.conv = nn.Conv3d(inputs, outputs * time * space**2, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Make the channels, then move them to their places."""
        return decoupled_shuffle(self.conv(x), self.space, self.time)

    @staticmethod
    def like_transposed(conv: nn.ConvTranspose3d) -> ShuffleUpsample3d:
        """Return what computes the same as a transposed convolution whose kernels do not overlap."""
        time, space, _ = (int(s) for s in conv.stride)
        made = ShuffleUpsample3d(conv.in_channels, conv.out_channels, space, time, conv.bias is not None)
        with torch.no_grad():
            weight = conv.weight.permute(1, 2, 3, 4, 0)  # (outputs, time, height, width, inputs)
            made.conv.weight.copy_(weight.reshape(made.conv.weight.shape))
            if conv.bias is not None and made.conv.bias is not None:
                made.conv.bias.copy_(conv.bias.repeat_interleave(time * space**2))
        return made.to(conv.weight)

    @staticmethod
    def like_nearest(channels: int, space: int, time: int) -> ShuffleUpsample3d:
        """Return what begins as nearest-neighbour upsampling, and can learn more."""
        made = ShuffleUpsample3d(channels, channels, space, time)
        with torch.no_grad():
            made.conv.weight.copy_(torch.eye(channels).repeat_interleave(time * space**2, 0)[:, :, None, None, None])
            if made.conv.bias is not None:
                made.conv.bias.zero_()
        return made


@dataclass(frozen=True)
class TurboVaed(Distiller):
    """Rebuild a video decoder from separable convolutions and decoupled shuffles, and distil the old one into it.

    Attributes:
        layers: pairs of paths, a layer of the new decoder and the old one's that it follows; both may be the same.
        weight: what each pair of layers weighs; the outputs' absolute difference weighs 1.
        keep: paths of modules that stay as they are when a decoder is rebuilt, with all inside them.
        warm: start from the old decoder's weights; else separable convolutions start from chance.
    """

    layers: Pairs = ()
    weight: float = 1.0
    keep: tuple[str, ...] = ()
    warm: bool = True

    paper: ClassVar[Paper | None] = Paper(
        "Zou, Yao, Yu, Zhang, Liu, Wang",
        2025,
        "Turbo-VAED: Fast and Stable Transfer of Video-VAEs to Mobile Devices",
        "2508.09136",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    gives: ClassVar[frozenset[str]] = frozenset({"distillation"})

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.weight < 0:
            raise WrongShapeError(f"TurboVaed needs weight >= 0; got {self.weight}")

    def rebuild(self, decoder: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        """Return a copy of ``decoder`` with its 3D convolutions separable and its upsampling shuffled.

        Left as they are: pointwise and grouped convolutions, transposed convolutions whose kernels overlap, and
        upsampling other than by whole numbers, the same in height and width.

        Args:
            decoder: the trained decoder; it stays as it is.
            args: example arguments, to learn the shapes from.
            kwargs: example keyword arguments.

        Raises:
            UnknownNameError: there is no module to keep of such a name; the nearest is offered.
        """
        modules = dict(decoder.named_modules())
        for path in self.keep:
            if path not in modules:
                raise unknown("submodule", path, [name for name in modules if name])
        able = [
            path
            for path, module in modules.items()
            if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d, nn.Upsample))
            and not any(path == kept or path.startswith(f"{kept}.") for kept in self.keep)
        ]
        channels = _channels(decoder, [p for p in able if isinstance(modules[p], nn.Upsample)], args, kwargs)
        made = {path: new for path in able if (new := self._new(modules[path], channels.get(path))) is not None}
        if not made:
            import warnings

            warnings.warn("TurboVaed found no 3D convolution or upsampling to rebuild", NoEffectWarning, stacklevel=2)
        if "" in made:
            return made[""]
        rebuilt = copy.deepcopy(decoder)
        for path, new in made.items():
            parent, _, name = path.rpartition(".")
            setattr(rebuilt.get_submodule(parent), name, new)
        return rebuilt

    def _new(self, module: nn.Module, channels: int | None) -> nn.Module | None:
        with fixed_draws():
            if isinstance(module, nn.Conv3d) and module.groups == 1 and max(module.kernel_size) > 1:
                return SeparableConv3d(module, self.warm).train(module.training)
            if isinstance(module, nn.ConvTranspose3d) and _apart(module):
                return ShuffleUpsample3d.like_transposed(module).train(module.training)
            if isinstance(module, nn.Upsample) and channels and (sizes := _sizes(module)):
                return ShuffleUpsample3d.like_nearest(channels, *sizes).train(module.training)
        return None

    def start(self, student: Any, teacher: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Imitation:
        """Return the distance of outputs and features, with linear maps where widths differ.

        Raises:
            UnknownNameError: one of the decoders has no such layer.
            WrongShapeError: two features, or the outputs, cannot be compared.
        """
        return Decoded.start(self.layers, self.weight, student, teacher, args, kwargs)


def _apart(conv: nn.ConvTranspose3d) -> bool:
    """Whether a transposed convolution gives each of its inputs a box of outputs of its own, square in space."""
    apart = tuple(conv.kernel_size) == tuple(conv.stride) and conv.kernel_size[1] == conv.kernel_size[2]
    plain = not any(any(v) for v in (conv.padding, conv.output_padding)) and set(conv.dilation) == {1}
    return apart and plain and conv.groups == 1


def _sizes(module: nn.Upsample) -> tuple[int, int] | None:
    """Return by how much it enlarges space and time, if by whole numbers and alike in height and width."""
    factor: Any = module.scale_factor
    if factor is None:
        return None
    time, height, width = factor if isinstance(factor, tuple) else (factor,) * 3
    if height != width or any(v != int(v) or v < 1 for v in (time, height)):
        return None
    return int(height), int(time)


def _channels(decoder: nn.Module, paths: list[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, int]:
    """Return how many channels reach each upsampling, where it is of three dimensions."""
    found: dict[str, int] = {}
    if not paths:
        return found
    handles = [
        decoder.get_submodule(path).register_forward_hook(
            lambda m, given, out, path=path: found.__setitem__(path, out.shape[1] if out.dim() == 5 else 0)
        )
        for path in paths
    ]
    try:
        with torch.no_grad(), keeping_modes(decoder):
            decoder.eval()(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return found
