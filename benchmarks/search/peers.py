"""Searchers of other libraries, as those libraries document them, behind the same two calls."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from pliant.space import Config, Space

from .case import Case


class Pymoo:
    """An algorithm of pymoo by ask and tell, with its documented operators for integers.

    Those are random integers, simulated binary crossover (probability 1, index 3) and polynomial mutation (index 3)
    with rounding, and no duplicates within it (pymoo's guide, "Discrete Variables").
    """

    def __init__(self, kind: str, population: int, space: Space, seed: int) -> None:
        from pymoo.algorithms.moo.age import AGEMOEA
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.problem import Problem
        from pymoo.operators.crossover.sbx import SBX
        from pymoo.operators.mutation.pm import PM
        from pymoo.operators.repair.rounding import RoundingRepair
        from pymoo.operators.sampling.rnd import IntegerRandomSampling

        tops = [len(choice.options) - 1 for choice in space.choices]
        self._space = space
        self._problem = Problem(n_var=len(tops), n_obj=2, xl=0, xu=np.array(tops), vtype=int)
        self._algorithm = {"nsga2": NSGA2, "age-moea": AGEMOEA}[kind](
            pop_size=population,
            sampling=IntegerRandomSampling(),
            crossover=SBX(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
            mutation=PM(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
            eliminate_duplicates=True,
        )
        self._algorithm.setup(self._problem, termination=("n_gen", 10**6), seed=seed, verbose=False)
        self._batch: Any = None
        self._values: list[Sequence[float]] = []

    def ask(self) -> Config:
        if self._batch is None:
            self._batch, self._values = self._algorithm.ask(), []
        row = np.asarray(self._batch[len(self._values)].X, dtype=np.int64)
        return self._space.configs(row[None])[0]

    def tell(self, config: Config, values: Sequence[float]) -> None:
        self._values.append(values)
        if len(self._values) == len(self._batch):
            self._batch.set("F", np.array(self._values, dtype=float))
            for individual in self._batch:
                individual.evaluated.update({"F"})
            self._algorithm.tell(infills=self._batch)
            self._batch = None


class Optuna:
    """A sampler of Optuna at its defaults; each choice is an integer parameter, for options are ordered."""

    def __init__(self, kind: str, space: Space, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", module="optuna")
        samplers = {
            "nsga2": optuna.samplers.NSGAIISampler,
            "tpe": optuna.samplers.TPESampler,
            "gp": optuna.samplers.GPSampler,
        }
        self._space = space
        self._study = optuna.create_study(directions=["minimize"] * 2, sampler=samplers[kind](seed=seed))
        self._trial: Any = None

    def ask(self) -> Config:
        self._trial = self._study.ask()
        row = [self._trial.suggest_int(choice.name, 0, len(choice.options) - 1) for choice in self._space.choices]
        return self._space.configs(np.array([row], dtype=np.int64))[0]

    def tell(self, config: Config, values: Sequence[float]) -> None:
        self._study.tell(self._trial, list(values))


class Own:
    """A searcher of Pliant; the same config is told again where it asks for it again."""

    def __init__(self, searcher: Any, case: Case, seed: int) -> None:
        self._proposer = searcher.start(case.problem(seed))

    def ask(self) -> Config:
        found: Config = self._proposer.ask()[0]
        return found

    def tell(self, config: Config, values: Sequence[float]) -> None:
        self._proposer.tell(config, values)
