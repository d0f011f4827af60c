"""A PostgreSQL server on loopback, in a folder of its own, that a test may stop and start again."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

PORTS = "127.0.0.1"


def binaries() -> Path:
    """Return the folder of the server's programs; installs Debian's package where that is possible."""
    found = _found()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "postgresql"], capture_output=True, timeout=300, check=False)
        found = _found()
    if found is None:
        pytest.skip("no PostgreSQL server: apt-get install postgresql")
    return found


def _found() -> Path | None:
    places = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    on_path = shutil.which("initdb")
    places += [Path(on_path).resolve().parent] if on_path else []
    return next((place for place in places if (place / "initdb").exists()), None)


class Server:
    """The server; ``url(name)`` is the storage of a study."""

    def __init__(self) -> None:
        self.programs = binaries()
        self.home = Path(tempfile.mkdtemp(prefix="pliant-pg-"))
        with socket.socket() as free:
            free.bind((PORTS, 0))
            self.port = free.getsockname()[1]
        self._become: list[str] = []
        if os.geteuid() == 0:  # it refuses to run as root
            user = "postgres" if _exists("postgres") else "nobody"
            self._become = ["runuser", "-u", user, "--"]
            shutil.chown(self.home, user)
        self._run("initdb", "-D", str(self.home / "data"), "-U", "pliant", "-A", "trust", "--no-sync", "-E", "UTF8")
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._become, str(self.programs / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.home, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses={PORTS} -k {self.home} -c fsync=off"
        log = str(self.home / "log")
        self._run("pg_ctl", "-D", str(self.home / "data"), "-o", options, "-l", log, "-w", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.home / "data"), "-m", "immediate", "-w", "stop")

    def url(self, name: str) -> str:
        return f"postgresql://pliant:secret@{PORTS}:{self.port}/postgres#{name}"

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.home)


def _exists(user: str) -> bool:
    import pwd

    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True
