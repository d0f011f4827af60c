"""A study in an Optuna storage: a SQLite file by default, a PostgreSQL server for many searches, or memory.

A row is made when a config starts to be measured and finished when it was; one that was never finished (its process
died) is marked as such, and its config is measured again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..checks import CorruptFileError, PliantError
from ..measure import Measurement
from ..space import Config, Space
from .claims import Claim, Claims
from .doors import Door, open_door
from .encoding import distributions, to_params
from .guard import guarded, quiet_optuna
from .records import Record, violations

FORMAT = 1
_SHOWN = 400  # characters of a field of another study, in messages

_T = TypeVar("_T")


class Store:
    """An open storage; use it as a context. See :meth:`open`.

    Attributes:
        where: for messages; ``None`` in memory.
        given: the storage as the caller gave it.
        claims: of this search, where other searches may share the study.
    """

    def __init__(self, door: Door) -> None:
        self.where, self.given = door.where, door.given
        self.claims: Claims | None = None
        self._door = door
        self._storage = door.storage
        self._space: Space | None = None
        self._distributions: dict[str, Any] = {}
        self._study_id = -1
        self._plan: dict[str, Any] = {}

    @classmethod
    def open(cls, storage: str | Path | None, *, create: bool = True) -> Store:
        """Open a path (SQLite), a URL that Optuna knows, or memory (``None``).

        With ``create`` the file may be new, and is locked against other searchers; without, it must hold a study. A
        URL may end in ``#name``, so that one server holds many studies.

        Raises:
            CorruptFileError: the file is no study.
            PliantError: it cannot be read, written or locked.
        """
        store = cls(open_door(storage, create=create))
        if not create:
            try:
                store._attach()
            except BaseException:
                store._door.close()
                raise
        return store

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        if self.claims is not None:
            self.claims.close()
        self._door.close()

    def _do(self, action: Callable[[], _T]) -> _T:
        """Run an action on the storage that may be run twice; wait for a server that is away."""
        with guarded(self.where):
            return action() if self._door.patience is None else self._door.patience(action)

    def hurry(self) -> None:
        """Wait for an absent server no more: the search is being stopped."""
        if self._door.patience is not None:
            self._door.patience.seconds = 0

    # -- what the study is of ------------------------------------------------------------------------------------

    def claim(self, plan: Mapping[str, Any]) -> None:
        """Make the study of ``plan``, or make sure that the one that is there was made for it; tidy up after a kill.

        Raises:
            PliantError: the storage holds a study of another space, other objectives, constraints, seed or searcher.
        """
        with guarded(self.where), quiet_optuna(), self._door.alone():
            self._found(plan)
        self._attach()
        found = self.plan()
        differing = [key for key in plan if key in found and found[key] != plan[key]]
        if differing:
            raise PliantError(_another(self.where, differing, found, plan))
        if self._door.patience is not None:
            self.claims = Claims(self._storage.engine, self._study_id, self._door.patience)
        else:
            self._bury(lambda row: True)

    def _found(self, plan: Mapping[str, Any]) -> None:
        import optuna

        name = self._door.name
        directions: list[Any] = ["minimize" if way == "min" else "maximize" for _, way, _ in plan["objectives"]]
        if name in {study.study_name for study in self._storage.get_all_studies()}:
            if self._has_plan():
                return
            # killed between the two lines below, or not ours: nothing of ours is in it yet
            if self._storage.get_n_trials(self._storage.get_study_id_from_name(name)):
                raise CorruptFileError(f"{self.where} holds trials that Pliant did not make; choose another storage")
            self._storage.delete_study(self._storage.get_study_id_from_name(name))
        optuna.create_study(storage=self._storage, study_name=name, directions=directions)
        self._set_plan(plan)

    def _has_plan(self) -> bool:
        attributes = self._storage.get_study_user_attrs(self._storage.get_study_id_from_name(self._door.name))
        return "plan" in attributes

    def _set_plan(self, plan: Mapping[str, Any]) -> None:
        study_id = self._storage.get_study_id_from_name(self._door.name)
        self._storage.set_study_user_attr(study_id, "plan", {"format": FORMAT, **plan})

    def plan(self) -> dict[str, Any]:
        """Return what the study was made for."""
        return self._plan

    def note_asked(self, asked: Mapping[str, int]) -> None:
        """Remember what may differ from one search of this study to the next, such as the budget."""
        self._do(lambda: self._storage.set_study_user_attr(self._study_id, "asked", dict(asked)))

    def asked(self) -> dict[str, int]:
        """Return what :meth:`note_asked` was told last."""
        return dict(self._do(lambda: self._storage.get_study_user_attrs(self._study_id).get("asked", {})))

    def _attach(self) -> None:
        with guarded(self.where):
            try:
                self._study_id = self._storage.get_study_id_from_name(self._door.name)
                self._plan = self._storage.get_study_user_attrs(self._study_id)["plan"]
                self._space = Space.from_json(self._plan["space"])
            except KeyError as error:
                raise CorruptFileError(
                    f"{self.where} is a database of Optuna, but not a study of Pliant"
                    + (f" named {self._door.name!r}" if self._door.patience is not None else "")
                ) from error
            self._distributions = distributions(self._space)

    def _bury(self, mine: Callable[[Any], bool]) -> None:
        """Mark what a kill left behind."""
        from optuna.trial import TrialState

        rows = self._do(
            lambda: self._storage.get_all_trials(self._study_id, deepcopy=False, states=(TrialState.RUNNING,))
        )
        for row in rows:
            if mine(row):
                self.again(row._trial_id, "killed before it was measured")

    def bury(self, claim: Claim) -> None:
        """Mark the rows that a dead search left behind over ``claim``."""
        self._bury(lambda row: row.user_attrs.get("claim") == claim.key)

    # -- rows ----------------------------------------------------------------------------------------------------

    def begin(self, config: Config, *, repeat: int = 0, free: bool = False, key: str = "") -> int:
        """Write down that ``config`` is being measured; return the row's id.

        Args:
            config: what is measured.
            repeat: 0 for the first time.
            free: see :class:`Record`.
            key: of the claim under which it is.
        """
        from optuna.trial import TrialState

        attributes: dict[str, Any] = {"free": True} if free else {}
        attributes |= {"repeat": repeat} if repeat else {}
        attributes |= {"claim": key} if key else {}
        attempts = 0

        def action() -> int:
            nonlocal attempts
            attempts += 1
            if attempts > 1 and key:  # the answer to the first attempt was lost: its row may be there
                running = self._storage.get_all_trials(self._study_id, deepcopy=False, states=(TrialState.RUNNING,))
                for row in running:
                    if row.user_attrs.get("claim") == key:
                        return int(row._trial_id)
            return self._new(config, TrialState.RUNNING, attributes)

        return self._do(action)

    def _new(self, config: Config, state: Any, attributes: Mapping[str, Any], values: Any = None) -> int:
        from optuna.trial import create_trial

        assert self._space is not None
        row = create_trial(
            state=state,
            values=values,
            params=to_params(self._space, config),
            distributions=self._distributions,
            user_attrs=dict(attributes),
        )
        return int(self._storage.create_new_trial(self._study_id, template_trial=row))

    def finish(self, row: int, measurements: Mapping[str, Measurement], after: int) -> bool:
        """Store what was measured; only the last of these writes makes the row count.

        Args:
            row: of :meth:`begin`.
            measurements: of all objectives and extras.
            after: how many were finished before.

        Returns:
            False where another search took the config over, because this one seemed dead; nothing is stored then.
        """
        from optuna.trial import TrialState

        result = {"after": after, "measurements": {name: each.to_json() for name, each in measurements.items()}}
        excesses = violations(self._plan, measurements)
        ordered = [measurements[name].value for name, _, _ in self._plan["objectives"]]
        return self._end(row, TrialState.COMPLETE, {"result": result}, ordered, excesses)

    def fail(self, row: int, error: str, after: int) -> bool:
        """Store that measuring failed; returns as :meth:`finish`."""
        from optuna.trial import TrialState

        return self._end(row, TrialState.FAIL, {"result": {"after": after, "error": error}})

    def again(self, row: int, error: str) -> None:
        """Store that nothing was learnt from this row: its config will be measured again."""
        from optuna.trial import TrialState

        self._end(row, TrialState.FAIL, {"error": error, "again": True})

    def _end(
        self,
        row: int,
        state: Any,
        attributes: Mapping[str, Any],
        values: Sequence[float] | None = None,
        excesses: Sequence[float] = (),
    ) -> bool:
        from optuna.exceptions import UpdateFinishedTrialError

        def action() -> bool:
            try:
                for key, value in attributes.items():
                    self._storage.set_trial_user_attr(row, key, value)
                if excesses:  # where Optuna's own samplers look for them
                    self._storage.set_trial_system_attr(row, "constraints", list(excesses))
                self._storage.set_trial_state_values(row, state, values)
            except UpdateFinishedTrialError:  # by another search, or by an attempt whose answer was lost
                return bool(self._storage.get_trial(row).state == state)
            return True

        return self._do(action)

    def add(self, config: Config, measurements: Mapping[str, Measurement], file: str, after: int) -> None:
        """Store a trial that was measured elsewhere."""
        from optuna.trial import TrialState

        result = {"after": after, "measurements": {name: each.to_json() for name, each in measurements.items()}}
        attributes = {"free": True, "imported": file, "result": result}
        ordered = [measurements[name].value for name, _, _ in self._plan["objectives"]]
        self._do(lambda: self._new(config, TrialState.COMPLETE, attributes, ordered))

    def forget(self, rows: Sequence[int]) -> None:
        """Let the configs of failed ``rows`` be measured again."""

        def action() -> None:
            gone = {*self._forgotten(), *rows}
            self._storage.set_study_user_attr(self._study_id, "again", sorted(gone))

        self._do(action)

    def _forgotten(self) -> list[int]:
        return list(self._storage.get_study_user_attrs(self._study_id).get("again", []))

    def records(self, known: set[int] | None = None) -> list[Record]:
        """Return the finished rows in order, without those to be measured again.

        Args:
            known: ids of rows to leave out; those that were looked at are added.
        """
        from optuna.trial import TrialState

        states = (TrialState.COMPLETE, TrialState.FAIL)
        seen: set[int] = set() if known is None else known

        def action() -> tuple[list[Any], set[int]]:
            if known and self._door.patience is not None:
                fresh = [number for number in self._finished() if number not in seen]
                return [self._storage.get_trial(number) for number in fresh], set(self._forgotten())
            rows = self._storage.get_all_trials(self._study_id, deepcopy=False, states=states)
            return [row for row in rows if row._trial_id not in seen], set(self._forgotten())

        rows, forgotten = self._do(action)
        seen.update(row._trial_id for row in rows)
        assert self._space is not None
        names = [name for name, _, _ in self._plan["objectives"]]
        counted = [row for row in rows if not row.user_attrs.get("again") and row._trial_id not in forgotten]
        return sorted((Record.of(row, self._space, names) for row in counted), key=lambda each: each.order)

    def _finished(self) -> list[int]:
        """Return the ids of finished rows; asking for the rows themselves costs far more."""
        from sqlalchemy import text

        statement = "SELECT trial_id FROM trials WHERE study_id = :study AND state IN ('COMPLETE', 'FAIL')"
        with self._storage.engine.connect() as connection:
            return list(connection.execute(text(statement), {"study": self._study_id}).scalars())

    @property
    def optuna(self) -> Any:
        """The study as Optuna's own object."""
        import optuna

        with guarded(self.where), quiet_optuna():
            return optuna.load_study(study_name=self._door.name, storage=self._storage)


def _another(where: str | None, differing: list[str], found: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    lines = []
    for key in differing:
        old, new = found.get(key), plan[key]
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            old, new = ({name: each[name] for name in each if old.get(name) != new.get(name)} for each in (old, new))
        if key == "space":  # too long to show; sizes tell the most
            old, new = (f"{Space.from_json(str(text))!r} {Space.from_json(str(text)).digest}" for text in (old, new))
        old, new = (text if len(text) <= _SHOWN else f"{text[:_SHOWN]} …" for text in (str(old), str(new)))
        lines.append(f"its {key} is {old}, yours {new}")
    return (
        f"{where} holds another study: {'; '.join(lines)}. Nothing was changed: choose another storage, or search with "
        "what that study was made for"
    )
