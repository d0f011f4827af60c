"""``.onnx``: for ONNX Runtime and every other reader of the format. Extra ``onnx``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from ..checks import PliantError, require
from ..measure.onnx_runtime import feeds, open_session, to_onnx
from .artefact import Draft

LARGEST = 2**31 - 1
"""Bytes: the limit of the format for a model in one file."""


def write(net: nn.Module, temporary: Path, path: Path, args: Any, kwargs: Any, *, dynamic_batch: bool) -> Draft:
    """Write ``net`` to ``temporary``, to be called ``path``.

    Raises:
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
        CaptureError: it cannot be captured or converted.
        PliantError: it is larger than the format allows in one file.
    """
    require("onnxruntime", "onnx")
    weight = sum(value.numel() * value.element_size() for value in net.state_dict().values())
    if weight > LARGEST:
        raise PliantError(
            f"the weights take {weight / 1e9:.1f} GB, and ONNX holds 2 in one file: export to .pt2 instead"
        )
    converted = to_onnx(net, args, kwargs, dynamic_batch=dynamic_batch)
    temporary.write_bytes(converted.model)
    session = open_session(str(temporary), threads=1)
    names = list(feeds(session, converted.inputs, args, kwargs))
    lines = (
        "import onnxruntime\n\n"
        f"session = onnxruntime.InferenceSession({path.name!r}, providers=['CPUExecutionProvider'])\n"
        f"# outputs = session.run(None, {{{', '.join(f'{name!r}: array' for name in names)}}})\n"
    )
    outputs = [entry.name for entry in session.get_outputs()]
    details = {
        "runtime": "onnxruntime",
        "opset": converted.opset,
        "fixed_because": converted.reason,
        "inputs": names,
        "outputs": outputs,
    }

    def prepare(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any]:
        arrays = feeds(session, converted.inputs, args, kwargs)
        return lambda: session.run(None, arrays)

    return Draft(prepare, converted.dynamic, lines, details)
