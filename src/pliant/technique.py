"""The base of every plug-in: one abstract class per kind, each with one or two methods to write.

A technique is a frozen dataclass: its fields are its only configuration. It names the paper that it implements, the
stage at which it edits a member, and the capabilities that it needs and gives as words, never another technique.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from .family.draft import Draft
    from .family.family import Family
    from .graph.analysis import Analysis
    from .graph.slicing import Slicing
    from .space.choice import Choice, Option
    from .space.config import Config
    from .space.problem import Problem
    from .space.space import Space


class Stage(IntEnum):
    """When an edit is applied to a member's module tree; lower first."""

    DROP = 0
    SLICE = 1
    KERNEL = 2
    FACTORIZE = 3
    EXPERTS = 4
    QUANTIZE = 5
    EXITS = 6


@dataclass(frozen=True)
class Paper:
    """Where a technique was published."""

    authors: str
    year: int
    title: str
    arxiv: str = ""

    def __str__(self) -> str:
        where = f", arXiv {self.arxiv}" if self.arxiv else ""
        return f"{self.authors} ({self.year}), {self.title}{where}"


class Technique(ABC):
    """What every plug-in says of itself."""

    paper: ClassVar[Paper | None] = None
    stage: ClassVar[Stage | None] = None
    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()


class Elastic(Technique):
    """A technique that adds choices to a family and applies them to a member being built."""

    @abstractmethod
    def choices(self, analysis: Analysis) -> Sequence[Choice]:
        """Return the choices that this technique offers on the analysed network."""

    @abstractmethod
    def apply(self, draft: Draft, options: Mapping[str, Option]) -> None:
        """Edit ``draft`` so that it holds ``options`` (choice name to option), of this technique's choices only."""

    offers: ClassVar[bool] = True
    """Whether it is expected to offer choices; false for a technique that changes all members alike."""

    def weigh(self, draft: Draft, config: Config) -> None:
        """Change the weights of a member by its whole config, once every technique has applied its choices."""
        return None

    def extras(self, analysis: Analysis, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the first values of parameters that the family gets beside the network's own, by name.

        Args:
            analysis: of the part of the network where the technique is placed.
            tensors: the full network's tensors by canonical name.
        """
        return {}

    def prepare(self, family: Family) -> None:
        """Change the family once, before training, when units are sorted; its largest member must compute the same."""
        return None

    follows: ClassVar[bool] = False
    """Whether the parameters of :meth:`extras` suit the units in any order, be it by :meth:`reorder`."""

    def orders(self, family: Family) -> Mapping[str, Sequence[int]]:
        """Return for each axis whose smaller options keep its first units the order that they should have now."""
        return {}

    def reorder(self, added: Mapping[str, Any], slicing: Slicing) -> None:
        """Reorder tensors by the names of what :meth:`extras` gave, in place, as ``slicing`` does the network's own."""
        return None

    def record(self) -> dict[str, Any]:
        """Return the fields as plain data, of which a family that was saved makes the technique again."""
        return asdict(self) if is_dataclass(self) else {}


class Proposer(Protocol):
    """A running search: asked for configs, told their values. Objectives are always minimised here."""

    def ask(self, n: int = 1) -> list[Config]:
        """Return up to ``n`` different configs to measure next; the same history and seed give the same answer.

        What was asked for and not told yet is being measured, and is not proposed again while there is another.
        Fewer than ``n`` come where the rest must wait for what is being measured, none where nothing is left; an
        exhausted search may repeat itself.
        """
        ...

    def tell(self, config: Config, values: Sequence[float], violation: float = 0.0) -> None:
        """Learn the measured ``values`` of ``config``, asked for or not; a config told again has new values.

        Args:
            config: what was measured.
            values: one per objective; all are infinite where measuring failed.
            violation: 0 where every constraint holds, else by how much they do not; infinite where measuring failed.
        """
        ...


class Searcher(Technique):
    """A technique that proposes configs. It sees the space and plain numbers, no torch."""

    @abstractmethod
    def start(self, problem: Problem) -> Proposer:
        """Begin a search of ``problem.space``; ``problem.seed`` and what is told decide every config."""


class Turn(Protocol):
    """One training step, as a recipe sees it."""

    step: int
    steps: int
    space: Space
    family: Family
    """What is trained. A recipe may read its weights, and change them between updates, alike in every process."""
    rng: Any  # random.Random, seeded by the run's seed and the step: the same in every process of a run
    memory: dict[str, Any]
    """What the recipe remembers between steps: JSON values, tensors, and dicts of these; kept in checkpoints."""
    rate: float
    """Multiplies the learning rate of the optimizer steps that follow in this training step."""
    losses: dict[Config, float]
    """The losses of the members that learnt in this step; the same in every process once :meth:`update` was called."""

    def learn(
        self,
        config: Config,
        teacher: Any = None,
        share: float = 1.0,
        temperature: float = 1.0,
        weight: float = 1.0,
        regularise: bool = True,
    ) -> Any:
        """Run the member on the batch, add the gradient of its loss to the family's, return what it gave.

        With ``teacher`` (what another member, a kept network or the run's teacher gave), ``share`` of the loss is the
        distillation loss against it and the rest the task's; without, all of it is the task's. Where ``regularise`` is
        false, dropout and everything else that depends on the training mode is off, but for normalisation.
        """
        ...

    def see(self, config: Config) -> Any:
        """Return what the member gives on the batch, without learning."""
        ...

    def blend(self, probabilities: Mapping[str, Any], learn: bool = True) -> dict[str, Any]:
        """Run all members at once, each weighted by its probability; needs one forward and one copy of the weights.

        ``probabilities`` holds a tensor for each choice, as long as it has options. Returns the gradient of the task's
        loss for each of them; where ``learn``, that for the weights is added to the family's.
        """
        ...

    def descend(self, config: Config, loss: Callable[[Any], Any], beside: Sequence[Any] = ()) -> None:
        """Learn from a loss of the recipe's own, which looks at inputs alone.

        ``loss(inputs)`` runs members of ``family`` as it likes and returns one number. Its gradient is added to that of
        the family, and to that of ``beside``, parameters of the recipe's own. ``config`` stands for it in ``losses``,
        which hold its average over all processes; a loss without a history of gradients is only measured like that.
        """
        ...

    def foresee(self, config: Config, rate: float = 1.0) -> float:
        """Return the member's loss on half of the batch after an optimizer step on the other half, which is taken back.

        ``rate`` multiplies that step's learning rate. Weights, buffers, the optimizer and random numbers are as before,
        bit for bit. The loss is infinite where the step spoils the weights.
        """
        ...

    def taught(self) -> Any:
        """Return what the run's own teacher gives on the batch; ``None`` where the run has none."""
        ...

    def keep(self, name: str, config: Config) -> None:
        """Keep a frozen copy of the member as it is now, for :meth:`recall` in this and later steps."""
        ...

    def kept(self, name: str) -> bool:
        """Return whether something is kept under ``name``."""
        ...

    def recall(self, name: str) -> Any:
        """Return what the network kept under ``name`` gives on the batch."""
        ...

    def macs(self, config: Config) -> float:
        """Return the member's multiply-accumulates as a share of the largest member's."""
        ...

    def reorder(self, orders: Mapping[str, Sequence[int]]) -> None:
        """Reorder the units of axes in the family, and in what the optimizer remembers; the full network is the same.

        It comes before a member learns, or after :meth:`update`.
        """
        ...

    def update(self) -> None:
        """Let the optimizer use what has been learnt so far; the loop does so by itself after the recipe's step."""
        ...


class Recipe(Technique):
    """A technique that trains a family: which members learn at each step, and from whom."""

    @abstractmethod
    def step(self, turn: Turn) -> None:
        """Let members learn once from the batch at hand."""

    def prepare(self, family: Family) -> None:
        """Change the family once, before a new run trains it; a run that goes on from a checkpoint has it already."""
        return None

    def rate(self, done: float) -> float:
        """Return the factor of the learning rate, after the warm-up, when ``done`` (0 to 1) of the steps are done."""
        return 0.5 * (1 + math.cos(math.pi * done))


class Distiller(Technique):
    """A technique that says how a student imitates a teacher: what is looked at inside both, and the loss between."""

    @abstractmethod
    def start(self, student: Any, teacher: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return the :class:`pliant.family.Imitation` of one training run, with parameters of its own if it has any.

        Args:
            student: the largest member, an ``nn.Module`` in evaluation mode.
            teacher: the run's teacher likewise; ``None`` where members learn from the largest one.
            args: example arguments that both run on, to learn the shapes of features from; no gradients are kept.
            kwargs: example keyword arguments.
        """
