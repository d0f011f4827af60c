"""Networks in ONNX Runtime: conversion in memory, and a call that can be timed or compared. Extra ``onnx``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ..checks import CaptureError, PliantError, require
from .capture import Captured, brief, capture, quiet
from .inference import Args
from .onnx_operations import operations_read_once


@dataclass(frozen=True)
class OnnxNet:
    """A network as ONNX.

    Attributes:
        model: the serialised model, weights included.
        dynamic: whether the batch is free; ``reason`` says why it is not.
        opset: the version of the operator set.
        inputs: the graph's name of every leaf of ``(args, kwargs)``.
    """

    model: bytes
    dynamic: bool
    reason: str
    opset: int
    inputs: tuple[str, ...]


def to_onnx(net: nn.Module, args: Args, kwargs: dict[str, Any], *, dynamic_batch: bool = True) -> OnnxNet:
    """Convert ``net`` in evaluation mode through ``torch.onnx`` (the exporter on ``torch.export``).

    Raises:
        MissingExtraError: ``onnx`` or ``onnxscript`` is not installed.
        CaptureError: the network cannot be captured, or one of its operations has no ONNX counterpart.
    """
    require("onnx", "onnx")
    require("onnxscript", "onnx")
    captured = capture(net, args, kwargs, dynamic_batch=dynamic_batch)
    fixed = [each.arg.value for each in captured.program.graph_signature.output_specs if hasattr(each.arg, "value")]
    if any(value is not None for value in fixed):
        raise CaptureError(
            f"{type(net).__name__} gives {fixed[0]!r} beside its tensors, and ONNX knows tensors alone: wrap it in a "
            "module that returns the tensors, or export to .pt2"
        )
    try:
        return _convert(captured)
    except Exception as error:
        if captured.dynamic:  # a free batch can be what the conversion stumbles over
            try:
                return _convert(capture(net, args, kwargs, dynamic_batch=False), f"with a free batch: {brief(error)}")
            except PliantError:
                raise
            except Exception as second:
                raise _unconvertible(net, second) from second
        raise _unconvertible(net, error) from error


def _unconvertible(net: nn.Module, error: Exception) -> CaptureError:
    return CaptureError(f"{type(net).__name__} could not be converted to ONNX: {_cause(error)}")


def _cause(error: BaseException) -> str:
    """Return what a conversion failed at: the operation, and the error that torch wraps in several others."""
    operation, inner = "", error
    while True:
        found = re.search(r"Error when translating node .*?target=torch\.ops\.([\w.]+)", str(inner), re.DOTALL)
        operation = found[1] if found else operation
        if inner.__cause__ is None:
            return f"{operation}: {brief(inner)}" if operation else brief(inner)
        inner = inner.__cause__


def _convert(captured: Captured, reason: str = "") -> OnnxNet:
    with quiet(), torch.no_grad(), operations_read_once():
        program: Any = torch.onnx.export(captured.program, (), dynamo=True, verbose=False)
        proto = program.model_proto
        model = proto.SerializeToString()
    opset = next((entry.version for entry in proto.opset_import if entry.domain == ""), 0)
    given = {entry.name for entry in proto.graph.input}
    # One that is also an output, unchanged, leaves its name to that.
    inputs = tuple(renamed if (renamed := f"{name}_orig") in given - {name} else name for name in captured.inputs)
    return OnnxNet(model, captured.dynamic, reason or captured.reason, opset, inputs)


def open_session(model: bytes | str, threads: int) -> Any:
    """Open an ``onnxruntime.InferenceSession`` on the CPU with ``threads`` threads inside an operation.

    Raises:
        MissingExtraError: ``onnxruntime`` is not installed.
        CaptureError: it does not run such a model.
    """
    runtime = require("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3  # errors only
    try:
        return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of its own kinds, which share no base
        raise CaptureError(
            f"ONNX Runtime cannot run the network: {brief(error)}. Where it lacks an operation for bfloat16 or the "
            "like, make the network float32 first: net.float()"
        ) from error


def feeds(session: Any, inputs: tuple[str, ...], args: Any, kwargs: Any) -> dict[str, Any]:
    """Return the inputs of ``session`` as numpy arrays by name."""
    wanted = {entry.name for entry in session.get_inputs()}
    leaves = zip(inputs, pytree.tree_leaves((args, kwargs)), strict=True)
    return {
        name: leaf.detach().cpu().numpy() for name, leaf in leaves if name in wanted and isinstance(leaf, torch.Tensor)
    }


def session_call(net: OnnxNet, args: Any, kwargs: Any, threads: int) -> Callable[[], Any]:
    """Build one session of ``net`` and return the call of it on ``(args, kwargs)``."""
    session = open_session(net.model, threads)
    arrays = feeds(session, net.inputs, args, kwargs)
    return lambda: session.run(None, arrays)
