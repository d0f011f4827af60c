"""Opening a storage: what the words that a user gives for it mean, and what must hold before it is used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checks import MissingExtraError, PliantError
from .claims import LOCK, Claims
from .guard import check_file, guarded, quiet_optuna
from .lock import FileLock
from .patience import Patience, away

NAME = "pliant"
LOCK_SECONDS = 20.0
"""How long to wait for another program's lock on the SQLite file."""

CONNECT_SECONDS = 10
_DEAD_LINE = {"keepalives_idle": 20, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000}
"""So that a line to the server that is cut without a word is noticed within half a minute."""


@dataclass(frozen=True)
class Door:
    """An open storage of Optuna's with what belongs to it.

    Attributes:
        storage: Optuna's.
        given: what the caller gave.
        where: the same for messages, without its password; ``None`` in memory.
        name: of the study in it.
        lock: held on a file.
        patience: with a server, which several searches may share.
    """

    storage: Any
    given: str | None = None
    where: str | None = None
    name: str = NAME
    lock: FileLock | None = None
    patience: Patience | None = None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other searches from making the same study at the same time."""
        if self.patience is None:
            yield
            return
        with _held(self.storage.engine):
            yield

    def close(self) -> None:
        """Let go of it."""
        if self.where is not None:
            with suppress(Exception):  # a server that is away has nothing to be told
                self.storage.remove_session()
            self.storage.engine.dispose()
        if self.lock is not None:
            self.lock.release()


def open_door(storage: str | Path | None, *, create: bool) -> Door:
    """Open what :meth:`Store.open` is given, and raise what that says."""
    from optuna.storages import InMemoryStorage

    if storage is None:
        return Door(InMemoryStorage())
    if not isinstance(storage, (str, os.PathLike)):
        raise PliantError(f"a storage is a path or a URL, or None for memory, got {storage!r}")
    text = os.fspath(storage)
    if text == "sqlite://" or text.endswith(":memory:"):
        raise PliantError(f"{text!r} would be a study in memory, which is storage=None; to keep it, give a file")
    if text.startswith("sqlite:///"):  # a file like any other, so that it is checked and locked
        text = text.removeprefix("sqlite:///")
    if "://" not in text:
        return _file(_home(Path(text)).resolve(), str(storage), create)
    return _server(text, create)


def _home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # a file whose name begins with a tilde, and nobody's home
        return path


def _file(path: Path, given: str, create: bool) -> Door:
    import sqlalchemy
    from optuna.storages import RDBStorage

    check_file(path, create=create)
    lock = FileLock(path) if create else None
    try:
        with guarded(given), quiet_optuna():
            options = {"connect_args": {"timeout": LOCK_SECONDS}}
            url = sqlalchemy.URL.create("sqlite", database=str(path))  # which quotes what means something in a URL
            text = _verbatim(url.render_as_string(hide_password=False))
            opened = RDBStorage(text, engine_kwargs=options, skip_table_creation=not create)
            return Door(opened, given, given, lock=lock)
    except BaseException:
        if lock is not None:
            lock.release()
        raise


def _server(text: str, create: bool) -> Door:
    import sqlalchemy
    from optuna.storages import RDBStorage

    address, _, name = text.partition("#")
    try:
        url = sqlalchemy.make_url(address)
    except sqlalchemy.exc.ArgumentError as error:
        raise PliantError(
            f"{text!r} is no storage: give a file such as study.db, or postgresql://user:password@host/database"
        ) from error
    where = url.render_as_string(hide_password=True) + (f"#{name}" if name else "")
    shared = url.get_backend_name() == "postgresql"
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    options: dict[str, Any] = {"pool_pre_ping": True}
    if shared:
        options["connect_args"] = {"connect_timeout": CONNECT_SECONDS, **_DEAD_LINE}
    plain = url.render_as_string(hide_password=False)
    try:
        with guarded(where), quiet_optuna():
            if shared and create:
                _make_tables(plain, options)
            opened = RDBStorage(_verbatim(plain), engine_kwargs=options, skip_table_creation=not create)
    except Exception as error:
        raise _explained(error, where, url.drivername) from error
    return Door(opened, text, where, name or NAME, None, Patience(where) if shared else None)


def _make_tables(url: str, options: dict[str, Any]) -> None:
    """Make Optuna's tables and ours, which two searches cannot do at the same time."""
    import sqlalchemy
    from optuna.storages import RDBStorage

    engine = sqlalchemy.create_engine(url, **options)
    try:
        with _held(engine) as connection:
            RDBStorage(_verbatim(url), engine_kwargs=options).engine.dispose()
            Claims.make_tables(connection)
    finally:
        engine.dispose()


def _verbatim(url: str) -> str:
    """Return ``url`` so that Optuna, which formats it, leaves it as it is."""
    return url.replace("{", "{{").replace("}", "}}")


@contextmanager
def _held(engine: Any) -> Iterator[Any]:
    """Hold the server's lock; it lets go by itself when the connection ends, however that happens."""
    from sqlalchemy import text

    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
        connection.commit()
        try:
            yield connection
        finally:
            with suppress(Exception):
                connection.rollback()
                connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": LOCK})
                connection.commit()


def _explained(error: Exception, where: str, driver: str) -> Exception:
    chain: list[BaseException] = [error]
    while chain[-1].__cause__ or chain[-1].__context__:
        following = chain[-1].__cause__ or chain[-1].__context__
        assert following is not None
        chain.append(following)
    if any(isinstance(each, ImportError) for each in chain):
        if driver == "postgresql+psycopg":
            return MissingExtraError(f"{where} needs 'psycopg', which is not installed: pip install 'pliant[postgres]'")
        return MissingExtraError(f"{where} needs the driver of {driver!r}, which is not installed")
    last = str(chain[-1]).strip().partition("\n")[0]
    if "UndefinedTable" in "".join(type(each).__name__ for each in chain):
        return PliantError(f"there is no study at {where}")
    if away(error):
        return PliantError(
            f"cannot connect to {where}: {last}; is the server running, and are name and password right?"
        )
    return error
