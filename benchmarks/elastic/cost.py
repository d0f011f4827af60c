"""What a recipe costs beyond its members: time per step against their own steps alone, and peak memory."""

from __future__ import annotations

import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pliant import Family, catalog
from pliant.checks import PliantError
from pliant.runs.build import build_family, default_choices
from pliant.space import Config
from pliant.tasks import Task, load_task
from pliant.technique import Recipe
from pliant.training import Progress, default_optimizer, train
from pliant.training.step import gradient_norm

from .._clocks import keep_heap
from .._figures import Figure, ratio

LIMIT = 1.05  # a recipe's step over the sum of its members' own steps
_STEPS, _SKIPPED, _MEMORY_STEPS = 24, 4, 4
_LARGE = 8  # batches as one, where memory is measured: activations then outweigh what the process needs anyway


def figures(text: str, names: Sequence[str]) -> list[Figure]:
    """Return both figures of each recipe that can train the family of the task that ``text`` names."""
    found: list[Figure] = []
    task, alone = load_task(text), peak(text, None)
    keep_heap()  # for times only: peaks are measured in processes of their own
    for name in names:
        recipe: Any = catalog.load(name)()
        try:
            own, sums, members = Clock(task, recipe).measure()
        except PliantError as error:
            print(f"{name} is left out: {error}", flush=True)
            continue
        found.append(ratio(f"{name}: step over its members' own", own, sums, LIMIT, members=round(members, 2)))
        memory = peak(text, name)
        facts = {"MiB": round(memory, 1), "MiB alone": round(alone, 1), "batches as one": _LARGE}
        found.append(Figure(f"{name}: peak memory over the full network's own", memory / alone, "x", None, None, facts))
        print(f"{name}: {found[-2].value:.3f} of the time, {found[-1].value:.2f} of the memory", flush=True)
    return found


@dataclass
class Clock:
    """Times every step of a short run, and after each the same members' steps as networks of their own.

    What is learnt counts as forward, loss, backward, clipping and a step of AdamW on the network's own weights; what is
    only watched (teachers) as a forward pass. Processor time, one thread.
    """

    task: Task
    recipe: Recipe
    own: list[float] = field(default_factory=list)
    sums: list[float] = field(default_factory=list)
    members: list[int] = field(default_factory=list)

    def measure(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Return the seconds of both by step, and how many members learn in a step."""
        self.family = build_family(self.task, default_choices(), (), 0)
        self.batch = next(self.task.batches(0))
        self.nets: dict[Config, tuple[nn.Module, Callable[[], object]]] = {}
        optimizer = default_optimizer(self.family.parameters(), 1e-4)
        self.began = time.process_time()
        train(
            self.family,
            itertools.repeat(self.batch),
            self.task.loss,
            steps=_STEPS,
            recipe=self.recipe,
            optimizer=optimizer,
            on_step=self._ended,
        )
        return np.array(self.own[_SKIPPED:]), np.array(self.sums[_SKIPPED:]), float(np.mean(self.members))

    def _ended(self, state: Progress) -> None:
        self.own.append(time.process_time() - self.began)
        self.members.append(len(state.learnt))
        for config in {*state.learnt, *state.watched}:
            self._alone(config)  # made before anything is timed
        start = time.process_time()
        for config in state.learnt:
            net, update = self._alone(config)
            self._forward(net).backward()
            gradient_norm(net.parameters(), 1.0)
            update()
        with torch.no_grad():
            for config in state.watched:
                self._forward(self._alone(config)[0])
        self.sums.append(time.process_time() - start)
        self.began = time.process_time()

    def _forward(self, net: nn.Module) -> torch.Tensor:
        inputs, targets = self.batch
        outputs: torch.Tensor = self.task.loss(net(inputs), targets)
        return outputs

    def _alone(self, config: Config) -> tuple[nn.Module, Callable[[], object]]:
        """Return a member as a network of its own, warmed up, and what lets its optimizer step."""
        if config not in self.nets:
            net = self.family.extract(config).train()
            optimizer = default_optimizer(net.parameters(), 1e-4)

            def update() -> None:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

            for _ in range(2):
                self._forward(net).backward()
                update()
            self.nets[config] = (net, update)
        return self.nets[config]


def peak(text: str, name: str | None) -> float:
    """Return by how many MiB a process grows at most while it trains by a recipe (None: the full network alone)."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_grow, args=(text, name, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        return float(ours.recv())
    except EOFError:
        raise SystemExit(f"measuring the memory of {name or 'the network alone'} failed; see above") from None
    finally:
        process.join()


def _grow(text: str, name: str | None, back: Any) -> None:
    torch.set_num_threads(1)
    task = load_task(text)
    recipe: Any = catalog.load(name)() if name else None
    family = build_family(task, default_choices(), (), 0) if name else _rigid(task)
    batch = _joined(itertools.islice(task.batches(0), _LARGE))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from here on
    before = _status("VmRSS")
    train(family, itertools.repeat(batch), task.loss, steps=_MEMORY_STEPS, recipe=recipe)
    back.send((_status("VmHWM") - before) / 1024)


def _rigid(task: Task) -> Family:
    return Family(task.model(), task.example_args())


def _joined(batches: Iterator[tuple[Any, Any]]) -> tuple[Any, Any]:
    inputs, targets = zip(*batches, strict=True)
    return torch.cat(inputs), torch.cat(targets)


def _status(key: str) -> float:
    """Return a value of this process' status in KiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return float(line.split()[1])
    raise SystemExit("peak memory is read from /proc/self/status, which this system has not")
