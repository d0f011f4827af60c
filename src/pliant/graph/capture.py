"""Turning a user's model into a graph of ATen operations with `torch.export`, or saying plainly why it can't be."""

from __future__ import annotations

import re
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from ..checks import CaptureError, WrongShapeError
from .flatten import inline_regions
from .nouns import Interface


@dataclass(frozen=True)
class ModuleCall:
    """How often a module was called while the graph was captured, and its interface if an input could replace it."""

    path: str
    calls: int
    interface: Interface | None


@dataclass(frozen=True)
class Capture:
    """A captured network: the exported program, its flattened graph and how each module was called."""

    program: ExportedProgram
    graph: torch.fx.Graph
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    calls: Mapping[str, ModuleCall]
    aliases: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def inputs(self) -> Mapping[str, Any]:
        """Placeholder name to the specification that tells a parameter from a buffer, a constant or an input."""
        return {spec.arg.name: spec for spec in self.program.graph_signature.input_specs}


class _CallLog:
    """Forward hooks that note how each module is called during the capture."""

    def __init__(self, model: nn.Module) -> None:
        self.records: dict[str, ModuleCall] = {}
        # The tracer wraps a module that has several names in proxies, which share its attributes.
        self._paths = {id(module.__dict__): path for path, module in model.named_modules()}

    def hook(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        path = self._paths[id(module.__dict__)]
        if path in self.records:
            self.records[path] = ModuleCall(path, self.records[path].calls + 1, None)
            return
        plain = len(args) == 1 and not kwargs and isinstance(args[0], torch.Tensor) and isinstance(output, torch.Tensor)
        self.records[path] = ModuleCall(path, 1, _interface((args, kwargs), output, plain))


def _interface(given: Any, output: Any, plain: bool) -> Interface | None:
    flat_in, _ = pytree.tree_flatten(given)
    flat_out, spec = pytree.tree_flatten(output)
    where = {id(value): i for i, value in enumerate(flat_in) if isinstance(value, torch.Tensor)}
    passed = tuple(where.get(id(v)) if isinstance(v, torch.Tensor) else -1 for v in flat_out)
    made = [i for i, v in enumerate(flat_out) if isinstance(v, torch.Tensor) and passed[i] is None]
    for hidden, value in enumerate(flat_in):
        if not isinstance(value, torch.Tensor) or value.dim() < 2:
            continue
        for result in made:
            if _shape(flat_out[result]) == _shape(value) and flat_out[result].dtype == value.dtype:
                return Interface(hidden, result, passed, spec, plain)
    return None


def _shape(tensor: torch.Tensor) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in tensor.shape)  # None: known only at run time


def capture(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Capture:
    """Capture ``model`` in evaluation mode on example ``args``; the model's own mode is restored.

    Args:
        model: any module that `torch.export` (non-strict) can trace; parameters may be on the meta device.
        args: example positional arguments, a tuple; a batch of at least 2 keeps the batch dimension apart from sizes
            of 1.
        kwargs: example keyword arguments.

    Raises:
        WrongShapeError: the model itself does not run on the example.
        CaptureError: it runs, but cannot be turned into a graph; the message names the module and the user's line.
    """
    if isinstance(args, torch.Tensor):
        args = (args,)
    args, kwargs = tuple(args), dict(kwargs or {})
    log = _CallLog(model)
    with _evaluating(model), _on_fake_cpu_if_meta(model, args, kwargs) as (args_in, kwargs_in):
        hooks = [m.register_forward_hook(log.hook, with_kwargs=True) for m in set(model.modules())]
        try:
            # The fused fast paths of evaluation hide the operations of attention from the graph.
            with warnings.catch_warnings(), torch.enable_grad(), _without_fast_path():
                warnings.simplefilter("ignore")
                program = torch.export.export(model, args_in, kwargs_in, strict=False)
        except Exception as error:
            raise _explain(model, args_in, kwargs_in, error) from error
        finally:
            for hook in hooks:
                hook.remove()
    return Capture(program, inline_regions(program), args, kwargs, log.records, _aliases(model))


def _aliases(model: nn.Module) -> dict[str, str]:
    """Map every name of a tied tensor to its first name."""
    first: dict[int, str] = {}
    names: dict[str, str] = {}
    both = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in both:
        names[name] = first.setdefault(id(tensor), name)
    return names


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _without_fast_path() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _on_fake_cpu_if_meta(model: nn.Module, args: Any, kwargs: Any) -> Iterator[tuple[Any, Any]]:
    """Let a network without weights be captured: meta tensors would clash with the ones that a forward creates."""
    tensors = [t for t in (*model.parameters(), *model.buffers()) if t.device.type == "meta"]
    if not tensors:
        yield args, kwargs
        return
    from torch._subclasses.fake_tensor import FakeTensorMode

    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def fake(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        with mode:
            return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cpu")

    swapped: list[tuple[Any, str, Any]] = []
    memo: dict[int, torch.Tensor] = {}
    for module in model.modules():
        stores: tuple[Any, Any] = (module._parameters, module._buffers)
        for store in stores:
            for name, tensor in store.items():
                if tensor is None:
                    continue
                if id(tensor) not in memo:
                    new = fake(tensor)
                    memo[id(tensor)] = nn.Parameter(new, tensor.requires_grad) if store is module._parameters else new
                swapped.append((store, name, tensor))
                store[name] = memo[id(tensor)]
    try:
        yield pytree.tree_map(fake, args), pytree.tree_map(fake, kwargs)
    finally:
        for store, name, tensor in swapped:
            store[name] = tensor


_TORCH = re.compile(r"[/\\]torch[/\\]")


def _user_line(error: BaseException) -> str:
    """Return ``file, line: code`` of the innermost frame that is not torch's own."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _TORCH.search(f.filename)]
    frames = [f for f in frames if not f.filename.endswith(("graph/capture.py", "graph\\capture.py"))]
    if not frames:
        return ""
    last = frames[-1]
    return f"{last.filename}, line {last.lineno}: {last.line}"


def _module_of(model: nn.Module, error: BaseException) -> str:
    """Return the path of the innermost module whose forward was running when ``error`` was raised."""
    paths = {id(module): path for path, module in model.named_modules()}
    found, trace = "", error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and id(owner) in paths:
            found = paths[id(owner)] or type(owner).__name__
        trace = trace.tb_next
    return found


def _place(model: nn.Module, error: BaseException) -> str:
    module, line = _module_of(model, error), _user_line(error)
    parts = ([f"in module {module!r}"] if module else []) + ([f"at {line}"] if line else [])
    return f"\n  {', '.join(parts)}" if parts else ""


def _explain(model: nn.Module, args: Any, kwargs: Any, error: Exception) -> Exception:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    shapes = pytree.tree_map(
        lambda v: tuple(v.shape) if isinstance(v, torch.Tensor) else type(v).__name__, (args, kwargs)
    )
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    except Exception as plain:  # noqa: BLE001  (whatever the user's code raises is what the message tells)
        return WrongShapeError(
            f"the model does not run on the example arguments {shapes[0]} {shapes[1] or ''}: "
            f"{type(plain).__name__}: {str(plain).strip().splitlines()[0] if str(plain).strip() else ''}"
            + _place(model, plain)
            + "\n  give arguments with which model(*args, **kwargs) works"
        )
    return CaptureError(
        f"torch.export cannot capture this model: {first}"
        f"{_place(model, error)}"
        "\n  what helps: replace Python control flow on tensor values by torch.where or torch.cond, "
        "or analyse the submodule that holds the weights"
    )
