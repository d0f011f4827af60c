"""Every technique that the catalog lists passes the contract."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pliant import catalog
from pliant.technique import Technique
from pliant.testing import CHECKS


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", catalog.names())
def test_contract(name: str, check: Callable[[type[Technique]], None]) -> None:
    check(catalog.load(name))
