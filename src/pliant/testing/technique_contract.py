"""The contract of a technique, as checks that a test runs on its class.

In the tests of another distribution::

    @pytest.mark.parametrize("check", pliant.testing.CHECKS)
    def test_contract(check):
        check(MyTechnique)
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from datetime import date
from typing import Any

from .. import catalog
from ..technique import Elastic, Paper, Stage, Technique

_ARXIV = re.compile(r"(\d{4}\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7})?")
_WORD = re.compile(r"[a-z][a-z0-9 _-]*")


def _expect(condition: object, what: str) -> None:
    if not condition:  # not an assert: those vanish under `python -O`, and pytest rewrites only test files
        raise AssertionError(what)


def _fields(cls: Any) -> tuple[Field[Any], ...]:
    return fields(cls)


def check_is_a_frozen_dataclass(cls: type[Technique]) -> None:
    """A final frozen dataclass with fewer than eight fields, all with defaults."""
    _expect(not inspect.isabstract(cls), f"{cls.__name__} leaves {sorted(cls.__abstractmethods__)} to write")
    _expect("__dataclass_params__" in vars(cls), f"{cls.__name__} needs @dataclass(frozen=True) of its own")
    _expect(is_dataclass(cls) and vars(cls)["__dataclass_params__"].frozen, f"{cls.__name__} must be frozen")
    made = [field for field in _fields(cls) if field.init]
    _expect(len(made) < 8, f"{cls.__name__} has {len(made)} fields; keep them under 8")
    bare = [field.name for field in made if field.default is MISSING and field.default_factory is MISSING]
    _expect(not bare, f"{cls.__name__}: give a default to {bare}, so that {cls.__name__}() works")


def check_class_variables(cls: type[Technique]) -> None:
    """Stage, needs and gives are class variables of the right types, and words that name no technique."""
    taken = {field.name for field in _fields(cls)} & {"paper", "stage", "needs", "gives"}
    _expect(not taken, f"{cls.__name__}: {sorted(taken)} are class variables, not fields; drop their annotation")
    _expect(cls.stage is None or isinstance(cls.stage, Stage), f"{cls.__name__}.stage is {cls.stage!r}, not a Stage")
    _expect(cls.stage is not None or not issubclass(cls, Elastic), f"{cls.__name__}.stage must say when it is applied")
    for name in ("needs", "gives"):
        words = getattr(cls, name)
        _expect(isinstance(words, frozenset), f"{cls.__name__}.{name} must be a frozenset, got {words!r}")
        bad = [word for word in words if not (isinstance(word, str) and _WORD.fullmatch(word))]
        _expect(not bad, f"{cls.__name__}.{name} holds lower-case words, got {bad}")
        techniques = [word for word in words if catalog.has(word)]
        _expect(not techniques, f"{cls.__name__}.{name} names techniques {techniques}; name what they can do")


def check_paper(cls: type[Technique]) -> None:
    """The paper is cited: authors, year, title, and a well-formed arXiv id if there is one."""
    paper = cls.paper
    _expect(isinstance(paper, Paper), f"{cls.__name__}.paper must be a Paper, got {paper!r}")
    assert paper is not None
    _expect(paper.authors.strip() and paper.title.strip(), f"{cls.__name__}.paper lacks authors or a title")
    _expect(1940 <= paper.year <= date.today().year, f"{cls.__name__}.paper is of {paper.year}")
    _expect(_ARXIV.fullmatch(paper.arxiv), f"{cls.__name__}.paper.arxiv is {paper.arxiv!r}, expected e.g. '1908.09791'")


def check_documentation(cls: type[Technique]) -> None:
    """The class says in one line what it does and explains every field; its file says where it differs."""
    text = inspect.cleandoc(vars(cls).get("__doc__") or "")
    first, _, rest = text.partition("\n")
    _expect(text and not text.startswith(f"{cls.__name__}("), f"{cls.__name__} needs a docstring")
    _expect(
        first.endswith(".") and len(first) <= 120, f"{cls.__name__}: say what it does in a first line of one sentence"
    )
    silent = [field.name for field in _fields(cls) if field.init and f"{field.name}:" not in rest]
    _expect(not silent, f"{cls.__name__}: explain {silent} in the docstring, as 'name: what it is'")
    file = inspect.cleandoc(sys.modules[cls.__module__].__doc__ or "")
    _expect(
        re.search("differ|this implementation|as published|as in the paper", file, re.IGNORECASE),
        f"the file of {cls.__name__} opens with what it does, the paper's claim, and where this differs from it",
    )


def check_catalog(cls: type[Technique]) -> None:
    """The catalog finds it by the name of its class."""
    _expect(catalog.has(cls.__name__), f"no file or entry point is named like {cls.__name__}")
    _expect(catalog.load(cls.__name__) is cls, f"the catalog has another technique under the name {cls.__name__}")


def check_record(cls: type[Technique]) -> None:
    """An instance survives its repr and JSON, hashes, and cannot be changed."""
    made: Any = cls()
    again = eval(repr(made), {cls.__name__: cls})  # noqa: S307  (our own repr)
    _expect(again == made and hash(again) == hash(made), f"{made!r} is not what its repr says")
    record = json.loads(json.dumps(asdict(made)))
    again = cls(**{name: _tuples(value) for name, value in record.items()})
    _expect(again == made, f"{made!r} does not survive JSON: fields hold numbers, strings, None and tuples of them")
    for field in fields(made):
        try:
            setattr(made, field.name, None)
        except AttributeError:
            continue
        raise AssertionError(f"{cls.__name__}.{field.name} can be changed")


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


CHECKS: tuple[Callable[[type[Technique]], None], ...] = (
    check_is_a_frozen_dataclass,
    check_class_variables,
    check_paper,
    check_documentation,
    check_catalog,
    check_record,
)


def check_technique(cls: type[Technique]) -> None:
    """Run every check on a technique's class.

    Raises:
        AssertionError: says what is missing and what to do.
    """
    for check in CHECKS:
        check(cls)
