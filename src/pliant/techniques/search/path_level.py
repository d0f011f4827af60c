"""Path-level transformation: a controller grows trees of branches in the place of layers, and reads them as trees.

A cell (:class:`pliant.TreeCell` in a :class:`pliant.Growth`) begins as one trained layer. The controller decides how it
parts, into copies that are averaged or into parts that are concatenated, and how many; whether something follows each
branch, how that parts in turn, and which operation, of several primitives or none, is on each of its branches; and so
on, each branch to its end before the next, down to the depth that the space allows. Before every decision it reads the
tree as it is: a tree-structured LSTM upwards, child-sum where branches are averaged (their order says nothing) and
N-ary where they are concatenated, another downwards, and a plain LSTM along each edge for the operation on it. From
the two states of a branch one head each decides merging, number, operation, and going on. A cell is measured, and the
logarithm of the probability of all its decisions is pushed up where the reward exceeded a moving average of the
rewards, and down where it did not (REINFORCE, with a bonus for entropy). Growth keeps the function, so a cell inherits
the weights of the network that it grew from.

The claim of the paper: 97.70 % accuracy on CIFAR-10 with 14.3 M parameters, and 74.6 % on ImageNet in the mobile
setting, in about 200 GPU-hours.

Where this implementation differs: heads are linear, smaller states and a larger rate, as the budget is hundreds of
cells of a small network; how many branches are averaged has one head, read like the operations off the tree before it
parts. In a space with several cells each is read on its own, with the same weights; the paper puts one cell everywhere.
Choices that are in no cell (widths, or any other space) have a distribution of their own each, and nothing is read. The
reward is the negative value, standardised over what is known, rather than a tangent of the accuracy; of several
objectives it is the negative number of fronts before the config's own, over their number; what breaks constraints or
failed has the worst reward. What grows again is rewarded from memory, and the layer as it was may be proposed. Known
to be suboptimal: branches that are averaged in another order count as different; it needs far more measurements than a
model of the objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

import numpy as np

from ...checks import WrongShapeError
from ...space import Config, Problem
from ...technique import Paper, Proposer, Searcher
from ._arrays import generator
from ._growing import Growing
from ._tree_policy import Steps, TreePolicy

_TRIES = 20


@dataclass(frozen=True)
class PathLevel(Searcher):
    """Tree-structured controller that grows branches and their operations, trained by REINFORCE.

    Attributes:
        batch: cells per update of the controller.
        hidden: size of the controller's states and embeddings.
        rate: of learning; with 0 it takes random decisions.
        memory: share of the baseline that stays when a reward comes, from 0 to 1.
        entropy: weight of a bonus for undecided decisions.
    """

    batch: int = 10
    hidden: int = 16
    rate: float = 0.05
    memory: float = 0.95
    entropy: float = 0.01

    paper: ClassVar[Paper] = Paper(
        "Cai, Yang, Zhang, Han, Yu",
        2018,
        "Path-Level Network Transformation for Efficient Architecture Search",
        "1806.02639",
    )

    def __post_init__(self) -> None:
        if min(self.batch, self.hidden) < 1 or min(self.rate, self.entropy) < 0:
            raise WrongShapeError(
                f"batch and hidden are at least 1, rate and entropy at least 0, got {self.batch}, {self.hidden}, "
                f"{self.rate} and {self.entropy}"
            )
        if not 0 <= self.memory < 1:
            raise WrongShapeError(f"memory is from 0 to below 1, got {self.memory}")

    def start(self, problem: Problem) -> Proposer:
        """Begin a search; ``problem.seed`` and the history decide every config."""
        return _Cells(self, problem)


class _Cells(Growing[Steps]):
    def __init__(self, settings: PathLevel, problem: Problem) -> None:
        self.policy = TreePolicy(problem.space, settings.hidden, generator(Random(f"{problem.seed}:controller")))
        super().__init__(problem, self.policy.parameters, settings.batch, settings.rate, settings.memory)
        self._entropy = settings.entropy

    def plan(self, rng: Random, number: int) -> list[Config]:
        drawn = generator(rng)
        for _ in range(_TRIES):
            row, steps = self.policy.sample(drawn)
            [config] = self.space.configs(row[None])
            if config in self.unseen and not self.unseen.allowed([config]):
                continue  # what could not be measured
            if self.grew(config, self._that_matter(row, steps)):
                return [config]
        return []

    def _that_matter(self, row: np.ndarray, steps: Steps) -> Steps:
        """Return ``steps`` without decisions on what is not there in ``row`` (choices,)."""
        if self.problem.active is None or not len(row):
            return steps
        active = np.asarray(self.problem.active(row[None]), dtype=bool)
        return Steps(steps.rows, np.where(active, steps.made, -1), steps.tree)

    def ascent(self, steps: Sequence[Steps], advantages: np.ndarray) -> list[np.ndarray]:
        weights = np.repeat(advantages, [len(each.rows) for each in steps])
        return self.policy.gradient(Steps.joined(steps), weights, self._entropy / len(steps))
