"""A memory plan: where in one buffer each tensor of a forward pass lies, and when; known before anything runs.

Steps are computed part by part (:mod:`~pliant.graph.schedule.steps`). A result overwrites an input that nothing reads
any more, part by part: where results are smaller than what they overwrite the parts go forward, where they are larger
backward, so that no part is written over one that is still to be read. What is alive at the same time lies side by
side, each at the lowest place that is free as long as it needs it; of some orders of placing, the best is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from .layout import laid_out, part_bytes
from .steps import Step, find_steps
from .tape import Tape

ALIGNED = 16  # bytes: every tensor begins at a multiple


@dataclass(frozen=True)
class Scratch:
    """Where the parts that a step works on lie: from ``start`` on ``size`` bytes, in it ``offsets`` by value."""

    offsets: Mapping[int, int]
    size: int
    start: int = 0


@dataclass(frozen=True)
class Place:
    """Where a storage lies in the buffer, and its first and last step there."""

    offset: int
    first: int
    last: int


@dataclass(frozen=True)
class MemoryPlan:
    """A plan.

    Attributes:
        tape: the pass, with tensors laid out as planned.
        steps: what is computed, in order.
        places: of every storage in the buffer.
        overwrites: for the steps whose result takes the place of an input: that input's storage.
        scratch: of every step.
        peak: bytes of the buffer.
        bound: the most bytes that are alive at one time; no placement needs less.
    """

    tape: Tape
    steps: tuple[Step, ...]
    places: Mapping[int, Place]
    overwrites: Mapping[int, int]
    scratch: tuple[Scratch, ...]
    peak: int
    bound: int


def plan_memory(tape: Tape, fuse: bool = True, overwrite: bool = True) -> MemoryPlan:
    """Plan the memory of a forward pass: its inputs, results and everything between; weights lie elsewhere.

    Args:
        tape: the pass.
        fuse: join operations that work on the same parts, if that needs less memory.
        overwrite: let results take the place of inputs that nothing reads any more, if that needs less memory.
    """
    ways = [find_steps(tape, joined) for joined in ((True, False) if fuse else (False,))]
    plans = [_plan(tape, steps, over) for over in ((True, False) if overwrite else (False,)) for steps in ways]
    return min(plans, key=lambda plan: plan.peak)


def _plan(tape: Tape, steps: Sequence[Step], overwrite: bool) -> MemoryPlan:
    tape = laid_out(tape, steps)
    lives = _lives(tape, steps)
    found = {at: _overwritten(tape, at, step, lives) for at, step in enumerate(steps)} if overwrite else {}
    overwrites = {at: storage for at, storage in found.items() if storage is not None}
    scratch = tuple(_scratch(tape, step, at in overwrites) for at, step in enumerate(steps))
    items, members = _items(tape, steps, lives, overwrites, scratch)
    places = _placed([item for item in items if item])
    spots = dict(zip((at for at, item in enumerate(items) if item), places, strict=True))
    peak = max((spots[at] + max(item.values()) for at, item in enumerate(items) if item), default=0)
    bound = max((sum(item.get(step, 0) for item in items) for step in range(len(steps))), default=0)
    lie = {s: Place(spots.get(at, 0), *lives[s]) for at, group in enumerate(members) for s in group}
    rooms = tuple(replace(room, start=spots.get(len(members) + at, 0)) for at, room in enumerate(scratch))
    return MemoryPlan(tape, tuple(steps), lie, overwrites, rooms, peak, bound)


def aligned(size: int) -> int:
    """Return the next multiple of :data:`ALIGNED`."""
    return -(-size // ALIGNED) * ALIGNED


def _lives(tape: Tape, steps: Sequence[Step]) -> dict[int, tuple[int, int]]:
    """Return the first and last step of every storage that holds something of the inputs."""
    storage = [value.storage for value in tape.values]
    lives = {storage[value]: (0, 0) for value in tape.inputs}
    for at, step in enumerate(steps):
        lives.update(dict.fromkeys(step.storages, (at, at)))
        lives.update({read: (lives[read][0], at) for read in step.reads if read in lives})
    end = max(0, len(steps) - 1)
    lives.update({storage[v]: (lives[storage[v]][0], end) for v in tape.results if storage[v] in lives})
    return lives


def _overwritten(tape: Tape, at: int, step: Step, lives: Mapping[int, tuple[int, int]]) -> int | None:
    """Return the input that a step's result may overwrite: dead afterwards, cut into parts that lie apart in order."""
    if step.parts == 1 or len(step.storages) != 1:
        return None
    made, out = step.storages[0], step.last.makes[0]
    if lives[made][0] != at or part_bytes(tape, out, step.cuts[out], step.parts) is None:
        return None
    held: dict[int, bool] = {}
    for value in step.outside:
        apart = value in step.cuts and part_bytes(tape, value, step.cuts[value], step.parts) is not None
        storage = tape.values[value].storage
        held[storage] = held.get(storage, True) and apart
    results = {tape.values[value].storage for value in tape.results}
    able = [s for s, apart in held.items() if apart and s in lives and lives[s][1] == at and s not in results]
    size = tape.sizes[made]
    return min(able, key=lambda s: (tape.sizes[s] < size, abs(tape.sizes[s] - size)), default=None)


def _scratch(tape: Tape, step: Step, overwrites: bool) -> Scratch:
    """Place the parts inside a step; the result's own too, where it is written only when the part was computed."""
    order = {value: at for at, operation in enumerate(step.computing) for value in operation.makes}
    base = {tape.values[value].storage: value for value in step.inner}
    last = dict(order)
    for operation in step.computing:
        for value in operation.reads:
            if (inner := base.get(tape.values[value].storage)) is not None:
                last[inner] = order[operation.makes[0]]
    values = [*step.inner, *((step.last.makes[0],) if overwrites else ())]
    items = []
    for value in values:
        size = aligned(_bytes(tape, value) // step.parts)
        items.append(dict.fromkeys(range(order[value], last[value] + 1), size))
    places = _placed(items)
    size = max((place + max(item.values()) for place, item in zip(places, items, strict=True)), default=0)
    return Scratch(dict(zip(values, places, strict=True)), size)


def _bytes(tape: Tape, value: int) -> int:
    size = tape.values[value].dtype.itemsize
    for extent in tape.values[value].shape:
        size *= extent
    return size


Item = dict[int, int]  # bytes by step


def _items(
    tape: Tape,
    steps: Sequence[Step],
    lives: Mapping[int, tuple[int, int]],
    overwrites: Mapping[int, int],
    scratch: Sequence[Scratch],
) -> tuple[list[Item], list[list[int]]]:
    """Return what is to be placed, with the storages of each; scratch comes last, one item for each step."""
    into = {old: steps[at].storages[0] for at, old in overwrites.items()}
    members: list[list[int]] = []
    for storage in lives:
        if storage not in into.values():
            members.append([storage])
            while members[-1][-1] in into:
                members[-1].append(into[members[-1][-1]])
    items: list[Item] = []
    for group in members:
        item: Item = {}
        for storage in group:
            size = aligned(tape.sizes[storage])
            first, last = lives[storage]
            for step in range(first, last + 1) if steps else ():
                item[step] = max(item.get(step, 0), size)
        items.append(item)
    items += [{at: room.size} if room.size else {} for at, room in enumerate(scratch)]
    return items, members


def _placed(items: Sequence[Item]) -> list[int]:
    """Return an offset for each item so that no two overlap at any step; the best of some orders."""
    orders = [
        sorted(range(len(items)), key=lambda at: (-max(items[at].values()), min(items[at]))),
        sorted(range(len(items)), key=lambda at: (-len(items[at]), -max(items[at].values()))),
        sorted(range(len(items)), key=lambda at: (min(items[at]), -max(items[at].values()))),
    ]
    tries = [_placed_in(items, order) for order in orders]
    return min(
        tries, key=lambda places: max((p + max(i.values()) for p, i in zip(places, items, strict=True)), default=0)
    )


def _placed_in(items: Sequence[Item], order: Iterable[int]) -> list[int]:
    places = [0] * len(items)
    at_step: dict[int, list[int]] = {}
    for at in order:
        item = items[at]
        taken = sorted(
            {(places[o], places[o] + items[o][step], item[step]) for step in item for o in at_step.get(step, ())}
        )
        place = next(
            spot
            for spot in sorted({0, *(end for _, end, _ in taken)})
            if all(spot >= end or spot + size <= start for start, end, size in taken)
        )
        places[at] = place
        for step in item:
            at_step.setdefault(step, []).append(at)
    return places
