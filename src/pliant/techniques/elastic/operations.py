"""Alternative operations: in a slot, a module of the network, a member may run another operation than the original.

Every slot keeps all of its operations side by side, each with weights of its own; a member runs one of them and learns
nothing of the others. A new block, another activation, a cheaper convolution or nothing at all can so be tried inside a
network that exists, layer by layer or everywhere alike. The papers' claim: one set of weights, trained by drawing one
operation per slot for each batch, ranks the architectures well enough to choose among them (single path one-shot;
before it Bender, Kindermans, Zoph, Vasudevan and Le, 2018, Understanding and Simplifying One-Shot Architecture Search,
whose supernet adds up all operations and drops some at random).

This implementation differs: slots are modules of the user's network, not of a supernet that is written for the search,
and the original is always an option, the largest. How members are drawn is the recipe's. Where a width cuts a slot's
ends, an alternative is cut with them, by its own analysis; its inner widths stay. Where its structure does not allow
that, members that run it keep more: ends that it makes one (a depthwise convolution, an identity) get the larger of
their widths; ends that it cannot cut, or that cannot be seen, stay whole. Where members are graphs of operations
(:attr:`~pliant.family.Family.form`), modules can be replaced in those alone that nothing is cut from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ...checks import PliantError, WrongShapeError
from ...family.computed import Computed
from ...graph.trace import Tracer
from ...space.choice import Choice, Option
from ...technique import Elastic, Paper, Stage
from ._ends import Fitting, ends_of, widen
from ._roles import roles
from ._slots import IDENTITY, Alternative, Maker, Slot, by_cost, find_slots, fresh
from ._writes import Copied

if TYPE_CHECKING:
    from ...family.draft import Draft
    from ...family.family import Family
    from ...graph.analysis import Analysis
    from ...graph.slicing import Slicing
    from ...space.config import Config

ORIGINAL = "original"
_PER = ("module", "role", "network")


@dataclass(frozen=True)
class Operations(Elastic):
    """Choose which operation runs in each slot: the module that stands there, or an alternative to it.

    Where the slots are is said by the pattern that this is placed at (``pliant.at("blocks.*.act", Operations(...))``),
    by ``kind``, or by both; of modules inside one another the outermost are slots. The options of a choice go by cost,
    the cheapest first, and end with the original, also where an alternative costs more than it.

    Attributes:
        alternatives: operations by name. A module without parameters, of which every slot gets a copy; or a function
            that is called with (a copy of) a slot's module and returns the slot's own alternative. It must take what
            the original takes, and give the same shape and type.
        kind: the class of the modules that are slots, or its name, such as ``"ReLU"``.
        identity: also offer to leave the operation out, where its result has its input's shape and type.
        per: a choice for each ``"module"``, for all slots of one ``"role"`` (equal names but for the numbers of layers,
            equal shapes), or one for the ``"network"``, of what all slots offer.
        name: the last part of the choices' names, and the name of the one per network.
    """

    alternatives: Any = ()
    kind: str | type = ""
    identity: bool = False
    per: str = "module"
    name: str = "operation"

    paper: ClassVar[Paper | None] = Paper(
        "Guo, Zhang, Mu, Heng, Liu, Wei, Sun",
        2020,
        "Single Path One-Shot Neural Architecture Search with Uniform Sampling",
        "1904.00420",
    )
    stage: ClassVar[Stage | None] = Stage.KERNEL

    def __post_init__(self) -> None:
        """Check the fields, and turn them into what can be hashed: pairs of names and makers, the name of a class."""
        given = self.alternatives
        pairs = tuple(given.items()) if isinstance(given, Mapping) else tuple(given)  # a record has names alone
        for pair in pairs:
            name, maker = (pair, None) if isinstance(pair, str) else pair
            if not isinstance(name, str) or not name or name in (ORIGINAL, IDENTITY):
                raise WrongShapeError(
                    f"an alternative needs a name other than {ORIGINAL!r} and {IDENTITY!r}, got {name!r}; "
                    "to leave the operation out, say identity=True"
                )
            if isinstance(maker, type) or not (maker is None or isinstance(maker, nn.Module) or callable(maker)):
                shown = maker.__name__ if isinstance(maker, type) else repr(maker)[:60]
                raise WrongShapeError(
                    f"the alternative {name!r} is {shown}; give a module without parameters, as in "
                    f"{{{name!r}: nn.GELU()}}, or a function that makes one: {{{name!r}: lambda original: ...}}"
                )
        if self.per not in _PER:
            raise WrongShapeError(f"Operations.per is one of {', '.join(map(repr, _PER))}; got {self.per!r}")
        object.__setattr__(self, "alternatives", pairs)
        if isinstance(self.kind, type):
            object.__setattr__(self, "kind", f"{self.kind.__module__}.{self.kind.__qualname__}")

    def record(self) -> dict[str, Any]:
        """Return the fields as plain data: of alternatives, which are the user's code, their names."""
        names = tuple(self._makers)
        return asdict(replace(self, alternatives=names))

    @property
    def _makers(self) -> dict[str, Maker | None]:
        return dict((pair, None) if isinstance(pair, str) else pair for pair in self.alternatives)

    # ---- slots -----------------------------------------------------------------------------------------------------
    def slots(self, analysis: Analysis) -> tuple[Slot, ...]:
        """Return the slots of a part of a network, with their alternatives as they are before training.

        Raises:
            PliantError: nothing says where the slots are, or the alternatives themselves are missing.
            WrongShapeError: an alternative does not fit.
        """
        makers = self._makers
        if not makers and not self.identity:
            return ()
        if not (analysis.where or self.kind):
            raise PliantError(
                "Operations needs to be told which modules are slots: place it, as in "
                "pliant.at('blocks.*.act', pliant.Operations(...)), or give their class, Operations(..., kind='ReLU')"
            )
        missing = [name for name, maker in makers.items() if maker is None]
        if missing:
            raise PliantError(
                f"the alternatives {', '.join(map(repr, missing))} are code of yours, of which a record has only the "
                "names: give the technique again, as in Family.load(folder, model, choices=[pliant.at(...)])"
            )
        known = _SLOTS.setdefault(analysis.trace, {})
        key = (id(self), analysis.where)
        if key not in known:
            given = {name: maker for name, maker in makers.items() if maker is not None}
            known[key] = (self, find_slots(analysis, str(self.kind), given, self.identity, self.name))
        return known[key][1]

    def _groups(self, analysis: Analysis) -> dict[str, list[Slot]]:
        """Map the name of each choice to its slots."""
        slots = list(self.slots(analysis))
        if self.per == "network":
            return {self.name: slots} if slots else {}
        if self.per == "role":
            return {f"{name}.{self.name}": group for name, group in roles(slots, lambda slot: slot.shape).items()}
        return {f"{slot.name}.{self.name}": [slot] for slot in slots}

    def choices(self, analysis: Analysis) -> Sequence[Choice]:
        """Return one choice per slot (per role, or for the network), unordered; the last option is the original."""
        rows = [(name, by_cost(group)) for name, group in self._groups(analysis).items()]
        return tuple(Choice(name, (*options, ORIGINAL), ordered=False) for name, options in rows if options)

    # ---- weights ---------------------------------------------------------------------------------------------------
    def extras(self, analysis: Analysis, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the parameters of all alternatives, and their buffers of floating point, which are frozen."""
        found: dict[str, Tensor] = {}
        like = next((value for value in tensors.values() if value.is_floating_point()), torch.empty(0))
        for slot in self.slots(analysis):
            for alternative in slot.alternatives.values():
                for name, value in alternative.tensors().items():
                    if value.is_floating_point():
                        learns = isinstance(value, nn.Parameter) and value.requires_grad
                        copied = value.detach().to(like.device, like.dtype).clone(memory_format=torch.contiguous_format)
                        found[self._extra(slot, alternative, name)] = nn.Parameter(copied, requires_grad=learns)
        return found

    def prepare(self, family: Family) -> None:
        """Make alternatives anew from originals whose units may have been sorted; values that were changed stay."""
        for placed in family.techniques:
            if placed.technique is not self:
                continue
            for slot in self.slots(placed.part(family.analysis)):
                for name, alternative in slot.alternatives.items():
                    if name != IDENTITY:
                        self._remake(family, slot, alternative)

    def _remake(self, family: Family, slot: Slot, alternative: Alternative) -> None:
        maker = self._makers[alternative.name]
        first = alternative.tensors()
        mine = {name: family.extra.get(self._extra(slot, alternative, name)) for name in first}
        if maker is None or not all(value is None or _equal(value, first[name]) for name, value in mine.items()):
            return
        seed = f"{self.name}/{slot.name}/{alternative.name}"
        made = fresh(maker, family.model.get_submodule(slot.name), seed, alternative.name)
        made = Copied(made) if isinstance(alternative.module, Copied) else made
        values = dict([*made.named_parameters(), *made.named_buffers()])
        with torch.no_grad():
            for name, value in mine.items():
                if value is not None:
                    value.copy_(values[name])

    def _extra(self, slot: Slot, alternative: Alternative, name: str) -> str:
        return f"{slot.name}.{self.name}.{alternative.name}/{name}"

    # ---- members ---------------------------------------------------------------------------------------------------
    def apply(self, draft: Draft, options: Mapping[str, Option]) -> None:
        """Keep what the alternatives that are run need of the axes around them."""
        fittings = [fitting for _, fitting, _ in self._run(draft, options)]
        if fittings:
            widen(draft, fittings)
        if fittings and not draft.modules and not draft.slicing().whole:
            raise PliantError(
                f"{self} cannot replace modules here: the members of this family that are cut are graphs of operations "
                "(family.why_graph says why). Leave out the techniques that cut it, or place them elsewhere with "
                "pliant.at"
            )

    def weigh(self, draft: Draft, config: Config) -> None:
        """Replace the modules, after whatever else was done to them."""
        chosen = self._run(draft, config)
        if not chosen:
            return
        slicing = draft.slicing()
        gone = tuple(f"{block.module}." for block in slicing.dropped)
        for slot, fitting, alternative in chosen:
            paths = tuple(path for path in slot.paths if not f"{path}.".startswith(gone))
            supply = partial(self._tensor, draft.extra, slot, alternative)
            draft.then(partial(_replace, paths, _maker(fitting, slicing, supply)))

    def _tensor(self, extra: Mapping[str, Tensor], slot: Slot, alternative: Alternative, name: str) -> Tensor:
        found = extra.get(self._extra(slot, alternative, name))
        if found is not None:
            return found
        like = next(iter(extra.values()), None)  # integers stay as they were made
        value = alternative.tensors()[name]
        return value if like is None else value.to(like.device)

    def _run(self, draft: Draft, options: Mapping[str, Option]) -> list[tuple[Slot, Fitting, Alternative]]:
        """Return the slots that run an alternative, but for those in blocks that are left out."""
        chosen = [
            (slot, str(options[name]))
            for name, slots in self._groups(draft.analysis).items()
            for slot in slots
            if options.get(name, ORIGINAL) != ORIGINAL
        ]
        gone = tuple(f"{block.module}." for block in draft.slicing().dropped) if chosen else ()
        found = []
        for slot, option in chosen:
            if all(f"{path}.".startswith(gone) for path in slot.paths):
                continue
            alternative = slot.alternatives[option]
            if option not in slot.fittings:
                slot.fittings[option] = Fitting(slot, alternative, ends_of(draft.analysis.trace, slot))
            found.append((slot, slot.fittings[option], alternative))
        return found


class Operation(Computed):
    """Stands for a slot's module in a member, and runs the alternative with the family's own weights.

    Args:
        make: makes the alternative; of the family's parameters, or (``True``) of copies of them.
    """

    def __init__(self, make: Callable[[bool], nn.Module]) -> None:
        super().__init__()
        self._make = make
        self.alternative = make(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the alternative."""
        return self.alternative(*args, **kwargs)

    def settled(self) -> nn.Module:
        """Return the alternative with weights of its own."""
        made = self._make(True)
        for name, value in [*made.named_parameters(), *made.named_buffers()]:
            path, _, last = name.rpartition(".")
            value.data.copy_(getattr(self.alternative.get_submodule(path), last))
        return made


def _maker(fitting: Fitting, slicing: Slicing, supply: Callable[[str], Tensor]) -> Callable[[bool], nn.Module]:
    def make(copies: bool) -> nn.Module:  # a function is shared by deep copies of a member: the rest of it is large
        return fitting.built(slicing, supply, copies)

    return make


def _replace(paths: tuple[str, ...], make: Callable[[bool], nn.Module], net: nn.Module) -> None:
    modules = dict(net.named_modules(remove_duplicate=False))
    made: Operation | None = None
    for path in paths:
        if path in modules:  # else it was inside another slot
            above, _, last = path.rpartition(".")
            made = made or Operation(make).train(modules[path].training)
            modules[above]._modules[last] = made


def _equal(left: Tensor, right: Tensor) -> bool:
    return torch.equal(left.detach().to(right.device, right.dtype), right.detach())


# By the technique's id, as user code need not be hashable; the technique beside them keeps its id from another.
_SLOTS: WeakKeyDictionary[Tracer, dict[Any, tuple[Operations, tuple[Slot, ...]]]] = WeakKeyDictionary()
