"""Optuna's Gaussian process: one per objective, and the config of the largest expected gain.

A Matérn kernel with a length scale per choice is fitted by its posterior, with priors that keep scales and noise sane;
asked for is the config with the largest logarithm of the expected (hypervolume) improvement, found by local search
from quasi-random starts. Measured constraints have processes of their own, whose chance to hold multiplies the gain.

The claim of the paper: taking logarithms of the improvement keeps its gradients alive where it is all but zero, and so
finds better configs than the improvement itself, at the same cost.

The sampler is Optuna's with its defaults; it uses torch inside. This implementation differs from a plain Optuna study
in one thing: a proposal that is known is mutated until it is not.
Known to be suboptimal: it takes tenths of a second for a proposal, and knows nothing of costs that can be computed.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

from ...checks import WrongShapeError
from ...space import Problem
from ...technique import Paper, Proposer, Searcher
from ._optuna import Sampled


@dataclass(frozen=True)
class OptunaGp(Searcher):
    """Gaussian processes and logarithmic expected hypervolume improvement, Optuna's.

    Attributes:
        startup: random configs before the first model.
        deterministic: whether measurements are without noise.
    """

    startup: int = 10
    deterministic: bool = False

    paper: ClassVar[Paper] = Paper(
        "Ament, Daulton, Eriksson, Balandat, Bakshy",
        2023,
        "Unexpected Improvements to Expected Improvement for Bayesian Optimization",
        "2310.20708",
    )

    def __post_init__(self) -> None:
        if self.startup < 1:
            raise WrongShapeError(f"startup is at least 1, got {self.startup}")

    def start(self, problem: Problem) -> Proposer:
        """Begin a search; ``problem.seed`` and the history decide every config."""
        return Sampled(problem, self._sampler)

    def _sampler(self, seed: int) -> Any:
        from optuna.exceptions import ExperimentalWarning
        from optuna.samplers import GPSampler

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return GPSampler(
                seed=seed,
                n_startup_trials=self.startup,
                deterministic_objective=self.deterministic,
                warn_independent_sampling=False,
            )
