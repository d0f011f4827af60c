"""Find a task by its name or its file, and read it."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ..checks import nearest, unknown
from .guard import TaskError, TaskMissingError, guarded
from .task import SIGNATURES, Task

BUILT_IN = ("charlm", "digits")


def load_task(text: str | Path) -> Task:
    """Return the task that ``text`` names.

    ``text`` is a built-in name (``"digits"``, ``"digits:convnet"``) or a file (``"path/to/file.py"``,
    ``"file.py:variant"``).

    A user's file is run as a module whose folder is importable, as if it had been started by ``python file.py``.
    Raises :class:`TaskError` or :class:`~pliant.checks.UnknownNameError` with what to do.
    """
    name, variant = _split(str(text))
    place = name
    if _is_path(name):
        source = Path(name).expanduser()
        module = _read(source)
        place = str(source.resolve())
    else:
        module = importlib.import_module(f"{__package__}.{_built_in(name)}")
        source = Path(str(module.__file__))
    variant = _variant(module, name, variant)
    functions = _functions(module, source)
    return Task(
        name=f"{name}:{variant}" if variant else name,
        functions=functions,
        source=source,
        variant=variant,
        settings=_settings(module, source, variant),
        place=f"{place}:{variant}" if variant else place,
    )


def _split(text: str) -> tuple[str, str]:
    """Part ``"name:variant"``; a colon before a separator belongs to a path, as after a drive's letter."""
    name, colon, variant = text.rpartition(":")
    if not colon or "/" in variant or "\\" in variant:
        return text, ""
    return name, variant


def _is_path(name: str) -> bool:
    return name.endswith(".py") or "/" in name or "\\" in name


def _built_in(name: str) -> str:
    if name in BUILT_IN:
        return name
    for path in (Path(name), Path(f"{name}.py")):
        if path.is_file():
            raise TaskError(f"there is no built-in task named {name!r}; for the file of that name write ./{path}")
    raise unknown("task", name, BUILT_IN)


def _read(source: Path) -> ModuleType:
    if source.is_dir():
        raise TaskError(f"{source} is a folder: give the Python file that holds the task")
    if not source.is_file():
        near = nearest(source.name, [path.name for path in source.parent.glob("*.py")])
        raise TaskMissingError(
            f"there is no task file {source}{near} (`pliant new-task {source}` writes one to start from)"
        )
    if source.suffix != ".py":
        raise TaskError(f"{source} is not a Python file: a task is a .py file with five functions")
    digest = hashlib.blake2b(str(source.resolve()).encode(), digest_size=4).hexdigest()
    name = f"pliant_task_{source.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, source.resolve())
    assert spec is not None
    assert spec.loader is not None  # a .py file always has one
    module = importlib.util.module_from_spec(spec)
    folder = str(source.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # last, so that a neighbour of the task can't hide an installed package
    sys.modules[name] = module  # dataclasses and the like look their module up
    try:
        with guarded(source, ""):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _variant(module: ModuleType, name: str, variant: str) -> str:
    variants = tuple(getattr(module, "VARIANTS", ()))
    if not variant:
        return str(variants[0]) if variants else ""
    if not variants:
        raise TaskError(f"the task {name} has no variants, so {variant!r} can't be chosen: leave out ':{variant}'")
    if variant not in variants:
        raise unknown(f"variant of the task {name}", variant, map(str, variants))
    return variant


def _functions(module: ModuleType, source: Path) -> dict[str, Any]:
    functions = {name: getattr(module, name, None) for name in SIGNATURES}
    missing = [name for name, function in functions.items() if not callable(function)]
    if missing:
        defined = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        lines = [f"  {SIGNATURES[name]}: ...{nearest(name, set(defined) - set(SIGNATURES))}" for name in missing]
        listed = ", ".join(f"{name}()" for name in missing)
        raise TaskError(f"{source} lacks {listed}; a task needs\n" + "\n".join(lines))
    return functions


def _settings(module: ModuleType, source: Path, variant: str) -> dict[str, Any]:
    settings = getattr(module, "SETTINGS", {})
    if not isinstance(settings, Mapping) or not isinstance(settings.get("quick", {}), Mapping):
        raise TaskError(f'{source}: SETTINGS must be a dict such as {{"steps": 1000, "quick": {{"steps": 100}}}}')
    own = settings.get(variant, {}) if variant else {}
    variants = {str(name) for name in getattr(module, "VARIANTS", ())}
    shared = {name: value for name, value in settings.items() if name not in variants}
    merged = shared | dict(own)
    if "quick" in shared and "quick" in own:
        merged["quick"] = dict(shared["quick"]) | dict(own["quick"])
    return merged
