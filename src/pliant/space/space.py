"""The choices of a family, and the configs that they span."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING

from ..checks import CorruptFileError, PliantError, UnknownNameError, WrongShapeError, unknown
from .choice import Choice, Option
from .config import Config
from .constraint import Constraint
from .encoding import Encoding, decode, encode

if TYPE_CHECKING:
    import numpy as np


class Space:
    """A finite set of configs: one option of every choice, as far as the constraints allow.

    A constraint bounds one choice, so it is kept exactly by leaving options out: every config that a space samples,
    mutates, crosses or counts is feasible, and none is tried and thrown away.

    Args:
        choices: with different names. None at all is a space of one config, ``{}``.
        constraints: on the numbers of choices, such as ``"depth >= 2"``.

    Raises:
        WrongShapeError: if two choices share a name, or a constraint leaves a choice no option or no numbers.
        UnknownNameError: if a constraint names no choice.
    """

    __slots__ = ("_allowed", "_by_name", "choices", "constraints")

    def __init__(self, choices: Sequence[Choice], constraints: Sequence[Constraint | str] = ()) -> None:
        self.choices: tuple[Choice, ...] = tuple(choices)
        if isinstance(constraints, str) or not all(isinstance(each, (str, Constraint)) for each in constraints):
            raise WrongShapeError(f"constraints are a list such as ['depth >= 2', 'width <= 64'], got {constraints!r}")
        self.constraints: tuple[Constraint, ...] = tuple(
            Constraint.parse(each) if isinstance(each, str) else each for each in constraints
        )
        self._by_name = {choice.name: choice for choice in self.choices}
        if len(self._by_name) < len(self.choices):
            names = [choice.name for choice in self.choices]
            twice = next(name for name in names if names.count(name) > 1)
            raise WrongShapeError(f"two choices are named {twice!r}; give each its own name")
        for constraint in self.constraints:
            if constraint.name not in self._by_name:
                raise unknown(f"choice (for the constraint '{constraint}')", constraint.name, self._by_name)
        self._allowed = {choice.name: self._options_left(choice) for choice in self.choices}

    def _options_left(self, choice: Choice) -> tuple[Option, ...]:
        mine = [constraint for constraint in self.constraints if constraint.name == choice.name]
        if mine and any(isinstance(option, (str, tuple)) for option in choice.options):
            raise WrongShapeError(
                f"the constraint '{mine[0]}' needs numbers, but choice {choice.name!r} has options such as "
                f"{choice.options[0]!r}; leave out options instead"
            )
        left = tuple(
            option
            for option in choice.options
            if all(constraint.holds({choice.name: float(option)}) for constraint in mine)  # type: ignore[arg-type]
        )
        if not left:
            rules = " and ".join(f"'{constraint}'" for constraint in mine)
            raise WrongShapeError(f"{rules} leaves choice {choice.name!r} none of its options {choice.options}")
        return left

    @property
    def size(self) -> int:
        """The exact number of feasible configs."""
        return math.prod(len(options) for options in self._allowed.values())

    def largest(self) -> Config:
        """Return the config of the largest option of every choice that the constraints allow."""
        return self._of({name: options[-1] for name, options in self._allowed.items()})

    def smallest(self) -> Config:
        """Return the config of the smallest option of every choice that the constraints allow."""
        return self._of({name: options[0] for name, options in self._allowed.items()})

    def enumerate(self) -> Iterator[Config]:
        """Yield every feasible config, the smallest first; there are :attr:`size` of them."""
        for options in itertools.product(*self._allowed.values()):
            yield self._of(dict(zip(self._allowed, options, strict=True)))

    def sample(self, rng: Random) -> Config:
        """Return a feasible config, each as likely as any other."""
        return self._of({name: rng.choice(options) for name, options in self._allowed.items()})

    def mutate(self, config: Mapping[str, Option], rng: Random, rate: float) -> Config:
        """Return a copy in which each choice took another option with probability ``rate``, and at least one did.

        Only a space of one config gives the same config back.

        Raises:
            WrongShapeError: if ``rate`` is not in (0, 1].
        """
        if not 0 < rate <= 1:
            raise WrongShapeError(
                f"a mutation rate is a probability in (0, 1], got {rate!r}; try 1 / number of choices"
            )
        made = dict(self.check(config))
        free = [name for name, options in self._allowed.items() if len(options) > 1]
        picked = [name for name in free if rng.random() < rate] or [rng.choice(free) for _ in free[:1]]
        for name in picked:
            made[name] = rng.choice([option for option in self._allowed[name] if option != made[name]])
        return self._of(made)

    def crossover(self, a: Mapping[str, Option], b: Mapping[str, Option], rng: Random) -> Config:
        """Return a config that has each option from ``a`` or ``b``, as a coin decides (uniform crossover)."""
        parents = self.check(a), self.check(b)
        return self._of({name: parents[rng.randrange(2)][name] for name in self._by_name})

    def neighbours(self, config: Mapping[str, Option]) -> list[Config]:
        """Return the feasible configs one step away: the next option up or down, or any other if not ordered."""
        here = self.check(config)
        found = []
        for choice in self.choices:
            options = self._allowed[choice.name]
            at = options.index(here[choice.name])
            steps = (*options[max(at - 1, 0) : at], *options[at + 1 : at + 2])
            if not choice.ordered:
                steps = (*options[:at], *options[at + 1 :])
            found += [self._of({**here, choice.name: option}) for option in steps]
        return found

    def check(self, config: Mapping[str, Option]) -> Config:
        """Return ``config`` if it is complete, valid and feasible.

        Raises:
            UnknownNameError: for a choice or an option that does not exist; offers the nearest.
            WrongShapeError: if a choice is missing, or a constraint does not hold.
        """
        if isinstance(config, Config) and config.checked_by is self:
            return config
        if not isinstance(config, Mapping):
            raise WrongShapeError(
                f"a config maps every choice to an option, such as {dict(self.largest())}; got {config!r}"
            )
        for name in config:
            if name not in self._by_name:
                raise unknown("choice", name, self._by_name)
        missing = [name for name in self._by_name if name not in config]
        if missing:
            shown = ", ".join(map(repr, missing[:6])) + (", …" if len(missing) > 6 else "")
            raise WrongShapeError(
                f"the config has no option for {shown} ({len(missing)} of {len(self.choices)} choices); "
                "give every choice one, or space.complete(config) to take the largest"
            )
        made = {}
        for choice in self.choices:  # the stored options, so that 2.0 and 2 give the same config
            option = choice.options[choice.index(config[choice.name])]
            if option not in self._allowed[choice.name]:
                rules = " and ".join(f"'{rule}'" for rule in self.constraints if rule.name == choice.name)
                raise WrongShapeError(
                    f"{choice.name} = {option!r} breaks {rules}; allowed are {self._allowed[choice.name]}"
                )
            made[choice.name] = option
        return self._of(made)

    def _of(self, options: Mapping[str, Option]) -> Config:
        """Return a config of options that are known to be this space's."""
        made = Config(options)
        made.checked_by = self
        return made

    def complete(self, partial: Mapping[str, Option]) -> Config:
        """Return ``partial`` with the largest option for every choice that it leaves open.

        Raises:
            UnknownNameError: for a choice or an option that does not exist; offers the nearest.
            WrongShapeError: if a constraint does not hold.
        """
        return self.check({**self.largest(), **partial})

    def feasible(self, config: Mapping[str, Option]) -> bool:
        """Return whether ``config`` is a complete, valid config that keeps the constraints."""
        try:
            self.check(config)
        except (UnknownNameError, WrongShapeError):
            return False
        return True

    def encode(self, config: Mapping[str, Option], kind: Encoding = "ordinal") -> np.ndarray:
        """Return ``config`` as a float64 vector: option indices ``(choices,)``, or one-hot ``(options of all,)``.

        Raises:
            UnknownNameError: for another ``kind``, or a config that is not of this space.
        """
        made = self.check(config)
        return encode(self.choices, [choice.index(made[choice.name]) for choice in self.choices], kind)

    def decode(self, vector: Sequence[float] | np.ndarray, kind: Encoding = "ordinal") -> Config:
        """Return the config whose encoding is nearest to ``vector``; :meth:`encode` backwards.

        The result keeps the constraints only if the vector does: ask :meth:`feasible`.

        Raises:
            UnknownNameError: for another ``kind``.
            WrongShapeError: if the vector has another length, or holds nan.
        """
        indices = decode(self.choices, vector, kind)
        return Config({choice.name: choice.options[at] for choice, at in zip(self.choices, indices, strict=True)})

    def indices(self, configs: Sequence[Mapping[str, Option]]) -> np.ndarray:
        """Return the option indices of ``configs`` as ints (n, choices), for searchers and predictors.

        Raises:
            UnknownNameError, WrongShapeError: a config is not of this space.
        """
        import numpy as np

        rows = [[choice.index(made[choice.name]) for choice in self.choices] for made in map(self.check, configs)]
        return np.array(rows, dtype=np.int64).reshape(len(rows), len(self.choices))

    def configs(self, indices: np.ndarray) -> list[Config]:
        """Return the configs of option ``indices`` (n, choices); :meth:`indices` backwards."""
        return [
            Config({choice.name: choice.options[at] for choice, at in zip(self.choices, row, strict=True)})
            for row in indices.tolist()
        ]

    def allowed(self) -> list[np.ndarray]:
        """Return for every choice the indices (ints) of the options that the constraints allow."""
        import numpy as np

        return [
            np.array([choice.index(option) for option in self._allowed[choice.name]], dtype=np.int64)
            for choice in self.choices
        ]

    def to_json(self) -> str:
        """Return it as one line of JSON."""
        record = {
            "choices": [choice.to_dict() for choice in self.choices],
            "constraints": [str(constraint) for constraint in self.constraints],
        }
        return json.dumps(record, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Space:
        """Make a space from :meth:`to_json`'s text.

        Raises:
            CorruptFileError: if the text is not such a record.
        """
        try:
            record = json.loads(text)
            return cls([Choice.from_dict(each) for each in record["choices"]], record["constraints"])
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError, PliantError) as error:
            raise CorruptFileError(f"expected a space as a JSON object with choices and constraints: {error}") from None

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits: equal for spaces with the same choices in the same order and constraints."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        return self.to_json() == other.to_json() if isinstance(other, Space) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __repr__(self) -> str:
        rules = f", constraints={[str(constraint) for constraint in self.constraints]}" if self.constraints else ""
        return f"Space({len(self.choices)} choices, {self.size} configs{rules})"
