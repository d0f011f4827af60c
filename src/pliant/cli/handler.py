"""The one place where errors become words and exit codes."""

from __future__ import annotations

import errno
import shlex
import sys
import warnings
from typing import Any, TextIO

import typer
from typer.core import TyperGroup

from ..checks import NoEffectWarning, PliantError

MISUSE = 2  # a PliantError: something that the user can put right
INTERRUPTED = 130  # Ctrl-C, as shells count it
_DISK = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "the disk quota is used up: free some space",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EACCES: "permission denied: choose a folder that you may write to",
    errno.EPERM: "permission denied: choose a folder that you may write to",
}


class Handler(TyperGroup):
    """A group of commands that tells errors in one clear message; ``pliant --debug …`` shows the traceback too."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; exit with 2 on an error that the user can put right, with 130 on Ctrl-C."""
        try:
            with warnings.catch_warnings():
                if not ctx.params.get("debug"):
                    warnings.showwarning = remark
                return super().invoke(ctx)
        except KeyboardInterrupt:
            say("stopped; everything finished so far is kept", "yellow")
            if ctx.invoked_subcommand in ("run", "search"):
                say(f"to go on, run the same command again:\n  {command_line()}", "yellow")
            raise typer.Exit(INTERRUPTED) from None
        except PliantError as error:
            if ctx.params.get("debug"):
                raise
            say(str(error), "red", "error: ")
        except OSError as error:
            if ctx.params.get("debug") or error.errno not in _DISK:
                raise
            where = f"{error.filename}: " if error.filename else ""
            say(f"{where}{_DISK[error.errno]}; nothing that was finished is lost", "red", "error: ")
        raise typer.Exit(MISUSE)


def remark(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Say a warning of ours in words, without the place in the code that a user of the command line never sees."""
    if issubclass(category, NoEffectWarning):
        say(str(message), "yellow", "note: ")
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


def say(text: str, colour: str, title: str = "") -> None:
    """Write to standard error, in colour on a terminal; the text is shown as it is, whatever brackets it holds."""
    typer.echo(typer.style(title, fg=colour, bold=True) + typer.style(text, fg=colour), err=True)


def command_line() -> str:
    """Return the command that was given, quoted for a shell."""
    return shlex.join(["pliant", *sys.argv[1:]])
