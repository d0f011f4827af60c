from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import pliant

SOURCE = Path(pliant.__file__)


def _run(line: str) -> str:
    return subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True).stdout


def test_import_brings_neither_techniques_nor_anything_heavy() -> None:
    """What is not loaded costs no time: a measured time would depend on the machine."""
    loaded = set(_run("import sys, pliant; print(*sys.modules, sep='\\n')").split())
    ours = {name for name in loaded if name.partition(".")[0] == "pliant"}
    assert ours == {"pliant", "pliant.checks"}
    standard = {*sys.stdlib_module_names, "pliant", "sitecustomize", "usercustomize"}
    third = {name.partition(".")[0] for name in loaded} - standard
    bare = {name.partition(".")[0] for name in _run("import sys; print(*sys.modules, sep='\\n')").split()}
    assert third <= bare  # whatever this environment loads into every process


@pytest.mark.parametrize("name", sorted(pliant._HOMES))
def test_every_public_name_is_found(name: str) -> None:
    if importlib.util.find_spec(f"pliant.{pliant._HOMES[name]}") is None:
        pytest.skip(f"the room {pliant._HOMES[name]} is not there")
    found = getattr(pliant, name)
    assert getattr(found, "__name__", name) == name
    assert found.__doc__
    assert name in dir(pliant)


def test_type_checkers_see_the_same_names() -> None:
    """The imports under TYPE_CHECKING and the table of homes say the same."""
    seen: dict[str, str | None] = {}
    for node in ast.walk(ast.parse(SOURCE.read_text(encoding="utf-8"))):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for line in node.body:
                assert isinstance(line, ast.ImportFrom)
                seen |= {str(alias.asname): line.module for alias in line.names}
    assert seen == pliant._HOMES


def test_unknown_names_offer_the_nearest() -> None:
    with pytest.raises(AttributeError, match=r"module 'pliant' has no attribute 'Latencies'; did you mean 'Latency'\?"):
        _ = pliant.Latencies
    with pytest.raises(AttributeError):
        _ = pliant.__nothing__


@pytest.mark.slow
def test_export_stays_a_function_when_its_room_is_imported() -> None:
    if importlib.util.find_spec("pliant.export") is None:
        pytest.skip("the room export is not there")
    assert _run("import pliant.export, pliant; print(callable(pliant.export), end='')") == "True"
