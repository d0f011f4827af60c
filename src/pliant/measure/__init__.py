"""Objectives: what a member costs and how well it does, each number with the machine and the way it was measured."""

from .compute import Macs as Macs
from .latency import Latency as Latency
from .machine import machine as machine
from .measurement import Measurement as Measurement
from .memory import PeakMemory as PeakMemory
from .metric import Metric as Metric
from .objective import Direction as Direction
from .objective import Objective as Objective
from .planned_memory import PlannedMemory as PlannedMemory
from .weights import Bytes as Bytes
from .weights import Params as Params

__all__ = [
    "Bytes",
    "Direction",
    "Latency",
    "Macs",
    "Measurement",
    "Metric",
    "Objective",
    "Params",
    "PeakMemory",
    "PlannedMemory",
    "machine",
]
