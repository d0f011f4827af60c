"""LLMatic's search: an archive of the best config of every kind, filled by prompts that are themselves kept by merit.

A grid has a cell for each kind of network, by cost and by how wide it is for its depth; a cell keeps its best config
(MAP-Elites, the archive is that of pyribs). A proposal answers a prompt: a rule, such as "make it smaller", a
temperature, and one or two configs of the archive. Prompts whose answers enter the archive are used more often.

The claim of the paper: with code written by a language model as the answer, competitive networks for CIFAR-10 and many
different ones besides, in 2000 searches.

The answer is that of a rule-based mutator, or of any callable, such as a language model behind a parser:
``MapElites().illuminate(problem, propose)``. Where this implementation differs: proposals are configs of a space rather
than code, so there is nothing to sandbox: what is not a config of the space is refused, counts against its prompt, and
is replaced by the rule-based answer. Cells form a grid rather than Voronoi cells. The merit of a prompt is the paper's
curiosity: one more for an answer that entered, half less for one that did not; the next prompt is drawn by the softmax
of it. The archive's fitness is the first objective that cannot be computed, other objectives show as the cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

import numpy as np

from ...checks import PliantError, WrongShapeError, require, unknown
from ...space import Config, Option, Problem, Space
from ...technique import Paper, Proposer, Searcher
from ._batches import Batches

RULES = ("change", "nudge", "grow", "shrink", "cross")
TEMPERATURES = (0.05, 0.1, 0.2, 0.4, 0.8)
_TRIES = 20


@dataclass(frozen=True)
class Prompt:
    """What a proposal answers.

    Attributes:
        space: that the answer shall be a config of.
        parents: two configs of the archive; all rules but ``"cross"`` are about the first.
        rule: ``"change"`` some choices to any option, ``"nudge"`` them to a neighbouring one, ``"grow"``, ``"shrink"``,
            or ``"cross"`` the parents.
        temperature: about which share of the choices to change.
        rng: for answers that need chance.
    """

    space: Space
    parents: tuple[Config, Config]
    rule: str
    temperature: float
    rng: Random


Propose = Callable[[Prompt], Mapping[str, Option]]
"""Answers a prompt with a config."""


def obey(prompt: Prompt) -> Config:
    """Answer ``prompt`` by its rule, word for word."""
    space, rng, parent = prompt.space, prompt.rng, prompt.parents[0]
    if prompt.rule == "cross":
        return space.mutate(space.crossover(*prompt.parents, rng), rng, prompt.temperature)
    if prompt.rule == "change" or not space.choices:
        return space.mutate(parent, rng, prompt.temperature)
    made = dict(parent)
    for choice, allowed in zip(space.choices, space.allowed(), strict=True):
        if rng.random() < prompt.temperature:
            at = int(np.searchsorted(allowed, choice.index(parent[choice.name])))
            step = {"grow": 1, "shrink": -1}.get(prompt.rule) or rng.choice((-1, 1))
            made[choice.name] = choice.options[allowed[min(max(at + step, 0), len(allowed) - 1)]]
    return Config(made)


@dataclass(frozen=True)
class MapElites(Searcher):
    """Quality-diversity search: the best config of every kind, by prompts that earn their use.

    Attributes:
        cells: of the archive, over the cost and over width against depth.
        first: random configs at the start.
        statistic: name of the statistic that is the cost; the first, or an exact objective, where ``None``.
        depth: choices with this word in their name make for depth, the others for width. Where there are none, the
            second half of the choices is compared with the first.
    """

    cells: tuple[int, int] = (12, 6)
    first: int = 10
    statistic: str | None = None
    depth: str = "depth"

    paper: ClassVar[Paper] = Paper(
        "Nasir, Earle, Cleghorn, James, Togelius",
        2023,
        "LLMatic: Neural Architecture Search via Large Language Models and Quality Diversity Optimization",
        "2306.01102",
    )

    def __post_init__(self) -> None:
        if len(self.cells) != 2 or min(self.cells) < 1 or self.first < 1:
            raise WrongShapeError(f"cells are two numbers and first one, all at least 1; got {self!r}")

    def start(self, problem: Problem) -> Proposer:
        """Begin a search with the rule-based mutator; ``problem.seed`` and the history decide every config.

        Raises:
            MissingExtraError: pyribs is not installed.
            UnknownNameError: the problem has no such statistic; offers the nearest.
        """
        return self.illuminate(problem, obey)

    def illuminate(self, problem: Problem, propose: Propose) -> Illumination:
        """Begin a search whose configs ``propose`` answers; errors as for :meth:`start`."""
        return Illumination(self, problem, propose)


class Illumination(Batches):
    """A running search and its archive."""

    def __init__(self, settings: MapElites, problem: Problem, propose: Propose) -> None:
        super().__init__(problem)
        if settings.statistic is not None and settings.statistic not in problem.statistics:
            raise unknown("statistic", settings.statistic, problem.statistics)
        named = [problem.statistics[settings.statistic]] if settings.statistic is not None else []
        self._cost = next(iter([*named, *problem.statistics.values(), *problem.exact.values()]), None)
        self._settings = settings
        self._propose = propose
        self._fitness = next((at for at in range(problem.objectives) if at not in problem.exact), 0)
        self._asked_by: dict[Config, tuple[str, float]] = {}
        self._configs: list[Config] = []
        self.curiosity = {(rule, heat): 0.0 for rule in RULES for heat in TEMPERATURES}
        self.archive: Any = require("ribs.archives", "ribs").GridArchive(
            solution_dim=1, dims=settings.cells, ranges=[(0, 1), (0, 1)], seed=problem.seed
        )
        deep = np.array([settings.depth in choice.name for choice in self.space.choices], dtype=bool)
        halves = np.arange(len(deep)) < len(deep) / 2
        self._deep = deep if deep.any() and not deep.all() else halves

    def kind(self, configs: Sequence[Config]) -> np.ndarray:
        """Return where ``configs`` lie in the archive (n, 2), from 0 to 1: cost, and width against depth."""
        indices = self.space.indices(configs)
        tops = np.array([max(1, len(choice.options) - 1) for choice in self.space.choices])
        places = indices / tops if len(tops) else np.zeros((len(configs), 1))
        size = places.mean(axis=1)
        if self._cost is not None:
            ends = self.space.indices([self.space.smallest(), self.space.largest()])
            low, high, *cost = np.log(np.maximum(self._cost(np.concatenate([ends, indices])), 1e-300)).tolist()
            size = (np.array(cost) - low) / ((high - low) or 1.0)
        wide = places[:, ~self._deep] if (~self._deep).any() else np.zeros((len(configs), 1))
        deep = places[:, self._deep] if self._deep.any() else np.zeros((len(configs), 1))
        return np.clip(np.column_stack([size, (1 + wide.mean(axis=1) - deep.mean(axis=1)) / 2]), 0, 1)

    def tell(self, config: Config, values: Sequence[float], violation: float = 0.0) -> None:
        """Learn what ``config`` is worth; the archive takes it if it is the best of its kind."""
        super().tell(config, values, violation)
        measured = self.told[config]
        entered = False
        if not measured.failed and violation == 0:
            self._configs.append(config)
            [kind] = self.kind([config])
            added = self.archive.add_single([len(self._configs) - 1], -measured.values[self._fitness], kind)
            entered = int(added["status"]) > 0
        self._judge(self._asked_by.pop(config, None), entered)

    def _judge(self, prompt: tuple[str, float] | None, entered: bool) -> None:
        if prompt is not None:
            self.curiosity[prompt] += 1.0 if entered else -0.5

    @property
    def elites(self) -> list[Config]:
        """The configs in the archive, by cell."""
        data = self.archive.data()
        return [self._configs[int(data["solution"][at][0])] for at in np.argsort(data["index"])]

    def plan(self, rng: Random, number: int) -> list[Config]:
        """Return the answer to one prompt."""
        if len(self.told) + len(self.pending) < self._settings.first or self.archive.empty:
            return self.random(rng, 1)
        elites = self.elites
        for _ in range(_TRIES):
            chosen = self._chosen(rng)
            prompt = Prompt(self.space, (rng.choice(elites), rng.choice(elites)), *chosen, rng)
            config = self._answer(prompt)
            if config in self.unseen:
                self._asked_by[config] = chosen
                return [config]
            self._judge(chosen, False)
        return []

    def _chosen(self, rng: Random) -> tuple[str, float]:
        prompts = list(self.curiosity)
        most = max(self.curiosity.values())
        weights = [math.exp(max(self.curiosity[prompt] - most, -50.0) / 2) for prompt in prompts]
        return rng.choices(prompts, weights)[0]

    def _answer(self, prompt: Prompt) -> Config:
        try:
            return self.space.check(self._propose(prompt))
        except PliantError:  # whoever answers need not know the space well
            self._judge((prompt.rule, prompt.temperature), False)
            return obey(prompt)
