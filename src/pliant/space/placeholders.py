"""Programs that are not run yet: a constructor with placeholders for what may vary, and the space that they span.

``symbolic(Net)(width=oneof([32, 64]), block=oneof([symbolic(Mlp)(ratio=oneof([2, 4])), symbolic(Conv)()]))`` builds
nothing. It is a tree of constructors and values that can be looked at and changed; its placeholders are decisions, and
:class:`pliant.Program` makes a space of them. A searcher sees the space alone; neither it nor the user's code knows of
the other (Peng, Dong, Real, Tan, Lu, Bender, Liu, Kraft, Liang and Le, 2020, PyGlove: Symbolic Programming for
Automated Machine Learning, arXiv 2101.08809). The tree may nest as it likes: a decision inside an alternative counts
only where that is taken (Negrinho and Gordon, 2017, DeepArchitect, arXiv 1704.08792, has the same as Or and Optional:
``pliant.family.language`` writes their language in these placeholders). A ``hint`` sorts placeholders into parts that
can be decided apart, see :meth:`pliant.Program.part`.

Where this differs: a class is made symbolic where it is used, rather than by a decorator where it is defined, so that
anybody's classes can be; a tree is changed by making another; :func:`floatv` has finitely many values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..checks import UnknownNameError, WrongShapeError, unknown

_MOST = 10_000


@dataclass(frozen=True)
class Placeholder:
    """A decision in a tree; made by :func:`oneof`, :func:`manyof` and :func:`floatv`.

    Attributes:
        candidates: what can be taken: values, trees, or anything else.
        picks: the options, each the positions of the candidates that it takes.
        single: whether an option takes one candidate, and stands for it rather than for a list.
        ordered: whether neighbouring options are alike.
        hint: a word of the user's own for the part of the program that it belongs to.
        labels: names of the options; those of the candidates where there are none.
    """

    candidates: tuple[Any, ...]
    picks: tuple[tuple[int, ...], ...]
    single: bool
    ordered: bool
    hint: str = ""
    labels: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self.candidates[:6])) + (", …" if len(self.candidates) > 6 else "")
        return f"oneof([{shown}])" if self.single else f"manyof({len(self.picks[0])}, [{shown}])"


def oneof(candidates: Sequence[Any], *, hint: str = "") -> Placeholder:
    """Return a placeholder for one of ``candidates``, which may hold placeholders themselves.

    Numbers in rising order are taken for sizes: neighbours are alike, and the last is the largest. ``hint`` is a word
    for the part of the program that the decision belongs to, such as ``"architecture"``.

    Raises:
        WrongShapeError: there are none.
    """
    found = _checked(candidates, "oneof")
    numbers = all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in found)
    rising = numbers and len(found) > 1 and all(a < b for a, b in itertools.pairwise(found))
    return Placeholder(found, tuple((at,) for at in range(len(found))), True, rising, hint)


def manyof(
    k: int, candidates: Sequence[Any], *, distinct: bool = True, ordered: bool = False, hint: str = ""
) -> Placeholder:
    """Return a placeholder for a list of ``k`` of ``candidates``.

    Args:
        k: how many.
        candidates: to take from.
        distinct: whether none is taken twice.
        ordered: whether lists of the same candidates in another order are different.
        hint: see :func:`oneof`.

    Raises:
        WrongShapeError: there are not ``k``, or more than ten thousand lists: use ``k`` of :func:`oneof` then.
    """
    found = _checked(candidates, "manyof")
    if k < 1 or (distinct and k > len(found)):
        raise WrongShapeError(f"manyof takes from 1 to {len(found)} of {len(found)} candidates, got k = {k!r}")
    if distinct:
        count = math.perm(len(found), k) if ordered else math.comb(len(found), k)
    else:
        count = len(found) ** k if ordered else math.comb(len(found) + k - 1, k)
    if count > _MOST:
        raise WrongShapeError(f"manyof has {count} lists, at most {_MOST} can be listed: give {k} placeholders oneof")
    places = range(len(found))
    if distinct:
        lists: Iterator[tuple[int, ...]] = (
            itertools.permutations(places, k) if ordered else itertools.combinations(places, k)
        )
    else:
        lists = itertools.product(places, repeat=k) if ordered else itertools.combinations_with_replacement(places, k)
    return Placeholder(found, tuple(lists), False, False, hint)


def floatv(low: float, high: float, steps: int = 10, *, log: bool = False, hint: str = "") -> Placeholder:
    """Return a placeholder for one of ``steps`` numbers from ``low`` to ``high``, in equal steps or equal ratios.

    For ``hint`` see :func:`oneof`.

    Raises:
        WrongShapeError: the bounds are not in order, too few steps, or a ratio of numbers that are not positive.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low < high) or steps < 2 or (log and low <= 0):
        raise WrongShapeError(
            f"floatv goes from a number to a larger one in at least 2 steps, and above 0 if log, got {low!r}, "
            f"{high!r}, steps={steps!r}, log={log!r}"
        )
    shares = [at / (steps - 1) for at in range(steps)]
    inner = [low * (high / low) ** share if log else low + (high - low) * share for share in shares[1:-1]]
    return oneof([float(low), *inner, float(high)], hint=hint)


def _checked(candidates: Sequence[Any], name: str) -> tuple[Any, ...]:
    if isinstance(candidates, str) or not isinstance(candidates, Sequence) or not len(candidates):
        raise WrongShapeError(f"{name} takes a list of at least one candidate, such as [32, 64], got {candidates!r}")
    return tuple(candidates)


@dataclass(frozen=True)
class Symbolic:
    """A call that is not made yet: made by :func:`symbolic`.

    Attributes:
        target: the class or function.
        args: positional arguments: values, lists, dictionaries, placeholders, trees.
        kwargs: keyword arguments.
    """

    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def parts(self) -> dict[str, Any]:
        """Return the arguments by name; positional ones by their place."""
        return {**{str(at): value for at, value in enumerate(self.args)}, **self.kwargs}

    def rebind(self, changes: Mapping[str, Any]) -> Symbolic:
        """Return a tree with other values at some paths, such as ``{"block.ratio": 4}``.

        Raises:
            UnknownNameError: there is no such path; offers the nearest.
        """
        known = dict(walk(self))
        for path in changes:
            if path not in known:
                raise unknown("path in the program", path, [each for each in known if each])
        found = replaced(self, changes.get)
        assert isinstance(found, Symbolic)
        return found

    def clone(self) -> Symbolic:
        """Return an equal tree of its own: lists and dictionaries in it are new ones."""
        return self.rebind({})

    def patch(self, rule: Callable[[str, Any], Any]) -> Symbolic:
        """Return a tree in which every value is what ``rule(path, value)`` makes of it, from the root to the leaves."""
        found = replaced(self, rule)
        if not isinstance(found, Symbolic):
            raise WrongShapeError(f"a rule may not replace the program itself by {found!r}; patch its arguments")
        return found

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.parts().items())
        return f"{getattr(self.target, '__name__', self.target)}({shown})"


def symbolic(target: Callable[..., Any]) -> Callable[..., Symbolic]:
    """Return a constructor of trees: called as ``target`` is, it makes a :class:`Symbolic` and calls nothing.

    Raises:
        WrongShapeError: ``target`` cannot be called.
    """
    if not callable(target):
        raise WrongShapeError(f"symbolic takes a class or a function, got {target!r}")

    def constructor(*args: Any, **kwargs: Any) -> Symbolic:
        return Symbolic(target, args, dict(kwargs))

    return constructor


def children(value: Any) -> dict[str, Any] | None:
    """Return what is inside a tree, list, tuple, dictionary or placeholder, by the next part of its path."""
    if isinstance(value, Symbolic):
        return value.parts()
    if isinstance(value, Mapping):
        return {str(key): inner for key, inner in value.items()}
    if isinstance(value, Placeholder):
        return {str(at): inner for at, inner in enumerate(value.candidates)}
    if isinstance(value, (list, tuple)):
        return {str(at): inner for at, inner in enumerate(value)}
    return None


def joined(path: str, name: str) -> str:
    """Return the path of what is called ``name`` inside what is at ``path``."""
    return f"{path}.{name}" if path else name


def walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of a tree with its path, such as ``block.0.ratio``; the root's path is empty."""
    yield path, value
    for name, inner in (children(value) or {}).items():
        yield from walk(inner, joined(path, name))


def rebuilt(value: Any, inner: Callable[[str, Any], Any]) -> Any:
    """Return ``value`` with ``inner(name, part)`` for each of its :func:`children`; a thing that has none is itself."""
    if isinstance(value, Symbolic):
        args = tuple(inner(str(at), each) for at, each in enumerate(value.args))
        return Symbolic(value.target, args, {name: inner(name, each) for name, each in value.kwargs.items()})
    if isinstance(value, Mapping):
        return {key: inner(str(key), each) for key, each in value.items()}
    if isinstance(value, Placeholder):
        return replace(value, candidates=tuple(inner(str(at), each) for at, each in enumerate(value.candidates)))
    if isinstance(value, (list, tuple)):
        return type(value)([inner(str(at), each) for at, each in enumerate(value)])
    return value


def replaced(value: Any, rule: Callable[[str, Any], Any], path: str = "") -> Any:
    """Return a tree in which ``rule(path, value)`` stands for every value, outer ones first."""
    return rebuilt(rule(path, value), lambda name, part: replaced(part, rule, joined(path, name)))


def called(value: Any) -> Any:
    """Make the calls of a tree without placeholders, inner ones first; a thing that is no tree is itself.

    Raises:
        UnknownNameError: a placeholder is left.
    """
    if isinstance(value, Placeholder):
        raise UnknownNameError(f"{value!r} is undecided: build the program with a config of its space")
    if isinstance(value, Symbolic):
        return value.target(*map(called, value.args), **{name: called(each) for name, each in value.kwargs.items()})
    if isinstance(value, Mapping):
        return {key: called(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(called, value))
    return value
