"""Working on one submodule of a model whose other parts need not be captured: ``only="backbone"``.

The whole model runs once on its example while the submodule's first call is noted. The submodule is then captured
alone, inside empty modules that give its parts the names that they have in the whole model. What the rest of the
model uses directly is pinned: it keeps its size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ..checks import CaptureError, unknown
from .clone import clone_tree
from .prepare import own_copies, run_aside


@dataclass(frozen=True)
class Part:
    """A submodule ready to be captured: ``model`` holds nothing else, ``pinned`` maps tensors to why they must stay."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    pinned: Mapping[str, str]


class _Holder(nn.Module):
    """Empty modules around one submodule, so that its parts bear the same names as in the whole model."""

    def __init__(self, path: str, part: nn.Module) -> None:
        super().__init__()
        self._path = path
        *above, last = path.split(".")
        owner: nn.Module = self
        for name in above:
            inner = nn.Module()
            owner.add_module(name, inner)
            owner = inner
        owner.add_module(last, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.get_submodule(self._path)(*args, **kwargs)


# Properties that no cut changes: the rest of the model may ask for them.
_ASKS = {"dtype", "device", "is_cuda", "requires_grad", "is_floating_point", "is_complex", "layout", "is_meta", "grad"}


class _Watch(TorchFunctionMode):
    """Notes which tensors of a submodule are used while it is not running, and what it is first called with."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.tensors = {id(t): name for name, t in [*part.named_parameters(), *part.named_buffers()]}
        self.inside = self.calls = 0
        self.first: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
        self.outside: dict[str, None] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.inside and _name(func) not in _ASKS:
            for leaf in pytree.tree_leaves((args, kwargs)):
                if isinstance(leaf, Tensor) and id(leaf) in self.tensors:
                    self.outside[self.tensors[id(leaf)]] = None
        return func(*args, **(kwargs or {}))

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if not self.calls:
            self.first = own_copies(args, kwargs)
        self.calls += 1
        self.inside += 1

    def leave(self, *_: Any) -> None:
        self.inside -= 1

    @contextmanager
    def on(self, part: nn.Module) -> Iterator[None]:
        hooks = [
            part.register_forward_pre_hook(self.enter, with_kwargs=True),
            part.register_forward_hook(self.leave, always_call=True),
        ]
        try:
            with self:
                yield
        finally:
            for hook in hooks:
                hook.remove()


def _name(func: Any) -> str:
    """Return the name of a function or, for the getter of a property, that of the property."""
    name = str(getattr(func, "__name__", ""))
    return str(getattr(getattr(func, "__self__", None), "__name__", "")) if name == "__get__" else name


def part_of(model: nn.Module, only: str, args: Any, kwargs: Any) -> Part:
    """Run ``model`` once and return its submodule at the path ``only`` with the arguments of its first call.

    Raises:
        UnknownNameError: no such submodule.
        CaptureError: it is not called when the model runs.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    if only not in modules or not only:
        raise unknown("submodule", only, [path for path in modules if path])
    part = modules[only]
    watch = _Watch(part)
    run_aside(model, args, kwargs, watch.on(part))
    if not watch.calls:
        raise CaptureError(
            f"the submodule {only!r} is never called when the model runs on the example (its methods may be): "
            "give one whose forward is, see [name for name, _ in model.named_modules()]"
        )
    pinned = {f"{only}.{name}": f"the rest of the model uses it outside {only!r}" for name in watch.outside}
    pinned |= {f"{only}.{name}": "the rest of the model has it too" for name in _shared(model, part, only)}
    return Part(_Holder(only, part), *watch.first, pinned)


def _shared(model: nn.Module, part: nn.Module, only: str) -> Iterator[str]:
    """Yield the tensors of ``part`` that ``model`` also has under a name outside it."""
    both = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    outside = {id(tensor) for name, tensor in both if not name.startswith(f"{only}.")}
    for name, tensor in [*part.named_parameters(), *part.named_buffers()]:
        if id(tensor) in outside:
            yield name


def largest_parts(model: nn.Module, broken: str) -> list[tuple[str, float]]:
    """Return submodules beside the one at ``broken`` with their shares of the parameters, the largest first."""
    total = sum(p.numel() for p in model.parameters()) or 1
    modules = dict(model.named_modules())
    rows: list[tuple[str, float]] = []
    for path, module in modules.items():
        share = sum(p.numel() for p in module.parameters()) / total
        above = path.rpartition(".")[0]
        while above and not _runs(modules[above]):  # lists of modules are not called themselves
            above = above.rpartition(".")[0]
        holds = f"{broken}.".startswith(f"{path}.") or not path
        if not holds and (not above or f"{broken}.".startswith(f"{above}.")) and share > 0.05 and _runs(module):
            rows.append((path, share))
    return sorted(rows, key=lambda row: -row[1])


def _runs(module: nn.Module) -> bool:
    return type(module).forward is not nn.Module.forward


def embed(
    model: nn.Module, only: str, inner: nn.Module, supply: Callable[[str], Tensor], names: Mapping[str, str]
) -> nn.Module:
    """Return a copy of ``model`` with ``inner`` in the place of its submodule ``only``.

    The other tensors come from ``supply``; ``names`` maps every name of a tensor to the one that ``supply`` knows.
    """
    net = clone_tree(model)
    given: dict[str, Tensor] = {}
    for path, module in net.named_modules():
        if f"{path}.".startswith(f"{only}."):
            continue
        stores: tuple[Any, Any] = (module._parameters, module._buffers)
        for store in stores:
            for name, tensor in store.items():
                if tensor is not None:
                    full = f"{path}.{name}" if path else name
                    canonical = names.get(full, full)
                    if canonical not in given:
                        given[canonical] = supply(canonical)
                    store[name] = given[canonical]
    parent, _, last = only.rpartition(".")
    net.get_submodule(parent)._modules[last] = inner.train(net.training)
    return net
