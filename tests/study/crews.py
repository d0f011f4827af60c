"""Crews without processes: they finish in whatever order a test wants, and die on command."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from pliant.space import Config
from pliant.study.evaluation import Evaluation
from pliant.study.workers import Report


class Shuffled:
    """Workers of which a random one finishes next; ``dies(config, times)`` says which die, the first time being 1."""

    def __init__(self, count: int, seed: int = 0, dies: Callable[[Config, int], bool] = lambda *_: False) -> None:
        self.count, self.dies = count, dies
        self.rng = Random(seed)
        self.given: list[Config] = []
        self.most = 0
        self.closed = 0

    def open(self, evaluation: Evaluation) -> ShuffledCrew:
        return ShuffledCrew(self, evaluation)


class ShuffledCrew:
    def __init__(self, settings: Shuffled, evaluation: Evaluation) -> None:
        self.settings, self.evaluation = settings, evaluation
        self.count = settings.count
        self.out: dict[int, tuple[Config, int]] = {}

    def submit(self, ticket: int, config: Config, repeat: int = 0) -> None:
        assert len(self.out) < self.count
        self.out[ticket] = (config, repeat)
        self.settings.given.append(config)
        self.settings.most = max(self.settings.most, len(self.out))

    def wait(self, timeout: float | None = None) -> list[Report]:
        ticket = self.settings.rng.choice(sorted(self.out))
        config, repeat = self.out.pop(ticket)
        if self.settings.dies(config, self.settings.given.count(config)):
            return [Report(ticket, None, "killed by SIGKILL")]
        return [Report(ticket, self.evaluation.measure(config, repeat))]

    def close(self) -> None:
        self.settings.closed += 1
