"""The space of a program with placeholders, what a config of it builds, and its parts. See :mod:`.placeholders`.

A program need not be decided at once. :meth:`Program.part` is a program of some of its placeholders, told by their
hints or by a rule; :meth:`Program.given` is what is left when some are decided. Searches can so be nested, or follow
each other (Peng et al., 2020, PyGlove, arXiv 2101.08809: joint, separate and factorised search). Where this
implementation differs: a decision keeps its name in all parts, so that configs of the parts are added up to one of the
whole (:meth:`Program.joined`); what is inside an alternative of another part counts as mattering until that is decided.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..checks import WrongShapeError, unknown
from .choice import Option
from .config import Config
from .constraint import Constraint
from .decisions import Decision, count, decided, decisions, matched
from .placeholders import Placeholder, Symbolic, called, walk
from .space import Space

if TYPE_CHECKING:
    import numpy as np


class Program:
    """A tree of constructors with placeholders, as something to search.

    It has what a search needs of a family: ``pliant.search(program, objectives=…)`` builds the network of every config
    that it measures anew; its objectives train it as far as they like.

    Args:
        tree: made by :func:`~pliant.symbolic`, with placeholders anywhere inside.
        constraints: on choices of numbers, such as ``"width >= 32"``.
        only: paths of the placeholders to decide; see :meth:`part`. All by default.
        given: path to option of what is decided already; see :meth:`given`.

    Raises:
        WrongShapeError: the tree is none, or has no placeholders.
    """

    def __init__(
        self,
        tree: Symbolic,
        constraints: tuple[str, ...] = (),
        *,
        only: Collection[str] | None = None,
        given: Mapping[str, Option] | None = None,
    ) -> None:
        if not isinstance(tree, Symbolic):
            raise WrongShapeError(
                f"a program is a call that is not made yet, pliant.symbolic(Net)(width=pliant.oneof([32, 64])), "
                f"got {tree!r}"
            )
        self.tree = tree
        self.constraints = tuple(constraints)
        self.fixed = Config(given or {})
        self._all = decisions(tree)
        if not self._all:
            raise WrongShapeError(f"{tree!r} has no placeholder: nothing in it varies. Use pliant.oneof for what shall")
        for path in (*self.fixed, *(only or ())):
            if path not in self._all:
                raise unknown("placeholder at the path", path, self._all)
        self._fixed = {path: self._all[path].choice.index(option) for path, option in self.fixed.items()}
        left = [path for path, each in self._all.items() if path not in self.fixed and self._reached(each)]
        own = left if only is None else [path for path in left if path in only]
        self._whole = len(own) == len(left)
        self._only = None if only is None else frozenset(only)
        self.space = Space([self._all[path].choice for path in own], self._rules(own))

    def _reached(self, decision: Decision) -> bool:
        """Return whether it lies in no alternative that is out already."""
        return all(self._fixed[path] in options for path, options in decision.inside if path in self._fixed)

    def _rules(self, own: Collection[str]) -> list[str]:
        """Return the constraints on ``own`` choices, and those that name none."""
        names = {rule: Constraint.parse(rule).name for rule in self.constraints}
        return [rule for rule, name in names.items() if name in own or name not in self._all]

    # ---- what a search needs ---------------------------------------------------------------------------------------
    @property
    def size(self) -> int:
        """How many different programs there are: fewer than configs, where alternatives have decisions of their own.

        Constraints are not taken into account.
        """
        return count(self.tree, self._own, self._fixed)

    @property
    def _own(self) -> set[str]:
        return {choice.name for choice in self.space.choices}

    def bind(self, config: Mapping[str, Option]) -> Symbolic:
        """Return the tree with every placeholder decided, those of other parts excepted.

        Raises:
            UnknownNameError, WrongShapeError: the config is not of this program's space.
        """
        made = self.space.check(config)
        options = {choice.name: choice.index(made[choice.name]) for choice in self.space.choices}
        found = decided(self.tree, {**self._fixed, **options})
        assert isinstance(found, Symbolic)
        return found

    def build(self, config: Mapping[str, Option]) -> Any:
        """Return what the program makes: the constructors are called, inner ones first.

        Raises:
            UnknownNameError: this is a part, and a placeholder of another is undecided.
        """
        return called(self.bind(config))

    def ready(self, config: Mapping[str, Option]) -> Any:
        """Return what is measured: what the program makes, or for a part the program that is left, to be searched."""
        if self._whole:
            return self.build(config)
        return Program(self.tree, self.constraints, given={**self.fixed, **self.space.check(config)})

    def config_of(self, tree: Symbolic) -> Config:
        """Return the canonical config that :meth:`bind` makes ``tree`` of; :meth:`bind` backwards.

        Raises:
            WrongShapeError: no config does.
        """
        made: dict[str, int] = {}
        if not matched(self.tree, tree, self._own, self._fixed, made):
            raise WrongShapeError(f"{tree!r} is not one of the programs of {self.tree!r}")
        options = {path: self._all[path].choice.options[at] for path, at in made.items()}
        return self.canonical(self.space.complete(options))

    def canonical(self, config: Mapping[str, Option]) -> Config:
        """Return the config that stands for all that make the same program: idle decisions take their last option."""
        rows = self.space.indices([config])
        return self.space.configs(self.counts.canonical(rows))[0]

    def leaves(self) -> Iterator[Config]:
        """Yield the canonical config of every different program that the constraints allow, once.

        There are far fewer than configs where programs nest.
        """
        allowed = [options.tolist() for options in self.space.allowed()]
        rows: list[list[int]] = [[]]
        while rows:
            row = rows.pop()
            if len(row) == len(allowed):
                yield Config(
                    {choice.name: choice.options[at] for choice, at in zip(self.space.choices, row, strict=True)}
                )
            else:
                options = allowed[len(row)] if self.counts.matters(row) else allowed[len(row)][-1:]
                rows += [[*row, option] for option in reversed(options)]

    @cached_property
    def counts(self) -> ProgramForms:
        """Which configs make the same program, for many at once."""
        places = {choice.name: at for at, choice in enumerate(self.space.choices)}
        inside = [self._all[choice.name].inside for choice in self.space.choices]
        around = [tuple((places[path], options) for path, options in each if path in places) for each in inside]
        return ProgramForms(self.space, around)

    # ---- parts -----------------------------------------------------------------------------------------------------
    def part(self, where: str | Callable[[str, Placeholder], bool]) -> Program:
        """Return a program of some of the placeholders: the others stay undecided in what it binds.

        Args:
            where: a hint, of :func:`~pliant.oneof` and the others; or tells of a path and a placeholder.

        Raises:
            UnknownNameError: no placeholder has this hint; offers the nearest.
            WrongShapeError: the rule holds for none.
        """
        own = {path: self._all[path].placeholder for path in (choice.name for choice in self.space.choices)}
        if isinstance(where, str):
            only = [path for path, each in own.items() if each.hint == where]
            if not only:
                raise unknown("hint in the program", where, {each.hint for each in own.values()} - {""})
        else:
            only = [path for path, each in own.items() if where(path, each)]
            if not only:
                raise WrongShapeError(f"the rule holds for no placeholder, expected some of {', '.join(own)}")
        return Program(self.tree, self.constraints, only=only, given=self.fixed)

    def given(self, config: Mapping[str, Option]) -> Program:
        """Return the program that is left when some choices are decided: a smaller one, perhaps of one config.

        Raises:
            UnknownNameError, WrongShapeError: the options are not of this program's space.
        """
        made = self.space.complete(config)
        fixed = {**self.fixed, **{name: made[name] for name in config}}
        return Program(self.tree, self.constraints, only=self._only, given=fixed)

    def joined(self, *configs: Mapping[str, Option]) -> Config:
        """Return the canonical config of this program of which ``configs`` of its parts are made.

        Raises:
            UnknownNameError, WrongShapeError: they are not of this program, or do not agree.
        """
        made: dict[str, Option] = {}
        for config in configs:
            for name, option in config.items():
                if made.setdefault(name, option) != option:
                    raise WrongShapeError(f"{name} is {made[name]!r} in one part and {option!r} in another")
        return self.canonical(self.space.complete(made))

    def restricted(self, config: Mapping[str, Option]) -> Config:
        """Return what a config of the whole program says of this part; :meth:`joined` backwards.

        Raises:
            UnknownNameError, WrongShapeError: a choice is missing, or an option is not of this program's space.
        """
        own = self._own
        return self.canonical(self.space.check({name: option for name, option in config.items() if name in own}))

    def rebind(self, changes: Mapping[str, Any]) -> Program:
        """Return the program of a changed tree, see :meth:`Symbolic.rebind`; what was decided stays so.

        Raises:
            UnknownNameError: there is no such path, or it is gone and something else is said of it.
        """
        tree = self.tree.rebind(changes)
        left = decisions(tree)
        only = None if self._only is None else [path for path in self._only if path in left]
        fixed = {path: option for path, option in self.fixed.items() if path in left}
        return Program(tree, self.constraints, only=only, given=fixed)

    def clone(self) -> Program:
        """Return an equal program with a tree of its own."""
        return self.rebind({})

    def __repr__(self) -> str:
        return f"Program({self.tree!r}: {len(self.space.choices)} choices, {self.size} programs)"


class ProgramForms:
    """Which decisions of a program matter, by option indices (n, choices). Costs are not known before it is built."""

    def __init__(self, space: Space, inside: list[tuple[tuple[int, frozenset[int]], ...]]) -> None:
        self._space = space
        self._inside = [
            [
                (choice, [option in options for option in range(len(space.choices[choice].options))])
                for choice, options in around
            ]
            for around in inside
        ]

    def active(self, indices: np.ndarray) -> np.ndarray:
        """Return which choices matter (n, choices): those inside alternatives that are taken."""
        import numpy as np

        found = np.ones(indices.shape, dtype=bool)
        for at, around in enumerate(self._inside):
            for choice, taking in around:
                found[:, at] &= np.array(taking)[indices[:, choice]]
        return found

    def matters(self, row: Sequence[int]) -> bool:
        """Return whether the choice after those that are decided by ``row`` matters."""
        return all(taking[row[choice]] for choice, taking in self._inside[len(row)])

    def canonical(self, indices: np.ndarray) -> np.ndarray:
        """Return the indices (n, choices) that stand for the same programs."""
        import numpy as np

        tops = np.array([options[-1] for options in self._space.allowed()], dtype=np.int64)
        return np.where(self.active(indices), indices, tops)

    def macs(self, measure: Any) -> Any:
        """Raise LookupError: a program's costs are measured."""
        raise LookupError("a program is built to be measured")

    params = macs


def undecided(tree: Symbolic) -> list[str]:
    """Return the paths of the placeholders that are left in a tree."""
    return [path for path, value in walk(tree) if isinstance(value, Placeholder)]
