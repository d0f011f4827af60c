"""Optuna's samplers as searchers: a study in memory that they see, and configs as its parameters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from ...space import Config, Problem
from ._batches import Batches, Measured

_TRIES = 20


class Sampled(Batches):
    """A running search that an Optuna sampler decides.

    A choice is an integer parameter, the place of its option among those allowed, or a categorical one where it is
    not ordered. A proposal that is known already is mutated until it is not. Failed measurements are failed trials,
    which samplers leave out; a config told again is a further trial. The violation of measured constraints is
    Optuna's constraint, from the first on that is not zero.

    Args:
        problem: what is searched.
        make: from a seed to the sampler.
    """

    def __init__(self, problem: Problem, make: Callable[[int], Any]) -> None:
        super().__init__(problem)
        from optuna.distributions import CategoricalDistribution, IntDistribution

        self._allowed = [
            [choice.options[at] for at in row]
            for choice, row in zip(problem.space.choices, problem.space.allowed(), strict=True)
        ]
        self._distributions: dict[str, Any] = {
            choice.name: IntDistribution(0, len(row) - 1)
            if choice.ordered
            else CategoricalDistribution(tuple(range(len(row))))
            for choice, row in zip(problem.space.choices, self._allowed, strict=True)
        }
        self._sampler = make(problem.seed % 2**32)
        self._constrained = False
        self._asked: dict[Config, Any] = {}  # trials that the sampler decided itself
        self._running: dict[Config, int] = {}  # numbers of those that were put in its place
        self._study = self._begun()

    def _begun(self) -> Any:
        import optuna

        log = logging.getLogger("optuna.storages")  # it announces every study
        before = log.level
        log.setLevel(logging.ERROR)
        try:
            directions: list[Any] = ["minimize"] * self.problem.objectives
            return optuna.create_study(directions=directions, sampler=self._sampler)
        finally:
            log.setLevel(before)

    def plan(self, rng: Random, number: int) -> list[Config]:
        trial = self._study.ask(self._distributions)
        choices = zip(self.space.choices, self._allowed, strict=True)
        asked = wanted = Config({choice.name: row[trial.params[choice.name]] for choice, row in choices})
        for _ in range(_TRIES):
            if wanted in self.unseen and self.unseen.allowed([wanted]):
                break
            wanted = self.space.mutate(wanted, rng, 1 / max(1, len(self.space.choices)))
        self._trial = asked, trial
        return [wanted]

    def _next(self) -> Config | None:
        config = super()._next()
        asked, trial = self._trial
        if config == asked:
            self._asked[asked] = trial
        else:
            self._fail(trial.number)
            if config is not None:
                self._run(config)
        return config

    def tell(self, config: Config, values: Sequence[float], violation: float = 0.0) -> None:
        super().tell(config, values, violation)
        measured = self.told[config]
        trial = self._asked.pop(config, None)
        if config in self._running:
            self._fail(self._running.pop(config))
        if trial is not None and measured.failed:
            self._fail(trial.number)
        elif trial is not None:
            if self._constrained:
                trial.set_constraint("violation", violation)
            self._study.tell(trial, measured.values)
        elif not measured.failed:
            self._add(measured)
        if violation and not measured.failed and not self._constrained:
            self._constrain()

    def _constrain(self) -> None:
        """Begin anew with constraints, which Optuna wants of all trials or none."""
        self._constrained = True
        self._study = self._begun()
        for measured in self.told.values():
            if not measured.failed:
                self._add(measured)
        for config in [*self._asked, *self._running]:
            self._run(config)
        self._asked.clear()

    def _params(self, config: Config) -> dict[str, int]:
        choices = zip(self.space.choices, self._allowed, strict=True)
        return {choice.name: row.index(config[choice.name]) for choice, row in choices}

    def _add(self, measured: Measured) -> None:
        from optuna.trial import create_trial

        self._study.add_trial(
            create_trial(
                params=self._params(measured.config),
                distributions=self._distributions,
                values=measured.values,
                constraints={"violation": measured.violation} if self._constrained else None,
            )
        )

    def _run(self, config: Config) -> None:
        """Let samplers see that ``config`` is being measured."""
        from optuna.trial import TrialState, create_trial

        params = self._params(config)
        trial = create_trial(state=TrialState.RUNNING, params=params, distributions=self._distributions)
        self._running[config] = len(self._study.get_trials(deepcopy=False))
        self._study.add_trial(trial)

    def _fail(self, number: int) -> None:
        from optuna.trial import TrialState

        self._study.tell(number, state=TrialState.FAIL)
