"""A network as one self-contained graph, for the runtimes that take one."""

from __future__ import annotations

import dataclasses
import functools
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ..checks import CaptureError
from .inference import Args, batch_size, evaluating, tensors_of


@dataclasses.dataclass(frozen=True)
class Captured:
    """An exported program.

    Attributes:
        program: the graph with its weights.
        dynamic: whether the batch (first dimension of every batched input) may differ from the example's.
        reason: why it may not, where that was asked for; else empty.
        inputs: the graph's name of every leaf of ``(args, kwargs)``, in order.
    """

    program: torch.export.ExportedProgram
    dynamic: bool
    reason: str
    inputs: tuple[str, ...]


def capture(net: nn.Module, args: Args, kwargs: dict[str, Any], *, dynamic_batch: bool = True) -> Captured:
    """Turn ``net``, in evaluation mode, into an exported program whose batch is dynamic where the graph allows.

    Outputs in a user's own container (a dataclass, a model output of a library) become dictionaries or tuples, so that
    the program needs no code but torch's to be loaded.

    Raises:
        CaptureError: ``torch.export`` cannot turn the network into a graph, with a fixed batch either.
    """
    kept = _KEPT.get()
    if kept is None or kept.net is not net:
        return _capture(net, args, kwargs, dynamic_batch)
    leaves, spec = pytree.tree_flatten((args, kwargs))
    key = (dynamic_batch, str(spec), *map(id, leaves))
    if key not in kept.found:
        kept.found[key] = (_capture(net, args, kwargs, dynamic_batch), leaves)  # which live on: an id is not given anew
    return kept.found[key][0]


@dataclasses.dataclass(frozen=True)
class _Kept:
    net: nn.Module
    found: dict[Any, tuple[Captured, list[Any]]]


_KEPT: ContextVar[_Kept | None] = ContextVar("_KEPT", default=None)


@contextmanager
def captured_once(net: nn.Module) -> Iterator[None]:
    """Inside, capture ``net`` once for each choice of arguments: for formats that are written one after another.

    It must not change meanwhile; neither must what was captured, other than by giving weights memory of their own.
    """
    before = _KEPT.set(_Kept(net, {}))
    try:
        yield
    finally:
        _KEPT.reset(before)


def _capture(net: nn.Module, args: Args, kwargs: dict[str, Any], dynamic_batch: bool) -> Captured:
    reason = ""
    with evaluating(net), quiet(), ExitStack() as stack:
        if not _is_plain(net(*args, **kwargs)):
            stack.enter_context(_plain_outputs(net))
        if dynamic_batch:
            try:
                program, reason = _dynamic(net, args, kwargs)
                if not reason:
                    return Captured(program, True, "", _inputs(program))
            except Exception as error:  # noqa: BLE001 - it raises whatever the traced code does
                reason = brief(error)
        try:
            program = torch.export.export(net, args, kwargs, strict=False)
        except Exception as error:
            raise CaptureError(
                f"torch.export could not turn {type(net).__name__} into a graph: {brief(error)}. Data-dependent "
                "branches and calls out of torch in its forward are the usual causes"
            ) from error
    return Captured(program, False, reason, _inputs(program))


def _dynamic(net: nn.Module, args: Args, kwargs: dict[str, Any]) -> tuple[torch.export.ExportedProgram, str]:
    """Export with a free batch; the second result says what fixed it nevertheless."""
    batch = batch_size(args, kwargs)
    if batch is None:
        raise CaptureError("no input has a batch dimension")
    if batch < 2:  # torch.export takes a size of one for a constant
        args, kwargs = rebatch((args, kwargs), batch, 2)
        batch = 2
    shapes = torch.export.ShapesCollection()
    for tensor in tensors_of((args, kwargs)):
        if _batched(tensor, batch):
            shapes[tensor] = {0: torch.export.Dim.AUTO}
    program = torch.export.export(
        net, args, kwargs, strict=False, dynamic_shapes=shapes.dynamic_shapes(net, args, kwargs)
    )
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    for name, leaf in zip(_inputs(program), pytree.tree_leaves((args, kwargs)), strict=True):
        if isinstance(leaf, torch.Tensor) and _batched(leaf, batch) and _is_fixed(values[name].shape[0]):
            return program, f"the network fixes the first dimension of input {name!r}"
    return program, ""


def _is_fixed(size: Any) -> bool:
    """A symbol may have been found out to be a number without being shown as one."""
    return isinstance(size, int) or size.node.maybe_as_int() is not None


def rebatch(tree: Any, batch: int, wanted: int) -> Any:
    """Return ``tree`` with every tensor of first dimension ``batch`` repeated or cut to ``wanted``."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        if not _batched(tensor, batch):
            return tensor
        return tensor.index_select(0, torch.arange(wanted, device=tensor.device) % batch)

    return pytree.tree_map_only(torch.Tensor, change, tree)


def _batched(tensor: torch.Tensor, batch: int) -> bool:
    return tensor.ndim > 0 and tensor.shape[0] == batch


def _inputs(program: torch.export.ExportedProgram) -> tuple[str, ...]:
    names = [node.name for node in program.graph.nodes if node.op == "placeholder"]
    count = program.call_spec.in_spec.num_leaves if program.call_spec.in_spec is not None else 0
    return tuple(names[len(names) - count :])


def plain(value: Any) -> Any:
    """Return ``value`` in tuples, lists and dictionaries alone; fields that are ``None`` are left out.

    Raises:
        CaptureError: it holds an object that is no container and no tensor.
    """
    if value is None or isinstance(value, torch.Tensor | bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items() if item is not None}
    if dataclasses.is_dataclass(value):
        fields = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {name: plain(item) for name, item in fields if item is not None}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    leaves = pytree.tree_leaves(value)
    if len(leaves) == 1 and leaves[0] is value:
        raise CaptureError(
            f"the output holds a {type(value).__name__}, which is neither a tensor nor a container of tensors; wrap "
            "the network in a module that returns tensors, or switch that output off (use_cache=False in transformers)"
        )
    return tuple(plain(leaf) for leaf in leaves)


def _is_plain(value: Any) -> bool:
    if value is None or type(value) in (bool, int, float, str) or isinstance(value, torch.Tensor):
        return True
    if type(value) is dict:
        return all(_is_plain(item) for item in value.values())
    return type(value) in (tuple, list) and all(_is_plain(item) for item in value)


@contextmanager
def _plain_outputs(net: nn.Module) -> Iterator[None]:
    """Have ``net`` answer in tuples, lists and dictionaries alone; its names and its signature stay as they are."""
    own = "forward" in vars(net)
    forward = net.forward

    @functools.wraps(forward)
    def plainly(*args: Any, **kwargs: Any) -> Any:
        return plain(forward(*args, **kwargs))

    net.forward = plainly
    try:
        yield
    finally:
        if own:
            net.forward = forward
        else:
            del net.forward


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the warnings and log lines of the exporters away, and only theirs: everything is as before afterwards."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def brief(error: BaseException) -> str:
    """Return the kind and the first line of an error of torch, whose others are its own insides."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:400]
