"""Slots: modules of a network in whose place another operation may run, and the operations that may."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from ...checks import PliantError, WrongShapeError, first_line
from ...graph.analysis import Analysis
from ...graph.clone import clone_tree
from ...graph.module_form import Skip
from ...graph.prepare import evaluating, on_fake_cpu_if_meta, run_aside, seeded
from ._writes import Copied, Watch, written_over

IDENTITY = "identity"
Maker = nn.Module | Callable[[nn.Module], nn.Module]


@dataclass(frozen=True)
class Call:
    """How a slot is called on the example, and what it gives: of tensors, their shapes and types (meta device)."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any

    @property
    def plain(self) -> bool:
        """Whether it takes one tensor by position and gives one."""
        return len(self.args) == 1 and not self.kwargs and all(isinstance(v, Tensor) for v in (*self.args, self.result))

    @property
    def single(self) -> bool:
        """Whether one tensor is among what it takes, and it gives one."""
        given = [leaf for leaf in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]
        return len(given) == 1 and isinstance(self.result, Tensor)

    @property
    def shape(self) -> str:
        """The sizes of what it takes and gives, in short."""
        leaves = pytree.tree_leaves((self.args, self.kwargs, self.result))
        return "_".join("x".join(map(str, leaf.shape)) for leaf in leaves if isinstance(leaf, Tensor))

    def example(self, device: torch.device) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return arguments like these: random numbers, and zeros for integers."""
        draw = torch.Generator().manual_seed(0)

        def like(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if not value.is_floating_point() or device.type == "meta":
                return torch.zeros(value.shape, dtype=value.dtype, device=device)
            return torch.randn(value.shape, generator=draw).to(device, value.dtype)

        made: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map(like, (self.args, self.kwargs))
        return made


@dataclass(frozen=True, eq=False)
class Alternative:
    """An operation that may run in a slot: ``module`` holds its first values, and is never run by a member."""

    name: str
    module: nn.Module
    macs: float
    weights: int

    def tensors(self) -> dict[str, Tensor]:
        """Return its parameters and buffers by name, one that has several names once."""
        return dict([*self.module.named_parameters(), *self.module.named_buffers()])

    def filled(self, supply: Callable[[str], Tensor]) -> nn.Module:
        """Return a copy with the tensors that ``supply`` gives by name."""
        if self.name == IDENTITY:
            return _again(self.module)
        names = {id(tensor): name for name, tensor in self.tensors().items()}
        given: dict[str, Tensor] = {}
        net = clone_tree(self.module)
        for module in net.modules():
            stores: tuple[Any, Any] = (module._parameters, module._buffers)
            for store in stores:
                for last, tensor in store.items():
                    if tensor is not None:
                        name = names[id(tensor)]
                        if name not in given:
                            given[name] = supply(name)
                        store[last] = given[name]
        return net


@dataclass(frozen=True, eq=False)
class Slot:
    """A module that may be replaced: its path, its class, all paths that it has, its calls and its alternatives.

    ``writes`` says that it writes into its own input.
    """

    name: str
    kind: str
    paths: tuple[str, ...]
    calls: tuple[Call, ...]
    writes: bool
    alternatives: dict[str, Alternative] = field(default_factory=dict)
    fittings: dict[str, Any] = field(default_factory=dict)  # how they fit where something is cut, once it is known

    @property
    def shape(self) -> str:
        """What its first call takes and gives, in short."""
        return self.calls[0].shape


def outermost(modules: Mapping[str, nn.Module], kind: str) -> dict[str, nn.Module]:
    """Return the modules of a class (``""`` of any), without those inside another of them."""
    found: dict[str, nn.Module] = {}
    for path, module in modules.items():  # in the order of the tree, what is outside comes first
        classes = type(module).__mro__
        if kind and kind not in {name for c in classes for name in (c.__name__, f"{c.__module__}.{c.__qualname__}")}:
            continue
        if not any(path.startswith(f"{outer}.") for outer in found):
            found[path] = module
    return found


def find_slots(
    analysis: Analysis, kind: str, makers: Mapping[str, Maker], identity: bool, seed: str
) -> tuple[Slot, ...]:
    """Return the slots of a part of a network with their alternatives, each tried once on the example's shapes.

    Raises:
        WrongShapeError: an alternative does not run in a slot, or gives another shape or type than what stands there.
    """
    modules = outermost(analysis.modules(), kind)
    model = analysis.capture.scope.model
    if not modules or model is None:
        return ()
    calls, writing = _calls(analysis, model, modules)
    paths: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(id(module), []).append(path)
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    found = []
    for path, module in modules.items():
        slot = Slot(path, type(module).__name__, tuple(paths[id(module)]), tuple(calls[path]), path in writing)
        over = written_over(analysis.trace, slot.paths)
        for name, maker in makers.items():
            made = fresh(maker, module, f"{seed}/{path}/{name}", name).to(like.device, like.dtype)
            slot.alternatives[name] = _tried(slot, name, made, like.device, over)
        if identity and (skip := _identity(analysis, slot)) is not None:
            slot.alternatives[IDENTITY] = Alternative(IDENTITY, Copied(skip) if over else skip, 0.0, 0)
        found.append(slot)
    return tuple(found)


def fresh(maker: Maker, original: nn.Module, seed: str, name: str) -> nn.Module:
    """Make an alternative for the module ``original``, which is not touched; ``seed`` decides its random numbers.

    Raises:
        WrongShapeError: what is made is no module, or one module with parameters is given for all slots.
    """
    if isinstance(maker, nn.Module):
        if next(maker.parameters(), None) is not None:
            raise WrongShapeError(
                f"the alternative {name!r} is a {type(maker).__name__} with parameters, and every slot needs its own: "
                f"give a function that makes one, {{{name!r}: lambda original: {type(maker).__name__}(...)}}"
            )
        return copy.deepcopy(maker).eval()
    with seeded(zlib.crc32(seed.encode())):
        made = maker(copy.deepcopy(original))
    if not isinstance(made, nn.Module):
        raise WrongShapeError(
            f"the alternative {name!r} is made by a function that gives a {type(made).__name__}; "
            f"return an nn.Module from it, as in {{{name!r}: lambda original: nn.Conv2d(...)}}"
        )
    return made.eval()


def _calls(
    analysis: Analysis, model: nn.Module, modules: Mapping[str, nn.Module]
) -> tuple[dict[str, list[Call]], set[str]]:
    """Run the network on its example; return how each module is called, and which ones write into their inputs."""
    watches = {path: Watch(module) for path, module in modules.items()}
    found: dict[str, list[Call]] = {path: [] for path in modules}
    hooks: list[Any] = []

    def shape(value: Any) -> Any:
        return torch.empty(value.shape, dtype=value.dtype, device="meta") if isinstance(value, Tensor) else value

    for path, module in modules.items():

        def hook(module: nn.Module, args: Any, kwargs: Any, result: Any, path: str = path) -> None:
            found[path].append(Call(*pytree.tree_map(shape, (args, kwargs, result))))

        hooks.append(module.register_forward_hook(hook, with_kwargs=True))
    try:
        with (
            evaluating(model),
            on_fake_cpu_if_meta(model, analysis.capture.args, dict(analysis.capture.kwargs)) as (args, kwargs),
        ):
            run_aside(model, args, kwargs)
    finally:
        for handle in (*hooks, *watches.values()):
            handle.remove()
    return found, {path for path, watch in watches.items() if watch.writes}


def _tried(slot: Slot, name: str, module: nn.Module, device: torch.device, over: bool) -> Alternative:
    """Run an alternative as the slot is run; compare shapes and types, and count its multiply-accumulates.

    ``over`` says that what the slot gives is written over.
    """
    probe = copy.deepcopy(module).requires_grad_(False)  # the counter would hook what wants gradients
    watch = Watch(probe)
    where = f"the alternative {name!r} of {slot.name!r} (a {slot.kind})"
    advice = "derive its sizes from the original: lambda original: nn.Conv2d(original.in_channels, ...)"
    macs = 0.0
    for call in slot.calls:
        counter = FlopCounterMode(display=False)
        try:
            result = run_aside(probe, *call.example(device), counter)
        except PliantError:
            raise
        except Exception as error:
            raise WrongShapeError(
                f"{where} cannot be called as that is, with {_described((call.args, call.kwargs))} "
                f"({type(error).__name__}: {first_line(error)}). It must take the same arguments; {advice}"
            ) from error
        if _described(result) != _described(call.result):
            raise WrongShapeError(
                f"{where} gives {_described(result)}, expected {_described(call.result)} as of the original: {advice}"
            )
        macs += counter.get_total_flops() / 2
    if watch.writes and not slot.writes:
        raise WrongShapeError(
            f"{where} writes into its input, which the network may need elsewhere and the original leaves alone; make "
            "it without: inplace=False"
        )
    made = Copied(module) if over and watch.hands_on else module
    return Alternative(name, made, macs, sum(p.numel() for p in module.parameters()))


def _described(value: Any) -> str:
    """Say what shapes and types nested values have."""
    leaves, spec = pytree.tree_flatten(value)
    rows = [
        f"{str(leaf.dtype).removeprefix('torch.')} {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else repr(leaf)[:40]
        for leaf in leaves
    ]
    return rows[0] if len(rows) == 1 and spec.is_leaf() else ", ".join(rows)


def _identity(analysis: Analysis, slot: Slot) -> nn.Module | None:
    """Return what hands the slot's input on; ``None`` where its result has another shape or type."""
    if all(call.plain and _described(call.args[0]) == _described(call.result) for call in slot.calls):
        return nn.Identity()
    interface = analysis.capture.calls[slot.name].interface
    return Skip(interface) if interface is not None and len(slot.calls) == 1 else None


def _again(identity: nn.Module) -> nn.Module:
    """Return another module that hands its input on: what describes a call cannot be copied."""
    if isinstance(identity, Copied):
        return Copied(_again(identity.operation))
    return Skip(identity.interface) if isinstance(identity, Skip) else nn.Identity()


def by_cost(slots: Sequence[Slot]) -> list[str]:
    """Return the alternatives that all of ``slots`` have.

    Leaving out comes first, then fewer multiply-accumulates, then fewer parameters.
    """

    def cost(name: str) -> tuple[bool, float, int]:
        rows = [slot.alternatives[name] for slot in slots]
        return name != IDENTITY, sum(row.macs for row in rows), sum(row.weights for row in rows)

    return sorted((name for name in slots[0].alternatives if all(name in s.alternatives for s in slots)), key=cost)
