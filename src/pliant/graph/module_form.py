"""The module form of a smaller network: the user's own class with smaller tensors and patched integer attributes.

Which attribute means which size is worked out once (:mod:`~pliant.graph.meaning`). Where the user's code derives a size
from another one, the calls in question are corrected while it runs. Being wrong does no harm: both forms are run and
compared, and where the module form fails or disagrees the graph form is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .analysis import Analysis
from .attributes import replaced
from .calls import Fix, Location
from .clone import Plans, clone_modules, tree
from .dims import Dim
from .meaning import Meaning, Misfit, meaning_of, wanted
from .nouns import Block, Interface
from .packed_attention import attention_layers, keep_padding, resize_attention
from .prepare import forget_results, keeps_results
from .probe import Use
from .resized import write_sizes
from .slicing import Slicing
from .symbolic import Attribute, Expr, attributes_in, evaluate
from .tensors import Supply
from .torch_layers import follow_shapes, layer_sizes, sized_layers

_PLAIN = (bool, int, float, str, tuple, type(None))


class Skip(nn.Module):
    """Stands where a block was left out: hands its hidden input on in the structure that the block returned."""

    def __init__(self, interface: Interface) -> None:
        super().__init__()
        self.interface = interface

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the hidden state unchanged, other results as they came in, or None."""
        flat, _ = pytree.tree_flatten((args, kwargs))
        out = [flat[at] if at is not None and at >= 0 else None for at in self.interface.passed]
        out[self.interface.result] = flat[self.interface.hidden]
        return pytree.tree_unflatten(out, self.interface.spec)


class Nothing(Skip):
    """Stands where a branch was left out: what the code around adds to the residual path is zero."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return zeros like the hidden state, other results as they came in, or None.

        They are the hidden state times 0, as code such as a checkpoint may ask for a result that has a gradient.
        """
        flat, _ = pytree.tree_flatten((args, kwargs))
        out = [flat[at] if at is not None and at >= 0 else None for at in self.interface.passed]
        out[self.interface.result] = flat[self.interface.hidden] * 0
        return pytree.tree_unflatten(out, self.interface.spec)


class ModuleForm:
    """Builds smaller copies of one model; what to patch is worked out once, when it is first needed.

    Args:
        model: the full network.
        analysis: its analysis.
    """

    def __init__(self, model: nn.Module, analysis: Analysis) -> None:
        self.model, self.analysis = model, analysis
        self._keeps_results = keeps_results(model)
        aliases = analysis.capture.aliases
        self._places: list[tuple[str, str, bool, str]] = []
        self._inside: dict[str, frozenset[int]] = {}
        self._plans = Plans()
        for path, module in model.named_modules():
            for store, is_parameter in ((module._parameters, True), (module._buffers, False)):
                for name, tensor in store.items():
                    if tensor is not None:
                        full = f"{path}.{name}" if path else name
                        self._places.append((path, name, is_parameter, aliases.get(full, full)))

    @cached_property
    def meaning(self) -> Meaning:
        """What the integers of the user's code mean."""
        return meaning_of(self.model, self.analysis)

    @cached_property
    def _misfits(self) -> dict[str, dict[Location, list[tuple[Use, list[Misfit]]]]]:
        """Per module and place in its code that has misfits: every use of that place, in order, with its misfits."""
        wrong: dict[int, list[Misfit]] = {}
        for misfit in self.meaning.misfits:
            wrong.setdefault(id(misfit.use), []).append(misfit)
        places = {(misfit.use.module, misfit.use.location) for misfit in self.meaning.misfits}
        found: dict[str, dict[Location, list[tuple[Use, list[Misfit]]]]] = {}
        for use in self.meaning.uses:
            if use.location is not None and (use.module, use.location) in places:
                row = found.setdefault(use.module, {}).setdefault(use.location, [])
                row.append((use, wrong.get(id(use), [])))
        return found

    @cached_property
    def _attentions(self) -> list[tuple[str, Dim]]:
        return attention_layers(self.model, self.analysis)

    @cached_property
    def _sized(self) -> list[Any]:
        return sized_layers(self.model, self.analysis)

    def build(self, slicing: Slicing, supply: Supply) -> nn.Module:
        """Return the user's network with the tensors of ``supply``, its sizes patched and its blocks dropped."""
        rows = tree(self.model)
        copies = clone_modules([module for _, module in rows], self._plans)
        modules = {path: copies[id(module)] for path, module in rows}
        net = modules[""]
        given: dict[str, Tensor] = {}
        left = frozenset().union(*(self._only_in(block.module) for block in slicing.dropped))
        for at, (path, name, is_parameter, canonical) in enumerate(self._places):
            module = modules[path]
            store: dict[str, Any] = module._parameters if is_parameter else module._buffers
            if at in left:  # goes; only its sizes matter, as the code around may ask the block for its attributes
                store[name] = slicing.sized(canonical, store[name])
                continue
            if canonical not in given:
                given[canonical] = supply(canonical)
            store[name] = given[canonical]
        if not slicing.whole:
            self._patch(modules, slicing)
        for block in slicing.dropped:
            parent, _, last = block.module.rpartition(".")
            skip = _stand_in(block)
            skip.__dict__.update(_told(modules[block.module]))
            modules[parent]._modules[last] = skip.train(net.training)
        if self._keeps_results:
            forget_results(net)
        return net

    def _only_in(self, block: str) -> frozenset[int]:
        """Return which places are in one block alone, under all the names that their modules have: they go with it."""
        if block not in self._inside:
            rows = list(self.model.named_modules(remove_duplicate=False))
            outside = {id(module) for path, module in rows if path != block and not path.startswith(f"{block}.")}
            inside = {path for path, module in rows if id(module) not in outside}
            self._inside[block] = frozenset(at for at, (path, *_) in enumerate(self._places) if path in inside)
        return self._inside[block]

    def _patch(self, modules: Mapping[str, nn.Module], slicing: Slicing) -> None:
        values = self._write_attributes(modules, slicing)
        for row in self._sized:
            value = layer_sizes(self.analysis, row, slicing)
            if value is not None:
                modules[row[0]].__dict__[row[1]] = value
        for module in modules.values():
            follow_shapes(module)
            keep_padding(module)
        for path, heads in self._attentions:
            resize_attention(modules[path], heads, slicing)
        for path, calls in self._misfits.items():
            fixes = {location: self._fixes(uses, values, slicing) for location, uses in calls.items()}
            fixes = {location: rows for location, rows in fixes.items() if rows}
            if fixes:
                write_sizes(modules[path], fixes)

    def _write_attributes(self, modules: Mapping[str, nn.Module], slicing: Slicing) -> dict[Attribute, int]:
        """Patch the attributes and return the sizes of all whose meaning is known."""
        values: dict[Attribute, int] = {}
        changes: dict[tuple[str, str], dict[tuple[Any, ...], int]] = {}
        for place, formula in self.meaning.attributes.items():
            value = formula.value(self.analysis.trace, slicing.size)
            if value is None:
                continue
            values[place] = value
            if value != self.meaning.values[place]:
                path, name, *way = place
                changes.setdefault((path, name), {})[tuple(way)] = value
        for (path, name), new in changes.items():
            module = modules[path]
            old = module.__dict__[name] if name in module.__dict__ else getattr(type(module), name)
            module.__dict__[name] = replaced(old, new)
        return values

    def _fixes(
        self, uses: list[tuple[Use, list[Misfit]]], values: Mapping[Attribute, int], slicing: Slicing
    ) -> tuple[Fix | None, ...]:
        """Return what to write at one place of the code each time that it comes by; nothing where it is right."""
        turns: dict[int, list[Fix | None]] = {}
        last: Use | None = None
        for use, misfits in uses:
            fix = self._fix(misfits, values, slicing)
            row = turns.setdefault(use.turn, [])
            if last is not None and last.node.meta.get("torch_fn") == use.node.meta.get("torch_fn"):
                row[-1] = _joined(row[-1], fix)  # an index with several slices
            else:
                row.append(fix)
            last = use
        rows = list(turns.values())
        if all(fix is None for row in rows for fix in row) or any(row != rows[0] for row in rows):
            return ()  # right as it is; or the module is called several times and needs different sizes each time
        first = rows[0]
        return tuple(first[:1] if all(fix == first[0] for fix in first) else first)

    def _fix(self, misfits: list[Misfit], values: Mapping[Attribute, int], slicing: Slicing) -> Fix | None:
        """Return what to write at one call of the user's code; None where the attributes say it rightly."""
        new: dict[int, int] = {}
        for misfit in misfits:
            use, trace = misfit.use, self.analysis.trace
            if use.scale is not None:
                base = self._computed(use.scale.base, values, slicing)
                if base is None or base**use.scale.power != float(use.scale):
                    return Fix(use.name, scale=float(use.scale))  # a factor stays as it was
                continue
            needed = wanted(trace, use.node, slicing.size)
            if needed is None:
                continue
            if misfit.splits:
                if self._said(use, 0, values, slicing) != misfit.split_argument(needed):
                    return Fix(use.name, split=(tuple(needed), misfit.dim(trace)))
                continue
            at = use.matched.index(misfit.place)
            if self._said(use, at, values, slicing) != needed[misfit.place]:
                new[at] = needed[misfit.place]
        return Fix(misfits[0].use.name, new) if new else None

    def _said(self, use: Use, at: int, values: Mapping[Attribute, int], slicing: Slicing) -> int | None:
        """Return the integer that the patched code itself would give."""
        return self._computed(use.exprs[at], values, slicing)

    def _computed(self, expr: Expr, values: Mapping[Attribute, int], slicing: Slicing) -> int | None:
        known = {a: values.get(a, self.meaning.values[a]) for a in attributes_in(expr)}
        return evaluate(expr, known, slicing.size)


def _stand_in(block: Block) -> nn.Module:
    interface = block.interface
    if interface.branch:
        return Nothing(interface)
    return nn.Identity() if interface.plain else Skip(interface)


def _told(module: nn.Module) -> dict[str, Any]:
    """Return the plain attributes of a block that is left out, and of its parts: the code around may ask for them."""
    own: dict[str, Any] = {
        name: value
        for name, value in module.__dict__.items()
        if name[:1] != "_" and isinstance(value, _PLAIN) and name != "training"
    }
    for name, part in module._modules.items():
        if part is not None:
            own[name] = SimpleNamespace(**_told(part))
    return own


def _joined(one: Fix | None, two: Fix | None) -> Fix | None:
    if one is None or two is None or one.new is None or two.new is None:
        return one if one is not None else two
    return Fix(one.name, {**one.new, **two.new})
