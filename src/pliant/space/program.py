"""The space of a program with placeholders, and what a config of it builds. See :mod:`.placeholders`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..checks import WrongShapeError
from .choice import Choice, Option
from .config import Config
from .placeholders import Placeholder, Symbolic, called, children, replaced, walk
from .space import Space

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class _Decision:
    """A placeholder at a path of the tree: the choice that decides it, and the alternatives that it lies in.

    Attributes:
        placeholder: what is decided.
        choice: its place among the choices.
        inside: for each placeholder around it, its choice and those of its options that take the way to it.
    """

    placeholder: Placeholder
    choice: int
    inside: tuple[tuple[int, frozenset[int]], ...]


class Program:
    """A tree of constructors with placeholders, as something to search.

    It has what a search needs of a family: ``pliant.search(program, objectives=…)`` builds the network of every config
    that it measures anew; its objectives train it as far as they like.

    Args:
        tree: made by :func:`~pliant.symbolic`, with placeholders anywhere inside.
        constraints: on choices of numbers, such as ``"width >= 32"``.

    Raises:
        WrongShapeError: the tree is none, or has no placeholders.
    """

    def __init__(self, tree: Symbolic, constraints: tuple[str, ...] = ()) -> None:
        if not isinstance(tree, Symbolic):
            raise WrongShapeError(
                f"a program is a call that is not made yet, pliant.symbolic(Net)(width=pliant.oneof([32, 64])), "
                f"got {tree!r}"
            )
        self.tree = tree
        self._decisions: dict[str, _Decision] = {}
        choices: list[Choice] = []
        self._collect(tree, "", (), choices)
        if not choices:
            raise WrongShapeError(f"{tree!r} has no placeholder: nothing in it varies. Use pliant.oneof for what shall")
        self.space = Space(choices, constraints)

    def _collect(
        self, value: Any, path: str, inside: tuple[tuple[int, frozenset[int]], ...], choices: list[Choice]
    ) -> None:
        here = -1
        if isinstance(value, Placeholder):
            here = len(choices)
            self._decisions[path] = _Decision(value, here, inside)
            choices.append(Choice(path, _options(value), ordered=value.ordered))
        for at, (name, inner) in enumerate((children(value) or {}).items()):
            around = inside
            if isinstance(value, Placeholder):
                taking = frozenset(option for option, picked in enumerate(value.picks) if at in picked)
                around = (*inside, (here, taking))
            self._collect(inner, f"{path}.{name}" if path else name, around, choices)

    # ---- what a search needs ---------------------------------------------------------------------------------------
    @property
    def size(self) -> int:
        """How many different programs there are: fewer than configs, where alternatives have decisions of their own.

        Constraints are not taken into account.
        """
        return _count(self.tree)

    def bind(self, config: Mapping[str, Option]) -> Symbolic:
        """Return the tree with every placeholder decided.

        Raises:
            UnknownNameError, WrongShapeError: the config is not of this program's space.
        """
        made = self.space.check(config)
        found = _decided(self.tree, "", self._decisions, made, self.space.choices)
        assert isinstance(found, Symbolic)
        return found

    def build(self, config: Mapping[str, Option]) -> Any:
        """Return what the program makes: the constructors are called, inner ones first."""
        return called(self.bind(config))

    ready = build

    def config_of(self, tree: Symbolic) -> Config:
        """Return the canonical config that :meth:`bind` makes ``tree`` of; :meth:`bind` backwards.

        Raises:
            WrongShapeError: no config does.
        """
        made: dict[str, Option] = {}
        if not _match(self.tree, tree, "", self._decisions, made, self.space.choices):
            raise WrongShapeError(f"{tree!r} is not one of the programs of {self.tree!r}")
        return self.canonical(self.space.complete(made))

    def canonical(self, config: Mapping[str, Option]) -> Config:
        """Return the config that stands for all that make the same program: idle decisions take their last option."""
        rows = self.space.indices([config])
        return self.space.configs(self.counts.canonical(rows))[0]

    @property
    def counts(self) -> ProgramForms:
        """Which configs make the same program, for many at once."""
        return ProgramForms(self.space, [decision.inside for decision in self._decisions.values()])


class ProgramForms:
    """Which decisions of a program matter, by option indices (n, choices). Costs are not known before it is built."""

    def __init__(self, space: Space, inside: list[tuple[tuple[int, frozenset[int]], ...]]) -> None:
        self._space, self._inside = space, inside

    def active(self, indices: np.ndarray) -> np.ndarray:
        """Return which choices matter (n, choices): those inside alternatives that are taken."""
        import numpy as np

        found = np.ones(indices.shape, dtype=bool)
        for at, around in enumerate(self._inside):
            for choice, options in around:
                found[:, at] &= np.isin(indices[:, choice], sorted(options))
        return found

    def canonical(self, indices: np.ndarray) -> np.ndarray:
        """Return the indices (n, choices) that stand for the same programs."""
        import numpy as np

        tops = np.array([options[-1] for options in self._space.allowed()], dtype=np.int64)
        return np.where(self.active(indices), indices, tops)

    def macs(self, measure: Any) -> Any:
        """Raise LookupError: a program's costs are measured."""
        raise LookupError("a program is built to be measured")

    params = macs


def _options(placeholder: Placeholder) -> tuple[Option, ...]:
    """Return the candidates themselves where they are plain values, else their places and names."""
    labels: list[Option] = []
    for at, candidate in enumerate(placeholder.candidates):
        plain = isinstance(candidate, (bool, int, float, str)) and candidate not in labels
        labels.append(candidate if plain else f"{at}:{_named(candidate)}")
    if placeholder.single:
        return tuple(labels)
    return tuple(tuple(labels[at] for at in picked) for picked in placeholder.picks)


def _named(candidate: Any) -> str:
    if isinstance(candidate, Symbolic):
        return str(getattr(candidate.target, "__name__", "call"))
    return str(getattr(candidate, "__name__", type(candidate).__name__))


def _count(value: Any) -> int:
    if isinstance(value, Placeholder):
        each = [_count(candidate) for candidate in value.candidates]
        return sum(math.prod(each[at] for at in set(picked)) for picked in value.picks)
    return math.prod(_count(inner) for inner in (children(value) or {}).values())


def _decided(
    value: Any, path: str, decisions: Mapping[str, _Decision], config: Config, choices: tuple[Choice, ...]
) -> Any:
    def rule(at: str, found: Any) -> Any:
        full = ".".join(part for part in (path, at) if part)
        if not isinstance(found, Placeholder):
            return found
        decision = decisions[full]
        picked = found.picks[choices[decision.choice].index(config[full])]
        taken = [_decided(found.candidates[i], f"{full}.{i}", decisions, config, choices) for i in picked]
        return _Done(taken[0] if found.single else taken)

    return _opened(replaced(value, rule))


class _Done:
    """A decided value, so that nothing inside is looked at again."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _opened(value: Any) -> Any:
    return replaced(value, lambda path, found: found.value if isinstance(found, _Done) else found)


def _match(
    pattern: Any,
    value: Any,
    path: str,
    decisions: Mapping[str, _Decision],
    made: dict[str, Option],
    choices: tuple[Choice, ...],
) -> bool:
    """Fill ``made`` with the decisions that turn ``pattern`` into ``value``; tell whether there are such."""
    if isinstance(pattern, Placeholder):
        for option, picked in enumerate(pattern.picks):
            values = [value] if pattern.single else value
            if not isinstance(values, list) or len(values) != len(picked):
                continue
            trial: dict[str, Option] = {}
            if all(
                _match(pattern.candidates[at], each, f"{path}.{at}", decisions, trial, choices)
                for at, each in zip(picked, values, strict=True)
            ):
                made.update(trial)
                made[path] = choices[decisions[path].choice].options[option]
                return True
        return False
    if isinstance(pattern, Symbolic) != isinstance(value, Symbolic):
        return False
    if isinstance(pattern, Symbolic) and pattern.target is not value.target:
        return False
    inner, given = children(pattern), children(value)
    if inner is None or given is None:
        return bool(type(pattern) is type(value) and pattern == value)
    return inner.keys() == given.keys() and all(
        _match(inner[name], given[name], f"{path}.{name}" if path else name, decisions, made, choices) for name in inner
    )


def undecided(tree: Symbolic) -> list[str]:
    """Return the paths of the placeholders that are left in a tree."""
    return [path for path, value in walk(tree) if isinstance(value, Placeholder)]
