"""N2N learning: one recurrent policy leaves parts of a teacher out, another shrinks what stays, and both learn from it.

The teacher is the largest config, and is measured first. Stage one decides of every block, or run of blocks, whether
and how much of it stays: an LSTM reads descriptions of these choices in both directions. The best student of stage one
goes on into stage two, where a second LSTM goes through the sizes that remain, its last action among its inputs. Every
student that they write is measured, and they learn by REINFORCE against a moving average of the rewards. The reward is
R = C (2 - C) A / A_teacher, with C = 1 - size / size of the teacher, and A the accuracy: 0 for the teacher.

The claim of the paper: more than tenfold compression of networks such as ResNet-34 at the accuracy of the teacher, and
policies trained on small teachers that speed up learning on larger ones.

What counts in the reward, with any objectives:

- *A* comes from the first objective that is not computed. A teacher's negative value is taken for a negated score
  (A = -value), one in [0, 1) for an error rate (A = 1 - value), and any other for a loss: A / A_teacher = value of the
  teacher / value. With ``worst``, A = worst - value. Where all objectives are computed, A / A_teacher is 1.
- *C* comes from the first computed objective that is positive for the teacher; else, as in the paper, from the number
  of parameters (the statistic ``params``); else from the first other statistic; else from the second measured
  objective, such as a latency. Where there is none of these, R is A / A_teacher alone.
- All other objectives are measured and not rewarded; bound them with constraints.
- What breaks a constraint on measured values gets e R + e - 1, where e falls from 1 to 0 over the first 15 updates of a
  stage, as published. What breaks a constraint that needs no measurement is not measured and gets -1, less by how much
  (down to -2), so that there is a slope towards what is allowed. What failed gets -1, and R is never less.
- Where the teacher failed, or constraints forbid it, the best quality measured so far stands in for its own, and the
  greatest measured cost likewise.

To stage one belong the choices of yes or no, those named ``depth`` or ``keep``, and those that decide whether others
matter; all others are sizes. It ends after ``students`` measurements, or when its policy writes only known ones. A
policy has one output for each of the shares 0, 0.1 ... 1 of a size, and what it says of an option is read between them.
So the same weights decide any number of choices with any options: a running search's ``policy`` serves another space.

Where this implementation differs: a choice is described by what a space tells of it (options, largest size, share of
the cost) rather than by kernel and stride; one layer of LSTM rather than two, and a larger rate, as the budget is
smaller; how many blocks of a run stay is one decision. How students are trained is up to what measures them: members of
a trained family are not trained one by one. What is written again is rewarded from memory. Known to be suboptimal: it
compresses one way, and does not spread over a front; it needs far more measurements than a model. Where stage two
writes only what is known, a decision or more of it is drawn evenly, and what comes of that is not learnt from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import ClassVar

import numpy as np

from ...checks import WrongShapeError
from ...space import Config, Problem
from ...technique import Paper, Proposer, Searcher
from ._adam import Adam
from ._arrays import generator, limits
from ._batches import Batches, Measured
from ._compression import Policy, Removal, Shrinkage, describe, read, written
from ._students import Rewards, is_removal
from ._worth import Baseline

_TRIES = 20
_FREE = 300
"""Students that are forbidden before they are measured and that a policy may learn from in a row."""


@dataclass(frozen=True)
class N2n(Searcher):
    """Compression from network to network: policies that remove, then shrink, trained by REINFORCE.

    Attributes:
        batch: students per update of a policy.
        hidden: size of the policies' states.
        rate: of learning.
        memory: share of the baseline that stays when a reward comes, from 0 to 1.
        students: measured in stage one, before stage two begins.
        worst: value of the quality objective at which nothing is right, so that A = worst - value; 1 for an error rate,
            100 for per cent, 0 for a negated score. Guessed from the teacher's value where ``None``.
        policy: weights to begin with, from a running search's ``policy`` or of :meth:`taught`; drawn where empty.
    """

    batch: int = 5
    hidden: int = 16
    rate: float = 0.02
    memory: float = 0.9
    students: int = 50
    worst: float | None = None
    policy: str = ""

    paper: ClassVar[Paper] = Paper(
        "Ashok, Rhinehart, Beainy, Kitani",
        2017,
        "N2N Learning: Network to Network Compression via Policy Gradient Reinforcement Learning",
        "1709.06030",
    )

    def __post_init__(self) -> None:
        if self.batch < 1 or self.hidden < 1 or self.rate <= 0 or self.students < 1:
            raise WrongShapeError(
                f"batch, hidden and students are at least 1, rate above 0, got {self.batch}, {self.hidden}, "
                f"{self.students} and {self.rate}"
            )
        if not 0 <= self.memory < 1:
            raise WrongShapeError(f"memory is from 0 to below 1, got {self.memory}")
        if self.worst is not None and not np.isfinite(self.worst):
            raise WrongShapeError(
                f"worst is a finite value of the quality objective, such as 100, or None, got {self.worst}"
            )
        if self.policy:
            self.policies(0)

    def policies(self, seed: int) -> tuple[Removal, Shrinkage]:
        """Return the policies that a search begins with.

        Raises:
            WrongShapeError: ``policy`` is no text of such policies.
        """
        rng = generator(Random(f"{seed}:policies"))
        made = Removal(self.hidden, rng), Shrinkage(self.hidden, rng)
        if self.policy:
            read(self.policy, made, self.hidden)
        return made

    def start(self, problem: Problem) -> Proposer:
        """Begin a search; ``problem.seed`` and the history decide every config."""
        return Compression(self, problem)

    def taught(self, problem: Problem, measured: Iterable[tuple[Config, Sequence[float], float]]) -> N2n:
        """Return this searcher with the policies that a search which it made ended with, for a search elsewhere.

        Args:
            problem: of that search, seed included.
            measured: what it measured: config, minimised values, violation. It is asked again, and told these.

        Raises:
            WrongShapeError: too few of them are what it would ask for, so that nothing was learnt.
        """
        known = {problem.same([config])[0]: (values, violation) for config, values, violation in measured}
        proposer = Compression(self, problem)
        count = 0
        while count < len(known):
            asked = [
                (config, known[same]) for config in proposer.ask() for same in problem.same([config]) if same in known
            ]
            if not asked:
                break
            [(config, (values, violation))] = asked
            proposer.tell(config, values, violation)
            count += 1
        if not proposer.updates:
            raise WrongShapeError(
                f"nothing was learnt: of the {len(known)} measurements, this searcher asks for {count}; give the "
                f"problem, seed and fields of the search that made them, and more than batch={self.batch} measurements"
            )
        return replace(self, policy=proposer.policy)


class Stage:
    """One policy at work on some choices of one network.

    Args:
        policy: decides them.
        problem: whose they are.
        columns: positions of the choices.
        base: option indices (choices,) of the network; those of other choices stay.
        rewards: knows the cost.
        settings: how it learns.
    """

    def __init__(
        self,
        policy: Policy,
        problem: Problem,
        columns: Sequence[int],
        base: np.ndarray,
        rewards: Rewards,
        settings: N2n,
    ) -> None:
        allowed = problem.space.allowed()
        self.policy = policy
        self.columns = [column for column in columns if len(allowed[column]) > 1]
        self.base = base
        self.updates = 0
        self.asked: list[Config] = []
        self.written: list[tuple[Config, np.ndarray, float | None]] = []  # and not learnt from: with a known reward
        self.allowed = allowed
        self._steps = describe(problem.space, self.columns, base, rewards.count)
        self._adam = Adam(policy.parameters, settings.rate)
        self._baseline = Baseline(settings.memory)

    def write(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return a student's option indices (1, choices) and the decisions (1, steps) that made it."""
        places = self.policy.sample(self._steps, 1, rng)
        row = self.base[None].copy()
        row[0, self.columns] = [self.allowed[at][place] for at, place in zip(self.columns, places[0], strict=True)]
        return row, places

    def learn(self, places: np.ndarray, rewards: np.ndarray) -> None:
        """Take one step towards decisions (n, steps) whose rewards (n,) exceed the baseline."""
        weights = self._baseline.advantages(rewards)
        self._adam.step([-each for each in self.policy.gradient(self._steps, places, weights)])
        self.updates += 1


class Compression(Batches):
    """A running search.

    Args:
        settings: the searcher.
        problem: what is compressed.
    """

    def __init__(self, settings: N2n, problem: Problem) -> None:
        super().__init__(problem)
        self._settings = settings
        self._removal, self._shrinkage = settings.policies(problem.seed)
        self._rewards = Rewards(problem, settings.worst)
        self._known: dict[Config, Measured] = {}  # by the config that stands for the network
        self._teacher = problem.space.largest()
        largest = problem.space.indices([self._teacher])[0]
        removal = is_removal(problem)
        self._sizes = np.flatnonzero(~removal).tolist()
        parts = np.flatnonzero(removal).tolist()
        self.stages = [Stage(self._removal, problem, parts, largest, self._rewards, settings)]

    @property
    def policy(self) -> str:
        """The weights of both policies as they are now, for :attr:`N2n.policy` of another search."""
        return written([self._removal, self._shrinkage], self._settings.hidden)

    @property
    def updates(self) -> int:
        """How often a policy has learnt."""
        return sum(stage.updates for stage in self.stages)

    def tell(self, config: Config, values: Sequence[float], violation: float = 0.0) -> None:
        """Learn what ``config`` is worth; a policy takes a step whenever enough of what it wrote is known."""
        super().tell(config, values, violation)
        self._known[self._same(config)] = self.told[config]
        self._learn()

    def plan(self, rng: Random, number: int) -> list[Config]:
        """Return the teacher first, then what the policy of the stage writes."""
        if self._teacher in self.unseen and self.unseen.allowed([self._teacher]):
            return [self._teacher]
        draw = generator(rng)
        if len(self.stages) == 1:
            stage = self.stages[0]
            if stage.columns and sum(self._same(each) in self._known for each in stage.asked) < self._settings.students:
                found = self._write(draw)
                if found:
                    return found
            self._shrink(draw)
        return (self._write(draw) or self._beside(draw)) if self.stages[-1].columns else []

    def rewards(self, configs: Sequence[Config]) -> np.ndarray:
        """Return the rewards (n,) of measured ``configs`` in the stage that is on."""
        students = [self._known[self._same(config)] for config in configs]
        teacher = self._known.get(self._same(self._teacher))
        return self._rewards.of(students, teacher, self._known.values(), self.stages[-1].updates)

    def _same(self, config: Config) -> Config:
        return self.unseen.same([config])[0]

    def _write(self, rng: np.random.Generator) -> list[Config]:
        """Let the policy write until a student is new; learn from those that are known or forbidden meanwhile."""
        stage, tries = self.stages[-1], 0
        for _ in range(_FREE):
            row, places = stage.write(rng)
            [config] = self.space.configs(row)
            broken = float(limits(self.problem, row)[0])
            if broken > 0:
                stage.written.append((config, places, -1 - broken / (1 + broken) if np.isfinite(broken) else -2.0))
            elif config in self.unseen:
                stage.written.append((config, places, None))
                stage.asked.append(config)
                return [config]
            else:
                tries += 1
                if self._same(config) in self._known:
                    stage.written.append((config, places, None))
            self._learn()
            if tries >= _TRIES:
                break
        return []

    def _beside(self, rng: np.random.Generator) -> list[Config]:
        """Return a new student beside one that the policy writes: a decision drawn anew, or more until it is new."""
        stage = self.stages[-1]
        for tried in range(_TRIES):
            row, _ = stage.write(rng)
            for column in rng.permutation(stage.columns)[: 1 + tried // 4]:
                row[0, column] = rng.choice(stage.allowed[column])
            found = self.unseen.of(self.unseen.allowed(self.space.configs(row)))
            if found:
                return found
        return []

    def _learn(self) -> None:
        """Take a step for what was written in this stage, once enough of it is known."""
        stage = self.stages[-1]
        ready = [each for each in stage.written if each[2] is not None or self._same(each[0]) in self._known]
        if len(ready) < self._settings.batch:
            return
        stage.written = [each for each in stage.written if each[2] is None and self._same(each[0]) not in self._known]
        worth = [self.rewards([config])[0] if given is None else given for config, _, given in ready]
        stage.learn(np.concatenate([places for _, places, _ in ready]), np.array(worth))

    def _shrink(self, rng: np.random.Generator) -> None:
        """Begin stage two with the best student of stage one, and those sizes that are left in it.

        Where all of them are too large to be allowed, it begins with what the policy writes by now.
        """
        base = self.stages[0].base.copy()
        known = list(self._known.values())
        rows = self.space.indices([each.config for each in known])
        whole = np.flatnonzero((rows[:, self._sizes] == base[self._sizes]).all(axis=1))
        if len(whole):
            base = rows[whole[int(np.argmax(self.rewards([known[at].config for at in whole])))]]
        elif self.stages[0].columns:
            base = self.stages[0].write(rng)[0][0]
        active = np.ones(len(base), dtype=bool)
        if self.problem.active is not None and len(base):
            active = np.asarray(self.problem.active(base[None]), dtype=bool)[0]
        columns = [column for column in self._sizes if active[column]]
        self.stages.append(Stage(self._shrinkage, self.problem, columns, base, self._rewards, self._settings))
