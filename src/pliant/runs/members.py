"""Making the shown members real: extracted, exported, checked, and measured in the runtime that ships."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checks import CaptureError, MissingExtraError, VerificationError
from ..export import Artefact, export
from ..family.family import Family
from ..files import write_json
from ..graph.slicing import Slicing
from ..measure import Bytes, Macs, Measurement, Params, PeakMemory
from ..measure.capture import captured_once, rebatch
from ..measure.inference import batch_size, tensors_of
from ..measure.latency import summary
from ..measure.onnx_runtime import open_session, session_call, to_onnx
from ..measure.timing import interleave, torch_threads
from ..report import ArtefactRow, Check, Kept, MemberRow, Proof
from ..report.store import build
from ..space.config import Config
from ..tasks import Task

REPEATS = 40  # samples per member of the final timing
FORMATS = ("safetensors", "pt2", "onnx")


class Workshop:
    """Builds the rows of a report's members; a member that is on disk already is read, not made again.

    Args:
        family: the trained family.
        task: its task.
        folder: the run's folder.
        timing: the arguments that latency is measured on, ``(args, kwargs)``.
        threads: threads for latency.
    """

    def __init__(
        self, family: Family, task: Task, folder: Path, timing: tuple[tuple[Any, ...], dict[str, Any]], threads: int
    ) -> None:
        self.family, self.task, self.folder, self.timing, self.threads = family, task, folder, timing, threads

    def make(self, id_: str, config: Config, searched: Mapping[str, float]) -> MemberRow:
        """Extract, export, check and measure one member (all but its final latency)."""
        place = self.folder / "members" / id_
        stored = _read(place / "member.json", config)
        if stored is not None:
            return stored
        net = self.family.extract(config)
        gap = self.family.verify(config)
        artefacts, failures = self._exports(net, place)
        row = MemberRow(
            id=id_,
            role="front",
            config=dict(config),
            measurements=self._measure(net, searched),
            kept=kept(self.family, config),
            proof=Proof(
                (*self._equality(gap), *_checks(artefacts), *failures),
                tuple(_row(artefact, self.folder) for artefact in artefacts),
            ),
        )
        write_json(place / "member.json", {"config": config.to_json(), "row": _plain(row)})
        return row

    def _exports(self, net: nn.Module, place: Path) -> tuple[list[Artefact], list[Check]]:
        """Export to every format; one that fails is a failed check of the member, not the end of the run."""
        artefacts, failures = [], []
        with captured_once(net):
            for suffix in FORMATS:
                try:
                    artefacts.append(export(net, place / f"{self._stem(suffix)}.{suffix}", *self.timing))
                except (CaptureError, VerificationError, MissingExtraError) as error:
                    failures.append(Check(f"exported to {suffix}", False, str(error)))
        return artefacts, failures

    def _equality(self, gap: float) -> tuple[Check, ...]:
        family = self.family
        forms = (
            Check("module form equals graph form", gap <= 1e-5, f"{gap:.1e}, at most 1e-5 allowed")
            if family.form == "module"
            else Check("in graph form", True, f"the network's own class cannot hold it: {family.why_graph}")
        )
        return (Check("extracted network equals the member", True, "on the example, at most 1e-6 apart"), forms)

    def _stem(self, suffix: str) -> str:
        # The weights' card stands beside them with the suffix .json; the program's file must not share its stem.
        return "weights" if suffix == "safetensors" else "net"

    def _measure(self, net: nn.Module, searched: Mapping[str, float]) -> dict[str, Measurement]:
        first = next(iter(self.task.evaluate(net, "test").items()))
        unit = str(self.task.settings.get("unit", ""))
        found = {first[0]: Measurement(first[1], unit, details={"split": "test"})}
        if first[0] in searched:
            found[f"{first[0]}_validation"] = Measurement(searched[first[0]], unit, details={"split": "validation"})
        for objective in (macs_of_one(self.family), Params(), Bytes(), PeakMemory(*self.timing)):
            found[objective.name] = objective.measure(net)
        return found

    def time(self, rows: list[MemberRow], reference: MemberRow) -> dict[str, dict[str, Measurement]]:
        """Measure every member again, in ONNX Runtime (the exported files) and in torch, all in one loop each."""
        everyone = [reference, *rows]
        nets = [self.family.extract(Config(row.config)) for row in everyone]
        args, kwargs = self.timing
        runtimes: dict[str, list[Any]] = {"torch": [partial(net, *args, **kwargs) for net in nets]}
        if all(any(artefact.format == "onnx" for artefact in row.artefacts) for row in everyone):
            sessions = [self._session(row, net) for row, net in zip(everyone, nets, strict=True)]
            runtimes = {"onnxruntime": sessions, **runtimes}
        found: dict[str, dict[str, Measurement]] = {row.id: {} for row in everyone}
        for runtime, calls in runtimes.items():
            with torch_threads(self.threads), torch.no_grad():
                samples = interleave(calls, REPEATS)
            facts = {"runtime": runtime, "threads": self.threads, "batch": batch_size(args, kwargs)}
            for row, own in zip(everyone, samples, strict=True):
                found[row.id][f"latency_{runtime}"] = summary([own, samples[0]], facts)
        return found

    def _session(self, row: MemberRow, net: nn.Module) -> Any:
        """Return a call of the member's exported ONNX file on the timing arguments."""
        path = next(artefact.path for artefact in row.artefacts if artefact.format == "onnx")
        session = open_session(str(self.folder / path), self.threads)
        names = [entry.name for entry in session.get_inputs()]
        args, kwargs = self.timing
        leaves = kwargs or dict(zip(names, tensors_of(args), strict=False))
        if leaves.keys() != set(names) or len(tensors_of(self.timing)) != len(names):
            # An input that the graph does not use is not in the file, and one within another has a name of its own.
            return session_call(to_onnx(net, args, kwargs), args, kwargs, self.threads)
        return partial(session.run, None, {name: leaf.detach().cpu().numpy() for name, leaf in leaves.items()})


def macs_of_one(family: Family) -> Macs:
    """Return the objective that counts the multiply-accumulates of a single example."""
    args, kwargs = family.analysis.capture.args, dict(family.analysis.capture.kwargs)
    batch = batch_size(args, kwargs)
    if batch is None:
        return Macs(args, kwargs)
    return Macs(rebatch(args, batch, 1), rebatch(kwargs, batch, 1))


def kept(family: Family, config: Mapping[str, Any]) -> tuple[Kept, ...]:
    """Say how much of each bending axis and of each block a config keeps."""
    slicing: Slicing = family.draft(config).slicing()
    gone = {block.name for block in slicing.dropped}
    names = {choice.name for choice in family.space.choices}
    blocks = [block.name for block in family.analysis.blocks]
    rows = [Kept(name, "block", 0 if name in gone else 1, 1, name) for name in blocks] if _drops(family) else []
    for axis in family.analysis.axes:
        if axis.name in names:
            group = next((name for name in blocks if axis.name.startswith(f"{name}.")), "")
            kind = axis.kind.replace("_", " ")
            size = slicing.size(axis.atom)
            rows.append(Kept(group, "hidden" if kind == "width" else kind, size, axis.size, axis.name))
    return tuple(rows)


def _drops(family: Family) -> bool:
    return bool(family.draft(family.space.smallest()).slicing().dropped)


def _checks(artefacts: list[Artefact]) -> list[Check]:
    return [
        Check(f"{a.format} equals the network", a.max_error <= 1e-4, f"{a.max_error:.1e} of 1e-4")
        for a in artefacts
        if a.max_error is not None
    ]


def _row(artefact: Artefact, folder: Path) -> ArtefactRow:
    relative = artefact.path.relative_to(folder).as_posix()
    return ArtefactRow(
        relative, artefact.format, artefact.bytes, artefact.load_lines, artefact.max_error, artefact.latency
    )


def _plain(row: MemberRow) -> Any:
    return json.loads(json.dumps(asdict(row)))


def _read(path: Path, config: Config) -> MemberRow | None:
    """Return a member made earlier; None where there is none, or what is there is damaged and is made again."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["config"] != config.to_json():
            return None
        row: MemberRow = build(MemberRow, stored["row"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    folder = path.parent.parent.parent
    return row if all((folder / artefact.path).is_file() for artefact in row.artefacts) else None
