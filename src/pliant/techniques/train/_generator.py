"""A small recurrent network that gives members of a wanted cost, trained by gradients through its own choices."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ...space.config import Config
from ...space.space import Space
from ._adam import adam
from ._levels import Cost
from ._options import allowed_options

_WIDTH = 64  # as in the paper


class Generator(nn.Module):
    """Choice after choice, an LSTM is told the wanted cost and what was chosen before, and scores the options.

    Made without drawing random numbers, its weights on no device: they are given with every call.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        with torch.device("meta"):
            self.wanted = nn.Linear(1, _WIDTH)
            self.cell = nn.LSTMCell(_WIDTH, _WIDTH)
            self.scores = nn.ModuleList(nn.Linear(_WIDTH, size) for size in sizes)
            self.chosen = nn.ModuleList(nn.Linear(size, _WIDTH, bias=False) for size in sizes)

    def fresh(self, rng: Random) -> dict[str, Tensor]:
        """Return weights to begin with, drawn by ``rng``."""
        draw = torch.Generator().manual_seed(rng.getrandbits(31))
        shapes = {name: value.shape for name, value in self.state_dict().items()}
        return {name: 0.3 * torch.randn(shape, generator=draw) / _WIDTH**0.25 for name, shape in shapes.items()}

    def forward(self, wanted: Tensor, noise: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Choose options.

        Args:
            wanted: costs (B,), from 0 to 1.
            noise: Gumbel noise (B, options) for each choice.

        Returns:
            For each choice the chosen option as one-hot (B, options) whose gradient is that of the softmax; and the
            logarithm of the probability (B,) of all that was chosen.
        """
        goal = self.wanted(wanted[:, None] - 0.5)
        state = (torch.zeros_like(goal), torch.zeros_like(goal))
        last, picked = goal, []
        logs = torch.zeros_like(wanted)
        for score, chosen, gumbel in zip(self.scores, self.chosen, noise, strict=True):
            state = self.cell(last, state)
            logits = score(state[0])
            soft = F.softmax(logits + gumbel, -1)
            hard = F.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
            logs = logs + (F.log_softmax(logits, -1) * hard).sum(-1)
            hard = hard + soft - soft.detach()
            picked.append(hard)
            last = goal + chosen(hard)
        return picked, logs


class Architect:
    """A generator at work in one training step: its weights come from the run's memory and go back there.

    Args:
        space: the space.
        cost: of a member.
        memory: tensors and JSON values; empty at first.
        rng: where draws come from.
    """

    def __init__(self, space: Space, cost: Cost, memory: dict[str, Any], rng: Random) -> None:
        self.cost, self.memory, self.rng = cost, memory, rng
        self.low, self.high = cost(space.smallest()), cost(space.largest())
        self.options = {name: few for name, few in allowed_options(space).items() if len(few) > 1}
        self._rest = space.largest()
        self.net = _generator(tuple(len(few) for few in self.options.values()))
        if not memory:
            memory["weights"] = self.net.fresh(rng)
            memory["moments"] = {"step": 0}
            memory["share"] = additive(space, cost, rng, list(self.options))
        self._weights = {name: value.detach().requires_grad_() for name, value in memory["weights"].items()}
        self._shares = [torch.tensor(row) for row in memory["share"]]

    def propose(self, wanted: Sequence[float]) -> tuple[list[Config], Tensor, Tensor]:
        """Return members for the costs ``wanted``, the loss of missing these (B,), and the log-probabilities (B,).

        The loss is the squared miss as a share of the range of costs; its value is of the true costs, its gradient of
        what the options cost on their own.
        """
        span = self.high - self.low
        goals = torch.tensor([(each - self.low) / span for each in wanted], dtype=torch.float32)
        noise = [torch.tensor([[_gumbel(self.rng) for _ in few] for _ in wanted]) for few in self.options.values()]
        picked, logs = functional_call(self.net, self._weights, (goals, noise))
        rows = torch.stack([one.argmax(-1) for one in picked], 1).tolist()
        configs = [
            Config({**self._rest, **{n: few[at] for (n, few), at in zip(self.options.items(), row, strict=True)}})
            for row in rows
        ]
        true = torch.tensor([(self.cost(config) - self.low) / span for config in configs], dtype=torch.float32)
        alone = torch.stack([one @ share for one, share in zip(picked, self._shares, strict=True)]).sum(0) / span
        return configs, (true + alone - alone.detach() - goals).square(), logs

    def learn(self, loss: Tensor, lr: float) -> None:
        """Let the generator learn from a loss, by one step of Adam, and keep it in the memory."""
        gradients = torch.autograd.grad(loss, list(self._weights.values()), allow_unused=True)
        moments = self.memory["moments"]
        moments["step"] += 1
        with torch.no_grad():
            for (name, weight), gradient in zip(self._weights.items(), gradients, strict=True):
                if gradient is not None:  # the last choice's embedding leads nowhere
                    adam(weight, gradient, moments.setdefault(name, {}), int(moments["step"]), lr)
        self.memory["weights"] = {name: weight.detach() for name, weight in self._weights.items()}


@lru_cache(maxsize=8)
def _generator(sizes: tuple[int, ...]) -> Generator:
    return Generator(sizes)


def additive(space: Space, cost: Cost, rng: Random, names: list[str]) -> list[list[float]]:
    """Return what each option of the choices ``names`` adds to a cost, by least squares over random members."""
    options = allowed_options(space)
    sizes = [len(options[name]) for name in names]
    count = 4 * sum(sizes)
    configs = [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(count))]
    rows = np.zeros((len(configs), 1 + sum(sizes)))
    rows[:, 0] = 1
    for row, config in zip(rows, configs, strict=True):
        start = 1
        for name, size in zip(names, sizes, strict=True):
            row[start + options[name].index(config[name])] = 1
            start += size
    found = np.linalg.lstsq(rows, np.array([cost(config) for config in configs]), rcond=None)[0][1:]
    return [part.tolist() for part in np.split(found.astype(np.float32), np.cumsum(sizes)[:-1])]


def _gumbel(rng: Random) -> float:
    return -float(np.log(max(-np.log(max(rng.random(), 1e-12)), 1e-12)))
