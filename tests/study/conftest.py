"""One server for all tests that want one, and a searcher that costs nothing where a test does not say which."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pliant.techniques import search as techniques
from tests.helpers.nursery import Nursery
from tests.study.postgres import Server


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(techniques, "DEFAULT", "nsga2")
        yield


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """Starts searches that have imported what they need; the moments of a kill are then those of the search."""
    with Nursery("tests.study.killed_search", "optuna.storages", cwd=Path(__file__).parents[2]) as made:
        yield made


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()
