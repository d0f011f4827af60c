"""The durable search: what was measured, kept in an Optuna storage, and the loop that measures."""

from .runner import search as search
from .study import Study as Study
from .trial import Trial as Trial

__all__ = ["Study", "Trial", "search"]
