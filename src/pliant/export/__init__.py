"""Handing a network over: files that run without Pliant, each checked against the network and timed in its runtime."""

from .artefact import Artefact as Artefact
from .export import export as export

__all__ = ["Artefact", "export"]
