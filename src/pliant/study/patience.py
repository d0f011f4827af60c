"""Waiting for a database server that is away for a while: restarted, or behind a broken line."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ..checks import PliantError

RETRY_SECONDS = 60.0
"""How long a server may be away."""

_PAUSE = 0.5

_log = logging.getLogger("pliant.study")
_T = TypeVar("_T")


class Patience:
    """Runs actions; those that fail for want of the server are tried again until it has been away for too long.

    Actions must do no harm when they are run twice: the answer to one that was carried out may have been lost.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._trouble = float("-inf")
        self.seconds = RETRY_SECONDS

    def __call__(self, action: Callable[[], _T]) -> _T:
        """Return what ``action`` returns.

        Raises:
            PliantError: the server stayed away.
        """
        end = None
        while True:
            try:
                return action()
            except Exception as error:
                if not away(error):
                    raise
                self._trouble = time.monotonic()
                if end is None:
                    end = self._trouble + self.seconds
                    if self.seconds:
                        _log.warning(
                            "the database server of %s is away; waiting up to %.0f s", self._where, self.seconds
                        )
                if self._trouble >= end:
                    raise PliantError(
                        f"the database server of {self._where} did not answer for {self.seconds:.0f} s "
                        f"({_last(error)}); what was measured before is kept: run the same again when it is back"
                    ) from error
            time.sleep(_PAUSE)

    def calm(self, seconds: float) -> bool:
        """Tell whether the server was never away in the last ``seconds``."""
        return time.monotonic() - self._trouble > seconds


def away(error: BaseException) -> bool:
    """Tell whether ``error`` comes of a server that cannot be reached, shuts down or starts."""
    from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

    return any(
        isinstance(each, (OperationalError, InterfaceError))
        or (isinstance(each, DBAPIError) and each.connection_invalidated)
        for each in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _last(error: BaseException) -> str:
    texts: list[Any] = [str(each).strip() for each in _chain(error)]
    return str(texts[-1]).partition("\n")[0]
