"""Techniques as text: ``width,depth`` or ``width(kinds=('width', 'stream')),depth(least=0.25)``.

A technique's signature is its configuration, so the command line needs no options of its own for its fields.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from .. import catalog
from ..checks import PliantError, unknown
from ..technique import Elastic, Recipe, Searcher, Technique

_EXAMPLE = "such as width,depth or width(ratios=(0.5, 1.0)),depth"


def split(text: str) -> tuple[str, ...]:
    """Split a list of techniques at its outer commas, each in a normal form.

    Raises:
        PliantError: it is no such list.
    """
    try:
        found = ast.parse(f"[{text}]", mode="eval").body
    except SyntaxError as error:
        raise PliantError(f"cannot read the choices {text!r} ({error.msg}); give names, {_EXAMPLE}") from error
    assert isinstance(found, ast.List)
    return tuple(ast.unparse(node) for node in found.elts)


def elastic(specs: Sequence[str]) -> list[Elastic]:
    """Return the techniques that the texts name, fields included.

    Raises:
        UnknownNameError: no such technique or field; the nearest is offered.
        PliantError: the technique adds no choices, or the text cannot be read.
    """
    return [_technique(spec, Elastic, "adds no choices to a family") for text in specs for spec in split(text)]


def searcher(text: str) -> Searcher:
    """Return the searcher that ``text`` names, as ``name`` or ``name(field=value, …)``.

    Raises:
        UnknownNameError: no such technique or field; the nearest is offered.
        PliantError: the technique is no searcher, or the text cannot be read.
    """
    specs = split(text)
    if len(specs) != 1:
        raise PliantError(f"one searcher is needed, got {text!r}: give a name, and fields by name in brackets")
    found: Searcher = _technique(specs[0], Searcher, "searches nothing")
    return found


def recipe(text: str) -> Recipe:
    """Return the recipe of training that ``text`` names, as ``name`` or ``name(field=value, …)``.

    Raises:
        UnknownNameError: no such technique or field; the nearest is offered.
        PliantError: the technique is no recipe, or the text cannot be read.
    """
    specs = split(text)
    if len(specs) != 1:
        raise PliantError(f"one recipe is needed, got {text!r}: give a name, and fields by name in brackets")
    found: Recipe = _technique(specs[0], Recipe, "trains no family")
    return found


def checked_recipe(text: str | None) -> str:
    """Return a recipe's text in a normal form, the catalogue's default if None; raises as :func:`recipe`."""
    if text is None:
        return str(import_module("pliant.techniques.train").DEFAULT)
    recipe(text)
    return split(text)[0]


def _technique(spec: str, wanted: Any, lacking: str) -> Any:
    node = ast.parse(spec, mode="eval").body
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    if not isinstance(call.func, ast.Name) or call.args or any(word.arg is None for word in call.keywords):
        raise PliantError(f"cannot read the choice {spec!r}: give a name, and fields by name, {_EXAMPLE}")
    name = call.func.id
    right = {Searcher: "search", Recipe: "train", Elastic: "elastic"}.get(wanted, "")
    if right and not catalog.has(name):
        raise unknown(f"technique of kind {right!r}", name, catalog.names(right))
    kind = catalog.load(name)
    if not issubclass(kind, wanted):
        raise PliantError(
            f"{name!r} is a technique of kind {catalog.kind_of(name)!r}, which {lacking}; "
            f"choose from {', '.join(catalog.names(right))}"
        )
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    fields = {}
    for word in call.keywords:
        if word.arg not in known:
            raise unknown(f"field of {name}", str(word.arg), known)
        try:
            fields[str(word.arg)] = _value(word.value)
        except ValueError as error:
            raise PliantError(
                f"cannot read the value of {word.arg!r} in {spec!r}: give a plain Python value, or a technique"
            ) from error
    try:
        return kind(**fields)
    except TypeError as error:
        raise PliantError(f"{spec} does not fit: {error}") from error


def _value(node: ast.expr) -> Any:
    """Return the plain value, or the technique that works inside another, for which ``node`` stands."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and catalog.has(node.func.id):
        return _technique(ast.unparse(node), Technique, "")
    return ast.literal_eval(node)
