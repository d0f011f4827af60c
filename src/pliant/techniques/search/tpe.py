"""TPE: ask for what is likely under the good configs and unlikely under the others, through Optuna.

Measured configs are split into the best and the rest (by non-dominated rank, then by hypervolume, where objectives are
several); each part gives a density over the options, and of a few draws from the first that with the largest ratio
of the two is asked for.

The claim of the paper: on tuning deep belief networks it finds better settings than a random search or experts, at a
cost per proposal that grows linearly with what is measured.

The sampler is Optuna's (Akiba et al., 2019) with its defaults: ten random configs first, 24 draws, choices taken
independently where objectives are several and jointly where there is one, configs in flight taken for bad ones.
This implementation differs from a plain Optuna study in one thing: a proposal that is known is mutated until it is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ...checks import WrongShapeError
from ...space import Problem
from ...technique import Paper, Proposer, Searcher
from ._optuna import Sampled


@dataclass(frozen=True)
class Tpe(Searcher):
    """Tree-structured Parzen estimator, Optuna's.

    Attributes:
        startup: random configs before the first densities.
        candidates: draws of which the best is asked for.
    """

    startup: int = 10
    candidates: int = 24

    paper: ClassVar[Paper] = Paper(
        "Bergstra, Bardenet, Bengio, Kégl", 2011, "Algorithms for Hyper-Parameter Optimization"
    )

    def __post_init__(self) -> None:
        if self.startup < 1 or self.candidates < 1:
            raise WrongShapeError(f"startup and candidates are at least 1, got {self.startup} and {self.candidates}")

    def start(self, problem: Problem) -> Proposer:
        """Begin a search; ``problem.seed`` and the history decide every config."""
        return Sampled(problem, self._sampler)

    def _sampler(self, seed: int) -> Any:
        from optuna.samplers import TPESampler

        return TPESampler(seed=seed, n_startup_trials=self.startup, n_ei_candidates=self.candidates)
