from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pliant.techniques
from pliant import catalog
from pliant.checks import PliantError, UnknownNameError

TECHNIQUE = '''
from dataclasses import dataclass
from pliant.technique import Paper, Technique

@dataclass(frozen=True)
class {name}(Technique):
    """{name} in one line.

    More of it.
    """
    paper = Paper("A. Author", 2024, "A title", "2401.00001")
    size: int = 3
'''


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A catalog of three made-up techniques of two kinds, and one from another distribution."""
    folder = tmp_path / "techniques"
    _write(
        folder,
        {
            "shape/__init__.py": 'DEFAULT = "low_rank"\n',
            "shape/low_rank.py": TECHNIQUE.format(name="LowRank"),
            "shape/_helper.py": "raise RuntimeError('imported')\n",
            "hunt/__init__.py": "",
            "hunt/nsga2.py": "from pliant.techniques.shape.low_rank import LowRank\n" + TECHNIQUE.format(name="NSGA2"),
            "hunt/broken.py": "class Other: ...\n",
            "README.md": "not a kind\n",
        },
    )
    _write(
        tmp_path,
        {
            "toy_plugin.py": TECHNIQUE.format(name="FarAway"),
            "toy-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n",
            "toy-1.0.dist-info/entry_points.txt": "[pliant.techniques]\nhunt.far_away = toy_plugin:FarAway\n",
        },
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(catalog, "_FOLDER", folder)
    monkeypatch.setattr(pliant.techniques, "__path__", [str(folder)])
    before = set(sys.modules)
    _forget()
    yield tmp_path
    _forget()
    for name in set(sys.modules) - before:
        if name.startswith(("pliant.techniques.", "toy_plugin")):
            del sys.modules[name]
    for name in ("FarAway", "LowRank", "NSGA2"):
        vars(pliant).pop(name, None)


def _forget() -> None:
    catalog._places.cache_clear()
    catalog.load.cache_clear()


def test_files_are_found_without_importing_them(toys: Path) -> None:
    assert catalog.kinds() == ["hunt", "shape"]
    assert catalog.names() == ["broken", "far_away", "low_rank", "nsga2"]
    assert catalog.names("hunt") == ["broken", "far_away", "nsga2"]
    assert catalog.classes() == ["FarAway", "LowRank", "NSGA2"]
    assert "pliant.techniques.shape.low_rank" not in sys.modules
    assert "toy_plugin" not in sys.modules


@pytest.mark.parametrize("name", ["low_rank", "LowRank", "lowrank"])
def test_load_takes_the_name_of_the_file_or_the_class(toys: Path, name: str) -> None:
    found = catalog.load(name)
    assert found.__name__ == "LowRank"
    assert "pliant.techniques.hunt.nsga2" not in sys.modules
    assert catalog.kind_of(name) == "shape"


def test_load_takes_the_class_of_the_file_and_not_one_that_it_imports(toys: Path) -> None:
    assert catalog.load("nsga2").__name__ == "NSGA2"


def test_entry_points(toys: Path) -> None:
    assert catalog.load("far_away").__name__ == "FarAway"
    assert catalog.kind_of("FarAway") == "hunt"
    assert pliant.FarAway is catalog.load("far_away")


def test_defaults(toys: Path) -> None:
    assert repr(catalog.default("shape")) == "LowRank(size=3)"
    with pytest.raises(PliantError, match="'hunt' has no default technique; name one of broken, far_away, nsga2"):
        catalog.default("hunt")
    with pytest.raises(UnknownNameError, match=r"no kind of technique named 'shap'; did you mean 'shape'\?"):
        catalog.default("shap")


def test_unknown_names(toys: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"no technique named 'low_rnk'; did you mean 'low_rank'\?"):
        catalog.load("low_rnk")
    with pytest.raises(UnknownNameError, match="no kind of technique named 'x'"):
        catalog.names("x")


def test_a_file_without_its_class(toys: Path) -> None:
    with pytest.raises(PliantError, match=r"techniques/hunt/broken\.py must hold a subclass of Technique"):
        catalog.load("broken")


def test_two_techniques_of_one_name(toys: Path) -> None:
    _write(toys / "techniques", {"hunt/lowrank.py": TECHNIQUE.format(name="LowRank")})
    _forget()
    with pytest.raises(PliantError, match=r"two techniques are named 'low_rank'.*rename one"):
        catalog.names()


def test_an_entry_point_without_a_kind(toys: Path) -> None:
    _write(toys, {"toy-1.0.dist-info/entry_points.txt": "[pliant.techniques]\nfar = toy_plugin:FarAway\n"})
    _forget()
    with pytest.raises(PliantError, match=r"has no kind; name it '<kind>\.far'"):
        catalog.names()


def test_entries(toys: Path) -> None:
    (toys / "techniques/hunt/broken.py").unlink()
    _forget()
    rows = catalog.entries()
    assert [(row.kind, row.name) for row in rows] == [("hunt", "FarAway"), ("hunt", "NSGA2"), ("shape", "LowRank")]
    assert rows[2].summary == "LowRank in one line."
    assert rows[2].paper == "A. Author (2024), A title, arXiv 2401.00001"


def test_public_names_come_from_the_catalog(toys: Path) -> None:
    assert pliant.LowRank is catalog.load("low_rank")
    assert "NSGA2" in dir(pliant)
    with pytest.raises(AttributeError, match=r"no attribute 'LowRnk'; did you mean 'LowRank'\?"):
        _ = pliant.LowRnk


def test_the_real_catalog_is_read_without_importing_it() -> None:
    line = (
        "import sys; from pliant import catalog; catalog.names(); catalog.classes(); "
        "print(*[name for name in sys.modules if name.startswith('pliant.techniques.')])"
    )
    assert subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True).stdout == "\n"
