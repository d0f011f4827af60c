"""Search flows: the choices are parted, and one part is searched inside the search of the other, or after it.

*Joint* search asks one searcher for all choices. *Separate* search first decides the outer part, with the inner one as
in the largest config, and then tunes the inner part of the best. *Factorised* search gives every proposal of the outer
search an inner search of its own, and what that finds is what the proposal is worth.

The claim of the paper: where programs, search algorithms and the flow of the search are apart, each can be exchanged
without touching the others, and a flow that is made for a space finds better networks than joint search in it.

Where this implementation differs: in the paper a flow is a loop of the user's over parts of a program, which works here
as well (:meth:`pliant.Program.part`); as a searcher, it is one durable study of whole configs, with workers, and of any
family. Parts are told by the names of choices. What an inner search is worth to the outer one, the authors' library
(``pg.sample``) leaves to the user's loop: it is whatever that feeds back. Here it is the mean of the ``best`` that the
inner search found, with several objectives of each; so a searcher above that wants another reward needs a loop over
parts. What an inner search leaves open is gone on with once the outer one has nothing new, the best first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from random import Random
from typing import ClassVar

import numpy as np

from ...checks import WrongShapeError, unknown
from ...space import Config, Problem, Space
from ...technique import Paper, Proposer, Searcher
from ._batches import Batches, Measured
from ._inside import searcher_of
from ._parts import restricted
from ._standing import standing

_STALE = 60
"""Known configs in a row after which an inner search is taken to have nothing new."""

_FLOWS = ("factorized", "separate", "joint")


@dataclass(frozen=True)
class SearchFlow(Searcher):
    """Search some choices within the search of the others, or after it.

    Attributes:
        flow: ``"factorized"``, ``"separate"`` or ``"joint"``.
        outer: the choices that are decided first, as names or patterns such as ``"*.kernel"``; where there are none,
            those whose options are not ordered. Where that is all or nothing, the search is joint.
        above: the searcher of the outer choices, or of all; or its name, for its default settings.
        below: the searcher of the others, or its name.
        trials: measurements of each inner search if factorised, of the outer search if separate.
        best: how many of the best measurements of an inner search are averaged for its worth.
    """

    flow: str = "factorized"
    outer: tuple[str, ...] = ()
    above: str | Searcher = "mcts"
    below: str | Searcher = "mcts"
    trials: int = 8
    best: int = 1

    paper: ClassVar[Paper] = Paper(
        "Peng, Dong, Real, Tan, Lu, Bender, Liu, Kraft, Liang, Le",
        2020,
        "PyGlove: Symbolic Programming for Automated Machine Learning",
        "2101.08809",
    )

    def __post_init__(self) -> None:
        if self.flow not in _FLOWS:
            raise unknown("search flow", self.flow, _FLOWS)
        if isinstance(self.outer, str):
            raise WrongShapeError(f"outer is a tuple of names, such as ('{self.outer}',), got {self.outer!r}")
        if self.trials < 1 or self.best < 1:
            raise WrongShapeError(f"trials and best are at least 1, got {self.trials} and {self.best}")

    def start(self, problem: Problem) -> Proposer:
        """Begin a search; ``problem.seed`` and the history decide every config.

        Raises:
            UnknownNameError: there is no such choice, or no such searcher; offers the nearest.
            WrongShapeError: ``above`` or ``below`` is no searcher.
        """
        above, below = searcher_of(self.above, "above"), searcher_of(self.below, "below")
        outer = self._columns(problem.space)
        if self.flow == "joint" or len(outer) in (0, len(problem.space.choices)):
            return above.start(problem)
        return _Flow(self, problem, outer, above, below)

    def _columns(self, space: Space) -> list[int]:
        if not self.outer:
            return [at for at, choice in enumerate(space.choices) if not choice.ordered]
        names = [choice.name for choice in space.choices]
        for pattern in self.outer:
            if pattern not in names and not any(fnmatchcase(name, pattern) for name in names):
                raise unknown("choice (for the outer search)", pattern, names)
        return [
            at
            for at, name in enumerate(names)
            if name in self.outer or any(fnmatchcase(name, pattern) for pattern in self.outer)
        ]


@dataclass
class _Run:
    """An inner search: what is known of one outer config.

    Attributes:
        outer: the config of the outer choices.
        results: inner config to what it was measured to be worth.
        proposer: asked for inner configs; made when it is first needed.
        flying: asked for and not told yet.
        left: how many are to be asked for still.
        opened: whether any were.
        finished: whether it has nothing new.
    """

    outer: Config
    results: dict[Config, Measured] = field(default_factory=dict)
    proposer: Proposer | None = None
    flying: set[Config] = field(default_factory=set)
    left: int = 0
    opened: bool = False
    finished: bool = False


class _Flow(Batches):
    def __init__(
        self, settings: SearchFlow, problem: Problem, outer: list[int], above: Searcher, below: Searcher
    ) -> None:
        super().__init__(problem)
        self._settings, self._below = settings, below
        self._columns = outer, [at for at in range(len(problem.space.choices)) if at not in outer]
        self._names = [{problem.space.choices[at].name for at in part} for part in self._columns]
        rng = Random(f"{problem.seed}:fill")
        base = [problem.space.largest(), problem.space.smallest()]
        self._base = self.unseen.allowed(base)[:1] or base[:1]
        fill = [*self._base, *base, *(problem.space.sample(rng) for _ in range(30))]
        self._above = above.start(restricted(problem, outer, problem.space.indices(fill)))
        self._runs: dict[Config, _Run] = {}
        self._known: dict[Config, Measured] = {}  # by the config that stands for the network
        self._first = settings.trials if settings.flow == "separate" else 0
        self._open: _Run | None = None

    # ---- asking ----------------------------------------------------------------------------------------------------
    def plan(self, rng: Random, number: int) -> list[Config]:
        if self._first > 0:
            config = self._outermost()
            self._first = 0 if config is None else self._first - 1
            if config is not None:
                self._take_off(config)
                return [config]
        while (run := self._current()) is not None:
            config = self._within(run)
            if config is not None:
                run.left -= 1
                self._take_off(config)
                return [config]
            run.left, run.finished = 0, True
            self._settle(run)
        return []

    def _outermost(self) -> Config | None:
        """Return the next proposal of the outer search, with the inner choices as they are by default."""
        for _ in range(_STALE):
            asked = self._above.ask(1)
            if not asked:
                return None
            [base] = self._base
            config = Config({**base, **asked[0]})
            if config in self.unseen:
                return config if self.unseen.allowed([config]) else None
            if config in self.told:  # it repeats itself: it has no other
                return None
            self._recall(config)
        return None

    def _within(self, run: _Run) -> Config | None:
        """Return the next new config of an inner search, or ``None`` where it has none."""
        if run.proposer is None:
            [base] = self._base
            row = self.space.indices([Config({**base, **run.outer})])
            part = restricted(self.problem, self._columns[1], row)
            run.proposer = self._below.start(part)
            for inner, known in run.results.items():
                run.proposer.tell(inner, known.values, known.violation)
        for _ in range(_STALE):
            asked = run.proposer.ask(1)
            if not asked or asked[0] in run.results or asked[0] in run.flying:  # it repeats itself: it has no other
                return None
            config = Config({**run.outer, **asked[0]})
            if config in self.unseen:
                return config if self.unseen.allowed([config]) else None
            self._recall(config)
        return None

    def _current(self) -> _Run | None:
        """Return the inner search to go on with: the open one, that of a new proposal, or the best that has more."""
        if self._open is not None and self._open.left > 0:
            return self._open
        separate = self._settings.flow == "separate"
        if self._open is not None:
            self._settle(self._open)
        asked = [] if separate else self._above.ask(1)
        run = self._run(asked[0]) if asked else None
        if run is None or run.opened or run.finished:
            going = [each for each in self._runs.values() if not each.finished and each.results]
            run = self._best(going)
        if run is not None:
            run.opened, run.left = True, self.space.size if separate else self._settings.trials
        self._open = run
        return run

    def _run(self, outer: Config) -> _Run:
        return self._runs.setdefault(outer, _Run(outer))

    def _take_off(self, config: Config) -> None:
        outer, inner = self._split(config)
        self._run(outer).flying.add(inner)

    # ---- telling ---------------------------------------------------------------------------------------------------
    def tell(self, config: Config, values: Sequence[float], violation: float = 0.0) -> None:
        super().tell(config, values, violation)
        self._known[self.unseen.same([config])[0]] = self.told[config]
        self._learn(config, self.told[config])

    def _recall(self, config: Config) -> None:
        """Tell a search what is known of its proposal under another name; nothing while that is being measured."""
        known = self._known.get(self.unseen.same([config])[0])
        if known is not None:
            self._learn(config, known)

    def _learn(self, config: Config, known: Measured) -> None:
        outer, inner = self._split(config)
        run = self._run(outer)
        run.results[inner] = known
        run.flying.discard(inner)
        if run.proposer is not None:
            run.proposer.tell(inner, known.values, known.violation)
        if run.left == 0:
            self._settle(run)

    def _settle(self, run: _Run) -> None:
        """Tell the outer search what an inner one came to, once it came to an end."""
        if run.results and not run.flying:
            self._above.tell(run.outer, *self._worth(run))

    def _worth(self, run: _Run) -> tuple[list[float], float]:
        """Return the mean of the best values of each objective and 0, or the values and violation next to that."""
        found = list(run.results.values())
        good = [each.values for each in found if not each.failed and each.violation == 0]
        if not good:
            near = min(found, key=lambda each: (each.violation, each.values))
            return list(near.values), near.violation
        lowest = np.sort(np.array(good, dtype=float), axis=0)[: self._settings.best]
        return lowest.mean(axis=0).tolist(), 0.0

    def _best(self, runs: Sequence[_Run]) -> _Run | None:
        if not runs:
            return None
        worth = [self._worth(run) for run in runs]
        rank, crowding = standing(np.array([values for values, _ in worth]), np.array([off for _, off in worth]))
        return runs[int(np.lexsort((-crowding, rank))[0])]

    def _split(self, config: Config) -> tuple[Config, Config]:
        outer, inner = ({name: config[name] for name in config if name in names} for names in self._names)
        return Config(outer), Config(inner)
