"""N2N learning: rewards by hand, gradients by differences and enumeration, students counted, and what is learnt."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from pliant import Depth, Family, Metric, Params, Width
from pliant.checks import WrongShapeError
from pliant.space import Choice, Config, Forms, Problem, Space
from pliant.study.plan import Plan
from pliant.techniques.search._arrays import pool
from pliant.techniques.search._compression import Policy, Removal, Shrinkage, Steps, describe, shares_of
from pliant.techniques.search._students import is_removal, ratio, reward
from pliant.techniques.search.n2n import Compression, N2n
from tests.family.nets import ConvNet, images
from tests.techniques.search.table import draws, drive

SIZES = (16, 24, 32, 40, 48, 56, 64)


class Teacher:
    """Blocks that may go and shrink; the cheap ones are those that the accuracy needs most."""

    def __init__(self, blocks: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed + 100)
        pairs = [
            (Choice(f"blocks.{at}.keep", (False, True)), Choice(f"blocks.{at}.width", SIZES)) for at in range(blocks)
        ]
        self.space = Space([choice for pair in pairs for choice in pair])
        self.price = np.exp(rng.uniform(-1.2, 1.2, blocks))
        self.need = 4 * self.price**-2.0 / (self.price**-2.0).sum()
        self.full = self.space.indices([self.space.largest()])

    def cost(self, rows: np.ndarray) -> np.ndarray:
        kept, share = rows[:, ::2], np.array(SIZES)[rows[:, 1::2]] / SIZES[-1]
        return 0.2 * self.price.mean() + (kept * share * self.price).sum(axis=1)

    def error(self, rows: np.ndarray) -> np.ndarray:
        kept, share = rows[:, ::2], np.array(SIZES)[rows[:, 1::2]] / SIZES[-1]
        return 1 - 0.95 * np.exp(-(np.where(kept == 1, 0.8 * (1 - share) ** 2, 1.0) * self.need).sum(axis=1))

    def active(self, rows: np.ndarray) -> np.ndarray:
        found = np.ones(rows.shape, dtype=bool)
        found[:, 1::2] = rows[:, ::2] == 1
        return found

    def canonical(self, rows: np.ndarray) -> np.ndarray:
        return np.where(self.active(rows), rows, self.full)

    def values(self, configs: Sequence[Config]) -> np.ndarray:
        rows = self.space.indices(configs)
        return np.stack([self.error(rows), self.cost(rows)], axis=1)

    def problem(self, seed: int = 0, **more: object) -> Problem:
        forms = Forms(self.canonical, self.active)
        return Problem(self.space, 2, seed, exact={1: self.cost}, forms=forms, **more)  # type: ignore[arg-type]

    def rewards(self, configs: Sequence[Config]) -> np.ndarray:
        """C (2 - C) A / A_teacher, written down again."""
        rows = self.space.indices(configs)
        compression = 1 - self.cost(rows) / self.cost(self.full)
        return compression * (2 - compression) * (1 - self.error(rows)) / (1 - self.error(self.full))


TINY = Space([Choice("a", (1, 2, 4)), Choice("b.keep", (False, True)), Choice("c", (3, 5, 7), ordered=False)])


def tiny(kind: type[Removal] | type[Shrinkage]) -> tuple[Policy, Steps]:
    rng = np.random.default_rng(3)
    policy = kind(4, rng)
    for parameter in policy.parameters:
        parameter += rng.normal(0, 0.4, parameter.shape)
    return policy, describe(TINY, [0, 1, 2], np.array([2, 1, 2]), lambda rows: 1.0 + rows.sum(axis=1))


def started(problem: Problem, **fields: object) -> Compression:
    proposer = N2n(**fields).start(problem)  # type: ignore[arg-type]
    assert isinstance(proposer, Compression)
    return proposer


def worth(problem: Problem, told: list[tuple[Config, list[float], float]], **fields: object) -> list[float]:
    proposer = started(problem, **fields)
    for config, values, violation in told:
        proposer.tell(config, values, violation)
    return proposer.rewards([config for config, _, _ in told]).tolist()


# -- the reward ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("compression", "share", "expected"),
    [(0.0, 1.0, 0.0), (0.5, 1.0, 0.75), (0.9, 1.0, 0.99), (0.5, 0.8, 0.6), (0.9, 0.5, 0.495), (1.0, 1.02, 1.02)],
)
def test_the_reward_by_hand(compression: float, share: float, expected: float) -> None:
    assert reward(compression, share) == pytest.approx(expected, rel=1e-12)


def test_the_uncompressed_student_gets_exactly_nothing() -> None:
    for teacher in (Teacher(3), Teacher(7, 5)):
        [found] = worth(
            teacher.problem(), [(teacher.space.largest(), [0.05, float(teacher.cost(teacher.full)[0])], 0.0)]
        )
        assert found == 0.0


@pytest.mark.parametrize(
    ("value", "teacher", "worst", "expected"),
    [
        (0.24, 0.05, None, 0.8),  # error rates
        (-0.76, -0.95, None, 0.8),  # negated accuracies
        (24.0, 5.0, 100.0, 0.8),  # errors in per cent
        (5.0, 4.0, None, 0.8),  # losses
        (1.3, 0.05, None, 0.0),  # less than nothing is right
    ],
)
def test_the_quality_by_hand(value: float, teacher: float, worst: float | None, expected: float) -> None:
    assert ratio(value, teacher, worst) == pytest.approx(expected, rel=1e-12)


def test_which_objective_counts_for_what() -> None:
    space = Space([Choice("a.width", (1, 2, 3, 4))])
    full, half = space.largest(), Config({"a.width": 2})

    def size(rows: np.ndarray) -> np.ndarray:
        return rows[:, 0] + 1.0

    def half_of(problem: Problem, *values: list[float]) -> float:
        return worth(problem, [(full, values[0], 0.0), (half, values[1], 0.0)])[1]

    computed = half_of(Problem(space, 3, exact={1: size, 0: lambda rows: -size(rows)}), [-4, 4, 0.1], [-2, 2, 0.55])
    assert computed == pytest.approx(0.75 * 0.5)  # the negative one is no cost, the measured one the quality
    others = {"macs": lambda rows: size(rows) ** 2, "params": size}
    assert half_of(Problem(space, 1, statistics=others), [0.1], [0.55]) == pytest.approx(0.75 * 0.5)
    assert half_of(Problem(space, 1, statistics={"macs": others["macs"]}), [0.1], [0.1]) == pytest.approx(1 - 1 / 16)
    assert half_of(Problem(space, 3), [0.1, 8.0, 1.0], [0.1, 6.0, 9.0]) == pytest.approx(0.25 * 1.75)  # a latency
    assert half_of(Problem(space, 1), [0.1], [0.55]) == pytest.approx(0.5)  # nothing is a cost
    assert half_of(Problem(space, 1, exact={0: size}), [4.0], [2.0]) == pytest.approx(0.75)  # nothing is measured


def test_failures_and_broken_constraints() -> None:
    teacher = Teacher(3)
    half = Config({**teacher.space.largest(), "blocks.0.keep": False})
    told = [
        (teacher.space.largest(), teacher.values([teacher.space.largest()])[0].tolist(), 0.0),
        (half, teacher.values([half])[0].tolist(), 0.3),
        (teacher.space.smallest(), [math.inf, math.inf], math.inf),
    ]
    proposer = started(teacher.problem())
    for each in told:
        proposer.tell(*each)
    configs = [config for config, _, _ in told]
    whole = float(teacher.rewards([half])[0])
    assert proposer.rewards(configs).tolist() == [0.0, pytest.approx(whole), -1.0]  # no update yet: e is 1
    proposer.stages[-1].updates = 5
    mercy = (2 / 3) ** 4
    assert proposer.rewards(configs)[1] == pytest.approx(mercy * whole + mercy - 1)
    proposer.stages[-1].updates = 15
    assert proposer.rewards(configs)[1] == -1.0
    failed = [(teacher.space.largest(), [math.inf] * 2, math.inf), (half, [0.2, 1.0], 0.0)]
    compression = 1 - float(teacher.cost(teacher.space.indices([half]))[0] / teacher.cost(teacher.full)[0])
    assert worth(teacher.problem(), failed)[1] == pytest.approx(reward(compression, 1.0))  # it is the best known


# -- the policies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Removal, Shrinkage])
def test_the_gradient_of_log_probabilities_against_differences(kind: type[Removal] | type[Shrinkage]) -> None:
    policy, steps = tiny(kind)
    places, weights = np.array([[0, 1, 2], [2, 0, 1], [1, 1, 0]]), np.array([1.0, -0.7, 0.4])
    for parameter, gradient in zip(policy.parameters, policy.gradient(steps, places, weights), strict=True):
        numeric = np.zeros_like(parameter)
        for at in np.ndindex(parameter.shape):
            kept = parameter[at]
            parameter[at] = kept + 1e-5
            above = weights @ policy.logs(steps, places)
            parameter[at] = kept - 1e-5
            numeric[at] = (above - weights @ policy.logs(steps, places)) / 2e-5
            parameter[at] = kept
        assert np.abs(numeric).max() > 1e-4
        np.testing.assert_allclose(gradient, numeric, rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", [Removal, Shrinkage])
def test_sampled_gradients_average_to_the_enumerated_one(kind: type[Removal] | type[Shrinkage]) -> None:
    policy, steps = tiny(kind)
    everything = pool(TINY, 18, np.random.default_rng(0))
    chances = np.exp(policy.logs(steps, everything))
    assert chances.sum() == pytest.approx(1)
    rewards = np.sin(everything @ [1.0, 2.0, 3.0])

    def flat(places: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.concatenate([each.ravel() for each in policy.gradient(steps, places, weights)])

    exact, mean = flat(everything, chances * rewards), float(chances @ rewards)
    np.testing.assert_allclose(flat(everything, chances * (rewards - mean)), exact, atol=1e-12)
    drawn = policy.sample(steps, 40_000, np.random.default_rng(1))
    away = [
        np.linalg.norm(flat(some, (np.sin(some @ [1.0, 2.0, 3.0]) - mean) / len(some)) - exact)
        for some in (drawn, drawn[:400])
    ]
    assert away[0] < 0.05 * np.linalg.norm(exact)
    assert away[1] > 3 * away[0]


def test_removal_looks_ahead_and_shrinkage_at_what_was_decided() -> None:
    policy, steps = tiny(Removal)
    other = Steps(steps.inputs + np.array([[0.0], [0.0], [0.5]]), steps.basis, steps.shares)
    first = [
        walked.chances[0]
        for walked in (policy._walk(each, 1, lambda at, c: np.zeros(1, int)) for each in (steps, other))
    ]
    assert np.abs(first[0] - first[1]).max() > 1e-4
    shrinkage, steps = tiny(Shrinkage)
    taken = np.array([[0, 0, 0], [2, 0, 0]])
    last = shrinkage._walk(steps, 2, lambda at, c: taken[:, at]).chances
    np.testing.assert_array_equal(last[0][0], last[0][1])
    assert np.abs(last[1][0] - last[1][1]).max() > 1e-4


def test_shares_and_stages_of_choices() -> None:
    assert shares_of(Choice("a", (16, 32, 64))).tolist() == [0.25, 0.5, 1.0]
    assert shares_of(Choice("a", (False, True))).tolist() == [0.0, 1.0]
    assert shares_of(Choice("a", ("x", "y"))).tolist() == shares_of(Choice("a", (9, 3))).tolist() == [0.5, 1.0]
    names = [
        Choice("run.depth", (1, 2)),
        Choice("a.width", (1, 2)),
        Choice("kind", ("none", "mlp")),
        Choice("skip", (False, True)),
    ]

    def active(rows: np.ndarray) -> np.ndarray:
        return np.stack([np.ones(len(rows), bool), rows[:, 2] == 1, *[np.ones(len(rows), bool)] * 2], axis=1)

    assert is_removal(Problem(Space(names))).tolist() == [True, False, False, True]
    assert is_removal(Problem(Space(names), forms=Forms(lambda rows: rows, active))).tolist() == [
        True,
        False,
        True,
        True,
    ]


# -- searching -------------------------------------------------------------------------------------------------------


def test_the_teacher_first_then_parts_then_sizes_of_the_best() -> None:
    teacher = Teacher(5)
    proposer = started(teacher.problem(), students=8)
    asked = drive(proposer, 20, teacher.values)
    rows = teacher.space.indices(asked)
    assert asked[0] == teacher.space.largest()
    assert (rows[1:9, 1::2] == len(SIZES) - 1).all()
    assert len(proposer.stages) == 2
    best = rows[int(np.argmax(teacher.rewards(asked[:9])))]
    assert (rows[9:, ::2] == best[::2]).all()
    assert [each // 2 for each in proposer.stages[1].columns] == np.flatnonzero(best[::2]).tolist()


def test_students_have_the_counted_parameters() -> None:
    torch.manual_seed(0)
    family = Family(ConvNet().eval(), (images(2),), choices=[Width(multiple=4), Depth(least=0.0, per_block=True)])
    error = Metric("error", lambda member: 0.5)
    problem = Plan.make(family.space, [error, Params()]).problem(family)
    asked = drive(N2n(students=3).start(problem), 12, lambda configs: np.array([[0.5, 1.0]]))
    counted = problem.exact[1](family.space.indices(asked))
    built = [sum(each.numel() for each in family.extract(config).parameters()) for config in asked]
    assert counted.tolist() == built
    assert built[0] == max(built)
    assert len(set(built)) > 6


@pytest.mark.slow
def test_what_is_learnt_beats_random_actions_at_equal_evaluations() -> None:
    teacher = Teacher(6)
    for seed in range(5):
        found = teacher.rewards(drive(started(teacher.problem(seed)), 110, teacher.values))
        still = teacher.rewards(drive(started(teacher.problem(seed), rate=1e-12), 110, teacher.values))
        even = teacher.rewards(draws(teacher.space, 110, seed))
        assert found[1:21].mean() < found[51:71].mean() < found[90:].mean()
        assert found[90:].mean() > still[90:].mean() + 0.05
        assert found.mean() > max(still.mean(), even.mean() + 0.1)
        assert found.max() > even.max()


@pytest.mark.slow
def test_a_policy_of_a_small_teacher_starts_better_on_a_larger_one() -> None:
    small, large = Teacher(6), Teacher(12, 1)
    for seed in range(5):
        trained = started(small.problem(seed))
        drive(trained, 80, small.values)
        means = [
            large.rewards(drive(started(large.problem(seed), students=15, policy=policy), 30, large.values)).mean()
            for policy in ("", trained.policy)
        ]
        assert means[1] > means[0] + 0.02


def test_a_finished_search_teaches_the_searcher() -> None:
    teacher = Teacher(4)
    problem, searcher = teacher.problem(2), N2n(students=6, hidden=5)
    proposer = started(problem, students=6, hidden=5)
    asked = drive(proposer, 25, teacher.values)
    history = [(config, teacher.values([config])[0].tolist(), 0.0) for config in reversed(asked)]
    taught = searcher.taught(problem, history)
    assert taught == N2n(students=6, hidden=5, policy=proposer.policy)
    assert started(problem, hidden=5, policy=taught.policy).policy == taught.policy
    with pytest.raises(WrongShapeError, match="nothing was learnt: of the 2 measurements"):
        searcher.taught(problem, history[:2])


@pytest.mark.parametrize("again", [copy.deepcopy, lambda proposer: pickle.loads(pickle.dumps(proposer))])  # noqa: S301
def test_goes_on_from_a_copy_or_a_pickle_bit_for_bit(again: Callable[[Compression], Compression]) -> None:
    teacher = Teacher(4)
    whole = started(teacher.problem(), students=10)
    asked = drive(whole, 40, teacher.values)
    first = started(teacher.problem(), students=10)
    drive(first, 17, teacher.values)
    second = again(first)
    assert drive(second, 23, teacher.values) == asked[17:]
    assert second.policy == whole.policy


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.4, 0.15])
def test_what_is_forbidden_is_learnt_from_unmeasured(share: float) -> None:
    """With the smaller limit hardly a student of stage one is allowed."""
    teacher = Teacher(6)
    limit = share * float(teacher.cost(teacher.full)[0])
    problem = teacher.problem(violation=lambda rows: np.maximum(teacher.cost(rows) / limit - 1, 0))
    proposer = started(problem, students=10)
    asked = drive(proposer, 40, teacher.values)
    assert (teacher.cost(teacher.space.indices(asked)) <= limit).all()  # the teacher isn't measured either
    assert proposer.updates > 40 // 5
    second = proposer.stages[1]  # what the policy wrote itself, not drawn in its place
    assert len(second.asked) >= min(15, len(SIZES) ** len(second.columns) - 1) > 0


def test_where_the_policy_writes_only_what_is_known_neighbours_come() -> None:
    teacher = Teacher(4)
    proposer = started(teacher.problem(), rate=0.5, students=3)
    asked = drive(proposer, 40, teacher.values)
    kept = teacher.space.indices(asked)[:, ::2]
    assert len(set(asked)) == 40
    assert (kept[4:] == kept[4]).all()
    assert 0 < len(proposer.stages[1].asked) < 30  # what the policy wrote itself before it was certain


def test_bad_settings() -> None:
    with pytest.raises(WrongShapeError, match="rate above 0, got 5, 16, 50 and 0"):
        N2n(rate=0)
    with pytest.raises(WrongShapeError, match="memory is from 0 to below 1, got 1"):
        N2n(memory=1.0)
    with pytest.raises(WrongShapeError, match="worst is a finite value"):
        N2n(worst=math.nan)
    with pytest.raises(WrongShapeError, match="'n2n:SIZE:…'"):
        N2n(policy="weights.json")
    policy = started(Teacher(2).problem(), hidden=3).policy
    with pytest.raises(WrongShapeError, match="trained with hidden=3, and hidden is 16 here; set it to 3"):
        N2n(policy=policy)
    with pytest.raises(WrongShapeError, match="copy the whole text"):
        N2n(hidden=3, policy=policy[:-8])
    with pytest.raises(WrongShapeError, match="cannot be read"):
        N2n(hidden=3, policy=policy[:-1])
    with pytest.raises(WrongShapeError, match="the largest config has 5, where N2n\\(worst=1\\) says"):
        worth(Problem(TINY, 1), [(TINY.largest(), [5.0], 0.0)], worst=1.0)
