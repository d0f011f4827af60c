"""The rules of the layout, read from the source; each says what to do about a breach."""

from __future__ import annotations

import importlib.util
from importlib import import_module

import pytest

from pliant import catalog
from tests.helpers.source import ROOT, Source, sources

SRC = sources(ROOT / "src" / "pliant", "pliant")
TESTS = sources(ROOT / "tests", "tests")
OWN_TECHNIQUES = [
    source
    for source in SRC
    if source.module[1:2] == ("techniques",) and len(source.module) == 4 and not source.module[3].startswith("_")
]

# A room imports only rooms of lines above its own; rooms of one line know nothing of each other.
LINES = (
    "checks",
    "files",
    "technique",
    "catalog",
    "space graph",
    "family",
    "techniques",
    "training",
    "measure",
    "study",
    "export",
    "serve",
    "report",
    "tasks",
    "runs",
    "cli",
    "testing",
    "__main__",  # the command again: `python -m pliant`
)
RANK = {room: rank for rank, line in enumerate(LINES) for room in line.split()}

# Names of technique files that are also plain words of the field: as strings they may mean something else.
PLAIN_WORDS = {"depth", "operations", "resolution", "width"}


def _room(source: Source) -> str:
    return source.module[1] if len(source.module) > 1 else ""


def test_files_are_short() -> None:
    long = {source.path: lines for source in SRC + TESTS if (lines := source.text.count("\n")) > 400}
    assert not long, f"split these, none may pass 400 lines: {long}"


@pytest.mark.slow
def test_functions_are_short() -> None:
    long = [
        f"{source.path}:{node.lineno} {node.name} {lines} lines"
        for source in SRC + TESTS
        for node in source.functions()
        if (lines := (node.end_lineno or node.lineno) - node.lineno + 1) >= 60
    ]
    assert not long, "split these, functions stay under 60 lines:\n" + "\n".join(long)


def test_constructors_take_few_arguments() -> None:
    wide = [f"{source.path} {name}: {count}" for source in SRC for name, count in source.constructors() if count >= 8]
    assert not wide, "group the arguments of these, constructors take fewer than 8:\n" + "\n".join(wide)


def test_every_room_has_a_place() -> None:
    unknown = {_room(source) for source in SRC} - set(RANK) - {""}
    assert not unknown, f"add {unknown} to LINES, and to the design"


def test_rooms_import_only_what_is_before_them() -> None:
    wrong = []
    for source in SRC:
        room = _room(source)
        for target in source.imports() if room else ():
            other = target[1] if target[0] == "pliant" and len(target) > 1 else room
            if other == "__version__":
                continue
            if target == ("pliant",) or (other != room and RANK.get(other, len(LINES)) >= RANK.get(room, 0)):
                wrong.append(f"{source.path} imports {'.'.join(target)}")
    assert not wrong, "these imports go the wrong way (TYPE_CHECKING is exempt):\n" + "\n".join(wrong)


def test_techniques_of_different_kinds_do_not_import_each_other() -> None:
    wrong = [
        f"{source.path} imports {'.'.join(target)}"
        for source in SRC
        for target in source.imports()
        if target[:2] == ("pliant", "techniques") and len(target) > 2 and target[:3] != source.module[:3]
    ]
    assert not wrong, "techniques meet in the nouns, never in each other:\n" + "\n".join(wrong)


def test_nothing_outside_techniques_names_one() -> None:
    files = set(catalog.names()) - PLAIN_WORDS
    classes = {name for name in catalog.classes() if name.lower() not in PLAIN_WORDS}
    paths = {f"{kind}{joint}{name}" for kind in catalog.kinds() for name in catalog.names(kind) for joint in "./"}
    named = [
        f"{source.path}:{line} {word!r}"
        for source in SRC
        if _room(source) != "techniques"
        for line, word in source.words()
        if word in classes or word in files or any(path in word for path in paths)
    ]
    assert not named, "ask the catalog instead (catalog.default(kind), or what the user named):\n" + "\n".join(named)


def test_defaults_name_a_technique_of_their_kind() -> None:
    for kind in catalog.kinds():
        default = getattr(import_module(f"pliant.techniques.{kind}"), "DEFAULT", None)
        assert default is None or default in catalog.names(kind), f"techniques/{kind}/__init__.py: {default!r}"


@pytest.mark.parametrize("source", OWN_TECHNIQUES, ids=lambda source: source.path)
def test_every_technique_has_a_test(source: Source) -> None:
    kind, name = source.module[2:]
    wanted = ROOT / "tests" / "techniques" / kind / f"test_{name}.py"
    assert wanted.exists(), f"write {wanted.relative_to(ROOT)}"


def test_the_table_of_systems_is_current() -> None:
    spec = importlib.util.spec_from_file_location("systems", ROOT / "tools" / "systems.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.FILE.read_text(encoding="utf-8") == tool.render(), "run `make systems`"
