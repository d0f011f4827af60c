"""The contract lets a good technique through and catches each fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, make_dataclass
from typing import Any

import pytest

from pliant import catalog
from pliant.space import Choice
from pliant.technique import Elastic, Paper, Stage, Technique
from pliant.testing import check_technique, technique_contract


@dataclass(frozen=True)
class Toy(Elastic):
    """Offers nothing.

    Args:
        ratios: of the full size.
    """

    paper = Paper("A. Author", 2024, "A title", "2401.00001")
    stage = Stage.SLICE
    gives = frozenset({"nothing"})

    ratios: tuple[float, ...] = (0.5, 1.0)

    def choices(self, analysis: Any) -> Sequence[Choice]:
        return ()

    def apply(self, draft: Any, options: Mapping[str, Any]) -> None:
        return None


@pytest.fixture(autouse=True)
def _catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalog that knows Toy alone, and a file of it that says where it differs."""
    monkeypatch.setattr(catalog, "has", lambda name: catalog.fold(name) == "toy")
    monkeypatch.setattr(catalog, "load", lambda name: Toy)
    monkeypatch.setitem(globals(), "__doc__", "Offers nothing. The paper claims more; this does not differ.")


def test_a_good_technique_passes() -> None:
    check_technique(Toy)


def test_every_check_of_the_file_is_listed() -> None:
    written = {value for name, value in vars(technique_contract).items() if name.startswith("check_")}
    assert written == {*technique_contract.CHECKS, check_technique}


def _changed(**variables: Any) -> type[Technique]:
    """Toy with other class variables; its own docstring and name."""
    return dataclass(frozen=True)(type("Toy", (Toy,), {"__module__": __name__, "__doc__": Toy.__doc__, **variables}))


def _thawed() -> type:
    return dataclass(frozen=False)(type("Toy", (Technique,), {}))


def _wide() -> type:
    return make_dataclass("Toy", [(f"f{i}", int, 0) for i in range(8)], bases=(Technique,), frozen=True)


def _bare() -> type:
    return make_dataclass("Toy", [("size", int)], bases=(Technique,), frozen=True)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: type("Toy", (Toy,), {}), "needs @dataclass"),
        (_thawed, "must be frozen"),
        (_wide, "has 8 fields"),
        (_bare, r"give a default to \['size'\]"),
        (lambda: dataclass(frozen=True)(type("Toy", (Elastic,), {})), r"leaves \['apply', 'choices'\] to write"),
        (lambda: _changed(stage=None), "must say when it is applied"),
        (lambda: _changed(stage=1.5), "not a Stage"),
        (lambda: _changed(needs={"slices"}), "must be a frozenset"),
        (lambda: _changed(needs=frozenset({"Sliced"})), "lower-case words"),
        (lambda: _changed(needs=frozenset({"toy"})), r"names techniques \['toy'\]"),
        (lambda: _changed(paper=None), "must be a Paper"),
        (lambda: _changed(paper=Paper("", 2020, "Title")), "lacks authors"),
        (lambda: _changed(paper=Paper("A", 20, "Title")), "is of 20"),
        (lambda: _changed(paper=Paper("A", 2020, "Title", "arXiv:1")), "expected e.g."),
        (lambda: _changed(__doc__=None), "needs a docstring"),
        (lambda: _changed(__doc__="Offers nothing"), "first line of one sentence"),
        (lambda: _changed(__doc__="Offers nothing."), r"explain \['ratios'\]"),
        (_changed, "another technique under the name"),
        (lambda: _changed(__repr__=lambda self: "Toy((1.0,))"), "not what its repr says|another technique"),
    ],
)
def test_each_fault_is_caught(made: Callable[[], type[Technique]], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_technique(made())


def test_a_file_must_say_where_it_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "__doc__", "Offers nothing.")
    with pytest.raises(AssertionError, match="where this differs"):
        check_technique(Toy)


def test_fields_must_survive_json() -> None:
    made = make_dataclass("Toy", [("kept", frozenset, frozenset())], bases=(Technique,), frozen=True)
    with pytest.raises((AssertionError, TypeError)):
        technique_contract.check_record(made)
