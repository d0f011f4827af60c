"""Before a capture: wrappers are taken off, what cannot work is told at once, the model is put in a fit state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from ..checks import CaptureError, WrongShapeError

_WRAPPERS = {  # what only runs another module: its class' name and the attribute that holds that module
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
}


def unwrap(model: Any) -> nn.Module:
    """Return the module inside `torch.compile`, `DataParallel` and the like, which shares its weights.

    Raises:
        CaptureError: not a module, or one whose Python code is gone (scripted and exported programs).
    """
    while isinstance(model, nn.Module) and type(model).__module__.startswith("torch."):
        inner = getattr(model, _WRAPPERS.get(type(model).__name__, ""), None)
        if not isinstance(inner, nn.Module):
            break
        model = inner
    if isinstance(model, torch.jit.ScriptModule):
        raise CaptureError(
            f"this is a {type(model).__name__}, whose Python code is gone: give the nn.Module that it was made from, "
            "loaded with the weights of scripted.state_dict()"
        )
    if isinstance(model, ExportedProgram) or _exported(model):
        raise CaptureError(
            "this is an exported program, which has no modules and no modes any more: give the nn.Module that it was "
            "made from, loaded with the weights of program.state_dict"
        )
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise CaptureError(f"a torch.nn.Module was expected, got {what}: give an instance of the network")
    return model


def _exported(model: Any) -> bool:
    """Tell whether ``model`` is what `ExportedProgram.module()` or `torch.export.unflatten` gives."""
    return isinstance(model, nn.Module) and ("eval" in model.__dict__ or type(model).__name__ == "UnflattenedModule")


def arguments(args: Any, kwargs: Mapping[str, Any] | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the example's arguments as a tuple and a dict; a tensor or a dict may stand for a tuple of it.

    Raises:
        WrongShapeError: they are something else.
    """
    if isinstance(args, (Tensor, Mapping)):
        args = (args,)
    if not isinstance(args, Sequence) or isinstance(args, (str, bytes)):
        raise WrongShapeError(
            f"example_args is a {type(args).__name__}: give a tuple of the model's positional arguments, such as (x,)"
        )
    return tuple(args), dict(kwargs or {})


def check_modules(model: nn.Module) -> None:
    """Raise a `CaptureError` for parts that no capture can follow, with what to do about each."""
    lazy = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if is_lazy(tensor)]
    if lazy:
        raise CaptureError(
            f"{_few(lazy)} {'is' if len(lazy) == 1 else 'are'} not initialised yet (a lazy module): "
            "run model(*args) once on the example first"
        )
    locked = [name for name, parameter in model.named_parameters() if parameter.is_inference()]
    if locked:
        raise CaptureError(
            f"{_few(locked)} {'was' if len(locked) == 1 else 'were'} made under torch.inference_mode, so no view of "
            "them can be trained: build the model outside it"
        )
    scripted = _outermost(model, lambda module: isinstance(module, torch.jit.ScriptModule))
    if scripted:
        raise CaptureError(
            f"{_few(scripted)} {'is' if len(scripted) == 1 else 'are'} scripted, so the Python code is gone: "
            "put the nn.Module that it was made from in its place"
        )
    packed = _outermost(model, _quantized)
    if packed:
        raise CaptureError(
            f"{_few(packed)} {'is' if len(packed) == 1 else 'are'} quantised: weights packed as integers cannot be "
            "cut or trained; give the network before its quantisation, and quantise the members that you extract"
        )


def _outermost(model: nn.Module, is_such: Callable[[nn.Module], bool]) -> list[str]:
    """Return the paths of the modules for which ``is_such`` holds, without those inside another."""
    found: list[str] = []
    for path, module in model.named_modules():
        if is_such(module) and not any(f"{path}.".startswith(f"{outer}.") for outer in found):
            found.append(path)
    return found


def _quantized(module: nn.Module) -> bool:
    home = type(module).__module__
    return ".quantized" in home and home.startswith("torch.") and ".qat" not in home


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in evaluation mode; every module gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    forget_results(model)
    model.eval()
    try:
        yield
    finally:
        forget_results(model)
        for module, mode in modes:
            module.training = mode


def keeps_results(model: nn.Module) -> bool:
    """Tell whether some module may keep results while it evaluates: those that do drop them when training begins."""
    return any(type(module).train is not nn.Module.train for module in model.modules())


def forget_results(model: nn.Module) -> None:
    """Let modules drop what they computed from their weights and kept (LeViT's biases): it would pass as a constant."""
    if not keeps_results(model):
        return
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    model.eval()
    for module, mode in modes:
        module.training = mode


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Switch off the fused fast paths of evaluation, which hide the operations of attention from the graph."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def own_copies(*values: Any) -> Any:
    """Copy every tensor in nested ``values``, one that occurs twice once: a forward may write into its inputs."""
    memo: dict[int, Tensor] = {}

    def copy(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) not in memo:
            memo[id(value)] = value.detach().clone().requires_grad_(value.requires_grad)
        return memo[id(value)]

    return pytree.tree_map(copy, values)


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw random numbers from ``seed`` on in this block (as they come if None), and go on afterwards as before it."""
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
        if seed is not None:
            draw_from(seed)
        yield


def draw_from(seed: int) -> None:
    """Draw random numbers from ``seed`` on, on the CPU and, where it is in use, the current CUDA device.

    `torch.manual_seed` would also decide what an accelerator that is not in use yet draws later, which nothing can
    take back, and notes its caller's whole stack each time: milliseconds, where a forward takes less than one.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)


@contextmanager
def leaving_no_trace(model: nn.Module, seed: int | None = None) -> Iterator[None]:
    """Give the buffers of ``model`` and the random generators their state back: a forward may change both.

    With a ``seed``, the random numbers in this block are always the same.
    """
    buffers = [buffer for buffer in model.buffers() if not (buffer.is_meta or buffer.is_inference())]
    before = [(buffer, buffer._version, buffer.detach().clone()) for buffer in buffers]
    with seeded(seed):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, version, value in before:
                    if buffer._version != version:
                        buffer.copy_(value)


def run_aside(model: nn.Module, args: Any, kwargs: Any, watch: AbstractContextManager[Any] | None = None) -> Any:
    """Run ``model`` on copies of the arguments, without gradients, so that nothing else changes.

    ``watch`` is entered around nothing but the model's own code.
    """
    args, kwargs = own_copies(args, kwargs)
    with torch.no_grad(), leaving_no_trace(model), watch or nullcontext():
        return model(*args, **kwargs)


@contextmanager
def on_fake_cpu_if_meta(model: nn.Module, args: Any, kwargs: Any) -> Iterator[tuple[Any, Any]]:
    """Let a network without weights be captured: meta tensors would clash with the ones that a forward creates."""
    if not has_meta(model):
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


def has_meta(model: nn.Module) -> bool:
    """Tell whether some weight of ``model`` is on the meta device."""
    return any(tensor.device.type == "meta" for tensor in (*model.parameters(), *model.buffers()))
