"""Made-up but plausible data of a run, for the tests of the report and for looking at its page."""

from __future__ import annotations

import dataclasses
import math
import random
from typing import Any

from pliant.measure import Measurement
from pliant.report import (
    ArtefactRow,
    Check,
    Findings,
    Fixed,
    Kept,
    MemberRow,
    Phase,
    Point,
    Proof,
    ReportData,
    RunFacts,
)
from pliant.report.data import Role

MACHINE = {"cpu": "Example CPU @ 2.40GHz", "cores": 2, "os": "Linux 6.1 x86_64", "python": "3.11.7", "torch": "2.13.0"}
LOAD = """import onnxruntime
session = onnxruntime.InferenceSession("members/{id}.onnx")
outputs = session.run(None, {{"images": images.numpy()}})"""


def measurements(error: float, milliseconds: float, macs: float, ratio: float = 1.0) -> dict[str, Measurement]:
    timed = {"runtime": "onnxruntime", "batch": 64, "threads": 1, "repeats": 30, "ratio": ratio, "machine": MACHINE}
    return {
        "error": Measurement(error, "%"),
        "test_error": Measurement(error + 0.21, "%"),
        "latency": Measurement(milliseconds, "ms", 0.03 * milliseconds, timed),
        "macs": Measurement(macs, "MACs", details={"batch": 1}),
        "params": Measurement(macs / 16.2, "parameters"),
        "bytes": Measurement(macs / 4.0 + 9000, "bytes"),
    }


def kept(heads: int, width: int, stream: int, left_out: tuple[int, ...] = ()) -> tuple[Kept, ...]:
    rows = [Kept("", "stream", stream, 64, "stream")]
    for block in range(5):
        for half, kind, size, full in (
            ("attn", "heads", heads, 4),
            ("attn", "head width", 16, 16),
            ("mlp", "hidden", width, 256),
        ):
            rows.append(Kept(f"blocks.{block}", kind, size, full, f"blocks.{block}.{half}"))
        rows.append(Kept(f"blocks.{block}", "block", int(block not in left_out), 1, f"blocks.{block}"))
    return tuple(rows)


def member(
    name: str, role: Role, figures: tuple[float, float, float, float], shape: tuple[Any, ...], note: str = ""
) -> MemberRow:
    checks = [
        Check("equals the family's member", True, "largest difference 0, exact"),
        Check("both forms of the slicing agree", True, "4.8e-07, at most 1e-05"),
        Check("artefacts give the same outputs", True, "9.5e-07, at most 1e-04"),
    ]
    files = [
        ArtefactRow(
            f"members/{name}.onnx", "onnx", 412_331, LOAD.format(id=name), 9.5e-7, measurements(*figures)["latency"]
        ),
        ArtefactRow(
            f"members/{name}.pt2",
            "pt2",
            530_120,
            f'import torch\nnet = torch.export.load("members/{name}.pt2").module()',
            0.0,
        ),
    ]
    config = {"stream": shape[2], "depth": 5 - len(shape[3]), **{f"blocks.{i}.mlp.width": shape[1] for i in range(5)}}
    return MemberRow(
        name,
        role,
        config,
        measurements(*figures),
        kept(shape[0], shape[1], shape[2], shape[3]),
        Proof(tuple(checks), tuple(files)),
        note,
    )


def sample() -> ReportData:
    """Return a run on digits: a reference, three recommended members, one dropped, and ninety dots."""
    rng = random.Random(0)
    points = []
    for number in range(90):
        macs = 10 ** rng.uniform(5.55, 6.62)
        error = 2.1 + 34 * math.exp(-macs / 3.1e5) + abs(rng.gauss(0, 0.8)) * (4.4e6 / macs) ** 0.35
        values = {
            "error": error,
            "macs": macs,
            "params": macs / 16.2 * rng.uniform(0.95, 1.05),
            "bytes": macs / 4.0 + 9000,
        }
        points.append(
            Point(f"t{number}", values, f"depth {rng.randint(2, 5)}, stream {rng.choice([32, 48, 64])}", macs > 4.2e5)
        )
    members = (
        member("full", "reference", (2.23, 7.81, 4.21e6, 1.0), (4, 256, 64, ())),
        member("m17", "recommended", (2.23, 5.02, 2.61e6, 0.643), (4, 128, 64, ())),
        member("m42", "recommended", (2.63, 3.31, 1.42e6, 0.424), (2, 128, 48, (3,))),
        member("m63", "recommended", (3.62, 1.83, 6.4e5, 0.234), (2, 64, 32, (1, 3))),
        member(
            "m71",
            "dropped",
            (3.34, 3.36, 1.21e6, 0.430),
            (1, 192, 48, (3,)),
            "at 3.36 ms it is not faster than the bigger m42 (3.31 ms)",
        ),
    )
    fixed = [
        Fixed("head.weight dim 0", "an output of the network", 10),
        Fixed("patches.weight dim 1", "an input of the network", 1),
    ]
    fixed += [Fixed(f"blocks.{i}.attn.qkv: q, k and v", "a constant of the traced program", 3) for i in range(5)]
    fixed += [Fixed("positions dim 1", "joined with the number of tokens, which the input's shape gives", 16)]
    return ReportData(
        task="digits:vit",
        error="error",
        members=members,
        findings=Findings(
            points=tuple(points),
            fixed=tuple(fixed),
            checks=(
                Check("capture", True, "torch.export in 0.9 s, analysis in 12 ms"),
                Check("largest config equals the network", True, "bit for bit"),
            ),
            space_size=44_089_920_000,
        ),
        facts=RunFacts(
            machine=MACHINE,
            settings={"steps": 1200, "budget": 90, "seed": 0, "constraints": ("macs >= 4.2e5",), "quick": False},
            commands=("pliant run digits:vit --out runs/digits --seed 0 --threads 1",),
            phases=(Phase("training", 131.2), Phase("search", 58.0), Phase("export", 22.4)),
            created="2026-03-02T14:05:09+00:00",
        ),
    )


def changed(data: ReportData, **changes: Any) -> ReportData:
    """Return the data with some fields replaced, those of its two groups by their plain names."""
    for group in ("findings", "facts"):
        part = getattr(data, group)
        mine = {name: changes.pop(name) for name in list(changes) if hasattr(part, name)}
        data = dataclasses.replace(data, **{group: dataclasses.replace(part, **mine)})
    return dataclasses.replace(data, **changes)
