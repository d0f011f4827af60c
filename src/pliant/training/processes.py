"""Several processes that train one family together: each brings its own batches, all have the same weights.

They are those of :mod:`torch.distributed`: where a process group is there, it is used; where torchrun's or Accelerate's
environment variables are (``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR``, ``MASTER_PORT``), one is made. Whatever the
processes do together begins with :meth:`Processes.meet`, where each tells whether it is well and where it stands: so an
error in one of them ends all of them with a message, and none waits for another for ever.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..checks import PliantError, TrainingDivergedError, first_line

_BUCKET = 25 * 2**20  # bytes that go over the wire at once
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_VARIABLES = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
_AGAIN = "start all processes again with the same command: with folder= the run goes on from its last checkpoint"


class Processes:
    """The processes of one training run; alone, all methods do nothing.

    Args:
        rank: which one this is, from 0.
        count: how many there are.
        device: where small numbers are exchanged.
    """

    def __init__(self, rank: int = 0, count: int = 1, device: torch.device | None = None) -> None:
        self.rank, self.count = rank, count
        self._device = device or torch.device("cpu")
        self._over = count == 1

    @classmethod
    def here(cls, device: torch.device) -> Processes:
        """Return the processes that this one belongs to; it is alone where nobody made a group or set variables.

        Raises:
            PliantError: the others cannot be reached.
        """
        if not dist.is_available():
            return cls()
        if not dist.is_initialized():
            if rank_and_count()[1] == 1:
                return cls()
            _begin(device)
        carries = dict(row.split(":") for row in dist.get_backend_config().split(","))
        if dist.get_world_size() > 1 and device.type not in carries:
            raise PliantError(
                f"the process group carries tensors on {', '.join(carries)}, and the family is on {device.type}; begin "
                "with torch.distributed.init_process_group() for both, or train alone with Compute(processes=False)"
            )
        return cls(dist.get_rank(), dist.get_world_size(), torch.device("cpu") if "cpu" in carries else device)

    # ---- errors ----------------------------------------------------------------------------------------------------
    @contextmanager
    def together(self) -> Iterator[None]:
        """Tell the others of an error raised inside, and wait at the end until all are through."""
        with self.told():
            yield
            self.meet("the end of the run")

    @contextmanager
    def told(self) -> Iterator[None]:
        """Tell the others of an error raised inside."""
        try:
            yield
        except Exception as error:
            self._tell(error)
            raise

    def meet(self, where: str, value: float = 0.0) -> float:
        """Wait for the others, see that all are well and at the same place, and return the average of their values.

        Raises:
            PliantError: another process stopped, does not answer, or is at another place.
            TrainingDivergedError: another process stopped with it.
        """
        return self._meet(0, where, value) if self.count > 1 else value

    def _meet(self, state: int, text: str, value: float = 0.0) -> float:
        tag = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
        (bits,) = struct.unpack("q", struct.pack("d", value))
        mine = torch.tensor([state, tag, bits], device=self._device)
        rows = [torch.empty_like(mine) for _ in range(self.count)]
        self._do(dist.all_gather, rows, mine)
        told = [tuple(row[:2].tolist()) for row in rows]
        states = [row[0] for row in told]
        if not any(states) and len(set(told)) == 1:
            return sum(struct.unpack("d", struct.pack("q", int(row[2])))[0] for row in rows) / self.count
        texts: list[str] = [""] * self.count
        self._do(dist.all_gather_object, texts, text)
        self._over = True
        stopped = [f"process {at} of {self.count} stopped ({texts[at]})" for at, bad in enumerate(states) if bad]
        if stopped:
            kind = TrainingDivergedError if max(states) > 1 else PliantError
            raise kind(f"{'; '.join(stopped)}, so this one, process {self.rank}, stops too; mend that, then {_AGAIN}")
        other = next(at for at, row in enumerate(told) if row != told[0])
        raise PliantError(
            f"the processes have gone apart: process 0 is at {texts[0]:.300}, process {other} at {texts[other]:.300}; "
            "a recipe must decide by turn.rng, the step and turn.losses, not by what a process's own batches give"
        )

    def _tell(self, error: Exception) -> None:
        if not self._over:
            with suppress(PliantError):  # the error that is told of goes on
                diverged = isinstance(error, TrainingDivergedError)
                self._meet(2 if diverged else 1, f"{type(error).__name__}: {first_line(error)}")
            self._over = True

    def _do(self, collective: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        try:
            collective(*args, **kwargs)
        except (RuntimeError, OSError, EOFError) as error:
            self._over = True
            raise PliantError(
                f"process {self.rank} of {self.count} cannot reach another one any more: it was killed, crashed, or "
                f"took longer than the process group's timeout ({_plain(error)}). See the other processes' own "
                f"output, then {_AGAIN}"
            ) from error

    # ---- what they share -------------------------------------------------------------------------------------------
    def agree(self, facts: Mapping[str, str]) -> None:
        """See that all processes have the same ``facts``.

        Raises:
            PliantError: they have not; the message names the first that differs.
        """
        if self.count == 1:
            return
        self.meet("the beginning of the run")
        rows: list[Mapping[str, str]] = [{}] * self.count
        self._do(dist.all_gather_object, rows, {name: without_addresses(fact) for name, fact in facts.items()})
        for name in facts:
            for at, row in enumerate(rows):
                if row.get(name) != rows[0][name]:
                    self._over = True  # all see it
                    raise PliantError(
                        f"the processes do not train the same: {name} is {rows[0][name]:.200} in process 0, "
                        f"{row.get(name)!s:.200} in process {at}; give all of them the same arguments "
                        "(only the batches differ), or train alone with Compute(processes=False)"
                    )

    def average(self, parameters: Sequence[nn.Parameter], where: str = "averaging gradients") -> None:
        """Average gradients over the processes, in place.

        A parameter without a gradient counts as zeros where another process has one.
        """
        if self.count == 1:
            return
        self.meet(where)
        have = torch.tensor([int(p.grad is not None) for p in parameters], device=self._device)
        self._do(dist.all_reduce, have)
        with torch.no_grad():
            for p, anywhere in zip(parameters, have.tolist(), strict=True):
                if anywhere and p.grad is None:
                    p.grad = torch.zeros_like(p)
            for flat, gradients in _buckets([p.grad for p in parameters if p.grad is not None]):
                self._do(dist.all_reduce, flat)
                _spread(flat.div_(self.count), gradients)

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give ``tensors`` the values that they have in process 0."""
        if self.count == 1:
            return
        self.meet("sharing tensors")
        with torch.no_grad():
            for flat, parts in _buckets([tensor.detach() for tensor in tensors]):
                self._do(dist.broadcast, flat, 0)
                if self.rank:
                    _spread(flat, parts)

    def gathered(self, value: Any) -> list[Any]:
        """Return the value that each process gives, by rank."""
        rows: list[Any] = [value] * self.count
        if self.count > 1:
            self.meet("gathering")
            self._do(dist.all_gather_object, rows, value)
        return rows

    @contextmanager
    def file(self, path: Path | None) -> Iterator[Path | None]:
        """Yield process 0's file ``path``, or elsewhere a copy for as long as the block lasts; None for None."""
        if self.count == 1:
            yield path
            return
        told: list[Any] = [(path.name, path.stat().st_size) if path else ("", -1)]
        self.meet("sharing a file")
        self._do(dist.broadcast_object_list, told, 0)
        name, size = told[0]
        if size < 0:
            yield None
            return
        with tempfile.TemporaryDirectory(prefix="pliant-") as folder:
            target = path if path is not None and self.rank == 0 else Path(folder) / name
            with target.open("wb" if self.rank else "rb") as stream:
                for start in range(0, size, _BUCKET):
                    length = min(_BUCKET, size - start)
                    data = bytearray(length if self.rank else stream.read(length))
                    chunk = torch.frombuffer(data, dtype=torch.uint8).to(self._device)
                    self._do(dist.broadcast, chunk, 0)
                    if self.rank:
                        stream.write(chunk.cpu().numpy().tobytes())
            yield target


def without_addresses(text: str) -> str:
    """Return a ``repr`` without the addresses in memory that objects without one of their own show."""
    return _ADDRESS.sub("", text)


def rank_and_count() -> tuple[int, int]:
    """Return which process this is and of how many, by the process group or, before there is one, by the variables."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    count = int(os.environ.get("WORLD_SIZE", "1"))
    return (int(os.environ["RANK"]), count) if count > 1 and os.environ.keys() >= _VARIABLES else (0, 1)


def _begin(device: torch.device) -> None:
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group(backend)
    except (RuntimeError, ValueError, OSError) as error:
        raise PliantError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} says that there are other processes, and they cannot be reached "
            f"({first_line(error)}); start with torchrun, or train alone with Compute(processes=False)"
        ) from error
    atexit.register(_end)


def _end() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _plain(error: BaseException) -> str:
    """Return what a library says, without the place in its source and its advice."""
    return re.sub(r"^\[\S+:\d+\] ", "", first_line(error)).partition(". This is typically")[0]


def _buckets(tensors: Sequence[Tensor]) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Yield flat copies of tensors, those of one format and device together, with the tensors that are in them."""
    kinds: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.numel():
            kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for row in kinds.values():
        group: list[Tensor] = []
        size = 0
        for tensor in row:
            group.append(tensor)
            size += tensor.numel() * tensor.element_size()
            if size >= _BUCKET or tensor is row[-1]:
                yield torch.cat([each.reshape(-1) for each in group]), group
                group, size = [], 0


def _spread(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    for part, tensor in zip(flat.split([each.numel() for each in tensors]), tensors, strict=True):
        tensor.copy_(part.view(tensor.shape))
