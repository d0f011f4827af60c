"""Every code block of the README, CONTRIBUTING and the concepts page does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import pliant
from pliant import catalog
from tests.helpers.source import ROOT

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CLI = "import sys; from pliant.cli.main import app; sys.argv[0] = 'pliant'; app()"


def _blocks(file: str, language: str) -> list[str]:
    return [code for found, code in _BLOCK.findall((ROOT / file).read_text(encoding="utf-8")) if found == language]


def _lines(file: str, command: str) -> list[str]:
    lines = [line.partition("#")[0].strip() for block in _blocks(file, "bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith(command)]


def test_the_readme_has_no_other_kind_of_block() -> None:
    kinds = {kind for kind, _ in _BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))}
    assert kinds == {"bash", "python"}
    commands = {line.split()[0] for line in _lines("README.md", "")} - {""}
    assert commands == {"make", "pip", "pliant"}


def test_its_make_targets_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert _lines("README.md", "make") == ["make demo", "make test"]
    assert {line.split()[1] for line in _lines("README.md", "make")} <= targets


def test_its_extras_exist() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {extra for line in _lines("README.md", "pip") for extra in re.findall(r"\[(\w+)\]", line)}
    assert named <= set(project["optional-dependencies"])


@pytest.mark.slow
def test_its_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = _blocks("README.md", "python")
    assert blocks
    namespace: dict[str, object] = {"__name__": "readme"}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    assert (tmp_path / "net.pt2").stat().st_size > 0
    assert "error" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("line", _lines("README.md", "pliant"))
def test_its_commands_exist(line: str) -> None:
    """Only the help of each: what they do is tested where they are."""
    subcommand = line.split()[1]
    done = subprocess.run(
        [sys.executable, "-c", _CLI, subcommand, "--help"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_command_line_page_names_every_command() -> None:
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    shown = subprocess.run([sys.executable, "-c", _CLI, "--help"], check=True, capture_output=True, text=True).stdout
    for command in set(re.findall(r"^\| `pliant ([\w-]+)", page, re.MULTILINE)):
        assert command in shown
    assert len(re.findall(r"^\| `pliant", page, re.MULTILINE)) == 8


@pytest.mark.parametrize("page", ["concepts.md", pytest.param("choices.md", marks=pytest.mark.slow)])
def test_the_pages_run(page: str) -> None:
    for block in _blocks(f"docs/{page}", "python"):
        exec(compile(block, f"docs/{page}", "exec"), {})


def test_the_choices_page_names_every_technique() -> None:
    text = (ROOT / "docs" / "choices.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", text.partition("| --- | --- |")[2].partition("\n\n")[0]))
    assert named == {catalog.load(name).__name__ for name in catalog.names("elastic")}


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_public_names_in_the_docs_exist(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for name in re.findall(r"\bpliant\.(\w+)\(", text):
        assert hasattr(pliant, name), f"docs/{page} uses pliant.{name}"
    for line in re.findall(r"^from pliant import (.+)$", text, re.MULTILINE):
        for name in line.split(", "):
            assert hasattr(pliant, name), f"docs/{page} imports {name}"


def test_the_searchers_that_are_recommended_exist() -> None:
    text = (ROOT / "docs" / "searchers.md").read_text(encoding="utf-8")
    table = text.partition("| you have | take |")[2].partition("\n\n")[0]
    named = {name for name in re.findall(r"`(\w+)[(`]", table) if name[0].isupper()}
    assert named <= set(catalog.classes())
    assert named >= {catalog.load(name).__name__ for name in catalog.names("search")}
