"""One set of weights for all alternatives of a program: each is built once, and a config says which are run.

Single-path one-shot search (Guo, Zhang, Mu, Heng, Liu, Wei and Sun, 2019, Single Path One-Shot Neural Architecture
Search with Uniform Sampling, arXiv 1904.00420) trains such a network by drawing a config for every batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..checks import WrongShapeError
from ..space.choice import Option
from ..space.placeholders import Placeholder, Symbolic, called, replaced
from ..space.program import Program, undecided
from ..space.space import Space


class Switch(nn.Module):
    """Runs one of its alternatives; ``at`` says which."""

    def __init__(self, *alternatives: nn.Module) -> None:
        super().__init__()
        for alternative in alternatives:
            if not isinstance(alternative, nn.Module):
                raise WrongShapeError(
                    f"weights are shared between alternatives that are modules, got {alternative!r} as one. Numbers of "
                    "a constructor give weights of other shapes: build the largest and bend it by pliant.Family, or "
                    "search the program without sharing"
                )
        self.alternatives = nn.ModuleList(alternatives)
        self.at = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the alternative."""
        return self.alternatives[self.at](*args, **kwargs)


class Switched:
    """A program as one network whose alternatives share what is around them; a config switches between them.

    It has what a search needs: ``space`` and ``ready(config)``. Unlike a family's members, the networks of two configs
    are one object: only the one asked for last can be run.

    Args:
        program: its placeholders are alternatives that are modules (``oneof``), nested as it likes.

    Raises:
        WrongShapeError: an alternative is no module, a placeholder is ``manyof``, or not all of them are to be decided.
    """

    def __init__(self, program: Program) -> None:
        if {choice.name for choice in program.space.choices} != set(undecided(program.tree)):
            raise WrongShapeError(
                "a part of a program, or one with choices decided, cannot be switched: bind what is decided, and give "
                "pliant.Program(program.bind(config))"
            )
        self.program = program
        self.space: Space = program.space
        self.counts = program.counts
        self._switches: dict[str, Switch] = {}

        def rule(path: str, value: Any) -> Any:
            if not isinstance(value, Placeholder):
                return value
            if not value.single:
                raise WrongShapeError(f"{path} is {value!r}: only oneof can be switched; use one oneof per place")

            def switch(*alternatives: Any) -> Switch:
                made = Switch(*alternatives)
                self._switches[path] = made
                return made

            return Symbolic(switch, value.candidates, {})

        net = called(replaced(program.tree, rule))
        if not isinstance(net, nn.Module):
            raise WrongShapeError(f"the program makes {net!r}, which is no network")
        self.model: nn.Module = net

    def select(self, config: Mapping[str, Option]) -> nn.Module:
        """Return the network, switched to ``config``, in its current mode.

        Raises:
            UnknownNameError, WrongShapeError: the config is not of this program's space.
        """
        made = self.space.check(config)
        for choice in self.space.choices:
            self._switches[choice.name].at = choice.index(made[choice.name])
        return self.model

    def ready(self, config: Mapping[str, Option]) -> nn.Module:
        """Return the network, switched to ``config``, in evaluation mode."""
        return self.select(config).eval()
