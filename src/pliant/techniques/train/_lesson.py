"""What a block learns from its teacher, and how far its paths are from the centre of all: ratings of members."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ...checks import PliantError
from ...family.statistics import call
from ...space.config import Config
from ._blocks import Blocks, cut_at, pooled
from ._bootstrap import apart, in_place_of, predicted, projected, unmoved

if TYPE_CHECKING:
    from ...family.family import Family

Pair = tuple[Any, Any]


@dataclass(frozen=True)
class Lesson:
    """What one block learns: to predict, on a path, what the teacher gives on all."""

    family: Family
    teacher: Mapping[str, Tensor]
    blocks: Blocks
    at: int
    student: Mapping[str, Tensor]
    target: Mapping[str, Tensor]

    def centres(self, paths: Sequence[Config], pairs: Sequence[Pair]) -> list[Tensor]:
        """Return the mean of what the teacher gives on paths (B, width), each brought to length 1, for either view."""
        sums: list[Any] = [0.0, 0.0]
        with in_place_of(self.family, self.teacher):
            for config, pair in zip(paths, pairs, strict=True):
                net = self.family.member(config)
                for side, view in enumerate(pair):
                    with unmoved(net):
                        row = projected(self.target, self._feature(net, view))
                    sums[side] = sums[side] + nn.functional.normalize(row, dim=-1) / len(paths)
        return sums

    def loss(self, paths: Sequence[Config], pairs: Sequence[Pair]) -> Tensor:
        """Return the mean over paths of the distance between each view's prediction and the other view's centre."""
        centres, total = self.centres(paths, pairs), torch.zeros(())
        for config, pair in zip(paths, pairs, strict=True):
            total = total + self.distance(self.family.member(config), pair, centres) / len(paths)
        return total

    def rating(self, path: Config, pair: Pair, centres: Sequence[Tensor]) -> Tensor:
        """Return the same of one path, without learning."""
        with torch.no_grad():
            net = self.family.member(path)
            with unmoved(net):
                return self.distance(net, pair, centres)

    def distance(self, net: nn.Module, pair: Pair, centres: Sequence[Tensor]) -> Tensor:
        """Return the distance of both views' predictions, from 0 to 8."""
        ways = zip(pair, reversed(centres), strict=True)
        return sum((apart(predicted(self.student, self._feature(net, x)), c) for x, c in ways), torch.zeros(()))

    def _feature(self, net: nn.Module, view: Any) -> Tensor:
        return feature_of(net, self.blocks, self.at, partial(call, net, view))


class Rater:
    """Rates members by what their blocks give behind the best blocks before them; small is good.

    Where constraints forbid the best ones, a block is rated behind the member's own.

    In a search it stands for the family, and is the function of an objective:
    ``pliant.search(rater, [pliant.Metric("rating", rater), ...])``. Ratings are of the weights as they were when it was
    asked first.

    Args:
        family: whose members are rated.
        best: the path through the blocks before one that is rated.
        rows: for each block what it learnt, and for each batch two views with the centres of both.
    """

    def __init__(
        self, family: Family, best: Config, rows: Sequence[tuple[Lesson, Sequence[tuple[Pair, list[Tensor]]]]]
    ) -> None:
        self.family, self.space, self.counts = family, family.space, family.counts
        self._best, self._rows = best, rows
        self._known: dict[tuple[int, Config], float] = {}
        self._configs: WeakKeyDictionary[nn.Module, Config] = WeakKeyDictionary()

    def canonical(self, config: Mapping[str, Any]) -> Config:
        """Return what :meth:`pliant.Family.canonical` does."""
        return self.family.canonical(config)

    def ready(self, config: Mapping[str, Any]) -> nn.Module:
        """Return the family's member in evaluation mode, and remember which it is."""
        member = self.family.ready(config)
        self._configs[member] = self.space.check(config)
        return member

    def __call__(self, member: nn.Module | Mapping[str, Any]) -> float:
        """Return a rating, from 0 to 8 for each block.

        Args:
            member: what :meth:`ready` returned, or a config.

        Raises:
            PliantError: another network; which blocks it has is not known.
        """
        return sum(self.of_blocks(member))

    def of_blocks(self, member: nn.Module | Mapping[str, Any]) -> list[float]:
        """Return the rating of each block of a member; arguments and errors as for a call."""
        config = self._configs.get(member) if isinstance(member, nn.Module) else self.space.check(member)
        if config is None:
            raise PliantError(
                "only members that the rater gave itself can be rated: search it in place of the family, "
                "pliant.search(rater, objectives), or call it with a config"
            )
        return [self._of_block(at, config) for at in range(len(self._rows))]

    def _of_block(self, at: int, config: Config) -> float:
        lesson, batches = self._rows[at]
        path = Config({**self._best, **{name: config[name] for name in lesson.blocks.reach[at]}})
        path = path if self.space.feasible(path) else config
        if (at, path) not in self._known:
            self._known[at, path] = sum(float(lesson.rating(path, *row)) for row in batches) / len(batches)
        return self._known[at, path]


def feature_of(net: nn.Module, blocks: Blocks, at: int, run: Callable[[], Any]) -> Tensor:
    """Return what a member gives at the end of a block (B, C)."""
    end = blocks.borders[at]
    with cut_at(net, blocks.borders[at - 1] if at else None, end) as found:
        run()
    return pooled(net, end, found.get(end))
