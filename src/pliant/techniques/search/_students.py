"""Students of a teacher, the largest config of a space: which choices leave parts of it out, and what one is worth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ...checks import WrongShapeError
from ...space import Count, Problem
from ._batches import Measured

_MERCY = 15
"""Updates over which a broken constraint comes to cost all."""


def reward(compression: float, ratio: float) -> float:
    """Return C (2 - C) A / A_teacher."""
    return compression * (2 - compression) * ratio


def ratio(value: float, teacher: float, worst: float | None = None) -> float:
    """Return A / A_teacher of minimised ``value``; :class:`N2n` says how it is read.

    Raises:
        WrongShapeError: nothing is right in the teacher, with this ``worst``.
    """
    if worst is None and teacher >= 1:
        return teacher / max(value, 1e-3 * teacher)  # no student is counted more than a thousand times as good
    level = worst if worst is not None else float(teacher >= 0)
    if teacher >= level:
        raise WrongShapeError(
            f"the largest config has {teacher:g}, where N2n(worst={level:g}) says that nothing is right; worst is the "
            "worst value of the first measured objective: 1 for an error rate, 100 for per cent, 0 for a negated score"
        )
    return max(level - value, 0.0) / (level - teacher)


def is_removal(problem: Problem) -> np.ndarray:
    """Return for each choice whether it decides if a part stays at all (choices,).

    Such are those of yes or no, those named ``depth`` or ``keep``, and those whose smallest option makes others idle.
    """
    choices = problem.space.choices
    names = [choice.name.rpartition(".")[2] for choice in choices]
    found = np.array(
        [
            set(map(repr, choice.options)) <= {"False", "True"} or name in ("depth", "keep")
            for choice, name in zip(choices, names, strict=True)
        ],
        dtype=bool,
    )
    if problem.active is not None and choices:
        rows = np.repeat(problem.space.indices([problem.space.largest()]), len(choices) + 1, axis=0)
        for at, allowed in enumerate(problem.space.allowed()):
            rows[at, at] = allowed[0]
        active = np.asarray(problem.active(rows), dtype=bool)
        lost = (active[-1] & ~active[:-1]) & ~np.eye(len(choices), dtype=bool)
        found |= lost.any(axis=1)
    return found


class Rewards:
    """What students are worth.

    Args:
        problem: says which objectives and statistics can be computed.
        worst: see :class:`N2n`.
    """

    def __init__(self, problem: Problem, worst: float | None) -> None:
        self._problem = problem
        self._worst = worst
        self._teacher = problem.space.indices([problem.space.largest()])
        measured = [place for place in range(problem.objectives) if place not in problem.exact]
        self.quality = measured[0] if measured else None
        statistics = dict(problem.statistics)
        first = [statistics.pop("params")] if "params" in statistics else []
        counts = [*(problem.exact[place] for place in sorted(problem.exact)), *first, *statistics.values()]
        self.count: Count | None = next((each for each in counts if float(each(self._teacher)[0]) > 0), None)
        self.measured_cost = measured[1] if self.count is None and len(measured) > 1 else None

    def compressions(self, rows: np.ndarray) -> np.ndarray:
        """Return the computed C (n,) of option indices (n, choices); 1 where no cost can be computed."""
        if self.count is None:
            return np.ones(len(rows))
        return 1 - np.asarray(self.count(rows), dtype=float) / float(self.count(self._teacher)[0])

    def of(
        self, students: Sequence[Measured], teacher: Measured | None, known: Iterable[Measured], updates: int
    ) -> np.ndarray:
        """Return the rewards (n,).

        Args:
            students: measured.
            teacher: likewise, if it is.
            known: everything that is measured.
            updates: how many the stage has had.
        """
        good = [each for each in known if not each.failed]
        first = [teacher] if teacher is not None and not teacher.failed else []
        compressions = self.compressions(self._problem.space.indices([each.config for each in students]))
        mercy = max(0.0, 1 - updates / _MERCY) ** 4
        found = np.full(len(students), -1.0)
        for at, student in enumerate(students):
            if student.failed:
                continue
            share, compression = 1.0, float(compressions[at])
            if self.quality is not None:
                best = min(each.values[self.quality] for each in first or good)
                lost = not first and self._worst is not None and best >= self._worst  # nothing was right in any yet
                share = 0.0 if lost else ratio(student.values[self.quality], best, self._worst)
            if self.measured_cost is not None:
                full = max(each.values[self.measured_cost] for each in first or good)
                compression = 1 - student.values[self.measured_cost] / full if full > 0 else 1.0
            worth = max(-1.0, reward(compression, share))
            found[at] = worth if student.violation == 0 else mercy * worth + mercy - 1
        return found
