"""A teacher whose outputs are kept on disk, so that it runs once per example however long its students learn.

Each example has a name: a hash of its own bytes, of the teacher's weights and structure, and of what is looked at
inside it. What the teacher gave is kept by these names in shards, safetensors files that appear whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import uuid
import warnings
import weakref
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..checks import PliantError, WrongShapeError, first_line
from ..files import write_tensors

_NAME = "teacher-{}.safetensors"
_Row = tuple[str, list[Tensor]]  # the structure of one example's entry, as text, and its tensors


class CachedTeacher(nn.Module):
    """A teacher that looks up what it gave for an example before: called like the network itself, and as transparent.

    Its submodules, weights and paths are the teacher's own, and hooks on submodules see what they gave then. Only calls
    in evaluation mode are kept, and never have gradients. Where a batch has examples not seen before, the teacher runs
    on those alone. What an example gets is what it got in the batch in which it was first seen; kernels that add up in
    another order for batches of another size make that differ from a run without the cache in the last bits.

    Args:
        teacher: any network whose inputs and outputs have the batch first.
        folder: where the shards are; several teachers, and several processes, may share one.
        shard: how many examples are kept in memory until they are written together; what is left is written when the
            teacher is dropped or Python ends. A kill loses these at most, and they are computed again.
        tag: anything else that decides what the teacher gives and that its weights and its ``repr`` do not tell.

    Attributes:
        computed: on how many examples the teacher ran.
        served: how many examples were looked up.
    """

    def __init__(self, teacher: nn.Module, folder: str | Path, shard: int = 1024, tag: str = "") -> None:
        super().__init__()
        if shard < 1:
            raise WrongShapeError(f"a shard holds 1 example or more; got {shard}")
        self.__dict__["_teacher"] = teacher  # not a child of its own: the paths shall be the teacher's
        self._modules, self._parameters, self._buffers = teacher._modules, teacher._parameters, teacher._buffers
        self.training = teacher.training
        self.folder, self.shard, self.tag = Path(folder), shard, tag
        self.computed = self.served = 0
        self._fresh: dict[bytes, _Row] = {}
        self._shards = _Shards(self.folder)
        weakref.finalize(self, _finish, self._shards, self._fresh)
        self._print: tuple[Any, bytes] = (None, b"")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the teacher gives, looked up where it was seen before.

        Raises:
            WrongShapeError: no input has a batch, or an output has not.
            PliantError: the outputs are in a container that cannot be written down.
        """
        teacher: nn.Module = self.__dict__["_teacher"]
        teacher.training = self.training
        if self.training:
            return teacher(*args, **kwargs)
        with torch.no_grad():
            inputs = _Inputs.of(args, kwargs)
            hooked = {path: module for path, module in teacher.named_modules() if path and module._forward_hooks}
            names = inputs.names(self._fingerprint(teacher, inputs.device.type), sorted(hooked))
            rows = {name: row for name in names if (row := self._known(name)) is not None}
            missing = [at for at, name in enumerate(names) if name not in rows]
            self.computed, self.served = self.computed + len(missing), self.served + len(names) - len(missing)
            if not missing:
                return self._given(names, rows, hooked, inputs.device)
            whole = len(missing) == len(names)
            given, outputs = _run(teacher, inputs if whole else inputs.part(missing), hooked)
            for at, row in zip(missing, _split(given, len(missing)), strict=True):
                rows[names[at]] = self._fresh[names[at]] = row
            if len(self._fresh) >= self.shard:
                self.flush()
            return outputs if whole else self._given(names, rows, hooked, inputs.device)

    def flush(self) -> None:
        """Write what is in memory now, without waiting for a full shard."""
        self._shards.write(self._fresh)
        self._fresh.clear()

    def _known(self, name: bytes) -> _Row | None:
        return self._fresh.get(name) or self._shards.read(name)

    def _given(self, names: list[bytes], rows: dict[bytes, _Row], hooked: Mapping[str, nn.Module], device: Any) -> Any:
        """Put the rows of a batch together, and let hooks see what their modules gave."""
        if len({rows[name][0] for name in names}) > 1 or len({str([v.shape for v in rows[n][1]]) for n in names}) > 1:
            raise WrongShapeError(
                f"what {self.folder} holds for the examples of one batch differs in structure or shape; were they "
                "seen by the teacher in batches padded to unequal lengths? Pad all batches alike"
            )
        columns = zip(*(rows[name][1] for name in names), strict=True)
        given = _joined(rows[names[0]][0], [torch.stack(column).to(device) for column in columns])
        for path, module in hooked.items():
            for key, hook in module._forward_hooks.items():
                more: tuple[Any, ...] = ({},) if key in module._forward_hooks_with_kwargs else ()
                hook(module, (), *more, given["features"][path])
        return given["outputs"]

    def _fingerprint(self, teacher: nn.Module, device: str) -> bytes:
        state = {name: value for name, value in teacher.state_dict().items() if isinstance(value, Tensor)}
        version = [(id(v.untyped_storage()), v.data_ptr(), v._version) for v in state.values()]
        mixed = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        seen = (version, str(mixed))
        if self._print[0] != seen:
            found = hashlib.blake2b(f"{self.tag}\n{teacher!r}\n{mixed}".encode(), digest_size=16)
            for name, value in sorted(state.items()):
                found.update(f"{name}{value.dtype}{tuple(value.shape)}".encode() + _bytes(value))
            self._print = (seen, found.digest())
        return self._print[1]


@dataclass(frozen=True)
class _Inputs:
    """The arguments of a call: leaves, which of them have the batch first, and how they belong together."""

    leaves: list[Any]
    spec: Any
    batch: int
    batched: list[bool]

    @staticmethod
    def of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Inputs:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        batch = next((len(v) for v in leaves if isinstance(v, Tensor) and v.dim() > 0), 0)
        if not batch:
            raise WrongShapeError("a teacher whose outputs are kept needs a tensor with the batch first; got none")
        return _Inputs(leaves, spec, batch, [isinstance(v, Tensor) and v.dim() > 0 and len(v) == batch for v in leaves])

    @property
    def device(self) -> torch.device:
        device: torch.device = next(v.device for v in self.leaves if isinstance(v, Tensor))
        return device

    def names(self, teacher: bytes, hooked: list[str]) -> list[bytes]:
        """Return the name of every example."""
        common = hashlib.blake2b(teacher + json.dumps([hooked, str(self.spec)]).encode(), digest_size=16)
        for leaf, batched in zip(self.leaves, self.batched, strict=True):
            if batched:
                common.update(f"{leaf.dtype}{tuple(leaf.shape[1:])}".encode())
            else:
                common.update(
                    _bytes(leaf) + str(leaf.dtype).encode() if isinstance(leaf, Tensor) else repr(leaf).encode()
                )
        columns = [leaf.detach().cpu() for leaf, batched in zip(self.leaves, self.batched, strict=True) if batched]
        found = []
        for at in range(self.batch):
            name = common.copy()
            for column in columns:
                name.update(_bytes(column[at]))
            found.append(name.digest())
        return found

    def part(self, rows: list[int]) -> _Inputs:
        """Return the arguments of some of the examples."""
        leaves = [v[rows] if batched else v for v, batched in zip(self.leaves, self.batched, strict=True)]
        return _Inputs(leaves, self.spec, len(rows), self.batched)


def _run(teacher: nn.Module, inputs: _Inputs, hooked: Mapping[str, nn.Module]) -> tuple[dict[str, Any], Any]:
    """Run the teacher; return all that is kept of it, and the outputs alone."""
    found: dict[str, Any] = {}
    handles = [
        module.register_forward_hook(lambda m, args, out, path=path: found.__setitem__(path, out))
        for path, module in hooked.items()
    ]
    try:
        args, kwargs = pytree.tree_unflatten(inputs.leaves, inputs.spec)
        outputs = teacher(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return {"outputs": outputs, "features": found}, outputs


def _split(given: dict[str, Any], batch: int) -> list[_Row]:
    """Cut what the teacher gave into one row per example."""
    leaves, spec = pytree.tree_flatten(given)
    tensors = [v.detach().cpu() for v in leaves if isinstance(v, Tensor)]
    if any(v.dim() == 0 or len(v) != batch for v in tensors) or not tensors:
        raise WrongShapeError(
            f"a teacher whose outputs are kept gives tensors with the batch, {batch}, first; got shapes "
            f"{[tuple(v.shape) for v in tensors]}"
        )
    try:
        plain = [None if isinstance(v, Tensor) else [v] for v in leaves]
        text = json.dumps({"tree": pytree.treespec_dumps(spec), "plain": plain})
    except (TypeError, NotImplementedError, ValueError) as error:
        raise PliantError(
            f"the teacher's outputs cannot be kept: {first_line(error)}; let it return tensors, numbers and None in "
            "tuples, lists, dicts or containers registered with torch.utils._pytree under a serialized_type_name"
        ) from error
    return [(text, [v[at].clone() for v in tensors]) for at in range(batch)]


def _joined(text: str, tensors: list[Tensor]) -> Any:
    shape, rest = json.loads(text), iter(tensors)
    leaves = [next(rest) if value is None else value[0] for value in shape["plain"]]
    return pytree.tree_unflatten(leaves, pytree.treespec_loads(shape["tree"]))


def _bytes(value: Tensor) -> bytes:
    flat = value.detach().cpu().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy())


def _finish(shards: _Shards, fresh: dict[bytes, _Row]) -> None:
    """Write what is left of a teacher that is gone, unless its folder is gone too."""
    from torch.utils._python_dispatch import _disable_current_modes

    if fresh and shards.folder.is_dir():
        with _disable_current_modes():  # it may be dropped while torch captures some network
            shards.write(fresh)


class _Shards:
    """Rows by name in the files of a folder; a row that is not what was written counts as missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._places: dict[bytes, list[tuple[Path, int]]] = {}
        self._open: dict[Path, Any] = {}
        for path in sorted(folder.glob(_NAME.format("*"))):
            self._add(path)

    def _add(self, path: Path) -> None:
        try:
            file = safe_open(path, "pt")
            file.metadata()["entry"]
            names, sums = file.get_tensor("names"), file.get_tensor("sums")
            if len(names) != len(sums):
                raise ValueError("its names and checksums are not of one number")
        except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            warnings.warn(
                f"{path} cannot be read ({first_line(error)}) and was put aside as {path.name}.corrupt; what it held "
                "will be computed again",
                stacklevel=4,
            )
            path.rename(path.with_name(f"{path.name}.corrupt"))
            return
        self._open[path] = file
        for at, name in enumerate(names.numpy()):
            self._places.setdefault(bytes(name), []).append((path, at))

    def read(self, name: bytes) -> _Row | None:
        places = self._places.get(name, [])
        while places:
            path, at = places[-1]
            file = self._open[path]
            try:
                tensors = [file.get_slice(f"value/{k}")[at : at + 1][0] for k in range(len(file.keys()) - 2)]
                if int(file.get_slice("sums")[at : at + 1]) == _checksum(tensors):
                    return str(file.metadata()["entry"]), tensors
            except (SafetensorError, OSError, IndexError):
                pass
            places.pop()  # not what was written; another shard may have it too
        return None

    def write(self, rows: Mapping[bytes, _Row]) -> None:
        groups: dict[str, list[bytes]] = {}
        for name, (text, tensors) in rows.items():
            groups.setdefault(f"{text}{[(v.dtype, v.shape) for v in tensors]}", []).append(name)
        for names in groups.values():
            kept = [rows[name][1] for name in names]
            columns = {f"value/{k}": torch.stack(column) for k, column in enumerate(zip(*kept, strict=True))}
            columns["names"] = torch.tensor([list(name) for name in names], dtype=torch.uint8)
            columns["sums"] = torch.tensor([_checksum(tensors) for tensors in kept])
            path = self.folder / _NAME.format(uuid.uuid4().hex)
            self._add(write_tensors(path, columns, {"entry": rows[names[0]][0]}))


def _checksum(tensors: list[Tensor]) -> int:
    total = 0
    for tensor in tensors:
        total = zlib.crc32(_bytes(tensor), total)
    return total
