"""A study in an Optuna storage: a SQLite file by default, any Optuna URL, or memory.

A row is made when a config starts to be measured and finished when it was; one that was never finished (its process
died) is marked as such, and its config is measured again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checks import CorruptFileError, PliantError
from ..measure import Measurement
from ..space import Config, Constraint, Space
from .encoding import distributions, from_params, to_params
from .guard import check_file, guarded, quiet_optuna
from .lock import FileLock
from .trial import Trial

NAME = "pliant"
FORMAT = 1
LOCK_SECONDS = 20.0
"""How long to wait for another program's lock on the SQLite file."""


class Store:
    """An open storage; use it as a context. See :meth:`open`."""

    def __init__(self, storage: Any, where: str | None, lock: FileLock | None) -> None:
        self.where = where
        self._storage = storage
        self._lock = lock
        self._space: Space | None = None
        self._distributions: dict[str, Any] = {}
        self._study_id = -1
        self._plan: dict[str, Any] = {}

    @classmethod
    def open(cls, storage: str | Path | None, *, create: bool = True) -> Store:
        """Open a path (SQLite), a URL that Optuna knows, or memory (``None``).

        With ``create`` the file may be new, and is locked against other searchers; without, it must hold a study.

        Raises:
            CorruptFileError: the file is no study.
            PliantError: it cannot be read, written or locked.
        """
        from optuna.storages import InMemoryStorage, RDBStorage

        if storage is None:
            return cls(InMemoryStorage(), None, None)
        url, lock, options = str(storage), None, {}
        if "://" not in url:
            path = Path(storage).expanduser().resolve()
            check_file(path, create=create)
            lock = FileLock(path) if create else None
            url, options = f"sqlite:///{path}", {"connect_args": {"timeout": LOCK_SECONDS}}
        try:
            with guarded(str(storage)), quiet_optuna():
                opened = RDBStorage(url, engine_kwargs=options)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        store = cls(opened, str(storage), lock)
        if not create:
            store._attach()
        return store

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        if self.where is not None:
            self._storage.remove_session()
            self._storage.engine.dispose()
        if self._lock is not None:
            self._lock.release()

    # -- what the study is of ------------------------------------------------------------------------------------

    def claim(self, plan: Mapping[str, Any]) -> None:
        """Make the study of ``plan``, or make sure that the one that is there was made for it; tidy up after a kill.

        Raises:
            PliantError: the storage holds a study of another space, other objectives, constraints, seed or searcher.
        """
        with guarded(self.where), quiet_optuna():
            import optuna

            directions: list[Any] = [
                "minimize" if direction == "min" else "maximize" for _, direction, _ in plan["objectives"]
            ]
            if NAME not in {study.study_name for study in self._storage.get_all_studies()}:
                optuna.create_study(storage=self._storage, study_name=NAME, directions=directions)
                self._set_plan(plan)
            elif not self._has_plan():  # killed between these two lines, or not ours: nothing of ours is in it yet
                if self._storage.get_n_trials(self._storage.get_study_id_from_name(NAME)):
                    raise CorruptFileError(
                        f"{self.where} holds trials that Pliant did not make; choose another storage"
                    )
                self._storage.delete_study(self._storage.get_study_id_from_name(NAME))
                return self.claim(plan)
        self._attach()
        found = self.plan()
        differing = [key for key in plan if found.get(key) != plan[key]]
        if differing:
            raise PliantError(_another(self.where, differing, found, plan))
        self._bury()
        return None

    def _has_plan(self) -> bool:
        attributes = self._storage.get_study_user_attrs(self._storage.get_study_id_from_name(NAME))
        return "plan" in attributes

    def _set_plan(self, plan: Mapping[str, Any]) -> None:
        study_id = self._storage.get_study_id_from_name(NAME)
        self._storage.set_study_user_attr(study_id, "plan", {"format": FORMAT, **plan})

    def plan(self) -> dict[str, Any]:
        """Return what the study was made for."""
        return self._plan

    def _attach(self) -> None:
        with guarded(self.where):
            try:
                self._study_id = self._storage.get_study_id_from_name(NAME)
                self._plan = self._storage.get_study_user_attrs(self._study_id)["plan"]
                self._space = Space.from_json(self._plan["space"])
            except KeyError as error:
                raise CorruptFileError(f"{self.where} is a database of Optuna, but not a study of Pliant") from error
            self._distributions = distributions(self._space)

    def _bury(self) -> None:
        """Mark what a kill left behind."""
        from optuna.trial import TrialState

        with guarded(self.where):
            for row in self._storage.get_all_trials(self._study_id, deepcopy=False, states=(TrialState.RUNNING,)):
                self.again(row._trial_id, "killed before it was measured")

    # -- trials --------------------------------------------------------------------------------------------------

    def begin(self, config: Config) -> int:
        """Write down that ``config`` is being measured; return the row's id."""
        from optuna.trial import TrialState, create_trial

        assert self._space is not None
        with guarded(self.where):
            row = create_trial(
                state=TrialState.RUNNING,
                params=to_params(self._space, config),
                distributions=self._distributions,
            )
            return int(self._storage.create_new_trial(self._study_id, template_trial=row))

    def finish(self, row: int, values: Mapping[str, float], measurements: Mapping[str, Measurement]) -> None:
        """Store what was measured; only the last of these writes makes the trial count."""
        from optuna.trial import TrialState

        with guarded(self.where):
            records = {name: measurement.to_json() for name, measurement in measurements.items()}
            self._storage.set_trial_user_attr(row, "measurements", records)
            violations = [each for _, each in _violations(self._plan, measurements)]
            if violations:  # where Optuna's own samplers look for them
                self._storage.set_trial_system_attr(row, "constraints", violations)
            ordered = [values[name] for name, _, _ in self._plan["objectives"]]
            self._storage.set_trial_state_values(row, TrialState.COMPLETE, ordered)

    def fail(self, row: int, error: str) -> None:
        """Store that measuring failed."""
        self._end(row, {"error": error})

    def again(self, row: int, error: str) -> None:
        """Store that nothing was learnt from this row: its config will be measured again."""
        self._end(row, {"error": error, "again": True})

    def forget(self, rows: Sequence[int]) -> None:
        """Let the configs of failed ``rows`` be measured again."""
        with guarded(self.where):
            self._storage.set_study_user_attr(self._study_id, "again", [*self._forgotten(), *rows])

    def _forgotten(self) -> list[int]:
        return list(self._storage.get_study_user_attrs(self._study_id).get("again", []))

    def _end(self, row: int, attributes: Mapping[str, Any]) -> None:
        from optuna.trial import TrialState

        with guarded(self.where):
            for key, value in attributes.items():
                self._storage.set_trial_user_attr(row, key, value)
            self._storage.set_trial_state_values(row, TrialState.FAIL)

    def trials(self) -> list[Trial]:
        """Return the finished trials in order, without those to be measured again."""
        from optuna.trial import TrialState

        with guarded(self.where):
            forgotten = set(self._forgotten())
            states = (TrialState.COMPLETE, TrialState.FAIL)
            rows = self._storage.get_all_trials(self._study_id, deepcopy=False, states=states)
        counted = [row for row in rows if not row.user_attrs.get("again") and row._trial_id not in forgotten]
        counted.sort(key=lambda row: row.number)
        return [self._trial(number, row) for number, row in enumerate(counted)]

    def _trial(self, number: int, row: Any) -> Trial:
        assert self._space is not None
        config = from_params(self._space, row.params)
        if row.values is None:
            return Trial(number, config, state="failed", error=row.user_attrs.get("error", ""), violation=float("inf"))
        names = [name for name, _, _ in self._plan["objectives"]]
        records = row.user_attrs.get("measurements", {})
        measurements = {name: Measurement.from_json(record) for name, record in records.items()}
        violation = sum(each for _, each in _violations(self._plan, measurements))
        return Trial(number, config, dict(zip(names, row.values, strict=True)), measurements, violation=violation)

    @property
    def optuna(self) -> Any:
        """The study as Optuna's own object."""
        import optuna

        with guarded(self.where), quiet_optuna():
            return optuna.load_study(study_name=NAME, storage=self._storage)


def _violations(plan: Mapping[str, Any], measurements: Mapping[str, Measurement]) -> list[tuple[str, float]]:
    values = {name: measurement.value for name, measurement in measurements.items()}
    return [(text, Constraint.parse(text).violation(values)) for text in plan["constraints"]]


def _another(where: str | None, differing: list[str], found: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    lines = []
    for key in differing:
        old, new = found.get(key), plan[key]
        if key == "space":  # too long to show; sizes tell the most
            old, new = (f"{Space.from_json(str(text))!r} {Space.from_json(str(text)).digest}" for text in (old, new))
        lines.append(f"its {key} is {old}, yours {new}")
    return (
        f"{where} holds another study: {'; '.join(lines)}. Nothing was changed: choose another storage, or search with "
        "what that study was made for"
    )
