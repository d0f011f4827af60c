"""Gradient matching: a family is split where its members disagree most about the weights that they share.

For each choice, the gradients that its options induce on the weights common to them are compared by their cosines. The
options are parted into two groups of equal size such that the cosines between the groups are least (a minimum cut), and
of all choices the one whose cut is least is split: each group goes on with a copy of the weights. So members that pull
alike go on sharing, and a budget of copies reaches over more choices than if every option had its own. The paper's
claim: few-shot search split so finds better networks than split exhaustively, in NASBench-201, DARTS and MobileNet
spaces.

This implementation differs: cosines are of options between members that are otherwise the same, over the entries of
all shared weights that both hold, as slices of one weight have them in part; the authors' code compares whole weights
of chosen layers. As in their code, groups are halves, cosines are averaged over batches and members, and a choice is
split once at most. After a split the paper draws the weights anew or goes on from the copies; here they are copies, and
the caller trains each part. The warm-up before, and that training, are this recipe's steps: one random member each.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import combinations, islice
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ...checks import PliantError, WrongShapeError
from ...graph.prepare import draw_from
from ...graph.slicing import Pick
from ...space.choice import Option
from ...space.config import Config
from ...technique import Paper, Recipe, Turn
from ._fields import check_counts, check_positive, check_shares
from ._learning import learn_led
from ._options import Options, allowed_options, draw

if TYPE_CHECKING:
    from ...family.family import Family

_MOST = 16


@dataclass(frozen=True)
class GmNas(Recipe):
    """Train one random member per step; split the family by how gradients agree.

    Attributes:
        families: how many a family is split into at most.
        samples: over how many batches, with a random member each, cosines are averaged.
        pattern: which choices may be split, as file names match.
        lead: how much of a member's loss is distillation from the run's own teacher, where it has one.
        temperature: softens that teacher's outputs.
    """

    families: int = 4
    samples: int = 8
    pattern: str = "*"
    lead: float = 0.5
    temperature: float = 1.0

    paper: ClassVar[Paper | None] = Paper(
        "Hu, Wang, Hong, Li, Hsieh, Feng", 2022, "Generalizing Few-Shot NAS with Gradient Matching", "2203.15207"
    )
    gives: ClassVar[frozenset[str]] = frozenset({"trained members"})

    def __post_init__(self) -> None:
        """Check the fields."""
        check_counts(self, 1, "families", "samples")
        check_shares(self, "lead")
        check_positive(self, "temperature")

    def step(self, turn: Turn) -> None:
        """Let one random member learn."""
        learn_led(turn, turn.space.sample(turn.rng), self.lead, self.temperature)

    def split(self, family: Family, batches: Iterable[Any], loss: Any, seed: int = 0) -> list[Family]:
        """Split a family; each part has some options of the choices that were split, and a copy of all weights.

        The parts of a part are found at once, with the weights as they are. To train between splits, split with
        ``families=2``, train, and split the parts.

        Args:
            family: it is left as it is, but for gradients, which are cleared.
            batches: pairs ``(inputs, targets)``, ``samples`` of them.
            loss: ``loss(outputs, targets)`` gives a scalar.
            seed: determines which members are compared.

        Returns:
            The parts: every member of the family is in exactly one of them, and computes there what it did. A family
            of which nothing can be split comes as one part.

        Raises:
            WrongShapeError: fewer batches than wanted, or a choice of too many options.
        """
        given = list(islice(iter(batches), self.samples))
        if len(given) < self.samples:
            raise WrongShapeError(f"GmNas compares gradients on {self.samples} batches; got {len(given)}")
        parts = [(dict(allowed_options(family.space)), frozenset[str]())]
        at = 0
        while len(parts) < self.families and at < len(parts):
            options, done = parts[at]
            found = self._cut(family, options, done, given, loss, seed)
            if found is None:
                at += 1
                continue
            name, groups = found
            halves = [(options | {name: group}, done | {name}) for group in groups]
            parts = [*parts[:at], *parts[at + 1 :], *halves]  # those that were not split yet come first
            at = 0
        return [_part(family, options) for options, _ in parts]

    def _cut(
        self, family: Family, options: Options, done: frozenset[str], given: Sequence[Any], loss: Any, seed: int
    ) -> tuple[str, list[tuple[Option, ...]]] | None:
        """Return the choice whose halves agree least, and its halves; None where none is left."""
        best: tuple[float, str, list[tuple[Option, ...]]] | None = None
        for name, few in options.items():
            if len(few) < 2 or name in done or not fnmatchcase(name, self.pattern):
                continue
            left, cost = minimum_cut(self.matching(family, name, given, loss, options, seed))
            if best is None or cost < best[0]:
                best = (
                    cost,
                    name,
                    [tuple(o for i, o in enumerate(few) if (i in left) is side) for side in (True, False)],
                )
        return None if best is None else best[1:]

    def matching(
        self,
        family: Family,
        choice: str,
        batches: Sequence[Any],
        loss: Any,
        options: Options | None = None,
        seed: int = 0,
    ) -> Tensor:
        """Return the mean cosines (options, options) between the gradients that a choice's options induce.

        Args:
            family: its gradients are cleared.
            choice: the choice.
            batches: pairs ``(inputs, targets)``; on each the options are compared in another random member.
            loss: ``loss(outputs, targets)`` gives a scalar.
            options: what members are drawn from, by choice; all that the constraints allow if None.
            seed: determines which.
        """
        options = options or allowed_options(family.space)
        few, rng = options[choice], Random(f"{seed}:{choice}")
        total = torch.zeros(len(few), len(few), dtype=torch.float64)
        with _undisturbed(family):
            for at, batch in enumerate(batches):
                others = draw(options, rng)
                rows = [_gradients(family, Config({**others, choice: o}), batch, loss, seed + at) for o in few]
                total += torch.tensor([[_cosine(left, right) for right in rows] for left in rows]).double()
        return total / len(batches)


def minimum_cut(similarity: Tensor) -> tuple[frozenset[int], float]:
    """Part things into halves between which they are least similar; of an odd number, one half has one more.

    Args:
        similarity: ``(n, n)``, symmetric; n is 2 to 16, as all halves are tried.

    Returns:
        One half, as indices, and the mean similarity between the halves.

    Raises:
        WrongShapeError: there are fewer or more things.
    """
    count = len(similarity)
    if not 2 <= count <= _MOST:
        raise WrongShapeError(
            f"a choice of 2 to {_MOST} options can be split, this one has {count}; offer fewer, or leave it out by "
            "GmNas.pattern"
        )
    best: tuple[frozenset[int], float] = (frozenset(), math.inf)
    for picked in combinations(range(count), count // 2):
        if count % 2 == 0 and picked[0] != 0:
            break  # these are the other halves of those before
        rest = [i for i in range(count) if i not in picked]
        cost = float(similarity[list(picked)][:, rest].mean())
        if cost < best[1]:
            best = (frozenset(picked), cost)
    return best


Gradients = dict[str, tuple[Tensor, Tensor]]  # name: gradient, and which of its entries the member holds


def _gradients(family: Family, config: Config, batch: Any, loss: Any, seed: int) -> Gradients:
    from ...family.statistics import call

    for parameter in family.parameters():
        parameter.grad = None
    draw_from(seed)  # the same dropout for all options
    value = loss(call(family.member(config), batch[0]), batch[1])
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise WrongShapeError(f"loss(outputs, targets) gives one number as a tensor; got {value!r:.80}")
    value.backward()
    draft = family.draft(config)
    slicing = draft.slicing()
    gone = tuple(f"{family.analysis.block(block).module}." for block in draft.dropped)
    found: Gradients = {}
    for name, tensor in family.tensors().items():
        places = family.places.get(name, [name])
        if isinstance(tensor, nn.Parameter) and tensor.grad is not None and not all(p.startswith(gone) for p in places):
            found[name] = (tensor.grad.detach().clone(), _held(tensor, slicing.picks(name)))
    for name, extra in family.extra.items():
        if extra.grad is not None:
            found[f"extra {name}"] = (extra.grad.detach().clone(), torch.ones_like(extra, dtype=torch.bool))
    return found


def _held(tensor: Tensor, picks: Sequence[Pick]) -> Tensor:
    mask = torch.ones(tensor.shape, dtype=torch.bool, device=tensor.device)
    for dim, pick in enumerate(picks):
        if pick is not None:
            kept = torch.zeros(tensor.shape[dim], dtype=torch.bool, device=tensor.device)
            kept[pick if isinstance(pick, slice) else torch.from_numpy(pick).to(tensor.device)] = True
            mask &= kept.view([-1 if at == dim else 1 for at in range(tensor.dim())])
    return mask


def _cosine(left: Gradients, right: Gradients) -> float:
    """Return the cosine of two gradients over the entries that both members hold; 0 where one of them is zero."""
    product = first = second = 0.0
    for name in left.keys() & right.keys():
        both = left[name][1] & right[name][1]
        a, b = left[name][0][both].double(), right[name][0][both].double()
        product, first, second = product + float(a @ b), first + float(a @ a), second + float(b @ b)
    return product / math.sqrt(first * second) if first and second else 0.0


@contextmanager
def _undisturbed(family: Family) -> Iterator[None]:
    """Let members run in training mode; modes, buffers and random numbers are as before afterwards."""
    from ...family.statistics import keeping_modes

    buffers = [(buffer, buffer.clone()) for buffer in family.model.buffers()]
    with keeping_modes(family.model), torch.random.fork_rng(devices=[]):
        family.model.train()
        try:
            yield
        finally:
            for parameter in family.parameters():
                parameter.grad = None
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
            family.forget()  # members' own statistics have moved


def _part(family: Family, options: Mapping[str, tuple[Option, ...]]) -> Family:
    """Return a family of those options, with a copy of the weights."""
    whole = {choice.name: choice.options for choice in family.space.choices}
    few = {name: left for name, left in options.items() if left != whole[name]}
    techniques = []
    for placed in family.techniques:
        own = {choice.name for choice in placed.choices(family.analysis)}
        left = dict(placed.few) | {name: row for name, row in few.items() if name in own}
        techniques.append(replace(placed, few=tuple(left.items())))
    args, kwargs = family.example()
    only = family.analysis.capture.scope.only or None
    part = type(family)(copy.deepcopy(family.model), args, techniques, kwargs, only=only)
    part.extra.load(family.extra.state())
    part.prepared = family.prepared
    if part.space.size != math.prod(map(len, options.values())):
        raise PliantError("this family offers other choices when it is made again; split it before it is changed")
    return part
