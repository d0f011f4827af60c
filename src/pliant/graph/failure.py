"""Why a capture failed, in the words of the model's author: the module, the source line, the reason, the way out."""

from __future__ import annotations

import contextlib
import inspect
import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ..checks import CaptureError, WrongShapeError, first_line

_TORCH = str(Path(torch.__file__).parent)
_GRAPH = str(Path(__file__).parent)
_INSTALLED = re.compile(r"[/\\](site|dist)-packages[/\\]")
_BRANCH = "write a choice that depends on values as torch.where or torch.cond"

# What torch says of a custom operation that it can run, and nothing more.
NO_SIZES = r"no fake impl|UnsupportedOperatorException|with arguments from the 'Meta' backend"

# What torch says (a pattern over the error's class and text), what it means, and what helps.
_KNOWN = (
    (r"Could not extract specialized (integer|float)|unhinted: TruncToInt",
     "Python numbers such as int(x.sum()) or a size are made from the values of tensors",
     "keep them as tensors, or take them from shapes or from attributes of the module"),
    (r"data-dependent|Data-dependent|GuardOnDataDependent",
     "its Python code branches or loops on the values of tensors, so that no one graph holds for every input",
     _BRANCH),
    (r"numpy\(\) is not supported|tolist\(\)|NumPy",
     "its forward leaves torch (.numpy(), .tolist()) where the values are needed",
     "say the same with torch's own operations"),
    (r"Unsupported input type|pytree-flattenable",
     "an argument is of a class that torch.export does not know",
     "pass tensors, numbers, lists, tuples and dicts, or torch.utils._pytree.register_dataclass your dataclass"),
    (r"transformers\.cache_utils\.\w+'> in output",
     "its forward returns the keys and values of a transformers cache, which only generation needs",
     "model.config.use_cache = False"),
    (r"in output, which is not a known type|unsupported output",
     "its forward returns an object of a class that torch.export does not know",
     "return tensors, lists, tuples or dicts, or register your dataclass with torch.utils._pytree.register_dataclass"),
    (r"fake tensor in the exported program constant's list",
     "its forward takes gradients or keeps tensors that it made for later",
     "leave torch.autograd.grad out of the forward, and keep state in buffers"),
    (r"Attempted to use an uninitialized parameter",
     "it has layers that are not initialised yet",
     "run model(*args) once on the example first"),
    (NO_SIZES,
     "an operation says nothing about the sizes of its results",
     "register them with torch.library.register_fake"),
)  # fmt: skip


def does_not_run(model: nn.Module, args: Any, kwargs: Any, error: BaseException) -> WrongShapeError:
    """Build the error for a model that does not run on its example."""
    given = ", ".join([*map(_shown, args), *(f"{name}={_shown(value)}" for name, value in kwargs.items())])
    return WrongShapeError(
        f"the model does not run on the example arguments ({given}): {_kind(error)}{first_line(error)[:300]}"
        f"{place(model, error)}\n  give arguments with which model(*args, **kwargs) works{_as_keywords(model, args)}"
    )


def _as_keywords(model: nn.Module, args: Any) -> str:
    """Say where a dict belongs whose keys are names of the forward's arguments."""
    if len(args) == 1 and isinstance(args[0], Mapping) and args[0]:
        with contextlib.suppress(TypeError, ValueError):  # a forward of compiled code says nothing of its arguments
            if set(args[0]) <= set(inspect.signature(model.forward).parameters):
                return f": the dict holds keyword arguments ({', '.join(args[0])}), so give it as example_kwargs"
    return ""


def cannot_capture(model: nn.Module, error: BaseException, hint: str = "") -> CaptureError:
    """Build the error for a model that runs and cannot be captured; ``hint`` names a submodule that can be."""
    text = f"{type(error).__name__}: {error}"
    unknown = (f"torch.export gave up: {_kind(error)}{first_line(error)[:300]}", _BRANCH)
    why, helps = next(((why, helps) for pattern, why, helps in _KNOWN if re.search(pattern, text)), unknown)
    return CaptureError(
        f"this model cannot be captured as a graph: {why}{place(model, error)}\n  what helps: {helps}; or work on the "
        f"submodule that holds the weights: {hint or 'only=' + repr('its.path')}"
    )


def _kind(error: BaseException) -> str:
    name = type(error).__name__
    return "" if first_line(error) == name else f"{name}: "


def _shown(value: Any) -> str:
    def one(leaf: Any) -> Any:
        return _Plain(str(tuple(leaf.shape))) if isinstance(leaf, torch.Tensor) else _Plain(type(leaf).__name__)

    return str(pytree.tree_map(one, value))[:200]


class _Plain(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def place(model: nn.Module, error: BaseException) -> str:
    """Return a line that says in which module of ``model`` and at which source line ``error`` was raised."""
    module = failing_module(model, error)
    module = module or (type(model).__name__ if module is not None else "")
    parts = ([f"in module {module!r}"] if module else []) + _lines(error)
    return f"\n  {', '.join(parts)}" if parts else ""


def _lines(error: BaseException) -> list[str]:
    """Say the innermost line outside torch; where that is in an installed package, the user's own one too."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((_TORCH, _GRAPH, "<"))]
    if not frames:
        return _told(error)
    last, own = frames[-1], [f for f in frames if not _INSTALLED.search(f.filename)]
    rows = [last, *(own[-1:] if own and own[-1] is not last else [])]
    return [
        ("at " if row is last else "called from ") + f"{row.filename}, line {row.lineno}: {row.line}" for row in rows
    ]


def _told(error: BaseException) -> list[str]:
    """Take the place from the error's text: the tracer of bytecode tells it there and raises from its own frames."""
    found = re.findall(r'File "([^"]+)", line (\d+), in [^\n]+\n\s+([^\n]+)', str(error))
    rows = [row for row in found if not row[0].startswith((_TORCH, _GRAPH, "<"))]
    return [f"at {rows[-1][0]}, line {rows[-1][1]}: {rows[-1][2].strip()}"] if rows else []


def failing_module(model: nn.Module, error: BaseException) -> str | None:
    """Return the path of the innermost module whose forward was running when ``error`` was raised, None if unknown."""
    paths = {id(module.__dict__): path for path, module in model.named_modules()}
    found, trace = None, error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and id(owner.__dict__) in paths:
            found = paths[id(owner.__dict__)]
        trace = trace.tb_next
    return found
