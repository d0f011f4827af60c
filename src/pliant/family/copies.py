"""Members brought up to date; and while a family serves, the gathered copies that they keep and share."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from ..checks import PliantError
from .outside import outside

if TYPE_CHECKING:
    from .aliases import AliasSet
    from .gathered import GatherAlias
    from .reading import State

_Key = tuple[int, object]


class _Row(NamedTuple):
    state: State
    full: nn.Parameter  # keeps it, and so its id, from being another's
    own: nn.Parameter
    holders: weakref.WeakSet[GatherAlias]


class Copies:
    """Copies of what members gather, one for all that gather the same, up to a number of bytes.

    Beyond it those that were asked for longest ago are given back, by the members that hold them too.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: float) -> None:
        self.limit, self.bytes = limit, 0
        self._rows: OrderedDict[_Key, _Row] = OrderedDict()

    def of(self, alias: GatherAlias, key: object, state: State, make: Callable[[], nn.Parameter]) -> nn.Parameter:
        """Return the copy of what ``alias`` gathers, made where there is none for this state of the weights."""
        full = alias.full
        at = (id(full), key)
        row = self._rows.get(at)
        if row is None or row.state != state:
            if row is not None:
                self._drop(at)
            row = self._rows[at] = _Row(state, full, make(), weakref.WeakSet())
            self.bytes += row.own.nbytes
        else:
            self._rows.move_to_end(at)
        row.holders.add(alias)
        return row.own

    def trim(self, least: int) -> None:
        """Give back what is over the limit, but for the ``least`` copies that were asked for last."""
        while self.bytes > self.limit and len(self._rows) > least:
            self._drop(next(iter(self._rows)))

    def clear(self) -> None:
        """Give all back."""
        while self._rows:
            self._drop(next(iter(self._rows)))

    def _drop(self, at: _Key) -> None:
        row = self._rows.pop(at)
        self.bytes -= row.own.nbytes
        for alias in row.holders:
            if alias.own is row.own:
                alias.shared = False  # one that a forward reads now is let go of when it ends
                alias.release()


class Upkeep:
    """Brings members up to date before they are used.

    Threads may share a family that does not learn: what changes which copies there are holds ``lock``; forwards do not.
    """

    def __init__(self) -> None:
        self.lock = RLock()
        self._copies: Copies | None = None

    @property
    def bytes(self) -> int:
        """Bytes of what is shared now."""
        return self._copies.bytes if self._copies is not None else 0

    def activate(self, aliases: AliasSet, running: bool = False) -> None:
        """Make a member ready; ``running``: for a forward that is about to begin, whose copies stay until it ends."""
        with self.lock, outside():
            if running:
                aliases.begun()
            aliases.link(running, self._copies)
            if self._copies is not None:
                self._copies.trim(len(aliases.gathers))

    def finished(self, aliases: AliasSet) -> None:
        """Learn that a forward has ended."""
        with self.lock:
            aliases.ended()

    @contextmanager
    def serving(self, copies: float, weights: int) -> Iterator[None]:
        """Let members share copies meanwhile, up to ``copies`` times ``weights`` bytes."""
        if not copies >= 0:
            raise PliantError(f"copies, a share of the weights' bytes, is 0 or more, not {copies:g}")
        if self._copies is not None:
            raise PliantError("this family serves already: leave the other serving() first")
        self._copies = Copies(copies * weights)
        try:
            yield
        finally:
            with self.lock:
                self._copies.clear()
                self._copies = None
