"""Configuration objects that a network was built from: keeping them true for a smaller network.

Where a model has a ``config`` from which its class builds it again (``type(model)(model.config)``), an extracted
member gets one with its own sizes, so that saving and loading by the class itself work. Which field means which size
is not guessed: the class is run once on the meta device with integers that remember where they came from. The new
configuration is used only if the class makes the member's very shapes from it; else it says in a field of its own that
it can't.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from .attributes import integer_at, replaced, rewritten
from .calls import integers
from .slicing import Slicing
from .symbolic import Attribute, Expr, Sized, attributes_in, evaluate

NOTE = "pliant_note"
_LARGE = 1 << 16
_FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.randn, torch.rand, torch.full}


@dataclass(frozen=True)
class _Relation:
    """The integer attribute ``name`` of the module at ``path`` is computed from the configuration by ``expr``."""

    path: str
    name: str
    expr: Expr


_Way = tuple[Any, ...]  # to a field, as in an Attribute


class _Unfit(Exception):  # noqa: N818  (it becomes a note, never shown as an error)
    """The class cannot express these sizes."""


def settle_configuration(net: nn.Module, model: nn.Module, slicing: Slicing) -> str:
    """Give an extracted network a configuration of its own sizes, its layers renumbered where some were left out.

    Args:
        net: the extracted network in module form; it is changed in place.
        model: the full network.
        slicing: what stayed.

    Returns:
        Why the class cannot build this network from a configuration (also in its field ``pliant_note``), or ``""``
        where it can, or where there is no configuration.
    """
    if slicing.whole or not _configured(model) or type(net) is not type(model):
        return ""
    relations = _relations(model)
    if not relations:
        return ""
    lists = _shortened(model, slicing) if slicing.dropped else {}
    try:
        config, fresh = _fitting(net, model, relations, lists)
    except _Unfit as reason:
        note = f"made smaller by Pliant; {type(model).__name__} cannot build it from a configuration: {reason}"
        # A copy of its own, not of the model's: where the forward reads sizes from it, they are patched already.
        _set_config(net, copy.copy(net.__dict__["config"]), {NOTE: note})
        return note
    for path, kept in lists.items():
        parent, _, last = path.rpartition(".")
        owner = net.get_submodule(parent) if parent else net
        rows = owner._modules[last]
        assert isinstance(rows, nn.ModuleList)
        owner._modules[last] = type(rows)([rows[i] for i in kept])
    old: Any = model.config
    modules = dict(net.named_modules(remove_duplicate=False))
    for path, other in fresh.named_modules(remove_duplicate=False):
        for name, value in other.__dict__.items():
            if path in modules and (name == "config" or type(value) is type(old)):
                modules[path].__dict__[name] = value
            elif path in modules and type(value) is int and name in modules[path].__dict__ and lists:
                modules[path].__dict__[name] = value  # the number of a layer
    net.__dict__["config"] = config
    return ""


def _configured(model: nn.Module) -> bool:
    config = model.__dict__.get("config")
    return config is not None and callable(getattr(config, "to_dict", None)) and hasattr(config, "__dict__")


def _set_config(net: nn.Module, config: Any, fields: Mapping[str, Any]) -> None:
    old = net.__dict__["config"]
    for name, value in fields.items():
        setattr(config, name, value)
    for module in net.modules():
        if module.__dict__.get("config") is old:
            module.__dict__["config"] = config


_KNOWN: WeakKeyDictionary[nn.Module, list[_Relation]] = WeakKeyDictionary()


def _relations(model: nn.Module) -> list[_Relation]:
    """Return how the integers of the modules follow from the fields; empty where the class does not build itself."""
    if model not in _KNOWN:
        try:
            _KNOWN[model] = list(_related(_built(model, _marked(model.config))))
        except Exception:  # noqa: BLE001  (a class that is built otherwise: it has no configuration in this sense)
            _KNOWN[model] = []
    return _KNOWN[model]


def _marked(config: Any, fields: Mapping[str, int] | None = None) -> Any:
    config = copy.copy(config)
    for name, value in (fields or {}).items():
        object.__setattr__(config, name, value)
    return rewritten(config, Attribute(("config",)), lambda place, value: Sized(value, place))


class _MostlyMeta(TorchFunctionMode):
    """Makes large tensors without memory and small ones, such as computed tables, for real."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func``, on the meta device where it makes a large tensor."""
        kwargs = kwargs or {}
        if func in _FACTORIES and math.prod(integers(args)) > _LARGE:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


def _built(model: nn.Module, config: Any) -> nn.Module:
    """Let the class build a network, changing no random state."""
    state = torch.random.get_rng_state()
    try:
        with _MostlyMeta():
            made: nn.Module = type(model)(config)
    finally:
        torch.random.set_rng_state(state)
    return made


def _related(built: nn.Module) -> Iterator[_Relation]:
    for path, module in built.named_modules(remove_duplicate=False):
        for name, value in module.__dict__.items():
            if isinstance(value, Sized) and attributes_in(value.expr):
                yield _Relation(path, name, value.expr)


def _shortened(model: nn.Module, slicing: Slicing) -> dict[str, list[int]]:
    """Return the lists of layers that lost some, by path, with the places that stay."""
    dropped = tuple(f"{block.module}." for block in slicing.dropped)
    found: dict[str, list[int]] = {}
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or f"{path}.".startswith(tuple(found) or "\0"):
            continue
        names = [[f"{path}.{i}.{n}" for n, _ in layer.named_parameters()] for i, layer in enumerate(module)]
        kept = [i for i, row in enumerate(names) if not row or not all(n.startswith(dropped) for n in row)]
        if len(kept) < len(names):
            found[path] = kept
    return found


def _fitting(
    net: nn.Module, model: nn.Module, relations: list[_Relation], lists: Mapping[str, list[int]]
) -> tuple[Any, nn.Module]:
    """Return the configuration and what the class builds from it.

    Raises:
        _Unfit: there is none.
    """
    values, wrong = _solved(net, model, relations)
    if wrong is not None:
        values, wrong = _with_more_fields(net, model, wrong)
    if wrong is not None:
        raise _Unfit(wrong[1])
    reason = "its layers are numbered in no field"
    for count in _counts(model, lists):
        config = _changed(model, values, count, lists)
        try:
            fresh = _built(model, config)
        except Exception as error:  # noqa: BLE001  (whatever the class says of such a configuration)
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            continue
        reason = _mismatch(net, fresh, lists)
        if not reason:
            return config, fresh
    raise _Unfit(reason)


def _solved(
    net: nn.Module, model: nn.Module, relations: list[_Relation]
) -> tuple[dict[Attribute, int], tuple[_Relation, str] | None]:
    modules = dict(net.named_modules(remove_duplicate=False))
    rows = [(r, modules[r.path].__dict__.get(r.name)) for r in relations if r.path in modules]
    rows = [(r, int(value)) for r, value in rows if isinstance(value, int)]
    values: dict[Attribute, int] = {}
    for relation, value in rows:
        if isinstance(relation.expr, Attribute) and values.setdefault(relation.expr, value) != value:
            place = ".".join(map(str, _names(relation.expr)))
            return values, (relation, f"{place} would be {values[relation.expr]} in one place and {value} in another")
    _computed(model, rows, values)
    for relation, value in rows:
        known = {a: values.get(a, integer_at(model.config, tuple(a[1:]))) for a in attributes_in(relation.expr)}
        if evaluate(relation.expr, known, lambda dim: dim.size) != value:
            where = f"{relation.path}.{relation.name}" if relation.path else relation.name
            fields = " and ".join(sorted(".".join(map(str, _names(a))) for a in known))
            return values, (relation, f"{where} is {value}, which {fields} don't give")
    return values, None


def _computed(model: nn.Module, rows: list[tuple[_Relation, int]], values: dict[Attribute, int]) -> None:
    """Find fields that occur in products only, one unknown at a time."""
    while True:
        unknown: dict[Attribute, list[tuple[_Relation, int]]] = {}
        for relation, value in rows:
            rest = attributes_in(relation.expr) - values.keys()
            if len(rest) == 1:
                unknown.setdefault(rest.pop(), []).append((relation, value))
        for field, wanted in unknown.items():
            full = integer_at(model.config, tuple(field[1:]))
            for number in (full, *range(1, full)):
                known = {**values, field: number}
                if all(evaluate(r.expr, known, lambda dim: dim.size) == v for r, v in wanted):
                    break
            else:
                number = full
            values[field] = number
        if not unknown:
            return


def _names(place: Attribute) -> list[Any]:
    return [key for _, key in place[1:]]


def _with_more_fields(
    net: nn.Module, model: nn.Module, wrong: tuple[_Relation, str]
) -> tuple[dict[Attribute, int], tuple[_Relation, str] | None]:
    """Try fields that are empty, or that the class only looks for: they may say what others were used for."""
    given: dict[str, int] = {}
    values: dict[Attribute, int] = {}
    for _ in range(4):
        relation = wrong[0]
        full = model.get_submodule(relation.path).__dict__.get(relation.name)
        empty = [name for name, value in model.config.__dict__.items() if value is None and not name.startswith("_")]
        for name in sorted({*empty, relation.name} - given.keys(), key=lambda n: n != relation.name):
            if not isinstance(full, int):
                continue
            try:
                config = _marked(model.config, {**given, name: int(full)})
                related = list(_related(_built(model, config)))
            except Exception:  # noqa: BLE001  (a field that is something else)
                continue
            now = next((r.expr for r in related if (r.path, r.name) == (relation.path, relation.name)), None)
            if now == Attribute(("config", ("attribute", name))):
                given[name] = int(full)
                break
        else:
            return values, wrong
        found = _solved(net, _Stand(model, config), related)
        values = found[0]
        if found[1] is None:
            return values, None
        wrong = found[1]
    return values, wrong


class _Stand(nn.Module):
    """Stands for the model with a configuration that has more fields."""

    def __init__(self, model: nn.Module, config: Any) -> None:
        super().__init__()
        self.config = config


def _counts(model: nn.Module, lists: Mapping[str, list[int]]) -> Iterator[dict[_Way, int]]:
    """Yield which fields to set to which numbers of layers, the likeliest first."""
    found: list[dict[_Way, int]] = [{}]
    for path, kept in lists.items():
        rows = model.get_submodule(path)
        assert isinstance(rows, nn.ModuleList)
        ways = [way for way, value in _fields(model.config) if type(value) is int and value == len(rows)]
        ways = [way for way in ways if any(word in way[-1][1] for word in ("layer", "depth", "block"))]
        ways.sort(key=lambda way: _distance(path, way))
        found = [{**row, way: len(kept)} for row in found for way in ways if row.get(way, len(kept)) == len(kept)]
    yield from found[:8]


def _fields(config: Any) -> Iterator[tuple[_Way, Any]]:
    """Yield the fields of a configuration and of those inside it."""
    for name, value in config.__dict__.items():
        if name.startswith("_"):
            continue
        yield (("attribute", name),), value
        if isinstance(value, type(config)) or callable(getattr(value, "to_dict", None)):
            for inner, part in value.__dict__.items():
                if not inner.startswith("_"):
                    yield (("attribute", name), ("attribute", inner)), part


def _distance(path: str, way: _Way) -> tuple[int, int]:
    """Order fields by what their names share with a list's path: ``decoder_layers`` is near ``decoder.layers``."""
    words = {word for part in path.split(".") for word in part.split("_")}
    mine = {word for _, name in way for word in name.split("_")}
    strange = {"decoder", "encoder", "text", "vision", "audio"} & (mine - words)
    return len(strange), -len(words & mine)


def _changed(
    model: nn.Module, values: Mapping[Attribute, int], counts: Mapping[_Way, int], lists: Mapping[str, list[int]]
) -> Any:
    config: Any = copy.deepcopy(model.config)
    new: dict[_Way, Any] = {tuple(place[1:]): value for place, value in values.items()} | dict(counts)
    for path, kept in lists.items():
        rows = model.get_submodule(path)
        assert isinstance(rows, nn.ModuleList)
        for way, field in _fields(model.config):
            if isinstance(field, list) and len(field) == len(rows) and kept and not _distance(path, way)[0]:
                new[way] = [field[i] for i in kept]  # one entry per layer
    for way, value in new.items():
        if len(way) == 1:
            object.__setattr__(config, way[0][1], value)
        elif integer_at(config, way) != value:
            config = replaced(config, {way: value})
    return config


def _mismatch(net: nn.Module, fresh: nn.Module, lists: Mapping[str, list[int]]) -> str:
    """Return the first thing that the class makes otherwise than ``net`` has it, ``""`` if there is none."""
    have = {_renumbered(name, lists): tensor for name, tensor in net.state_dict().items()}
    made = fresh.state_dict()
    for name in (*have, *made):
        one, two = (tuple(t[name].shape) if name in t else None for t in (have, made))
        if one != two:
            return f"{name} is {one}, the class makes {two}"
    computed = {_renumbered(name, lists): tensor for name, tensor in net.named_buffers()}
    for name, tensor in fresh.named_buffers():
        mine = computed.get(name)
        if name in made or mine is None:
            continue
        if mine.shape != tensor.shape or tensor.is_meta or not torch.equal(mine.cpu(), tensor.to(mine.dtype)):
            return f"{name} is not what the class computes for these sizes"
    others = dict(fresh.named_modules(remove_duplicate=False))
    for path, module in net.named_modules(remove_duplicate=False):
        other = others.get(_renumbered(path, lists))
        for name, value in module.__dict__.items():
            its = other.__dict__.get(name) if other is not None else None
            if type(value) is float and type(its) is float and abs(its - value) > 1e-6 * abs(value):
                return f"{path}.{name} is {value:.4g}, the class makes {its:.4g}"
    return ""


def _renumbered(name: str, lists: Mapping[str, list[int]]) -> str:
    for path, kept in lists.items():
        if name.startswith(f"{path}."):
            number, dot, rest = name[len(path) + 1 :].partition(".")
            if number.isdigit() and int(number) in kept:
                name = f"{path}.{kept.index(int(number))}{dot}{rest}"
    return name
