"""Configs as Optuna's parameters and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..checks import CorruptFileError
from ..space import Choice, Config, Space

Scalar = bool | int | float | str


def encoded(choice: Choice) -> tuple[Scalar, ...]:
    """Return the options of ``choice`` as Optuna can store and show them: tuples become JSON text.

    Where a tuple would then read like another option that is text, all options become JSON text.
    """
    plain = tuple(json.dumps(option) if isinstance(option, tuple) else option for option in choice.options)
    if len(set(plain)) == len(plain):
        return plain
    return tuple(json.dumps(option) for option in choice.options)


def distributions(space: Space) -> dict[str, Any]:
    """Return one ``optuna.distributions.CategoricalDistribution`` per choice."""
    from optuna.distributions import CategoricalDistribution

    return {choice.name: CategoricalDistribution(encoded(choice)) for choice in space.choices}


def to_params(space: Space, config: Config) -> dict[str, Scalar]:
    """Return ``config`` as Optuna's parameters."""
    return {choice.name: encoded(choice)[choice.index(config[choice.name])] for choice in space.choices}


def from_params(space: Space, params: Mapping[str, Scalar]) -> Config:
    """Return the config that :func:`to_params` encoded.

    Raises:
        CorruptFileError: the parameters are not of this space.
    """
    options = {}
    for choice in space.choices:
        try:
            options[choice.name] = choice.options[encoded(choice).index(params[choice.name])]
        except (KeyError, ValueError):
            raise CorruptFileError(
                f"a stored trial has no valid option of choice {choice.name!r} (it has {params.get(choice.name)!r}); "
                "was the study file changed by hand?"
            ) from None
    return space.check(options)
