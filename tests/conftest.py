"""Seeds for every test, and one thread, so that the same test gives the same numbers wherever it runs."""

from __future__ import annotations

import gc
import os
import random

# NumPy's library of linear algebra reads this when it is loaded, and what tests start inherits it. Two processes of
# tests whose threads wait for one another on two cores take ten times as long where matrices are small.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("pliant", deadline=None, derandomize=True)  # a busy machine is no failure
settings.load_profile("pliant")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many processes run the tests: two for whole folders, none beside this one for single files."""
    single = any(".py" in argument for argument in config.args)
    return 0 if single else min(2, os.cpu_count() or 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files: at the end one process would wait for the other."""
    items.sort(key=lambda item: item.path.parent.name not in ("runs", "study"))


def pytest_collection_finish() -> None:
    """Leave what was imported out of garbage collection: looking through it over and over takes a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5000, 20, 50)  # what tests import later is as large, and would be looked through as often


def pytest_sessionfinish() -> None:
    """Let the interpreter clear at its end what was left out."""
    gc.unfreeze()


@pytest.fixture
def seed() -> int:
    """Return the one seed that tests use."""
    return 20240601


@pytest.fixture(autouse=True)
def _seeded(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (third parties still draw from the global generator)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed also notes the stack, for each kind of accelerator


@pytest.fixture
def rng(seed: int) -> random.Random:
    """Return a generator of its own, for whatever takes one."""
    return random.Random(seed)
