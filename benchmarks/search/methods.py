"""The searchers that are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pliant import catalog

from .case import Case
from .peers import Optuna, Own, Pymoo


def _own(name: str, **fields: Any) -> Callable[[Case, int], Any]:
    return lambda case, seed: Own(catalog.load(name)(**fields), case, seed)


def _pymoo(kind: str, population: int) -> Callable[[Case, int], Any]:
    return lambda case, seed: Pymoo(kind, population, case.space, seed)


def _optuna(kind: str) -> Callable[[Case, int], Any]:
    return lambda case, seed: Optuna(kind, case.space, seed)


DEFAULT = "bayesian"

METHODS: dict[str, Callable[[Case, int], Any]] = {
    DEFAULT: _own("bayesian"),
    "random": _own("random_search"),
    "pymoo-nsga2-20": _pymoo("nsga2", 20),
    "pymoo-nsga2-50": _pymoo("nsga2", 50),
    "pymoo-age-moea-20": _pymoo("age-moea", 20),
    "pymoo-age-moea-50": _pymoo("age-moea", 50),
    "optuna-nsga2": _optuna("nsga2"),
    "optuna-tpe": _optuna("tpe"),
    "optuna-gp": _optuna("gp"),
    "linas-20": _own("linas", population=20),
    "linas-50": _own("linas"),
    "weak-predictors": _own("weak_predictors"),
    "bayesian no log": _own("bayesian", log=False),
    "bayesian no costs": _own("bayesian", statistics=False),
    "bayesian exploration 1": _own("bayesian", exploration=1.0),
}

ABLATIONS = tuple(name for name in METHODS if name.startswith(DEFAULT + " "))
PEERS = tuple(name for name in METHODS if name not in (DEFAULT, "random", *ABLATIONS))
