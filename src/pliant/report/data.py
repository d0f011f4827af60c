"""What a report is made of: plain frozen records with a JSON round trip, the stored trace of every number shown.

Nothing here knows how a report looks. Every measured value is a :class:`~pliant.measure.Measurement` with its unit,
spread, runtime, threads, batch and repeats in ``details``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..measure import Measurement

Role = Literal["reference", "recommended", "dropped", "front"]


@dataclass(frozen=True)
class Kept:
    """How much of one axis or block a member kept.

    Args:
        group: where it is shown: a layer or block such as ``"blocks.0"``, or ``""`` for the whole network.
        kind: what it is: ``"heads"``, ``"head width"``, ``"hidden"``, ``"stream"``, ``"block"`` …
        kept: units kept; for a block 0 or 1.
        full: units of the full network.
        name: the axis or block, shown on hovering.
    """

    group: str
    kind: str
    kept: int
    full: int
    name: str = ""


@dataclass(frozen=True)
class Fixed:
    """Something that does not bend, its size, and the reason."""

    what: str
    why: str
    size: int | None = None


@dataclass(frozen=True)
class Check:
    """One check made of a member or of the run, and what came of it (``detail``: the figure and its limit)."""

    name: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True)
class ArtefactRow:
    """A file made of a member; ``path`` is relative to the report; ``load_lines`` load it without Pliant."""

    path: str
    format: str
    bytes: int
    load_lines: str
    max_error: float | None = None
    latency: Measurement | None = None


@dataclass(frozen=True)
class Proof:
    """What stands behind a member: the checks that were made of it, and its files."""

    checks: tuple[Check, ...] = ()
    artefacts: tuple[ArtefactRow, ...] = ()


@dataclass(frozen=True)
class MemberRow:
    """A member that the report shows in full.

    Args:
        id: a short name, unique in the report, that ``pliant extract --member`` understands.
        role: ``"reference"`` (the full network), ``"recommended"``, ``"dropped"`` (its ``note`` says why) or
            ``"front"``.
        config: choice name to option.
        measurements: name to measurement: the objective's name, ``macs``, ``params``, ``bytes``, ``latency`` …
        proof: its checks and files.
        note: one line, shown beside the member.
    """

    id: str
    role: Role
    config: Mapping[str, Any]
    measurements: Mapping[str, Measurement]
    kept: tuple[Kept, ...] = ()
    proof: Proof = Proof()
    note: str = ""

    @property
    def checks(self) -> tuple[Check, ...]:
        """The checks made of it."""
        return self.proof.checks

    @property
    def artefacts(self) -> tuple[ArtefactRow, ...]:
        """The files made of it."""
        return self.proof.artefacts


@dataclass(frozen=True)
class Point:
    """A member that the search measured: a dot of the plot. ``values`` are by objective name."""

    id: str
    values: Mapping[str, float]
    summary: str = ""
    feasible: bool = True


@dataclass(frozen=True)
class Phase:
    """A part of the run and the seconds that it took."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Findings:
    """What the run found out about the family.

    Args:
        points: every member that the search measured.
        fixed: what does not bend.
        checks: checks of the whole run, such as the dry run's.
        space_size: how many members the family has.
    """

    points: tuple[Point, ...] = ()
    fixed: tuple[Fixed, ...] = ()
    checks: tuple[Check, ...] = ()
    space_size: int | None = None


@dataclass(frozen=True)
class RunFacts:
    """How the run came about.

    Args:
        machine: as :func:`pliant.measure.machine` says.
        settings: what the run was asked for (steps, budget, seed, constraints …).
        commands: lines that reproduce the run.
        phases: what took how long.
        created: when, in ISO 8601.
        notes: lines to show under the headline, such as ``"a quick run: …"``.
    """

    machine: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    phases: tuple[Phase, ...] = ()
    created: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReportData:
    """Everything that a report shows.

    Args:
        task: the task's name.
        error: the name of the task's objective among the measurements, such as ``"error"``.
        members: the members shown in full; exactly one is the reference.
        tolerance: how much more of ``error`` the headline's member may have (in its unit).
        findings: what the run found out about the family.
        facts: how the run came about.
    """

    task: str
    error: str
    members: tuple[MemberRow, ...]
    tolerance: float = 1.5
    findings: Findings = Findings()
    facts: RunFacts = field(default_factory=RunFacts)

    @property
    def reference(self) -> MemberRow:
        """The full network."""
        return next(member for member in self.members if member.role == "reference")

    def of(self, *roles: Role) -> list[MemberRow]:
        """Return the members of some roles, in the order given to the report."""
        return [member for member in self.members if member.role in roles]
