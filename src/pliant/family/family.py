"""A family: a network, what can bend in it, and one set of weights that serves every member."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..checks import NoEffectWarning, PliantError
from ..graph.analysis import Analysis, analyze
from ..graph.module_form import ModuleForm
from ..graph.prepare import unwrap
from ..graph.realise import compare_forms, graph_network
from ..graph.slicing import Slicing
from ..graph.tensors import HeldTensors, full_tensors
from ..space.choice import Choice
from ..space.config import Config
from ..space.space import Space
from .aliases import AliasSet
from .canonical import Canonical, places
from .copies import Upkeep
from .cuts import Cuts
from .draft import Draft
from .duplicate import duplicate, refuse_to_pickle, shown
from .extraction import extract
from .extras import Extras
from .forms import settle_form
from .gradients import GradientStore
from .hooks import attach_hooks
from .maps import install
from .ordering import Orders, orders_of, permute, prepare
from .place import Placed
from .statistics import estimate_in_graph, estimate_statistics, keeping_modes, statistic_momenta

if TYPE_CHECKING:
    from ..technique import Elastic
    from .counts import Counts

_CACHED = 64  # members kept alive; each holds views only


class Family:
    """One network, its choices, and the shared weights of all its members.

    Args:
        model: the user's network; it stays the largest member and is trained in place.
        example_args: arguments that it runs on, the batch first.
        choices: techniques that add choices (or :func:`~pliant.family.place.at` of them, to say where).
        example_kwargs: keyword arguments that it runs on.
        constraints: conditions on the choices, such as ``"blocks.depth >= 2"``.
        analysis: an analysis of this very model, to save the time of making one.
        only: the path of a submodule, where only that shall bend: the rest of each member is the model's own.

    Raises:
        CaptureError, WrongShapeError: the model cannot be analysed, see :func:`pliant.analyze`.
        VerificationError: neither form of a smaller network computes what it should.
    """

    def __init__(
        self,
        model: nn.Module,
        example_args: Sequence[Any],
        choices: Sequence[Elastic | Placed] = (),
        example_kwargs: Mapping[str, Any] | None = None,
        constraints: Sequence[str] = (),
        analysis: Analysis | None = None,
        only: str | None = None,
    ) -> None:
        self.model = model = unwrap(model)
        self.analysis = analysis or analyze(model, example_args, example_kwargs, only)
        self.techniques: tuple[Placed, ...] = tuple(c if isinstance(c, Placed) else Placed(c) for c in choices)
        self._owner: dict[str, Placed] = {}
        self.space = Space(self._collect(), constraints)
        self._tensors = full_tensors(model, self.analysis.capture)
        self._held = HeldTensors(model)
        self._dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
        self._momenta = statistic_momenta(self.analysis, model)
        self.statistics = frozenset(self._momenta)
        self.places, self._cuts = places(self.analysis), Cuts(self.analysis)
        self.gradients = GradientStore()
        self._members: OrderedDict[Config, tuple[nn.Module, AliasSet]] = OrderedDict()
        self._whole: set[Config] = set()  # the last config that was found to be the user's own network
        self._upkeep = Upkeep()
        self._calibration: list[Any] = []
        self._calibrated: dict[Config, int] = {}
        self.prepared = False
        self.form, self.rescale, self.why_graph = "module", False, ""
        self._module_form = ModuleForm(model, self.analysis)
        self._canonical_config = Canonical(self.analysis, self.space, self.draft)
        self._counts: Counts | Literal[False] | None = None
        self.extra = Extras(self.techniques, self.analysis, self._tensors)
        self.extra.follow(model)  # remembers where the model is
        self._learnt = [*model.parameters(), *self.extra.values()]
        settle_form(self)

    # ---- what it is ------------------------------------------------------------------------------------------------
    def _collect(self) -> list[Choice]:
        found: list[Choice] = []
        for placed in self.techniques:
            offered = placed.choices(self.analysis)
            if not offered and placed.technique.offers:
                warnings.warn(
                    f"{placed} found nothing to bend in this network; `pliant.analyze` lists what is fixed and why",
                    NoEffectWarning,
                    stacklevel=3,
                )
            for choice in offered:
                if choice.name in self._owner:
                    raise PliantError(
                        f"two techniques offer a choice named {choice.name!r}: {self._owner[choice.name]} and "
                        f"{placed}; place them apart with pliant.at(where, technique)"
                    )
                self._owner[choice.name] = placed
                found.append(choice)
        return found

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return the shared parameters, those that techniques add included: give these to an optimizer."""
        return chain(self.model.parameters(), self.extra.values())

    def tensors(self) -> Mapping[str, Tensor]:
        """Return the full network's tensors by canonical name."""
        return self._tensors

    def draft(self, config: Mapping[str, Any]) -> Draft:
        """Return the draft of a member: every technique has been asked, by stage."""
        checked = self.space.check(config)
        draft = Draft(self.analysis, self.extra, self.form == "module")
        for placed in sorted(self.techniques, key=lambda p: p.technique.stage or 0):
            mine = {name: option for name, option in checked.items() if self._owner[name] is placed}
            if mine:
                draft.analysis = placed.part(self.analysis)
                placed.technique.apply(draft, mine)
        for placed in self.techniques:
            draft.analysis = placed.part(self.analysis)
            placed.technique.weigh(draft, checked)
        return draft

    def canonical(self, config: Mapping[str, Any]) -> Config:
        """Return the config that stands for all that give the same network: sizes inside left-out blocks are largest.

        Raises:
            UnknownNameError: a choice or option that the space does not have.
        """
        return self._canonical_config.of(self.space.check(config))

    @property
    def counts(self) -> Counts | None:
        """Costs and canonical forms of many configs at once; ``None`` where they cannot be told without building."""
        if self._counts is None:
            from .counts import Counts

            self._counts = Counts.of(self)
        return self._counts or None

    __deepcopy__, __reduce__, __repr__ = duplicate, refuse_to_pickle, shown

    # ---- members ---------------------------------------------------------------------------------------------------
    def member(self, config: Mapping[str, Any]) -> nn.Module:
        """Return the member that ``config`` picks: its parameters alias the family's, gradients included.

        It is an ordinary module in the family's current mode; calling it and ``backward`` need nothing special. The
        largest config gives the user's own network. Members are cached.

        Raises:
            UnknownNameError: a choice or option that the space does not have.
        """
        with self._upkeep.lock:
            self._follow()
            known = config if isinstance(config, Config) else self.space.check(config)
            found = self._members.get(known)
            if found is None or found[1].apart:
                found = self._found(known)
            else:
                self._members.move_to_end(known)
            if found is None:
                self.gradients.adopt(self.model.parameters())
                return self.model
            net, aliases = found
            if net.training != self.model.training:
                net.train(self.model.training)
            self._upkeep.activate(aliases)
            return net

    def _found(self, config: Config) -> tuple[nn.Module, AliasSet] | None:
        """Check a config and return its member, which may have to be built; ``None``: it is the user's own network."""
        checked = config if config in self._whole else self.space.check(config)
        if checked in self._whole:
            return None
        found = self._members.pop(checked, None)
        if found is None or found[1].apart:
            draft = self.draft(checked)
            slicing = draft.slicing()
            if slicing.whole and not draft.changes:
                self._whole = {checked}
                return None
            with torch.inference_mode(False):  # a member that is first asked for in it may learn later
                found = self._build(slicing, draft)
        self._members[checked] = found
        while len(self._members) > _CACHED:
            old, _ = self._members.popitem(last=False)
            self._calibrated.pop(old, None)
        return found

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Take all gradients away, as an optimizer's ``zero_grad()``, but clear no more memory than members wrote to.

        Quicker beside small members, more so if parameters keep gradients, all zeros (``set_to_none=False``). It relies
        on every write outside of members to show in a gradient's version: after one through ``gradient.data``, which
        does not, call the optimizer's.
        """
        self._follow()
        (self.gradients.clear if set_to_none else self.gradients.zero)(self._learnt)

    def _build(self, slicing: Slicing, draft: Draft) -> tuple[nn.Module, AliasSet]:
        aliases = AliasSet(self._tensors, slicing, self.gradients, self.statistics, self._cuts)
        net = self.realise(slicing, aliases.supply)
        aliases.attach(net, install(net, draft.maps, self.places))
        for edit in draft.edits:
            edit(net)
        attach_hooks(net, aliases, self._upkeep)
        return net, aliases

    def realise(self, slicing: Slicing, supply: Any) -> nn.Module:
        """Build a smaller network in the family's form, of the tensors that ``supply`` gives by canonical name."""
        if self.form == "module" or slicing.whole:  # whole, the user's own class always works
            return self._module_form.build(slicing, supply)
        return graph_network(self.model, slicing, supply, self.rescale).train(self.model.training)

    def serving(self, copies: float = 1.0) -> AbstractContextManager[None]:
        """Promise that weights stay as they are meanwhile: switching back to a member then takes no copying.

        What members gather (fused projections with fewer heads) is kept and shared by all that gather the same, up to
        ``copies`` times the bytes of the weights. Writes to weights in place are noticed even so; one through
        ``parameter.data`` is not, and members would go on with the old values.

        Raises:
            PliantError: ``copies`` is negative, or the family serves already.
        """
        return self._upkeep.serving(copies, sum(p.nbytes for p in self.parameters()))

    @property
    def copied_bytes(self) -> int:
        """Bytes of the copies that members share while the family serves; 0 at other times."""
        return self._upkeep.bytes

    def _follow(self) -> None:
        """Learn which tensors the model holds now: moving it to a device or another precision replaces its buffers."""
        if not self.extra.follow(self.model) and self._held.still():
            return
        self._tensors = full_tensors(self.model, self.analysis.capture)
        self._held, self._learnt = HeldTensors(self.model), list(self.parameters())
        self._cuts = Cuts(self.analysis)  # the old ones may hold views of memory that is the family's no more
        self.forget()

    def example(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the example's arguments where the weights are now, and in their precision."""
        weight = next((p for p in self.model.parameters() if p.is_floating_point()), None)

        def moved(value: Any) -> Any:
            if not isinstance(value, Tensor) or weight is None:
                return value
            keeps = weight.dtype == self._dtype or not value.is_floating_point()
            return value.to(weight.device, value.dtype if keeps else weight.dtype)

        capture = self.analysis.capture
        return pytree.tree_map(moved, capture.args), pytree.tree_map(moved, dict(capture.kwargs))

    # ---- evaluation ------------------------------------------------------------------------------------------------
    def calibrate_with(self, batches: Iterator[Any] | Sequence[Any], count: int = 16) -> None:
        """Remember the inputs of ``count`` batches for re-estimating normalisation statistics of members.

        Args:
            batches: pairs ``(inputs, targets)``, as for training.
            count: how many to keep.
        """
        needed = self.statistics or self.extra.statistics
        self._calibration = [batch[0] for batch in islice(iter(batches), count)] if needed else []
        self._calibrated.clear()

    @property
    def uncalibrated(self) -> bool:
        """True where members have running statistics, and nothing yet to estimate them from."""
        return bool(self.statistics or self.extra.statistics) and not self._calibration

    def ready(self, config: Mapping[str, Any]) -> nn.Module:
        """Return the member in evaluation mode, its normalisation statistics estimated for the weights as they are.

        Where members compute their weights from the family's, it is what :meth:`extract` gives: a copy that costs what
        ships would, and does not follow the family.
        """
        checked = self.space.check(config)
        return self.extract(checked) if self.draft(checked).changes else self.evaluated(checked)

    def evaluated(self, config: Mapping[str, Any]) -> nn.Module:
        """Return the member as :meth:`ready` does, always over the family's own storage."""
        checked = self.space.check(config)
        with self._upkeep.lock:
            net = self.member(checked)
            if self._calibration and self._calibrated.get(checked) != self._version(net):
                if self.form == "module" or self.draft(checked).slicing().whole:
                    estimate_statistics(net, self._calibration)
                else:
                    named = {n: b for n, b in net.named_buffers() if n in self.statistics}
                    estimate_in_graph(net, named, self._momenta, self._calibration)
                self._calibrated[checked] = self._version(net)
            return net.eval()

    def _version(self, net: nn.Module) -> int:
        """Return a number that grows with every change of the weights, or of the member's own statistics."""
        return sum(tensor._version for tensor in (*self.parameters(), *net.buffers()))

    def extract(self, config: Mapping[str, Any]) -> nn.Module:
        """Return the member as an independent network in evaluation mode: what was trained is what ships.

        Raises:
            VerificationError: the copy does not compute exactly what the member computes on the example.
        """
        checked = self.space.check(config)
        held = self._members[checked][0] if checked in self._members else self.model  # the largest is the model itself
        with torch.inference_mode(False), keeping_modes(self.model), keeping_modes(held):
            return extract(self, checked)

    def verify(self, config: Mapping[str, Any]) -> float:
        """Compare the module form and the graph form of a config on the example; returns the relative difference.

        Where the family is in graph form, the graph form is compared with itself rebuilt, which says little: 0.
        """
        if self.form == "graph":
            return 0.0
        slicing = self.draft(config).slicing()
        return compare_forms(self.model, slicing, self.analysis)[0]

    # ---- preparation and storage -----------------------------------------------------------------------------------
    def prepare(self, orders: Orders | None = None) -> None:
        """Change the family once before training: sort units by importance, or as ``orders`` says; then techniques.

        Raises:
            PliantError: ``orders`` for a family that is prepared already.
        """
        prepare(self, orders)

    def permute(self, orders: Orders, beside: Sequence[Mapping[str, Tensor]] = ()) -> None:
        """Reorder the units of axes in every tensor; the full network's function stays the same.

        Args:
            orders: axis name to a permutation of its units, the first to come first.
            beside: other tensors by the names and in the shapes of the family's, such as an optimizer's moments.

        Raises:
            UnknownNameError, WrongShapeError: no such axis, or not a permutation of all its units.
        """
        permute(self, orders, beside)

    def orders(self) -> dict[str, Sequence[int]]:
        """Return the units of every axis that a technique sorts, by the importance that they have now.

        Empty where a technique has added parameters that would not follow when units change places.
        """
        return orders_of(self)

    def weight_views(self, axis: str) -> dict[str, Tensor]:
        """Return every parameter that an axis cuts as ``(units, rest)``, for scores of importance."""
        from .units import unit_views

        return unit_views(self.analysis, self.analysis.axis(axis), self._tensors)

    def save(self, folder: str | Path, record: Mapping[str, Any] | None = None) -> Path:
        """Write the family to a folder (safetensors and JSON, whole or not at all); see :meth:`load`."""
        from .store import save_family

        return save_family(self, Path(folder), dict(record or {}))

    @classmethod
    def load(cls, folder: str | Path, model: nn.Module, choices: Sequence[Elastic | Placed] = ()) -> Family:
        """Read a family from a folder into ``model``, a fresh instance of the network that it was made from.

        ``choices`` are those of its techniques that hold code of yours, which is not stored, as they were given to it.

        Raises:
            CorruptFileError: a file is missing, half-written or changed.
            WrongShapeError: ``model`` is not the network that was saved, or ``choices`` are not of its techniques.
        """
        from .store import load_family

        return load_family(cls, Path(folder), model, choices)

    def forget(self) -> None:
        """Drop every cached member; the next call of :meth:`member` builds anew."""
        self._members.clear()
        self._whole.clear()
        self._calibrated.clear()
