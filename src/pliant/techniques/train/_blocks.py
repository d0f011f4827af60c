"""A family cut into consecutive blocks: where they end, and which choices reach into which of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ...checks import PliantError, WrongShapeError, unknown
from ...graph.trace import module_path
from ...space.config import Config
from ._options import Options, allowed_options

if TYPE_CHECKING:
    from ...family.draft import Draft
    from ...family.family import Family
    from ...graph.analysis import Analysis

_TRIES = 20


@dataclass(frozen=True)
class Blocks:
    """The blocks of a family.

    Attributes:
        borders: paths of the submodules whose outputs end the blocks, in order of execution. What comes after the last
            one, the head, is in no block.
        reach: for each block the names of the choices that change what it computes, not only what it is given.
    """

    borders: tuple[str, ...]
    reach: tuple[frozenset[str], ...]

    @classmethod
    def of(cls, family: Family, wanted: int | Sequence[str]) -> Blocks:
        """Cut a family.

        Args:
            family: it has members in module form.
            wanted: into how many blocks at most, or where they end.

        Raises:
            PliantError: its members are graphs, or nothing is found to cut it at.
            UnknownNameError: a border that the network does not have.
        """
        if family.form == "graph":
            raise PliantError(
                "blocks are trained one by one at the outputs of submodules, and members of this family are graphs of "
                f"operations that have none ({family.why_graph}); train it with a recipe that runs whole members"
            )
        ends = _ends(family.analysis)
        borders = _evenly(_candidates(family.analysis), wanted) if isinstance(wanted, int) else list(wanted)
        for path in borders:
            if path not in ends:
                raise unknown("submodule that computes something", path, list(ends))
        if not borders:
            raise PliantError(
                "this network has no residual blocks, and no two layers one after the other, to be cut into blocks at; "
                "name the submodules whose outputs end them: BossNas(blocks=('stage1', 'stage2'))"
            )
        borders = sorted(borders, key=ends.__getitem__)
        stages = _stages(family.analysis, [ends[path] for path in borders])
        reached = {choice.name: _reached(family, choice.name, stages, len(borders)) for choice in family.space.choices}
        reach = [frozenset(name for name, blocks in reached.items() if at in blocks) for at in range(len(borders))]
        return cls(tuple(borders), tuple(reach))

    def paths(self, family: Family, at: int, best: Config, most: int, rng: Random) -> list[Config]:
        """Return all paths through a block, or ``most`` random ones: members that are ``best`` but for its choices."""
        options = self._options(family, at)
        if math.prod(map(len, options.values())) <= most:
            rows = [Config({**best, **dict(zip(options, row, strict=True))}) for row in product(*options.values())]
            return [config for config in rows if family.space.feasible(config)] or [best]
        found = {best: None}
        for _ in range(_TRIES):
            found |= dict.fromkeys(self.fair(family, at, best, most, rng))
        return list(found)[:most]

    def fair(self, family: Family, at: int, best: Config, count: int, rng: Random) -> list[Config]:
        """Return ``count`` random paths through a block in which all options of a choice are equally frequent.

        Where constraints forbid a path, another is drawn, and ``best`` taken if that fails.
        """
        options = self._options(family, at)
        columns = {}
        for name, few in options.items():
            rows = [option for _ in range(math.ceil(count / len(few))) for option in rng.sample(few, len(few))]
            columns[name] = rows[:count]
        found = []
        for index in range(count):
            config = Config({**best, **{name: column[index] for name, column in columns.items()}})
            for _ in range(_TRIES):
                if family.space.feasible(config):
                    break
                config = Config({**best, **{name: rng.choice(few) for name, few in options.items()}})
            found.append(config if family.space.feasible(config) else best)
        return found

    def _options(self, family: Family, at: int) -> Options:
        return {name: few for name, few in allowed_options(family.space).items() if name in self.reach[at]}

    def settled(self, at: int) -> frozenset[str]:
        """Return the choices that reach into a block and into none after it."""
        later: frozenset[str] = frozenset().union(*self.reach[at + 1 :])
        return self.reach[at] - later


class _Reached(Exception):  # noqa: N818
    """Ends a forward pass where a block does."""


@contextmanager
def cut_at(net: nn.Module, before: str | None, end: str) -> Iterator[dict[str, Any]]:
    """Let ``net`` run up to ``end``, whose output is collected under its path; gradients stop at ``before``.

    Args:
        net: a member.
        before: the path of the submodule that the block's input comes from; None for the first block.
        end: the path of the submodule that ends it. A block that is left out gives what it got.
    """
    found: dict[str, Any] = {}

    def reached(module: nn.Module, args: Any, output: Any) -> None:
        found[end] = output
        raise _Reached

    def detached(module: nn.Module, args: Any, output: Any) -> Any:
        return pytree.tree_map(lambda v: v.detach() if isinstance(v, Tensor) else v, output)

    handles = [net.get_submodule(end).register_forward_hook(reached)]
    if before is not None:
        handles.append(net.get_submodule(before).register_forward_hook(detached))
    try:
        yield found
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()


def pooled(net: nn.Module, path: str, value: Any) -> Tensor:
    """Return a block's output as one vector per example (B, C): averaged over the places of maps, or over tokens.

    Raises:
        WrongShapeError: it gives no tensor of numbers with a batch and features.
    """
    leaves = [v for v in pytree.tree_leaves(value) if isinstance(v, Tensor) and v.is_floating_point() and v.dim() > 1]
    if not leaves:
        raise WrongShapeError(
            f"the submodule {path!r} should end a block with a tensor of numbers, the batch first; name another one"
        )
    feature = leaves[0].float()
    if feature.dim() == 2:
        return feature
    convolves = any(isinstance(module, nn.Conv1d) for module in net.get_submodule(path).modules())
    if feature.dim() > 3 or convolves:
        return feature.flatten(2).mean(2)
    return feature.mean(1)


# ---- where things are ------------------------------------------------------------------------------------------------
def _candidates(analysis: Analysis) -> list[str]:
    """Return where a network can be cut.

    Behind its runs of outermost residual blocks; where there is one run, behind these blocks; where there is none,
    behind its layers but the last.
    """
    ends = _ends(analysis)
    runs = {block.module: block.run for block in analysis.blocks if block.module in ends and not block.interface.branch}
    outer = [path for path in runs if not any(path.startswith(f"{other}.") for other in runs)]
    outer.sort(key=ends.__getitem__)
    last = {runs[path]: path for path in outer}
    if outer:
        return list(last.values()) if len(last) > 1 else outer
    layers = list(dict.fromkeys(site.name for site in analysis.sites if site.weight and site.name in ends))
    return layers[:-1]


def _evenly(paths: Sequence[str], count: int) -> list[str]:
    """Return the ends of ``count`` groups of paths, as equal as can be."""
    count = min(count, len(paths))
    return [paths[round((k + 1) * len(paths) / count) - 1] for k in range(count)]


def _ends(analysis: Analysis) -> dict[str, int]:
    """Return for every submodule that computes something the place of its last operation."""
    found: dict[str, int] = {}
    for at, node in enumerate(analysis.capture.graph.nodes):
        words = module_path(node).split(".") if node.op == "call_function" else []
        for length in range(1, len(words) + 1):
            found[".".join(words[:length])] = at
    found.pop("", None)
    return found


def _stages(analysis: Analysis, ends: Sequence[int]) -> dict[str, int]:
    """Return for every tensor the block that uses it first; one that is used after the last block is not there."""
    capture, found = analysis.capture, dict[str, int]()
    places = {node: at for at, node in enumerate(capture.graph.nodes)}
    for node in capture.graph.nodes:
        target = capture.inputs[str(node.target)].target if node.op == "placeholder" else None
        if target and node.users:
            first = min(places[user] for user in node.users)
            stage = next((at for at, end in enumerate(ends) if first <= end), None)
            name = capture.aliases.get(target, target)
            if stage is not None:
                found[name] = min(stage, found.get(name, stage))
    return found


def _reached(family: Family, name: str, stages: Mapping[str, int], count: int) -> set[int]:
    """Return the blocks that a choice changes; all where what it does cannot be told from axes and weights."""
    full = {choice.name: choice.largest for choice in family.space.choices} | dict(family.space.largest())
    base, found = family.draft(full), set[int]()
    for option in allowed_options(family.space)[name]:
        config = {**full, name: option}
        if option == full[name] or not family.space.feasible(config):
            continue
        draft = family.draft(config)
        touched = _touched(family.analysis, base, draft)
        if not touched:
            return set(range(count))
        found |= {stages[tensor] for tensor in touched if tensor in stages}
    return found


def _touched(analysis: Analysis, base: Draft, draft: Draft) -> set[str]:
    """Return the tensors that make something else in one draft than in the other."""
    made = {name for name, rows in draft.maps.items() if len(rows) != len(base.maps.get(name, ()))}
    outputs = {(site.weight, _output(site.kind, site.node)) for site in analysis.sites if site.weight}
    for axis in analysis.axes:
        if draft.kept.get(axis.name, axis.size) != base.kept.get(axis.name, axis.size):
            touches = {(touch.tensor, touch.dim) for touch in axis.touches}
            made |= {tensor for tensor, _ in (touches & outputs) or touches}
    for block in analysis.blocks:
        if block.name in draft.dropped and block.name not in base.dropped:
            made |= {place for place in analysis.capture.aliases if place.startswith(f"{block.module}.")}
            made |= {str(spec.target) for spec in analysis.capture.inputs.values()
                     if spec.target and str(spec.target).startswith(f"{block.module}.")}  # fmt: skip
    return made


def _output(kind: str, node: Any) -> int:
    """Return the dimension of a weight that holds its outputs."""
    transposed = kind == "embedding" or "transpose" in kind or "addmm" in str(node.target)
    return 1 if transposed else 0
