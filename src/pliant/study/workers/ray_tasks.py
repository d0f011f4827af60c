"""Workers on many machines, as tasks of a Ray cluster. Each of Ray's processes loads the family once."""

from __future__ import annotations

import logging
import os
import socket
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...checks import PliantError, WrongShapeError, first_line, require
from ...space import Config
from ..evaluation import Evaluation, Outcome
from .base import Report
from .package import packed, unpacked

_PATIENCE = 3.0
"""Seconds for a cluster's door to open."""

_loaded: dict[str, Evaluation] = {}
"""In a process of Ray's: the evaluation of the search that it works for."""


@dataclass(frozen=True)
class RayTasks:
    """Tasks on a Ray cluster; one that dies, with its process or its machine, is given out again by the search.

    Pliant, and whatever else the objectives import by name, must be installed on every machine.

    Attributes:
        address: ``"host:6379"``, ``"ray://host:10001"``, ``"auto"`` for the cluster that this machine belongs to, or
            ``None`` for a new one of this machine alone (or what ``ray.init`` has connected to already).
        count: configs that are measured at the same time; as many as the cluster has room for where ``None``.
        cpus: that each takes of its machine, which are also the threads of torch.
        gpus: that each takes of its machine.
        runtime_env: what Ray shall set up on its machines, see its documentation.

    Raises:
        WrongShapeError: no room asked for.
        MissingExtraError: (on opening) Ray is not installed.
        PliantError: (on opening) the cluster is not there, or has no room for one task.
    """

    address: str | None = None
    count: int | None = None
    cpus: float = 1
    gpus: float = 0
    runtime_env: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.cpus < 0 or self.gpus < 0 or self.cpus + self.gpus == 0 or (self.count is not None and self.count < 1):
            raise WrongShapeError(
                f"a task needs CPUs or GPUs, and count is at least 1: got cpus={self.cpus}, gpus={self.gpus}, "
                f"count={self.count}"
            )

    def open(self, evaluation: Evaluation) -> RayCrew:
        """Return the crew; see :class:`~pliant.study.workers.base.Workers`."""
        ray = require("ray", "ray")
        content = packed(evaluation)
        ours = not ray.is_initialized()
        if ours:
            self._connect(ray)
        try:
            return RayCrew(ray, content, self._room(ray), self.cpus, self.gpus, ours)
        except BaseException:
            if ours:
                ray.shutdown()
            raise

    def _connect(self, ray: Any) -> None:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray warns of the change where it is unset
        if self.address is None:  # in a cluster of our own: Ray gives its processes the lowest priority otherwise
            os.environ.setdefault("RAY_worker_niceness", "0")
        elif self.address not in ("auto", "local"):
            _knock(self.address)
        options = {"runtime_env": dict(self.runtime_env)} if self.runtime_env else {}
        try:
            ray.init(
                self.address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                include_dashboard=None if self.address else False,
                **options,
            )
        except Exception as error:
            raise PliantError(
                f"cannot join the Ray cluster {self.address or 'on this machine'}: {first_line(error)}; start one "
                "with `ray start --head`, and give its address"
            ) from error

    def _room(self, ray: Any) -> int:
        has = ray.cluster_resources()
        asked = [(has.get("CPU", 0), self.cpus, "CPUs"), (has.get("GPU", 0), self.gpus, "GPUs")]
        for there, wanted, what in asked:
            if wanted > there:
                raise PliantError(f"a task wants {wanted:g} {what}, but the whole Ray cluster has {there:g}")
        return self.count or max(1, min(int(there // wanted) for there, wanted, _ in asked if wanted))


def _knock(address: str) -> None:
    """Find out quickly whether anyone is there; Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise PliantError(f"{address!r} is no address of a Ray cluster: write host:6379, ray://host:10001 or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()
    except OSError as error:
        raise PliantError(
            f"there is no Ray cluster at {address} ({error}); start one with `ray start --head --port={port}` there, "
            "or give another address"
        ) from error


def _work(
    content: bytes, search: str, places: Sequence[str], threads: int, config: Config, repeat: int
) -> tuple[str, Outcome | None]:
    """Measure in one of Ray's processes; return why the family could not be loaded, or the outcome."""
    import torch

    if search not in _loaded:
        sys.path.extend(place for place in places if place not in sys.path and os.path.exists(place))  # noqa: PTH110
        _loaded.clear()
        try:
            _loaded[search] = unpacked(content)
        except Exception as error:  # noqa: BLE001 - whatever the user's modules raise when they are imported
            return f"{type(error).__name__}: {first_line(error)}", None
    torch.set_num_threads(threads)
    return "", _loaded[search].measure(config, repeat)


class RayCrew:
    """Tasks that are out, by their tickets."""

    def __init__(self, ray: Any, content: bytes, count: int, cpus: float, gpus: float, ours: bool) -> None:
        self.count = count
        self._ray = ray
        self._ours = ours
        self._content = ray.put(content)
        self._search = uuid.uuid4().hex
        self._threads = max(1, int(cpus))
        self._task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0, scheduling_strategy="SPREAD", max_calls=0)(
            _work
        )
        self._out: dict[Any, int] = {}

    def submit(self, ticket: int, config: Config, repeat: int = 0) -> None:
        """Hand the config to Ray."""
        places = [place or os.getcwd() for place in sys.path]  # noqa: PTH109
        reference = self._task.remote(self._content, self._search, places, self._threads, config, repeat)
        self._out[reference] = ticket

    def wait(self, timeout: float | None = None) -> list[Report]:
        """Wait for a report; see :class:`~pliant.study.workers.base.Crew`."""
        if not self._out:
            return []
        done, _ = self._ray.wait(list(self._out), num_returns=1, timeout=timeout)
        return [self._collect(reference) for reference in done]

    def _collect(self, reference: Any) -> Report:
        ticket = self._out.pop(reference)
        try:
            trouble, outcome = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return Report(ticket, None, f"{type(error).__name__}: {first_line(error)}")
        if trouble:
            raise PliantError(
                f"a machine of the Ray cluster cannot load the family and the objectives: {trouble}. Pliant and what "
                "the objectives import must be installed there, in the versions used here"
            )
        return Report(ticket, outcome)

    def close(self) -> None:
        """Cancel what is out; leave the cluster if it was joined for this search."""
        for reference in self._out:
            self._ray.cancel(reference, force=True)
        self._out.clear()
        if self._ours:
            self._ray.shutdown()
