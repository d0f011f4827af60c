"""m2mKD: the modules of a network learn one by one, each from the part of a pretrained network that it stands for.

A pretrained network is cut into as many stages as the new network has modules, and a light meta network has as many
layers. For each place, the teacher's stage takes that layer's place in the meta network, then the student's module
does, and the module learns to give the hybrid the same outputs. All else in the hybrid is frozen, so that the modules
learn independently, on as many machines as there are; then they are put together and tuned as a whole. Where widths
differ from the meta network's, linear stitch layers go between, which are dropped afterwards. The paper's claim:
Neural Attentive Circuits gain up to 5.6 points on Tiny-ImageNet, and a sparse V-MoE-Base is 3.5 points better on
ImageNet than trained end to end.

This implementation differs in that it takes any chain of modules for the student, not those two modular networks
alone, and in how the teacher's stages come to fit the meta network: they are trained in it, as in the paper (after
Deep Incubation), for ``incubation`` steps and as copies; with 0 they are used as they are, which is right where the
meta network was made from the teacher itself. The student's stitch layers start as the teacher's where these fit.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...checks import CorruptFileError, PliantError, TrainingDivergedError, WrongShapeError
from ...family.imitation import distillation_loss
from ...files import write_tensors
from ...graph.prepare import seeded
from ...technique import Paper, Technique
from ._features import is_map, width_of

Chain = Sequence[nn.Module]
Batches = Callable[[int], Iterator[Any]]
Loss = Callable[[Any, Any], Tensor]


def split(layers: Iterable[nn.Module], parts: int) -> list[nn.Sequential]:
    """Cut a chain of layers, such as an ``nn.Sequential``, into ``parts`` stages of as equal a length as can be.

    The stages hold the layers themselves, not copies.

    Raises:
        WrongShapeError: there are fewer layers than parts.
    """
    layers = list(layers)
    if not 1 <= parts <= len(layers):
        raise WrongShapeError(f"a chain of {len(layers)} layers is cut into 1 to {len(layers)} stages; got {parts}")
    cuts = [round(k * len(layers) / parts) for k in range(parts + 1)]
    return [nn.Sequential(*layers[a:b]) for a, b in pairwise(cuts)]


class Hybrid(nn.Module):
    """A meta network with one layer replaced by ``enter``, ``module`` and ``leave``; only these can learn."""

    def __init__(self, meta: Chain, index: int, module: nn.Module, enter: nn.Module, leave: nn.Module) -> None:
        super().__init__()
        self.before, self.after = nn.Sequential(*meta[:index]), nn.Sequential(*meta[index + 1 :])
        self.enter, self.module, self.leave = enter, module, leave

    def train(self, mode: bool = True) -> Hybrid:
        """Put what learns in training mode; the meta network stays in evaluation mode."""
        super().train(mode)
        self.before.eval(), self.after.eval()
        return self

    def learning(self) -> Iterator[nn.Parameter]:
        """Return the parameters that learn: the module's and the stitch layers'."""
        for part in (self.enter, self.module, self.leave):
            yield from part.parameters()

    def forward(self, x: Tensor) -> Any:
        """Run the layers one after the other."""
        with torch.no_grad():
            x = self.before(x)
        return self.after(self.leave(self.module(self.enter(x))))


@dataclass(frozen=True)
class ModuleToModule(Technique):
    """Train each module of a network on its own, inside a frozen meta network, from a stage of a pretrained network.

    Attributes:
        steps: how many steps each module learns.
        incubation: how many steps each stage of the teacher learns from the labels in the meta network first.
        lr: the learning rate of AdamW; it falls with a cosine.
        share: how much of a module's loss is distillation, the rest being the labels' loss.
        temperature: softens the outputs of both hybrids.
        seed: determines the stitch layers, and dropout if there is any.
    """

    steps: int = 200
    incubation: int = 0
    lr: float = 1e-3
    share: float = 0.5
    temperature: float = 1.0
    seed: int = 0

    paper: ClassVar[Paper | None] = Paper(
        "Lo, Liang, Du, Fan, Wang, Huang, Ma, Fu",
        2024,
        "m2mKD: Module-to-Module Knowledge Distillation for Modular Transformers",
        "2402.16918",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"stages"})
    gives: ClassVar[frozenset[str]] = frozenset({"trained modules"})

    def __post_init__(self) -> None:
        """Check the fields."""
        if min(self.steps, self.incubation) < 0 or self.lr <= 0 or self.temperature <= 0 or not 0 <= self.share <= 1:
            raise WrongShapeError(
                "ModuleToModule needs steps >= 0, incubation >= 0, lr > 0, temperature > 0 and share from 0 to 1; got "
                f"{self}"
            )

    def run(
        self, students: Chain, teachers: Chain, meta: Chain, batches: Batches, loss: Loss, folder: Path | None = None
    ) -> nn.Sequential:
        """Train all modules, one after the other, and put them together; the same as :meth:`module` for each of them.

        Args:
            students: the new network's modules in their order; trained in place.
            teachers: as many stages of a pretrained network, see :func:`split`; left as they are.
            meta: as many layers of a light network, trained before on the task; left as they are.
            batches: a function of the first step's number that gives pairs ``(inputs, targets)``.
            loss: ``loss(outputs, targets)``, a scalar.
            folder: where trained modules are kept; those found there are not trained again.

        Returns:
            The chain of modules, to be tuned as a whole.

        Raises:
            WrongShapeError: the chains differ in length, or a module cannot be stitched to the meta network.
        """
        for index in range(len(students)):
            self.module(index, students, teachers, meta, batches, loss, folder)
        return nn.Sequential(*students)

    def module(
        self,
        index: int,
        students: Chain,
        teachers: Chain,
        meta: Chain,
        batches: Batches,
        loss: Loss,
        folder: Path | None = None,
    ) -> Hybrid:
        """Train the module at ``index`` in place and return the hybrid in which it learned; see :meth:`run`.

        It depends on no other module's training, so each may be trained by another process.
        """
        _check_chains(index, students, teachers, meta)
        example = next(batches(0))[0]
        path = folder / f"module-{index}.safetensors" if folder else None
        start = _fingerprint(self, teachers, meta) if path else ""
        with seeded(self.seed * 1009 + index):
            if path and path.exists():
                student = _hybrid(index, students, meta, example)
                _load(path, student, start)
                return student.eval()
            teacher = self._teacher(index, teachers, meta, example, batches, loss)
            student = _hybrid(index, students, meta, example)
            for ours, theirs in ((student.enter, teacher.enter), (student.leave, teacher.leave)):
                if _shapes(ours) == _shapes(theirs):
                    ours.load_state_dict(theirs.state_dict())
            self._fit(student, teacher, batches, loss, self.steps)
        if path:
            write_tensors(path, _own(student), {"start": start})
        return student.eval()

    def loss_of(self, student: Any, teacher: Any, targets: Any, loss: Loss) -> Tensor:
        """Return the loss of a hybrid's outputs against the other hybrid's and the labels."""
        total = self.share * distillation_loss(student, teacher, self.temperature)
        return total if self.share == 1.0 else total + (1.0 - self.share) * loss(student, targets)

    def _teacher(self, index: int, teachers: Chain, meta: Chain, example: Any, batches: Batches, loss: Loss) -> Hybrid:
        hybrid = _hybrid(index, teachers, meta, example)
        if self.incubation:
            hybrid.module = copy.deepcopy(hybrid.module)
            self._fit(hybrid, None, batches, loss, self.incubation)
        elif _shapes(hybrid.enter) or _shapes(hybrid.leave):
            raise WrongShapeError(
                f"stage {index} of the teacher is not of the meta network's width there, so it needs stitch layers, "
                "and these have to learn: give ModuleToModule an incubation of some hundred steps"
            )
        return hybrid.eval()

    def _fit(self, hybrid: Hybrid, teacher: Hybrid | None, batches: Batches, loss: Loss, steps: int) -> None:
        frozen = [(p, p.requires_grad) for part in (hybrid.before, hybrid.after) for p in part.parameters()]
        learning = [p for p in hybrid.learning() if p.requires_grad]
        if not learning:
            return
        optimizer = torch.optim.AdamW(learning, lr=self.lr)
        hybrid.train()
        try:
            for parameter, _ in frozen:
                parameter.requires_grad_(False)
            for step, (inputs, targets) in zip(range(steps), batches(0), strict=False):
                optimizer.param_groups[0]["lr"] = self.lr * 0.5 * (1 + math.cos(math.pi * step / steps))
                outputs = hybrid(inputs)
                if teacher is None:
                    value = loss(outputs, targets)
                else:
                    with torch.no_grad():
                        goal = teacher(inputs)
                    value = self.loss_of(outputs, goal, targets, loss)
                if not math.isfinite(float(value.detach())):
                    raise TrainingDivergedError(f"a module's loss is {float(value.detach())} at step {step}; lower lr")
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
        finally:
            for parameter, learns in frozen:
                parameter.requires_grad_(learns)


def _check_chains(index: int, students: Chain, teachers: Chain, meta: Chain) -> None:
    if not len(students) == len(teachers) == len(meta) or not 0 <= index < len(meta):
        raise WrongShapeError(
            f"there are {len(students)} modules, {len(teachers)} stages of the teacher and {len(meta)} layers of the "
            f"meta network, and module {index} was asked for; all three are of one length (cut the teacher with split)"
        )


def _hybrid(index: int, chain: Chain, meta: Chain, example: Any) -> Hybrid:
    """Put a module in its place in the meta network, with stitch layers where sizes differ."""
    (own_in, own_out), (meta_in, meta_out) = (_ends(each, index, example) for each in (chain, meta))
    enter, leave = _stitch(index, meta_in, own_in), _stitch(index, own_out, meta_out)
    weight = next(iter(meta[index].parameters()), None)
    if weight is not None:
        enter, leave = enter.to(weight), leave.to(weight)
    return Hybrid(meta, index, chain[index], enter, leave)


def _ends(chain: Chain, index: int, example: Any) -> tuple[Tensor, Tensor]:
    """Return what the module at ``index`` gets and gives in its own chain."""
    modes = [(module, module.training) for part in chain for module in part.modules()]
    x = example
    try:
        with torch.no_grad():
            for part in chain[:index]:
                x = part.eval()(x)
            return x, chain[index].eval()(x)
    finally:
        for module, mode in modes:
            module.training = mode


def _stitch(index: int, given: Tensor, wanted: Tensor) -> nn.Module:
    if given.shape == wanted.shape:
        return nn.Identity()
    sizes = [v.shape[2:] if is_map(v) else v.shape[1:-1] for v in (given, wanted)]
    if given.dim() != wanted.dim() or sizes[0] != sizes[1]:
        raise WrongShapeError(
            f"at module {index} a feature of shape {tuple(given.shape)} meets one of {tuple(wanted.shape)}; stitch "
            "layers change widths alone: cut the networks where their features are of one kind and size"
        )
    a, b = width_of(given), width_of(wanted)
    if not is_map(given):
        return nn.Linear(a, b)
    conv: Any = {4: nn.Conv2d, 5: nn.Conv3d}[given.dim()]
    layer: nn.Module = conv(a, b, 1)
    return layer


def _shapes(module: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(value.shape) for value in module.state_dict().values()]


def _own(hybrid: Hybrid) -> dict[str, Tensor]:
    parts = (("enter", hybrid.enter), ("module", hybrid.module), ("leave", hybrid.leave))
    return {f"{part}.{name}": value for part, net in parts for name, value in net.state_dict().items()}


def _fingerprint(settings: ModuleToModule, *chains: Chain) -> str:
    """Return what says in which surroundings a module was trained, and how, as a short text."""
    found = hashlib.blake2b(repr(settings).encode(), digest_size=16)
    for chain in chains:
        for name, value in nn.ModuleList(chain).state_dict().items():
            found.update(name.encode() + bytes(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))
    return found.hexdigest()


def _load(path: Path, hybrid: Hybrid, start: str) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            if file.metadata()["start"] != start:
                raise PliantError(
                    f"{path} is of a module trained with other settings, from another teacher or in another meta "
                    "network; use another folder, or remove it to train the module again"
                )
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, KeyError, TypeError, OSError) as error:
        if isinstance(error, PliantError):
            raise
        raise CorruptFileError(f"{path} cannot be read; remove it to train the module again") from error
    for part in ("enter", "module", "leave"):
        values = {name.removeprefix(f"{part}."): v for name, v in held.items() if name.startswith(f"{part}.")}
        getattr(hybrid, part).load_state_dict(values)
