"""Where Lightning or accelerate is not installed, the first use says what to install."""

from __future__ import annotations

import sys
from importlib import import_module

import pytest

from pliant.checks import MissingExtraError


@pytest.mark.parametrize(
    ("room", "package", "extra"),
    [
        ("pliant.training.lightning", "lightning", "lightning"),
        ("pliant.training.hf", "accelerate", "hf"),
    ],
)
def test_the_install_line_is_in_the_error(room: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import_module("pliant.training")
    for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, room, raising=False)
    with pytest.raises(MissingExtraError, match=rf"pip install 'pliant\[{extra}\]'"):
        import_module(room)
