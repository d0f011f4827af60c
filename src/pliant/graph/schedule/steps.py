"""Operations joined into steps: a step is computed part by part, and nothing between its operations is ever whole.

An operation whose only reader follows it directly, and works on the same parts, is joined to that reader: a token goes
through a norm, two linear layers and the sum with what bypasses them before the next token begins. A convolution whose
windows lie side by side goes row by row, with what follows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .rows import needs
from .tape import Operation, Tape


@dataclass(frozen=True)
class Step:
    """Operations that are computed together, part by part.

    Attributes:
        operations: in order, with the views between them.
        parts: into how many parts its result is cut; 1 where it is computed in one go.
        cuts: along which dimension each value from outside, and its result, is cut; others are read whole.
        inner: the values that are only ever there in part, in order.
        within: along which dimension these, and the views of them, are cut.
        storages: what it makes.
        reads: the storages that it reads or changes.
    """

    operations: tuple[Operation, ...]
    parts: int = 1
    cuts: Mapping[int, int] = field(default_factory=dict)
    inner: tuple[int, ...] = ()
    within: Mapping[int, int] = field(default_factory=dict)
    storages: tuple[int, ...] = ()
    reads: frozenset[int] = frozenset()

    @property
    def last(self) -> Operation:
        """The operation that gives its result."""
        return self.operations[-1]

    @property
    def computing(self) -> tuple[Operation, ...]:
        """Its operations but for views."""
        return tuple(operation for operation in self.operations if not operation.view)

    @property
    def outside(self) -> tuple[int, ...]:
        """The values that its operations read and do not make, in order."""
        made = {value for operation in self.operations for value in operation.makes}
        return tuple(dict.fromkeys(v for operation in self.operations for v in operation.reads if v not in made))


def find_steps(tape: Tape, fuse: bool = True) -> list[Step]:
    """Return the steps of a pass in order; without ``fuse`` each operation is one."""
    return _Finder(tape, fuse).steps()


class _Finder:
    def __init__(self, tape: Tape, fuse: bool) -> None:
        self.tape, self.fuse = tape, fuse
        self.storage = [value.storage for value in tape.values]
        self.views: dict[int, Operation] = {}
        self.readers: dict[int, list[Operation]] = {}
        for operation in tape.operations:
            for storage in {self.storage[value] for value in operation.reads}:
                if not operation.view:
                    self.readers.setdefault(storage, []).append(operation)
        self.results = {self.storage[value] for value in tape.results}
        self.constants = {self.storage[value] for value in tape.constants}

    def steps(self) -> list[Step]:
        found: list[Step] = []
        known = {self.storage[value] for value in self.tape.inputs} | self.constants
        for operation in self.tape.operations:
            if operation.view:
                self.views.update(dict.fromkeys(operation.makes, operation))
                continue
            made = tuple(dict.fromkeys(self.storage[v] for v in operation.makes if self.storage[v] not in known))
            known.update(made)
            step = self._begun(operation, made)
            joined = self._joined(found[-1], step) if found and self.fuse else None
            if joined is not None:
                found[-1] = joined
            else:
                found.append(step)
        return found

    def _begun(self, operation: Operation, made: tuple[int, ...]) -> Step:
        """Return a step of one operation, in as many parts as its first dimension that can be cut has entries."""
        touched = {self.storage[value] for value in operation.reads} | operation.writes
        whole = Step((operation,), storages=made, reads=frozenset(touched - self.constants))
        if len(operation.makes) != 1 or len(made) != 1:
            return whole
        out = operation.makes[0]
        for dim, size in enumerate(self.tape.values[out].shape):
            cuts = self._cuts(operation, dim, size) if size > 1 else None
            if cuts is not None and any(self.storage[value] not in self.constants for value in cuts):
                return replace(whole, parts=size, cuts={**cuts, out: dim})
        return whole

    def _cuts(self, operation: Operation, dim: int, parts: int) -> dict[int, int] | None:
        """Return along which dimension each argument is cut; ``None`` where the result cannot be made in parts."""
        places = needs(self.tape, operation, operation.makes[0], dim, parts)
        if places is None:
            return None
        cuts = {operation.reads[at]: along for at, along in places.items()}
        agree = all(places.get(at) == cuts.get(value) for at, value in enumerate(operation.reads))
        return cuts if agree else None

    def _joined(self, before: Step, step: Step) -> Step | None:
        """Return both steps as one, where the first one's result has no other reader and is cut into the same parts."""
        operation = step.last
        if before.parts == 1 or len(step.storages) != 1 or len(operation.makes) != 1 or operation.writes:
            return None
        storage, out = before.storages[0], operation.makes[0]
        if self.readers.get(storage) != [operation] or storage in self.results:
            return None
        for dim in range(len(self.tape.values[out].shape)):
            cuts = self._cuts(operation, dim, before.parts)
            seen = self._views(operation, cuts, before) if cuts is not None else None
            if cuts is None or seen is None:
                continue
            views = [view for view in self.tape.operations if view.view and not seen.keys().isdisjoint(view.makes)]
            inside = {value for value in operation.reads if self.storage[value] == storage}
            own = {value: along for value, along in cuts.items() if value not in inside}
            both = set(before.outside) & set(operation.reads)
            if any(before.cuts.get(value) != own.get(value) for value in both):
                continue
            between = before.last.makes[0]
            earlier = {value: along for value, along in before.cuts.items() if value != between}
            return Step(
                (*before.operations, *views, operation),
                before.parts,
                {**earlier, **own, out: dim},
                (*before.inner, between),
                {**before.within, **seen, between: before.cuts[between]},
                step.storages,
                (before.reads | step.reads) - {storage},
            )
        return None

    def _views(self, operation: Operation, cuts: Mapping[int, int], before: Step) -> dict[int, int] | None:
        """Return how the views between ``before`` and ``operation`` are cut; ``None`` where one breaks the parts."""
        base, found = before.last.makes[0], dict[int, int]()
        for value in operation.reads:
            if self.storage[value] != before.storages[0]:
                continue
            dim = cuts.get(value)
            while value != base:
                view = self.views.get(value)
                places = needs(self.tape, view, value, dim, before.parts) if view and dim is not None else None
                if view is None or dim is None or not places or 0 not in places or found.setdefault(value, dim) != dim:
                    return None
                value, dim = view.reads[0], places[0]
            if dim != before.cuts[base]:
                return None
        return found
