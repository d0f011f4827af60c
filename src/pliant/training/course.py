"""What stays the same over the steps of one training run: the loss, the teachers, and what the recipe remembers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..checks import PliantError, WrongShapeError, unknown
from ..family.blend import Blend
from ..family.counts import macs_shares
from ..family.family import Family
from ..family.imitation import Imitation, View, features
from ..family.statistics import call, keeping_modes
from ..space.config import Config
from ..technique import Distiller, Recipe
from .compute import Compute
from .processes import Processes, without_addresses
from .recompute import block_paths, recomputed

Loss = Callable[[Any, Any], Tensor]
_KEPT = "kept networks"


@dataclass(frozen=True)
class Seen:
    """What one network gave on a step's batch, one view per part of it; without a history of gradients."""

    views: tuple[View, ...]
    by_teacher: bool = False

    @property
    def outputs(self) -> Any:
        """The outputs on the whole batch."""
        if len(self.views) == 1:
            return self.views[0].outputs
        parts = [pytree.tree_flatten(view.outputs) for view in self.views]
        rows = zip(*(leaves for leaves, _ in parts), strict=True)
        whole = [torch.cat(row) if isinstance(row[0], Tensor) else row[0] for row in rows]
        return pytree.tree_unflatten(whole, parts[0][1])


@dataclass
class Course:
    """One training run of a family.

    Args:
        family: the family.
        loss: ``loss(outputs, targets)``, a scalar.
        steps: how many steps the run has.
        seed: the run's seed.
        teacher: a network that largest members may learn from: called with a batch's inputs, without gradients.
        imitation: how students are compared with teachers; their outputs alone if None.
        compute: number formats, batches per step, memory for time.
    """

    family: Family
    loss: Loss
    steps: int = 1
    seed: int = 0
    teacher: nn.Module | None = None
    imitation: Imitation | None = None
    compute: Compute = field(default_factory=Compute)
    memory: dict[str, Any] = field(default_factory=dict, init=False)
    """What the recipe remembers; see :class:`pliant.technique.Turn`."""

    def __post_init__(self) -> None:
        """Prepare what is made at first use."""
        self._networks: dict[str, nn.Module] = {}
        self._shares: Callable[[Config], float] | None = None
        self.processes = Processes()
        self.compute.check_weights(p.dtype for p in self.family.parameters())
        self._blocks = block_paths(self.family) if self.compute.checkpointing else ()

    @property
    def device(self) -> torch.device:
        """Where the family's weights are."""
        return next((p.device for p in self.family.parameters()), torch.device("cpu"))

    @cached_property
    def scaler(self) -> torch.amp.GradScaler | None:
        """What scales losses where gradients are computed in float16."""
        return self.compute.scaler(self.device)

    @cached_property
    def blend(self) -> Blend:
        """All members at once."""
        return Blend(self.family)

    def joined(self) -> Course:
        """Return this run as one that trains together with the other processes, where there are some."""
        if self.compute.processes:
            self.processes = Processes.here(self.device)
        return self

    # ---- kept networks -----------------------------------------------------------------------------------------------
    def keep(self, name: str, config: Config) -> None:
        """Keep a frozen copy of a member as it is now."""
        net = self._copy(config)
        weights = {n: v for n, v in net.state_dict().items() if isinstance(v, Tensor)}
        if self.family.statistics:  # each process has estimated them from its own batches
            self.processes.share(weights.values())
        self._networks[name] = net
        self.memory.setdefault(_KEPT, {})[name] = {"config": config.to_json(), "weights": weights}

    def kept(self, name: str) -> bool:
        """Return whether something is kept under ``name``."""
        return name in self.memory.get(_KEPT, {})

    def network(self, name: str) -> nn.Module:
        """Return what is kept under ``name``; in a run that goes on, built from what the checkpoint holds.

        Raises:
            UnknownNameError: nothing is.
        """
        rows = self.memory.get(_KEPT, {})
        if name not in rows:
            raise unknown("kept network", name, rows)
        if name not in self._networks:
            net = self._copy(Config.from_json(rows[name]["config"]))
            net.load_state_dict(rows[name]["weights"])
            self._networks[name] = net
        return self._networks[name]

    def _copy(self, config: Config) -> nn.Module:
        """Extract a member. The largest one's statistics are the model's own, which training goes on with."""
        buffers = [(buffer, buffer.clone()) for buffer in self.family.model.buffers()]
        net = self.family.extract(config).requires_grad_(False)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        return net

    def marks(self, recipe: Recipe) -> dict[str, Any]:
        """Return what must be the same in a run that goes on from a checkpoint."""
        return {
            "recipe": without_addresses(repr(recipe)),
            "distiller": None if self.imitation is None else type(self.imitation).__name__,
            "space": self.family.space.digest,
        }

    def held(self) -> dict[str, Any]:
        """Return what a checkpoint must hold of the run, beside the weights and the optimizer."""
        imitation = {} if self.imitation is None else dict(self.imitation.state_dict())
        held = {"memory": self.memory, "imitation": imitation, "extra": self.family.extra.state()}
        return held if self.scaler is None else held | {"scaler": self.scaler.state_dict()}

    def take(self, held: Mapping[str, Any]) -> None:
        """Go on from what :meth:`held` gave."""
        self.memory.clear()
        self.memory.update(held.get("memory", {}))
        self._networks.clear()
        self.family.extra.load(held.get("extra", {}))
        if self.imitation is not None:
            self.imitation.load_state_dict(held.get("imitation", {}))
        if self.scaler is not None and held.get("scaler"):
            self.scaler.load_state_dict(held["scaler"])

    def state(self) -> list[Tensor]:
        """Return every tensor that training changes or starts from: weights, buffers, what is trained beside them."""
        beside = () if self.imitation is None else self.imitation.state_dict().values()
        weights = (*self.family.model.state_dict().values(), *self.family.extra.values(), *beside)
        return [tensor for tensor in weights if isinstance(tensor, Tensor)]

    # ---- forward passes --------------------------------------------------------------------------------------------
    def view(self, net: nn.Module, inputs: Any, by_teacher: bool = False) -> View:
        """Run ``net`` on inputs and return what the imitation wants to look at."""
        imitation = self.imitation
        sites = () if imitation is None else (imitation.teacher_sites if by_teacher else imitation.sites)
        again = recomputed(net, self._blocks) if self._blocks and torch.is_grad_enabled() else nullcontext()
        with self.autocast(), again, features(net, sites, optional=not by_teacher) as found:
            outputs = call(net, inputs)
        if self.compute.precision == "float32":
            return View(outputs, found)
        return View(_widened(outputs), {name: _widened(value) for name, value in found.items()})

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which forward passes and losses run."""
        return nullcontext() if self.compute.precision == "float32" else self.compute.autocast(self.device)

    def together(self, step: int, config: Config, loss: float) -> float:
        """Return the average of a member's loss over all processes, which must have learnt the same member."""
        if self.processes.count == 1:
            return loss
        return self.processes.meet(f"step {step} with member {config.to_json()}", loss)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss, scaled where they are computed in float16."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def watch(self, net: nn.Module, parts: list[Any], by_teacher: bool = False) -> Seen:
        """Return what ``net`` gives on the parts of a batch, without learning from it."""
        with torch.no_grad(), keeping_modes(net):
            if by_teacher:
                net.eval()
            return Seen(tuple(self.view(net, part[0], by_teacher).detached() for part in parts), by_teacher)

    def imitate(self, student: View, teacher: View, targets: Any, temperature: float, by_teacher: bool) -> Tensor:
        """Return the distillation loss of a student on one part of a batch."""
        if self.imitation is None or by_teacher != (self.teacher is not None):
            # Made for the run's teacher, an imitation says nothing of members among themselves.
            return Imitation.forward(_PLAIN, student, teacher, targets, temperature)
        loss: Tensor = self.imitation(student, teacher, targets, temperature)
        return loss

    def macs(self, config: Config) -> float:
        """Return a member's multiply-accumulates as a share of the largest member's."""
        if self._shares is None:
            self._shares = macs_shares(self.family)
        return self._shares(config)


_PLAIN = Imitation()


def _widened(values: Any) -> Any:
    """Return the values with tensors of short formats in float32, as losses want them."""
    short = (torch.bfloat16, torch.float16)
    return pytree.tree_map(lambda v: v.float() if isinstance(v, Tensor) and v.dtype in short else v, values)


def as_seen(teacher: Any, parts: int) -> Seen:
    """Return ``teacher``, plain outputs or what a network gave, as the latter.

    Raises:
        WrongShapeError: it is of another number of parts than the batch.
    """
    seen = teacher if isinstance(teacher, Seen) else Seen((View(teacher),))
    if len(seen.views) != parts:
        raise WrongShapeError(f"the teacher's outputs are of {len(seen.views)} parts of a batch, this one has {parts}")
    return seen


@contextmanager
def unregularised(net: nn.Module) -> Iterator[None]:
    """Turn off whatever depends on the training mode, dropout above all, but for normalisation layers.

    A graph-form network has one mode for all its operations, and is left in it.
    """
    if isinstance(net, torch.fx.GraphModule):
        yield
        return
    with keeping_modes(net):
        for module in net.modules():
            module.training = isinstance(module, nn.modules.batchnorm._NormBase) and module.training
        yield


@contextmanager
def imitating(course: Course, distiller: Distiller | None, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Let members of the run imitate as ``distiller`` says; what it trains beside the family leaves with it."""
    if distiller is None:
        yield
        return
    if not isinstance(distiller, Distiller):
        hint = "; it is a recipe, for recipe=" if isinstance(distiller, Recipe) else ""
        raise PliantError(
            "a distiller is an instance of a technique that says how students imitate (a Distiller); got "
            f"{distiller!r:.60}{hint}"
        )
    args, kwargs = course.family.example()
    student = course.family.model.eval()
    with torch.no_grad(), keeping_modes(course.teacher or nn.Identity()):
        if course.teacher is not None:
            course.teacher.eval()
        course.imitation = distiller.start(student, course.teacher, args, kwargs)
    if course.imitation.sites and course.family.form == "graph":
        raise PliantError(
            f"{type(distiller).__name__} looks at features of submodules, and members of this family are graphs of "
            f"operations that have none ({course.family.why_graph}); distil by outputs alone (distiller=None)"
        )
    learning = [p for p in course.imitation.parameters() if p.requires_grad]
    if learning:
        optimizer.add_param_group({"params": learning, "lr": optimizer.param_groups[0]["lr"]})
    try:
        yield
    finally:
        if learning:
            optimizer.param_groups.pop()
            for parameter in learning:
                optimizer.state.pop(parameter, None)
