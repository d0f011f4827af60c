"""TangleNAS: gradient-based search in a space whose members share weights by slicing, while the weights are trained.

Each choice has a vector of logits. In every step a blend of all members runs, the largest weight's slices set in zeros
and summed by how probable their options are: one forward pass, one copy of the weights. In turn, one step trains the
weights under the current probabilities, the next the logits. How probabilities come from logits is the sampler: a plain
softmax (DARTS), draws from a Dirichlet distribution (DrNAS), or one member drawn with Gumbel noise, its gradient passed
straight through (GDAS). The paper's claim: gradient-based search works on weight-entangled spaces as well as on those
with weights of their own, better than two-stage search for a fraction of the memory and time.

This implementation differs: choices are those of the family (widths, heads, depths; the paper's spaces have embedding
widths too, which norms do not let us set in zeros); logits learn from other batches than weights, but of the same data,
unless the caller's batches alternate between two halves of it, as published: even steps train weights, odd steps
logits. The member that the search ends with is :meth:`TangleNas.best` of what the run remembers; what it reaches on
its own, the paper trains anew, while here it inherits its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...checks import PliantError, unknown
from ...graph.prepare import seeded
from ...space.config import Config
from ...space.space import Space
from ...technique import Paper, Recipe, Turn
from ._adam import adam
from ._fields import check_positive, check_shares, refuse
from ._options import allowed_options

_LOGITS, _MOMENTS, _COUNT = "logits", "moments", "architecture steps"
_SAMPLERS = ("softmax", "dirichlet", "gumbel")


@dataclass(frozen=True)
class TangleNas(Recipe):
    """Train weights and the probabilities of options in turn, on blends of all members.

    Attributes:
        sampler: ``softmax`` (DARTS), ``dirichlet`` (DrNAS) or ``gumbel`` (GDAS).
        first: the share of the steps in which weights alone learn, under even probabilities.
        lr: the learning rate of the logits (Adam).
        decay: the weight decay of the logits.
        hot: the temperature of the Gumbel sampler at first.
        cold: that at the end; it falls evenly.
    """

    sampler: str = "dirichlet"
    first: float = 0.2
    lr: float = 0.01
    decay: float = 1e-3
    hot: float = 10.0
    cold: float = 0.1

    paper: ClassVar[Paper | None] = Paper(
        "Sukthanker, Krishnakumar, Safari, Hutter",
        2023,
        "Weight-Entanglement Meets Gradient-Based Neural Architecture Search",
        "2312.10440",
    )
    gives: ClassVar[frozenset[str]] = frozenset({"trained members", "a favourite member"})

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.sampler not in _SAMPLERS:
            raise unknown("sampler", self.sampler, _SAMPLERS)
        check_shares(self, "first")
        check_positive(self, "lr", "hot", "cold")
        if self.decay < 0:
            refuse(self, "decay", "0 or more")

    def step(self, turn: Turn) -> None:
        """Let weights learn in even steps, logits in odd ones."""
        memory, begin = turn.memory, round(self.first * turn.steps)
        if _LOGITS not in memory:
            memory[_LOGITS] = {choice.name: torch.zeros(len(choice.options)) for choice in turn.space.choices}
            memory[_MOMENTS], memory[_COUNT] = {}, 0
        logits = {name: row.detach().requires_grad_() for name, row in memory[_LOGITS].items()}
        if turn.step < begin:
            turn.blend(self._probabilities(turn, logits, "softmax"))
            return
        probabilities = self._probabilities(turn, logits, self.sampler)
        weights = turn.step % 2 == 0 or not logits
        gradients = turn.blend(probabilities, learn=weights)
        if weights:
            return
        torch.autograd.backward([probabilities[name] for name in logits], [gradients[name] for name in logits])
        memory[_COUNT] += 1
        with torch.no_grad():
            for name, row in logits.items():
                if row.grad is not None:
                    moments = memory[_MOMENTS].setdefault(name, {})
                    adam(row, row.grad + self.decay * row, moments, memory[_COUNT], self.lr, (0.5, 0.999))
        memory[_LOGITS] = {name: row.detach() for name, row in logits.items()}

    def _probabilities(self, turn: Turn, logits: Mapping[str, Tensor], sampler: str) -> dict[str, Tensor]:
        """Return the probabilities of each choice's options; of those that constraints forbid, zero."""
        options, found = allowed_options(turn.space), {}
        done = turn.step / max(1, turn.steps - 1)
        temperature = self.hot + (self.cold - self.hot) * done
        draw = torch.Generator().manual_seed(turn.rng.getrandbits(31))
        for choice in turn.space.choices:
            few = [choice.options.index(option) for option in options[choice.name]]
            row = _sampled(logits[choice.name][few], sampler, temperature, draw)
            found[choice.name] = torch.zeros(len(choice.options)).index_put((torch.tensor(few),), row)
        return found

    @staticmethod
    def best(space: Space, memory: Mapping[str, Any], seed: int = 0) -> Config:
        """Return the most probable member that the space's constraints allow.

        Args:
            space: the family's space.
            memory: what the run remembers, ``progress.memory``.
            seed: for the draws among which it is looked for where constraints join several choices.

        Raises:
            PliantError: the memory is not of a run with this recipe, or of another space.
        """
        logits = memory.get(_LOGITS, {})
        if any(len(logits.get(choice.name, ())) != len(choice.options) for choice in space.choices):
            raise PliantError("this memory holds no logits for the space's choices; give Progress.memory of the run")
        logs = {name: F.log_softmax(row, 0).tolist() for name, row in logits.items()}

        def likely(config: Mapping[str, Any]) -> float:
            return float(sum(logs[choice.name][choice.options.index(config[choice.name])] for choice in space.choices))

        options = allowed_options(space)
        top = Config(
            {
                choice.name: max(options[choice.name], key=lambda o, c=choice: logs[c.name][c.options.index(o)])  # type: ignore[misc]
                for choice in space.choices
            }
        )
        if space.feasible(top):
            return top
        rng = Random(seed)
        return max((space.sample(rng) for _ in range(2000)), key=likely)


def _sampled(logits: Tensor, sampler: str, temperature: float, draw: torch.Generator) -> Tensor:
    """Return probabilities (options,) that depend on the logits (options,) differentiably."""
    if sampler == "softmax" or len(logits) == 1:
        return F.softmax(logits, 0)
    if sampler == "dirichlet":
        with seeded(int(torch.randint(2**31, (), generator=draw))):
            return torch.distributions.Dirichlet(F.elu(logits) + 1, validate_args=False).rsample()
    noise = -torch.empty(len(logits)).exponential_(generator=draw).log()
    soft = F.softmax((F.log_softmax(logits, 0) + noise) / temperature, 0)
    hard = F.one_hot(soft.argmax(), len(logits)).to(soft.dtype)
    return hard + soft - soft.detach()
