"""Being alone with a study, or one of several searches that share it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from ..space import Config
from .claims import Claim, Claims, Verdict
from .records import Record
from .store import Store

POLL_SECONDS = 0.5
"""How often to look what other searches have done."""

_log = logging.getLogger("pliant.study")


@dataclass(frozen=True)
class News:
    """What other searches did since the last look.

    Attributes:
        records: what they measured.
        taken: configs that one of them died over, which are now ours, with the number of the repeat.
        held: keys of the claims that they are at work on.
    """

    records: list[Record] = field(default_factory=list)
    taken: list[tuple[Config, int]] = field(default_factory=list)
    held: frozenset[str] = frozenset()


class Sharing(Protocol):
    """How a search comes to terms with others on the same study."""

    poll: float | None
    """How long to wait for workers before others are looked after; ``None`` where there are none."""

    company: bool
    """Whether others are at work on the study now."""

    def take(self, config: Config, repeat: int, limit: int) -> Verdict:
        """Claim a config before it is measured."""
        ...

    def settle(self, config: Config, repeat: int, row: int) -> None:
        """Note that it was measured."""
        ...

    def drop(self, config: Config, repeat: int) -> None:
        """Give a claim back."""
        ...

    def look(self) -> News | None:
        """Return what others did, or ``None`` where it is too early to look again."""
        ...


class Alone:
    """Nobody else can get at the study."""

    poll: float | None = None
    company = False

    def take(self, config: Config, repeat: int, limit: int) -> Verdict:
        """Everything is ours."""
        return "ours"

    def settle(self, config: Config, repeat: int, row: int) -> None:
        """Nobody needs to know."""

    def drop(self, config: Config, repeat: int) -> None:
        """Nobody waits for it."""

    def look(self) -> News | None:
        """There is never any."""
        return None


class Shared:
    """Others may be at work on the same study, through the same server.

    Args:
        store: of the study.
        claims: of this search.
        records: what is stored already.
        seen: ids of their rows.
    """

    poll: float | None = POLL_SECONDS

    def __init__(self, store: Store, claims: Claims, records: Iterable[Record], seen: set[int]) -> None:
        self._store, self._claims, self._seen = store, claims, seen
        self._done: set[str] = set()
        self._last = -float("inf")
        self.company = claims.others() > 0
        claimed = claims.keys()
        for record in records:  # by another program, or before there were claims
            key = key_of(record.config, record.repeat)
            self._done.add(key)
            if key not in claimed:
                kind = "import" if record.imported else "repeat" if record.repeat else "trial"
                claims.settle(key, record.config.to_json(), kind, record.repeat)

    def take(self, config: Config, repeat: int, limit: int) -> Verdict:
        """Claim a config; see :meth:`Claims.take`."""
        return self._claims.take(key_of(config, repeat), config.to_json(), repeat=repeat, limit=limit)

    def settle(self, config: Config, repeat: int, row: int) -> None:
        """Note that it was measured, and that ``row`` is no news to us."""
        self._seen.add(row)
        key = key_of(config, repeat)
        self._done.add(key)
        self._claims.settle(key, config.to_json(), "repeat" if repeat else "trial", repeat)

    def drop(self, config: Config, repeat: int) -> None:
        """Let it be claimed anew."""
        self._claims.drop(key_of(config, repeat))

    def look(self) -> News | None:
        """Read new rows, and take over what the dead have left; at most every :data:`POLL_SECONDS`."""
        if time.monotonic() - self._last < POLL_SECONDS:
            return None
        others = self._claims.foreign()
        records = self._read()
        self.company = self._claims.others() > 0
        taken = [claim for claim in others if claim.orphaned and self._seized(claim)]
        if taken:  # one that only seemed dead may have finished meanwhile
            records += self._read()
        self._last = time.monotonic()
        return News(
            records,
            [(Config.from_json(claim.config), claim.repeat) for claim in taken if claim.key not in self._done],
            frozenset(claim.key for claim in others),
        )

    def _read(self) -> list[Record]:
        records = self._store.records(self._seen)
        self._done.update(key_of(record.config, record.repeat) for record in records)
        return records

    def _seized(self, claim: Claim) -> bool:
        if claim.key in self._done:  # it died before it could say that it was done
            self._claims.settle(claim.key, claim.config, "repeat" if claim.repeat else "trial", claim.repeat)
            return False
        if not self._claims.seize(claim):
            return False
        _log.warning("another search died while it measured %s: it is measured here", claim.config)
        self._store.bury(claim)
        return True


def key_of(config: Config, repeat: int) -> str:
    """Return the name of the claim on measuring ``config`` for the ``repeat``-th time."""
    return f"{config.key}#{repeat}" if repeat else config.key
