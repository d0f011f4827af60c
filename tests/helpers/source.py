"""The source files of the project, and what they import and say, read without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Source:
    """One Python file; ``path`` is relative to ``base``, whose top package is ``package``."""

    file: Path
    base: Path
    package: str = ""

    @property
    def path(self) -> str:
        """Its path as messages show it."""
        return self.file.relative_to(self.base).as_posix()

    @cached_property
    def text(self) -> str:
        """Its text."""
        return self.file.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.text)

    @cached_property
    def module(self) -> tuple[str, ...]:
        """Its dotted name in parts, without ``__init__``."""
        parts = self.file.relative_to(self.base).with_suffix("").parts
        return (self.package, *(parts[:-1] if parts[-1] == "__init__" else parts))

    def imports(self) -> set[tuple[str, ...]]:
        """Return the dotted names, in parts, of what is imported when the code runs (not under TYPE_CHECKING)."""
        found: set[tuple[str, ...]] = set()
        for node in _run_time(self.tree):
            if isinstance(node, ast.Import):
                found |= {tuple(alias.name.split(".")) for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                start = self._start(node)
                found |= {(*start, alias.name) for alias in node.names}
        return found

    def _start(self, node: ast.ImportFrom) -> tuple[str, ...]:
        names = tuple(node.module.split(".")) if node.module else ()
        if not node.level:
            return names
        package = self.module if self.file.name == "__init__.py" else self.module[:-1]
        return (*package[: len(package) - node.level + 1], *names)

    def words(self) -> Iterator[tuple[int, str]]:
        """Yield the line and text of every identifier and every whole string, docstrings excepted."""
        nodes = list(ast.walk(self.tree))
        documentation = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.Name):
                yield node.lineno, node.id
            elif isinstance(node, ast.Attribute):
                yield node.lineno, node.attr
            elif isinstance(node, ast.ImportFrom):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
                yield node.lineno, node.value

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        """Yield every function and method."""
        for node in _statements(self.tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield node

    def constructors(self) -> Iterator[tuple[str, int]]:
        """Yield the name of every class and the number of arguments that its constructor takes."""
        for node in _statements(self.tree):
            if not isinstance(node, ast.ClassDef):
                continue
            if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
                fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
                yield node.name, sum(_is_argument(field) for field in fields)
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    given = method.args
                    yield node.name, len(given.posonlyargs + given.args + given.kwonlyargs) - 1


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Walk what holds statements and not their expressions, which are most of a tree and define nothing."""
    yield node
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        inner = getattr(node, field, ())
        for child in inner if isinstance(inner, list) else ():  # a lambda's and a conditional's are one expression
            yield from _statements(child)


def _is_argument(field: ast.AnnAssign) -> bool:
    value = "" if field.value is None else ast.unparse(field.value)
    return "ClassVar" not in ast.unparse(field.annotation) and "init=False" not in value


def _run_time(node: ast.AST) -> Iterator[ast.AST]:
    """Walk the tree, leaving out the bodies of ``if TYPE_CHECKING:``."""
    yield node
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        for other in node.orelse:
            yield from _run_time(other)
        return
    for child in ast.iter_child_nodes(node):
        yield from _run_time(child)


def sources(base: Path, package: str = "") -> list[Source]:
    """Return the Python files under ``base``, sorted."""
    return [Source(file, base, package) for file in sorted(base.rglob("*.py"))]
