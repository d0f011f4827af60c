"""The batches of a training run: from any one on, with the random numbers that they were drawn with the first time."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch

from ..checks import WrongShapeError
from ..family.family import Family
from .checkpoint import random_states, set_random_states
from .processes import rank_and_count

Batches = Iterable[Any] | Callable[[int], Iterator[Any]]


def batches_from(batches: Batches, start: int, seed: int, family: Family) -> Iterator[Any]:
    """Return the batches from number ``start`` on, with torch's generators as in a run that was not stopped.

    Where normalisation has running statistics, the first ones are kept for estimating those of members.
    """
    if callable(batches):
        _check_function(batches)
        if family.uncalibrated:
            family.calibrate_with(_iterator(batches(0)))
    else:
        _iterable(batches, "batches")
    states = random_states()
    torch.manual_seed(seed)
    random.seed(seed)
    if callable(batches):
        iterator = _iterator(batches(start))
    else:
        iterator = iter(batches)
        if family.uncalibrated:
            iterator = _collected(iterator, family)
        for _ in range(start):  # what they draw while they are skipped, they drew the first time too
            next(iterator, None)
    if start:
        set_random_states(states)
    return iterator


def _check_function(batches: Callable[[int], Any]) -> None:
    try:
        inspect.signature(batches).bind(0)
    except ValueError:  # one that does not say what it takes
        return
    except TypeError as error:
        raise WrongShapeError(
            f"a function of batches is called with the number of the first one to give, {batches!r:.60} cannot be "
            f"({error}): write def batches(start=0), or give an iterable of batches"
        ) from error


def _iterator(found: Any) -> Iterator[Any]:
    return iter(_iterable(found, "what the function of batches returned"))


def _iterable(found: Any, what: str) -> Iterable[Any]:
    if not hasattr(found, "__iter__") and not hasattr(found, "__getitem__"):
        raise WrongShapeError(
            f"{what} is to be an iterable of pairs (inputs, targets); got {type(found).__name__}"
            + (" (is a yield or a return missing?)" if found is None else "")
        )
    return found


def _collected(iterator: Iterator[Any], family: Family, count: int = 16) -> Iterator[Any]:
    seen: list[Any] = []
    try:
        for batch in iterator:
            if len(seen) < count and isinstance(batch, (tuple, list)):
                seen.append(batch)
                if len(seen) == count:
                    family.calibrate_with(seen)
            yield batch
    finally:
        if 0 < len(seen) < count:
            family.calibrate_with(seen)


def sharded(batches: Batches) -> Batches:
    """Return the share of ``batches`` that is this process's: every n-th of n processes, from its own on.

    All processes must be given the same batches. Where making them takes long, load only the own ones instead, by
    ``torch.distributed.get_rank()``.
    """
    rank, count = rank_and_count()
    if count == 1:
        return batches
    if callable(batches):
        return lambda start: islice(batches(start * count), rank, None, count)
    return _Share(batches, rank, count)


class _Share:
    """Every ``count``-th item of an iterable, anew each time that it is gone through."""

    def __init__(self, batches: Iterable[Any], rank: int, count: int) -> None:
        self._batches, self._rank, self._count = batches, rank, count

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self._batches), self._rank, None, self._count)
