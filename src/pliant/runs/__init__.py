"""A run: one task from its network to a report, in steps that survive being killed."""

from .open import export as export
from .open import extract as extract
from .open import report as report
from .pipeline import Result as Result
from .pipeline import run as run
from .search import search as search
