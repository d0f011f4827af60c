"""One server for all tests that want one, and a searcher that costs nothing where a test does not say which."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pliant.techniques import search as techniques
from tests.study.postgres import Server


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(techniques, "DEFAULT", "nsga2")
        yield


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()
