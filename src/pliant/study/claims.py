"""Who measures what, where several searches share a study on one PostgreSQL server.

A config is claimed by a row of a table of our own, beside Optuna's: the database sees to it that there is one. Claims
carry a heartbeat by the server's clock; one that has stopped is taken over by another search. A search that died on
the same machine is known at once, by its process.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import threading
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from .patience import Patience

BEAT_SECONDS = 5.0
GRACE_SECONDS = 60.0
"""How long a search may be silent before its configs are given to others."""

LOCK = 0x706C69616E74  # "pliant", for the server's advisory locks

_TABLES = (
    """CREATE TABLE IF NOT EXISTS pliant_claims (
        study_id INTEGER NOT NULL, key VARCHAR(64) NOT NULL, config TEXT NOT NULL, kind VARCHAR(8) NOT NULL,
        repeat INTEGER NOT NULL, runner VARCHAR(128) NOT NULL, done BOOLEAN NOT NULL,
        beat TIMESTAMP WITH TIME ZONE NOT NULL, PRIMARY KEY (study_id, key))""",
    """CREATE TABLE IF NOT EXISTS pliant_runners (
        study_id INTEGER NOT NULL, runner VARCHAR(128) NOT NULL, beat TIMESTAMP WITH TIME ZONE NOT NULL,
        PRIMARY KEY (study_id, runner))""",
)

Verdict = Literal["ours", "held", "full"]


@dataclass(frozen=True)
class Claim:
    """A config that another search measures; ``orphaned`` where that one died over it."""

    key: str
    config: str
    repeat: int
    runner: str
    beat: Any
    orphaned: bool


class Claims:
    """The claims of one search on one study.

    Args:
        engine: SQLAlchemy's engine of a PostgreSQL database.
        study_id: Optuna's number of the study.
        patience: runs an action, again and again while the server is away.
    """

    def __init__(self, engine: Any, study_id: int, patience: Patience) -> None:
        self._engine = engine
        self._study = study_id
        self._patience = patience
        self.runner = _own_name()
        self._stop = threading.Event()
        self._beat()
        self._thread = threading.Thread(target=self._keep_beating, name="pliant-heartbeat", daemon=True)
        self._thread.start()

    @staticmethod
    def make_tables(connection: Any) -> None:
        """Make the tables where they are missing; to be called under :data:`LOCK`."""
        from sqlalchemy import text

        for table in _TABLES:
            connection.execute(text(table))
        connection.commit()

    def _run(self, statement: str, patient: bool = True, **values: Any) -> tuple[int, list[Any]]:
        from sqlalchemy import text

        def action() -> tuple[int, list[Any]]:
            with self._engine.begin() as connection:
                result = connection.execute(text(statement), {"study": self._study, "me": self.runner, **values})
                return result.rowcount, list(result) if result.returns_rows else []

        return self._patience(action) if patient else action()

    def take(self, key: str, config: str, *, repeat: int = 0, limit: int) -> Verdict:
        """Claim a config; ``"held"`` where it is another's or was measured, ``"full"`` where ``limit`` are claimed."""
        from sqlalchemy import text

        values = {"study": self._study, "me": self.runner, "key": key, "config": config, "repeat": repeat}
        kind = "repeat" if repeat else "trial"

        def action() -> Verdict:
            with self._engine.begin() as connection:
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock, :study)"), {"lock": 0x706C, **values})
                held = connection.execute(
                    text("SELECT runner, done FROM pliant_claims WHERE study_id = :study AND key = :key"), values
                ).first()
                if held is not None:  # ours only where the answer to the first try was lost
                    return "ours" if held.runner == self.runner and not held.done else "held"
                count = "SELECT count(*) FROM pliant_claims WHERE study_id = :study AND kind = 'trial'"
                if not repeat and connection.execute(text(count), values).scalar_one() >= limit:
                    return "full"
                connection.execute(
                    text(
                        "INSERT INTO pliant_claims (study_id, key, config, kind, repeat, runner, done, beat) VALUES "
                        f"(:study, :key, :config, '{kind}', :repeat, :me, FALSE, clock_timestamp())"
                    ),
                    values,
                )
                return "ours"

        return self._patience(action)

    def settle(self, key: str, config: str, kind: str = "trial", repeat: int = 0) -> None:
        """Note that a config is measured, whoever did it and whether or not it was claimed."""
        self._run(
            "INSERT INTO pliant_claims (study_id, key, config, kind, repeat, runner, done, beat) "
            "VALUES (:study, :key, :config, :kind, :repeat, :me, TRUE, clock_timestamp()) "
            "ON CONFLICT (study_id, key) DO UPDATE SET done = TRUE",
            key=key,
            config=config,
            kind=kind,
            repeat=repeat,
        )

    def keys(self) -> set[str]:
        """Return the keys of all claims."""
        _, rows = self._run("SELECT key FROM pliant_claims WHERE study_id = :study")
        return {row.key for row in rows}

    def drop(self, key: str) -> None:
        """Let a config be claimed anew."""
        self._run("DELETE FROM pliant_claims WHERE study_id = :study AND key = :key", key=key)

    def foreign(self) -> list[Claim]:
        """Return what other searches are measuring, or were when they died."""
        calm = self._patience.calm(GRACE_SECONDS)  # after the server was away, all have to show themselves anew
        _, rows = self._run(
            "SELECT key, config, repeat, runner, beat, "
            "EXTRACT(EPOCH FROM clock_timestamp() - beat) AS age FROM pliant_claims "
            "WHERE study_id = :study AND NOT done AND runner <> :me"
        )
        return [
            Claim(
                row.key,
                row.config,
                row.repeat,
                row.runner,
                row.beat,
                died(row.runner) or (calm and float(row.age) > GRACE_SECONDS),
            )
            for row in rows
        ]

    def seize(self, claim: Claim) -> bool:
        """Take over an orphan; false where someone was faster, or its search showed itself alive."""
        count, _ = self._run(
            "UPDATE pliant_claims SET runner = :me, beat = clock_timestamp() WHERE study_id = :study AND key = :key "
            "AND runner = :old AND beat = :beat AND NOT done",
            key=claim.key,
            old=claim.runner,
            beat=claim.beat,
        )
        return count == 1

    def others(self) -> int:
        """Return how many other searches are at work on the study."""
        _, rows = self._run(
            "SELECT runner, EXTRACT(EPOCH FROM clock_timestamp() - beat) AS age FROM pliant_runners "
            "WHERE study_id = :study AND runner <> :me"
        )
        return sum(float(row.age) <= GRACE_SECONDS and not died(row.runner) for row in rows)

    def seed(self, seed: int) -> int:
        """Return a seed for a searcher that has company, so that not all ask for the same configs."""
        return int.from_bytes(hashlib.blake2b(f"{seed}:{self.runner}".encode(), digest_size=4).digest(), "big")

    def _beat(self) -> None:
        self._run(
            "INSERT INTO pliant_runners (study_id, runner, beat) VALUES (:study, :me, clock_timestamp()) "
            "ON CONFLICT (study_id, runner) DO UPDATE SET beat = clock_timestamp()"
        )
        self._run(
            "UPDATE pliant_claims SET beat = clock_timestamp() WHERE study_id = :study AND runner = :me AND NOT done"
        )

    def _keep_beating(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            with contextlib.suppress(Exception):  # the search itself says when the server stays away
                self._beat()

    def close(self) -> None:
        """Stop the heartbeat and sign off."""
        _closed.add(self.runner)
        self._stop.set()
        self._thread.join(BEAT_SECONDS)
        with contextlib.suppress(Exception):
            self._run("DELETE FROM pliant_runners WHERE study_id = :study AND runner = :me", patient=False)


def _own_name() -> str:
    """Return ``place:process:start:random``; equal places see each other's processes."""
    return f"{_place()}:{os.getpid()}:{_started(os.getpid())}:{uuid.uuid4().hex[:12]}"


@cache
def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8")
        processes = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
    return hashlib.blake2b(f"{platform.node()} {boot} {processes}".encode(), digest_size=8).hexdigest()


def _started(process: int) -> str:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return ""


_closed: set[str] = set()
"""Searches of this very process that are over, also those that could not sign off."""


def died(runner: str) -> bool:
    """Tell whether a search is known to be over: it was a process of this machine that is no more."""
    if runner in _closed:
        return True
    place, process, started, _ = runner.split(":")
    return bool(place) and place == _place() and _started(int(process)) != started
