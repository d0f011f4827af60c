"""The rules of the operations: each file holds one group, as ``RULES`` (terms) and ``SIZES`` (size arguments).

A size rule returns the arguments to replace, by name; or, where another operation is needed, ``target`` and ``args``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..dims import Dim
from ..trace import Call, Rule, Tracer
from . import (
    attention,
    concatenation,
    contraction,
    convolution,
    fourier,
    indexing,
    normalisation,
    pointwise,
    products,
    recurrent,
    reduction,
    scatter,
    shape,
)

SizeRule = Callable[[Tracer, Call, Callable[[Dim], Any]], dict[str, Any]]

_GROUPS = (
    attention,
    concatenation,
    contraction,
    convolution,
    fourier,
    indexing,
    normalisation,
    pointwise,
    products,
    recurrent,
    reduction,
    scatter,
    shape,
)

RULES: dict[str, Rule] = {name: rule for group in _GROUPS for name, rule in group.RULES.items()}
SIZES: dict[str, SizeRule] = {name: rule for group in _GROUPS for name, rule in group.SIZES.items()}
