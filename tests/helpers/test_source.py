"""The reader behind the layout rules sees what it must: a rule that cannot fail guards nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.source import Source

CODE = '''
"""Docstring names Width."""
from __future__ import annotations
import numpy.linalg
from ..checks import PliantError
from . import sibling
from ... import catalog
if TYPE_CHECKING:
    from ..family import Family
else:
    from ..graph import Axis

@dataclass(frozen=True)
class Record:
    """Says sandwich."""
    kind: ClassVar[str] = "x"
    a: int
    b: int = field(init=False)
    c: int = 3

class Plain:
    def __init__(self, a, *, b=1):
        from ..late import thing
        thing.Width("nsga2")
'''


@pytest.fixture
def source(tmp_path: Path) -> Source:
    file = tmp_path / "techniques" / "kind" / "file.py"
    file.parent.mkdir(parents=True)
    file.write_text(CODE, encoding="utf-8")
    return Source(file, tmp_path, "pliant")


def test_imports_are_resolved_and_type_checking_is_left_out(source: Source) -> None:
    assert source.module == ("pliant", "techniques", "kind", "file")
    assert {".".join(name) for name in source.imports()} == {
        "__future__.annotations",
        "numpy.linalg",
        "pliant.techniques.checks.PliantError",
        "pliant.techniques.kind.sibling",
        "pliant.catalog",
        "pliant.techniques.graph.Axis",
        "pliant.techniques.late.thing",
    }


def test_imports_of_a_package_are_relative_to_itself(tmp_path: Path) -> None:
    file = tmp_path / "space" / "__init__.py"
    file.parent.mkdir()
    file.write_text("from .choice import Choice\nfrom ..checks import unknown\n", encoding="utf-8")
    source = Source(file, tmp_path, "pliant")
    assert source.module == ("pliant", "space")
    assert source.imports() == {("pliant", "space", "choice", "Choice"), ("pliant", "checks", "unknown")}


def test_words_are_identifiers_and_strings_but_not_docstrings(source: Source) -> None:
    words = {word for _, word in source.words()}
    assert {"Width", "nsga2", "PliantError"} <= words
    assert not any("sandwich" in word or "names" in word for word in words)


def test_constructors_count_fields_and_arguments(source: Source) -> None:
    assert dict(source.constructors()) == {"Record": 2, "Plain": 2}
