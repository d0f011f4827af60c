"""SuperTickets: an architecture is searched and its weights are pruned in one training run.

The family's largest member is trained. At evenly spaced moments two things happen to it. Options are withdrawn: those
that would cut the units and blocks of least importance, until the member that is left costs what the schedule allows;
BatchNorm scales tell the importance where the network has them, the magnitude of the units' weights elsewhere. And the
weights are masked anew: of all weights of that member together, the smallest in magnitude count as zero, a share that
rises to its end by the schedule. Masked weights go on learning, so a later mask may show them again. What is left at
the end is the ticket: a small network with sparse weights, found and trained at once. The paper's claim: such tickets
are more accurate than networks that were searched first and pruned then, for the same floating-point operations and
without training them again; and they transfer to other tasks.

This implementation differs from the authors' code. Theirs trains one network of many branches and removes, every ten
epochs, any channel whose BatchNorm scale, driven down by an L1 penalty on all scales that rises over the first 25
epochs, is below 0.001; here there is no penalty, what can go is what the family's options cut, and a schedule says how
much goes. Options cut the last units of a layer; before they do, the units that are left are sorted by their
importance, so that the least important ones go (where other techniques keep weights for single units, they stay in
their first order). With ``between``, random members that are left learn from the largest one beside it (not in the
paper). There, a tenth of the weights more is masked every 25 epochs of 430 until the share is reached, and all are
masked anew to the end; reactivation means that all masks are lifted after each pruning. Here masks stay from the last
moment on, and gradients are handed on through them. Shares rise in equal parts, as there. Transfer is training the
extracted ticket, whose zeros an optimizer of the caller's must keep.

Known: on scikit-learn's digits, for a residual perceptron in 300 steps, against searching first and pruning then in the
same run, with as many weights left in the end. With half of the multiply-accumulates and 80 % zeros the errors are 7.3
against 8.2 % on average of five seeds, fewer with four of these. While units stayed in their first order they were 7.7
against 7.1, and 6.6 against 7.1 with ``between=1`` at twice the cost; for a convolutional network, which was not
measured since, 3.3 against 1.7. With 40 % and 90 % zeros they are fewer by three points or more with each of the two
seeds that the test runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ...checks import PliantError
from ...graph.slicing import take
from ...space.config import Config
from ...space.space import Space
from ...technique import Paper, Recipe, Turn
from ._fields import check_counts, check_shares, refuse
from ._importance import Importance, Shrinking
from ._learning import learn_led
from ._options import allowed_options, draw
from ._sorting import within

if TYPE_CHECKING:
    from ...family.family import Family

_TOP, _MOMENTS = "ticket", "moments"
_PREFIX = "mask/"
_TRIES = 20


@dataclass(frozen=True)
class SuperTickets(Recipe):
    """Train the largest member while its options are withdrawn and its weights pruned, until a sparse ticket is left.

    The family needs masks: make it with the technique that gives ``weight masks`` beside those that bend it.

    Attributes:
        budget: the ticket's multiply-accumulates as a share of the largest member's, zeros counted as numbers.
        sparsity: the share of zeros among the ticket's masked weights, in the end.
        moments: in how many equal parts each of the two gets there.
        search: the first and the last moment of withdrawing options, as shares of the steps.
        prune: the first and the last moment of pruning, as shares of the steps.
        between: how many random members of what is left learn from the largest one beside it.
        lead: how much of its own loss is distillation from the run's own teacher, where it has one.
    """

    budget: float = 0.5
    sparsity: float = 0.8
    moments: int = 8
    search: tuple[float, float] = (0.1, 0.6)
    prune: tuple[float, float] = (0.1, 0.7)
    between: int = 0
    lead: float = 0.5

    paper: ClassVar[Paper | None] = Paper(
        "You, Li, Sun, Ouyang, Lin",
        2022,
        "SuperTickets: Drawing Task-Agnostic Lottery Tickets from Supernets via Jointly Architecture Searching and "
        "Parameter Pruning",
        "2207.03677",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"weight masks"})
    gives: ClassVar[frozenset[str]] = frozenset({"trained members", "a favourite member", "sparse weights"})

    def __post_init__(self) -> None:
        """Check the fields."""
        check_shares(self, "budget", "sparsity", "lead")
        if self.sparsity == 1:
            refuse(self, "sparsity", "a share of the weights below 1")
        check_counts(self, 1, "moments")
        check_counts(self, 0, "between")
        for name in ("search", "prune"):
            window = getattr(self, name)
            if len(window) != 2 or not 0 <= window[0] <= window[1] <= 1:
                refuse(self, name, "two shares of the steps, the first moment and the last")

    def step(self, turn: Turn) -> None:
        """Withdraw and prune where a moment has come, then let what is left learn."""
        top = self._shaped(turn)
        seen = learn_led(turn, top, self.lead)
        for _ in range(self.between):
            config = _below(turn.space, top, turn.rng)
            if config != top:
                turn.learn(config, teacher=seen)

    def passed(self, window: tuple[float, float], step: int, steps: int) -> int:
        """Return how many of a window's moments have come, this step's included."""
        begin, end = window
        last = max(1, self.moments - 1)
        when = [min(steps - 1, round(steps * (begin + (end - begin) * k / last))) for k in range(self.moments)]
        return sum(at <= step for at in when)

    def _shaped(self, turn: Turn) -> Config:
        """Return the largest member that is left; at a moment it is shrunk, and masked anew."""
        memory = turn.memory
        if _TOP not in memory:
            _masks(turn.family)  # what cannot be done shows in the first step
            memory[_TOP], memory[_MOMENTS] = turn.space.largest().to_json(), [0, 0]
        top, now = Config.from_json(memory[_TOP]), [self.passed(w, turn.step, turn.steps) for w in self._windows]
        if now == memory[_MOMENTS]:
            return top
        if now[0] > memory[_MOMENTS][0]:
            self._sort(turn, top)
            shrinking = Shrinking(turn.family)
            share = 1 - (1 - self.budget) * now[0] / self.moments
            top = shrinking.down_to(top, share * shrinking.cost(turn.space.largest()))
        prune(turn.family, top, self.sparsity * now[1] / self.moments)
        memory[_TOP], memory[_MOMENTS] = top.to_json(), now
        return top

    @staticmethod
    def _sort(turn: Turn, top: Config) -> None:
        """Sort the units that are left by importance, so that options cut the least important ones."""
        importance, kept = Importance(turn.family), turn.family.draft(top).kept
        orders = {}
        for axis in turn.family.orders():
            order = importance.units(axis).argsort(descending=True, stable=True).tolist()
            left = kept.get(axis, len(order))
            orders[axis] = within(order, [left] if isinstance(left, int) else [])
        moved = {axis: order for axis, order in orders.items() if order != sorted(order)}
        if moved:
            turn.reorder(moved)

    @property
    def _windows(self) -> tuple[tuple[float, float], tuple[float, float]]:
        return self.search, self.prune

    @staticmethod
    def ticket(space: Space, memory: Mapping[str, Any]) -> Config:
        """Return the member that is left; extracted from the family, it is the ticket with its zeros.

        Args:
            space: the family's space.
            memory: what the run remembers, ``progress.memory``.

        Raises:
            PliantError: the memory is not of a run with this recipe, or of another space.
        """
        if _TOP not in memory:
            raise PliantError("this memory holds no ticket; give Progress.memory of a run with SuperTickets")
        return space.check(Config.from_json(memory[_TOP]))


def prune(family: Family, config: Config, share: float) -> None:
    """Mask the weights of a member anew: the smallest in magnitude, of all together, count as zero.

    What the member lacks of the weights is shown. Of equal weights, those that come first are masked.

    Args:
        family: a family with masks.
        config: the member.
        share: of its masked weights; so many are masked, rounded to the nearest number.

    Raises:
        PliantError: the family has no masks.
    """
    masks = _masks(family)
    held = _held(family, config, masks)
    with torch.no_grad():
        for mask in masks.values():
            mask.fill_(1.0)
        sizes = {name: take(family.tensors()[name].detach(), picks).abs() for name, picks in held.items()}
        if not sizes:
            return
        flat = torch.cat([size.flatten() for size in sizes.values()])
        shown = torch.ones_like(flat)
        shown[torch.argsort(flat, stable=True)[: round(share * flat.numel())]] = 0.0
        for (name, size), part in zip(sizes.items(), shown.split([s.numel() for s in sizes.values()]), strict=True):
            _put(masks[name], held[name], part.view(size.shape))


def zeros(family: Family, config: Config) -> tuple[int, int]:
    """Return how many of a member's weights are masked, and how many have a mask.

    Raises:
        PliantError: the family has no masks.
    """
    masks = _masks(family)
    rows = [take(masks[name], picks) for name, picks in _held(family, config, masks).items()]
    return sum(int((row == 0).sum()) for row in rows), sum(row.numel() for row in rows)


def _masks(family: Family) -> dict[str, Tensor]:
    """Return the family's masks by the names of their weights."""
    found: dict[str, Tensor] = {n.removeprefix(_PREFIX): m for n, m in family.extra.items() if n.startswith(_PREFIX)}
    if not found:
        raise PliantError(
            "SuperTickets prunes by masks that the family holds, and this family holds none: make it with "
            "pliant.WeightMasks() among its techniques"
        )
    return found


def _held(family: Family, config: Config, masks: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return for each masked weight that the member has what it takes of it."""
    draft = family.draft(config)
    slicing = draft.slicing()
    gone = tuple(f"{family.analysis.block(block).module}." for block in draft.dropped)
    there = [n for n in masks if not all(place.startswith(gone) for place in family.places.get(n, [n]))]
    return {name: slicing.picks(name) for name in there}


def _put(whole: Tensor, picks: Any, part: Tensor) -> None:
    """Write a slice of a tensor back, in place."""
    places = torch.arange(whole.numel(), device=whole.device).view(whole.shape)
    whole.view(-1)[take(places, picks).flatten()] = part.flatten()


def _below(space: Space, top: Config, rng: Random) -> Config:
    """Return a random member that has nothing that ``top`` lacks; ``top`` itself where none is found."""
    options = {
        choice.name: tuple(few[: few.index(top[choice.name]) + 1]) if choice.ordered else (top[choice.name],)
        for choice in space.choices
        if (few := allowed_options(space)[choice.name])
    }
    for _ in range(_TRIES):
        if space.feasible(config := draw(options, rng)):
            return config
    return top
