"""The process of a local worker: unpack the evaluation once, then measure what comes down the line.

It ends when the line is cut, so none outlives the search, however that ends.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from multiprocessing.connection import Connection
from typing import Any

from ...checks import first_line


def main(handle: int, threads: int) -> None:
    """Serve the search at the other end of the socket ``handle``, with ``threads`` threads inside an operation."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the search decides
    line: Connection[Any, Any] = Connection(handle)
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(line, inbox), daemon=True).start()
    from .package import unpacked

    line.send(("hello", None))
    content = inbox.get()
    import torch

    torch.set_num_threads(threads)
    try:
        evaluation = unpacked(content)
    except Exception as error:  # noqa: BLE001 - whatever the user's modules raise when they are imported
        line.send(("broken", f"{type(error).__name__}: {first_line(error)}"))
        return
    del content
    line.send(("ready", None))
    while True:
        ticket, config, repeat = inbox.get()
        line.send(("done", (ticket, evaluation.measure(config, repeat))))


def _listen(line: Connection[Any, Any], inbox: queue.SimpleQueue[Any]) -> None:
    try:
        while True:
            inbox.put(line.recv())
    except (EOFError, OSError):
        os._exit(1)
