"""What a task is: five functions of a module or of a user's file, held together and guarded."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..family.statistics import arguments, call
from .guard import TaskError, guarded

SIGNATURES = {
    "model": "def model() -> nn.Module",
    "example_args": "def example_args() -> tuple | dict",
    "batches": "def batches(seed: int, start: int = 0) -> Iterator[tuple[inputs, targets]]",
    "loss": "def loss(outputs, targets) -> Tensor",
    "evaluate": 'def evaluate(model: nn.Module, split: str = "validation") -> dict[str, float]',
}


@dataclass(frozen=True)
class Task:
    """A network, its data, its loss and its measure of error.

    ``functions`` holds the five functions by name as the task's author wrote them; the methods call them, and turn
    whatever goes wrong in there into one :class:`TaskError` that shows the author's own file and line.

    Args:
        name: what the user asked for, e.g. ``"digits:convnet"``.
        functions: the five functions of :data:`SIGNATURES`.
        source: the file that holds them.
        variant: which of the file's ``VARIANTS``, or ``""``.
        settings: the file's ``SETTINGS`` (``steps``, ``batch``, ``lr``, ``weight_decay``, ``warmup``, ``budget`` …),
            already merged with those of the variant; ``settings["quick"]`` says what ``--quick`` changes.
        place: what names the task from any working directory: the whole path of a file, or a built-in's name.
    """

    name: str
    functions: Mapping[str, Callable[..., Any]] = field(repr=False)
    source: Path
    variant: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    place: str = ""

    @property
    def digest(self) -> str:
        """A short hash of the task's source and variant: it tells one run's task from another's."""
        content = self.source.read_bytes() + b"\0" + self.variant.encode()
        return hashlib.blake2b(content, digest_size=8).hexdigest()

    def settings_for(self, quick: bool = False) -> dict[str, Any]:
        """Return the settings of a whole run, or of a quick one."""
        merged = {name: value for name, value in self.settings.items() if name != "quick"}
        return merged | dict(self.settings.get("quick", {}) if quick else {})

    def model(self) -> nn.Module:
        """Return a fresh network."""
        net = self._call("model", *([self.variant] if self.variant else []))
        if not isinstance(net, nn.Module):
            raise self._wrong("model", "a torch.nn.Module", net)
        return net

    def example(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return ``(args, kwargs)`` of one call of the network, batch first (at least two examples)."""
        given = self._call("example_args")
        if not isinstance(given, (tuple, list, Mapping)) or not given:
            expected = "a tuple of the network's positional arguments, return (x,), or a dict of keyword arguments"
            raise self._wrong("example_args", expected, given)
        return arguments(given)

    def example_args(self) -> tuple[Any, ...]:
        """Return the positional ones of :meth:`example`."""
        return self.example()[0]

    def batches(self, seed: int, start: int = 0) -> Iterator[tuple[Any, Any]]:
        """Yield ``(inputs, targets)`` from the ``start``-th batch on.

        A file whose ``batches`` takes no ``start`` is skipped ahead batch by batch. Raises :class:`TaskError` where
        the iterator ends or yields something else than a pair.
        """
        function = self.functions["batches"]
        if "start" in inspect.signature(function).parameters:
            iterator = self._call("batches", seed, start=start)
        else:
            iterator = self._call("batches", seed)
            if hasattr(iterator, "__iter__"):
                iterator = itertools.islice(iterator, start, None)
        if not hasattr(iterator, "__iter__"):
            raise self._wrong("batches", "an iterator of (inputs, targets): yield them in a loop", iterator)
        return self._checked(iter(iterator), start)

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Return the loss, a scalar tensor that gradients can flow from."""
        value = self._call("loss", outputs, targets)
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.is_floating_point():
            raise self._wrong("loss", "one floating-point number as a tensor, such as a mean over the batch", value)
        return value.reshape(())

    def evaluate(self, model: nn.Module, split: str = "validation") -> dict[str, float]:
        """Return the task's figures on a split; the first is the objective, lower is better.

        The network is evaluated in evaluation mode and without gradients; its mode is put back afterwards.
        """
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                figures = self._call("evaluate", model, split)
        finally:
            model.train(training)
        if not isinstance(figures, Mapping) or not figures:
            raise self._wrong("evaluate", 'a dict with at least one figure, such as {"error": 3.5}', figures)
        result: dict[str, float] = {}
        for name, value in figures.items():
            try:
                result[str(name)] = float(value)
            except (TypeError, ValueError):
                raise self._wrong("evaluate", f"a number as {name!r}", value) from None
            if not math.isfinite(result[str(name)]):
                raise self._wrong("evaluate", f"a finite number as {name!r} (split {split!r})", value)
        return result

    def _checked(self, iterator: Iterator[Any], index: int) -> Iterator[tuple[Any, Any]]:
        for position in itertools.count(index):
            with guarded(self.source, "batches"):
                batch = next(iterator, _END)
            if batch is _END:
                raise TaskError(
                    f"{self.source}: batches() ended after {position} batches, but must go on without end: "
                    "wrap its loop in `while True:`"
                )
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise self._wrong("batches", "pairs (inputs, targets)", batch)
            yield batch[0], batch[1]

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        with guarded(self.source, name):
            return self.functions[name](*args, **kwargs)

    def _wrong(self, name: str, expected: str, got: Any) -> TaskError:
        return TaskError(f"{self.source}: {name}() must give {expected}, but gave {describe(got)}")


_END = object()


def describe(value: Any) -> str:
    """Say in a few words what a value is, for an error message."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and dtype {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of length {len(value)}"
    if value is None:
        return "None (is a `return` missing?)"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '…'} of type {type(value).__name__}"


def check(task: Task) -> dict[str, float]:
    """Try every function of a task once, without training: model, arguments, two batches, loss, evaluation.

    Returns the untrained network's validation figures. Raises :class:`TaskError` at the first that does not fit.
    """
    net = task.model()
    args, kwargs = task.example()
    with guarded(task.source, "model"):
        net(*args, **kwargs)
    inputs, targets = next(task.batches(0))
    with guarded(task.source, "model"):
        outputs = call(net, inputs)
    value = task.loss(outputs, targets)
    if not torch.isfinite(value):
        raise TaskError(f"{task.source}: the untrained network's loss is {value.item()}, so nothing can be learnt")
    return task.evaluate(net, "validation")
