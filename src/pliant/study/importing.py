"""Results that were measured elsewhere: read from CSV or JSON, checked whole before any is taken."""

from __future__ import annotations

import ast
import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..checks import CorruptFileError, PliantError, WrongShapeError, first_line, unknown
from ..measure import Measurement
from ..space import Choice, Config, Constraint, Option, Space
from .store import Store

Result = tuple[Config, dict[str, Measurement]]


def import_results(storage: str | Path, path: str | Path) -> int:
    """Read results that were measured elsewhere into an existing study; return how many were new to it.

    The next search goes on with them as if it had measured them, though they do not count in its budget. See
    :func:`read_results` for the file; ``search(…, results=path)`` does the same for a new study.

    Raises:
        CorruptFileError: the storage holds no study, or the file cannot be read.
        WrongShapeError, UnknownNameError: a row is wrong; the message says which, and nothing is imported.
    """
    with Store.open(storage, create=False) as store:
        plan = {key: value for key, value in store.plan().items() if key != "format"}
    with Store.open(storage) as store:
        store.claim(plan)
        return take_in(store, path)


def take_in(store: Store, path: str | Path, canonical: Any = None) -> int:
    """Add the results in ``path`` to the study of ``store``, those of configs that it knows left out."""
    plan = store.plan()
    results = read_results(path, plan)
    known = {record.config for record in store.records()}
    added = 0
    for config, measurements in results:
        config = config if canonical is None else canonical(config)
        if config in known:
            continue
        known.add(config)
        store.add(config, measurements, Path(path).name, len(known) - 1)
        if store.claims is not None:
            store.claims.settle(config.key, config.to_json(), "import")
        added += 1
    return added


def read_results(path: str | Path, plan: Mapping[str, Any]) -> list[Result]:
    """Read a file of results.

    A CSV file has one column for every choice and every objective, named like them, and one row for every config;
    commas part its cells, or semicolons or tabs. A JSON file is a list of objects with the same names; the choices may
    also stand together under ``"config"`` and the objectives under ``"values"``. What a constraint speaks about has to
    be there too, other extras may; a choice of one option may be left out.

    Args:
        path: ends in ``.csv`` or ``.json``.
        plan: what the study is made for, see :meth:`Plan.record`.

    Raises:
        CorruptFileError: it cannot be read.
        UnknownNameError: a column, choice or option that the study does not have.
        WrongShapeError: a missing column, a value that is no finite number, or a config that comes twice.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"cannot read the results {file}: save it as UTF-8 ({error})") from error
    except OSError as error:
        raise CorruptFileError(f"cannot read the results {file}: {first_line(error)}") from error
    if file.suffix.lower() == ".csv":
        rows = _from_csv(text, file)
    elif file.suffix.lower() == ".json":
        rows = _from_json(text, file)
    else:
        raise PliantError(f"results are a .csv or .json file, got {file}")
    return _Reader(file, plan).read(rows)


def _from_csv(text: str, file: Path) -> list[tuple[str, dict[str, Any]]]:
    first = text.partition("\n")[0]
    delimiter = "," if "," in first else next((each for each in ";\t" if each in first), ",")
    lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    if not lines or not any(lines[0]):
        raise CorruptFileError(f"{file} is empty: the first line names the columns")
    head = [name.strip() for name in lines[0]]
    twice = next((name for name in head if head.count(name) > 1), None)
    if twice is not None:
        raise WrongShapeError(f"{file}: two columns are named {twice!r}")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in line):
            continue
        if len(line) != len(head):
            raise WrongShapeError(
                f"{file}, row {number}: expected {len(head)} cells as in the first line, got {len(line)}"
            )
        rows.append((f"row {number}", dict(zip(head, (cell.strip() for cell in line), strict=True))))
    return rows


def _from_json(text: str, file: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise CorruptFileError(f"{file} is not JSON: {error}") from error
    if not isinstance(found, list):
        raise CorruptFileError(f"{file}: expected a list of results, got {type(found).__name__}")
    rows = []
    for number, each in enumerate(found, 1):
        if not isinstance(each, dict):
            raise WrongShapeError(f"{file}, row {number}: expected an object of column to value, got {each!r}")
        flat: dict[str, Any] = {}
        for key, value in each.items():
            flat |= value if key in ("config", "values") and isinstance(value, dict) else {key: value}
        rows.append((f"row {number}", flat))
    return rows


class _Reader:
    def __init__(self, file: Path, plan: Mapping[str, Any]) -> None:
        self._file = file
        self._space = Space.from_json(plan["space"])
        self._units = {name: unit for name, _, unit in plan["objectives"]}
        bounded = [Constraint.parse(text).name for text in plan["constraints"]]
        self._needed = list(dict.fromkeys([*self._units, *bounded]))
        self._values = list(dict.fromkeys([*self._needed, *plan["extras"]]))
        self._choices = {choice.name: choice for choice in self._space.choices}

    def read(self, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Result]:
        seen: dict[Config, str] = {}
        results = []
        for where, row in rows:
            config, measurements = self._row(where, row)
            if config in seen:
                raise WrongShapeError(f"{self._file}, {where} has the config of {seen[config]}; keep one of them")
            seen[config] = where
            results.append((config, measurements))
        return results

    def _row(self, where: str, row: Mapping[str, Any]) -> Result:
        place = f"{self._file}, {where}"
        alone = {name: choice.options[0] for name, choice in self._choices.items() if len(choice.options) == 1}
        row = {**{name: option for name, option in alone.items() if name not in row}, **row}
        for name in row:
            if name not in self._choices and name not in self._values:
                raise unknown(f"choice or measured value ({place}, column)", str(name), [*self._choices, *self._values])
        for name in (*self._choices, *self._needed):
            if name not in row or row[name] in ("", None):
                raise WrongShapeError(f"{place}: column {name!r} is missing or empty")
        options = {
            name: _option(choice, row[name], f"{place}, column {name!r}") for name, choice in self._choices.items()
        }
        try:
            config = self._space.check(options)
        except PliantError as error:
            raise WrongShapeError(f"{place}: {error}") from None
        details = {"imported": self._file.name, "row": where}
        measurements = {}
        for name in self._values:
            if row.get(name) not in ("", None):
                value = _number(row[name], f"{place}, column {name!r}")
                measurements[name] = Measurement(value, self._units.get(name, ""), details=details)
        return config, measurements


def _option(choice: Choice, value: Any, place: str) -> Option:
    """Return the option that a cell stands for: by its own value, or by its text."""
    if not isinstance(value, str) or value in choice.options:
        try:
            return choice.options[choice.index(value)]
        except PliantError as error:
            raise WrongShapeError(f"{place}: {error}") from None
    trouble = ""
    for reading in _readings(value):
        try:
            return choice.options[choice.index(reading)]
        except PliantError as error:
            trouble = trouble or str(error)
    raise WrongShapeError(f"{place}: {trouble}")


def _readings(text: str) -> list[Any]:
    """Return what a cell may stand for, the likeliest first."""
    found: list[Any] = []
    with suppress(ValueError):
        found.append(json.loads(text.lower() if text.lower() in ("true", "false") else text))
    with suppress(ValueError):
        found.append(float(text))
    with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        found.append(ast.literal_eval(text))  # as Python's own csv module writes a tuple
    return [*found, text]


def _number(value: Any, place: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise WrongShapeError(f"{place}: expected a finite number, got {value!r}")
    return number
