"""One thread for the linear algebra of searchers: their matrices are small, and threads would wait for one another."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import scipy.linalg  # noqa: F401  (it brings a library of its own, which has to be loaded to be found)
from threadpoolctl import ThreadpoolController


@cache
def _libraries() -> Any:
    return ThreadpoolController()


def one_thread() -> AbstractContextManager[Any]:
    """Return a context in which NumPy and SciPy compute with one thread; outside of it, with as many as before.

    With two threads on two cores that somebody else uses too, a Gaussian process over 100 measurements took six times
    as long; on a quiet machine nothing is lost with matrices of this size.
    """
    limited: AbstractContextManager[Any] = _libraries().limit(limits=1, user_api="blas")
    return limited
