"""Reports: the stored trace of a run's numbers, and the page that shows them."""

from __future__ import annotations

from .data import ArtefactRow as ArtefactRow
from .data import Check as Check
from .data import Findings as Findings
from .data import Fixed as Fixed
from .data import Kept as Kept
from .data import MemberRow as MemberRow
from .data import Phase as Phase
from .data import Point as Point
from .data import Proof as Proof
from .data import ReportData as ReportData
from .data import RunFacts as RunFacts
from .render import render as render
from .render import write_report as write_report
from .store import load as load
from .store import save as save
