"""An evaluation as bytes, for other processes: whatever the user wrote goes along, lambdas and scripts included."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from ...checks import NoEffectWarning, PliantError, first_line
from ...family.family import Family
from ..evaluation import Evaluation


def packed(evaluation: Evaluation) -> bytes:
    """Return ``evaluation`` as bytes.

    Functions and classes of a script, a notebook or a file that cannot be imported by name go by value; those of
    installed packages by name. A family is taken apart, and made again where it is unpacked.

    Raises:
        PliantError: something in it cannot be sent, such as an open file.
    """
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc,name-defined,unused-ignore]
        def reducer_override(self, value: Any) -> Any:
            if isinstance(value, Family):
                return _rebuilt, _parts(value)
            return super().reducer_override(value)

    mine = _unimportable()
    for module in mine:
        cloudpickle.register_pickle_by_value(module)
    buffer = io.BytesIO()
    try:
        Pickler(buffer).dump(evaluation)
    except Exception as error:  # whatever an object's own way of being pickled raises
        raise PliantError(
            f"the family or an objective cannot be sent to a worker ({type(error).__name__}: {first_line(error)}): "
            "keep open files, locks and connections out of what an objective holds, and open them when it is called; "
            "or use workers=1"
        ) from error
    finally:
        for module in mine:
            cloudpickle.unregister_pickle_by_value(module)
    return buffer.getvalue()


def unpacked(content: bytes) -> Evaluation:
    """Return the evaluation that :func:`packed` was given; only for bytes that come from the searching process."""
    import cloudpickle

    found: Evaluation = cloudpickle.loads(content)
    return found


def _unimportable() -> list[ModuleType]:
    """Return loaded modules that a new process would not find, such as a task's file: those go by value."""
    names = [name for name in sys.modules if "." not in name and name not in ("__main__", "__mp_main__", "pliant")]
    return [sys.modules[name] for name in names if _from_file(name) and not _found(name)]


def _from_file(name: str) -> bool:
    module = sys.modules[name]
    named = isinstance(module, ModuleType) and module.__name__ == name
    return named and str(getattr(module, "__file__", None)).endswith(".py")


def _found(name: str) -> bool:
    # `importlib.util.find_spec` would look no further than at what is loaded.
    return any(finder.find_spec(name, None) is not None for finder in sys.meta_path if hasattr(finder, "find_spec"))


def _parts(family: Family) -> tuple[Any, ...]:
    capture = family.analysis.capture
    return (
        family.model,
        capture.args,
        dict(capture.kwargs),
        family.techniques,
        [str(constraint) for constraint in family.space.constraints],
        capture.scope.only or None,
        family._calibration,
        family.prepared,
        family.space.digest,
        family.extra.state(),
    )


def _rebuilt(
    model: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    techniques: Sequence[Any],
    constraints: list[str],
    only: str | None,
    calibration: list[Any],
    prepared: bool,
    digest: str,
    extra: dict[str, Any],
) -> Family:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)  # it was said where the family was first made
        family = Family(model, args, techniques, kwargs, constraints, only=only)
    if family.space.digest != digest:
        raise PliantError(
            "a worker made another space of the family than the search has: is it another version of torch or Pliant?"
        )
    family.prepared = prepared
    family.extra.load(extra)
    if calibration:
        family.calibrate_with([(inputs, None) for inputs in calibration], len(calibration))
    return family
