"""The tree-structured controller: what it reads, its gradient against differences, and what it learns."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from pliant.checks import WrongShapeError
from pliant.space import Choice, Config, Forms, Problem, Space
from pliant.space.program import ProgramForms
from pliant.space.trees import IDENTITY, MEAN, ONE, PARTS, Node, conditions, tree_choices, trees
from pliant.techniques.search._memory_cell import MemoryCell
from pliant.techniques.search._tree_lstm import ALONE, ORDERED, SUM, Reading, Topology, TreeEncoder
from pliant.techniques.search._tree_policy import Steps, TreePolicy
from pliant.techniques.search.path_level import PathLevel
from tests.techniques.search.table import drive

ALL = (ONE, MEAN, PARTS)
WORTH = {IDENTITY: 0.0, "a": 0.3, "b": 0.9, "c": 0.6, "d": 0.2, "e": 0.5, "f": 0.4}
SMALL = Space([Choice("w", (1, 2, 3)), *tree_choices("1", [ALL, ALL], (IDENTITY, "a"), 3)], ["w >= 2"])
CELL = Space(tree_choices("1", [(ONE, MEAN), ALL], tuple(WORTH), 3))


def forms(space: Space) -> Forms:
    [node] = trees(space.choices)
    inside = conditions(node, space.choices)
    found = ProgramForms(space, [inside.get(at, ()) for at in range(len(space.choices))])
    return Forms(found.canonical, found.active)


def moved(policy: TreePolicy, size: float = 0.4) -> TreePolicy:
    rng = np.random.default_rng(1)
    for parameter in policy.parameters:
        parameter += rng.normal(0, size, parameter.shape)
    return policy


# ---- what is read ----------------------------------------------------------------------------------------------------
# One node of three slots; another of two after slot 1; a third of one after slot 4.
TREE = Topology(((0, 1, 2), (3, 4), (5,)), (-1, 1, 4))


def read(merge: Sequence[int], present: Sequence[int], edge: Sequence[int] = range(6)) -> Reading:
    """One row; the tokens of nodes are 6 and more."""
    there = np.zeros((1, 6), dtype=bool)
    there[0, list(present)] = True
    return Reading(np.array([merge]), np.array([[6, 7, 8]]), np.array([list(edge)]), there)


def recursion(encoder: TreeEncoder, reading: Reading) -> np.ndarray:
    """The states of all slots, written down once more: one tree, one slot at a time."""
    zero, cells, size = (np.zeros((1, encoder.hidden)), np.zeros((1, encoder.hidden))), encoder.cells, encoder.hidden
    up: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    there = [slot for slot in range(6) if reading.present[0, slot]]

    def token(number: int) -> np.ndarray:
        return encoder.seen[[number]]

    def edge(name: str, slot: int, before: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return cells[name].step(token(int(reading.edge[0, slot])), before[0], [(0, *before)])[:2]

    def upwards(node: int) -> tuple[np.ndarray, np.ndarray]:
        slots = [slot for slot in TREE.slots[node] if slot in there]
        for slot in slots:
            inner = TREE.after.index(slot) if slot in TREE.after else -1
            has = inner >= 0 and TREE.slots[inner][0] in there
            up[slot] = edge("up edge", slot, upwards(inner) if has else zero)
        states, mark = [up[slot] for slot in slots], token(int(reading.mark[0, node]))
        if reading.merge[0, node] == ALONE:
            return states[0]
        if reading.merge[0, node] == SUM:
            total = np.sum([state for state, _ in states], axis=0)
            return cells["up sum"].step(mark, total, [(0, *each) for each in states])[:2]
        both = np.concatenate([state for state, _ in states], axis=1)
        return cells["up ordered"].step(mark, both, [(at, both, cell) for at, (_, cell) in enumerate(states)])[:2]

    found = np.zeros((6, 2 * size))

    def downwards(node: int, parent: tuple[np.ndarray, np.ndarray]) -> None:
        slots = [slot for slot in TREE.slots[node] if slot in there]
        mark = token(int(reading.mark[0, node]))
        for slot in slots:
            others = [up[other] if other != slot else zero for other in slots]
            inner = parent
            if reading.merge[0, node] == SUM:
                total = np.sum([state for state, _ in others], axis=0)
                memories = [(0, np.concatenate([parent[0], state], axis=1), cell) for state, cell in others]
                memories.append((1, np.concatenate([parent[0], total], axis=1), parent[1]))
                inner = cells["down sum"].step(mark, np.concatenate([total, parent[0]], axis=1), memories)[:2]
            elif reading.merge[0, node] == ORDERED:
                side = np.concatenate([*(state for state, _ in others), parent[0]], axis=1)
                memories = [(k, side, cell) for k, (_, cell) in enumerate(others)] + [(2, side, parent[1])]
                inner = cells["down ordered"].step(mark, side, memories)[:2]
            down = edge("down edge", slot, inner)
            found[slot] = np.concatenate([up[slot][0], down[0]], axis=1)[0]
            after = TREE.after.index(slot) if slot in TREE.after else -1
            if after >= 0 and TREE.slots[after][0] in there:
                downwards(after, down)

    upwards(0)
    downwards(0, zero)
    return found


@pytest.mark.parametrize(
    ("merge", "present"),
    [
        ((ALONE, 0, 0), [0]),
        ((SUM, ORDERED, ALONE), range(6)),
        ((SUM, SUM, 0), [0, 1, 2, 3, 4]),
        ((ORDERED, ALONE, 0), [0, 1, 3]),
    ],
)
def test_a_tree_is_read_as_a_recursion_reads_it(merge: Sequence[int], present: Sequence[int]) -> None:
    encoder = TreeEncoder(9, 3, 4, np.random.default_rng(0))
    reading = read(merge, present)
    outlooks, _ = encoder.run(TREE, reading)
    np.testing.assert_allclose(outlooks[:, 0], recursion(encoder, reading), rtol=0, atol=1e-12)
    assert (np.abs(outlooks[list(present), 0]).max(axis=1) > 0).all()


def test_rows_do_not_know_of_each_other() -> None:
    encoder = TreeEncoder(9, 3, 4, np.random.default_rng(0))
    rows = [read((SUM, ORDERED, ALONE), range(6)), read((ORDERED, 0, 0), [0, 1]), read((ALONE, 0, 0), [0])]
    joined = Reading(*(np.concatenate(column) for column in zip(*(vars(each).values() for each in rows), strict=True)))
    together, _ = encoder.run(TREE, joined)
    for at, reading in enumerate(rows):
        np.testing.assert_allclose(together[:, at], encoder.run(TREE, reading)[0][:, 0], rtol=0, atol=1e-12)


def test_a_mean_does_not_know_its_branches_apart_and_parts_do() -> None:
    encoder = TreeEncoder(9, 3, 4, np.random.default_rng(0))
    for merge, alike in ((SUM, True), (ORDERED, False)):
        one, _ = encoder.run(TREE, read((merge, 0, 0), [0, 1], (0, 1, 2, 3, 4, 5)))
        other, _ = encoder.run(TREE, read((merge, 0, 0), [0, 1], (1, 0, 2, 3, 4, 5)))
        assert np.allclose(one[[0, 1], 0], other[[1, 0], 0], atol=1e-12) == alike


def test_a_branch_knows_its_siblings_and_what_is_after_it() -> None:
    encoder = TreeEncoder(9, 3, 4, np.random.default_rng(0))
    first, _ = encoder.run(TREE, read((SUM, ORDERED, ALONE), range(6)))
    changed, _ = encoder.run(TREE, read((SUM, ORDERED, ALONE), range(6), (0, 1, 2, 3, 4, 0)))  # the innermost edge
    gaps = np.abs(first - changed)[:, 0]
    assert (gaps[[0, 2, 3, 4, 5]].max(axis=1) > 1e-9).all()  # slot 0 from above, slot 4 from below, slot 3 beside
    assert gaps[0, :4].max() == 0  # not from below
    absent, _ = encoder.run(TREE, read((SUM, 0, 0), range(3), (0, 1, 2, 7, 7, 7)))
    np.testing.assert_array_equal(absent, encoder.run(TREE, read((SUM, 0, 0), range(3)))[0])


def test_one_memory_is_torchs_lstm() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    cell, theirs = MemoryCell(3, 4, [4], 4, rng), torch.nn.LSTMCell(3, 4).double()
    opened, shown, new = np.split(cell.gates.T, 3)
    both = np.concatenate([cell.forget, cell.keys[0]]).T
    weights = np.concatenate([opened, both, new, shown])
    bias = np.concatenate([cell.gate_bias[:4], cell.forget_bias, cell.gate_bias[8:], cell.gate_bias[4:8]])
    values = weights[:, :3], weights[:, 3:], bias, np.zeros(16)
    for parameter, value in zip(theirs.parameters(), values, strict=True):
        parameter.data = torch.tensor(value)
    x, h, c = rng.normal(size=(5, 3)), rng.normal(size=(5, 4)), rng.normal(size=(5, 4))
    expected = theirs(torch.tensor(x), (torch.tensor(h), torch.tensor(c)))
    for mine, their in zip(cell.step(x, h, [(0, h, c)])[:2], expected, strict=True):
        np.testing.assert_allclose(mine, their.detach().numpy(), atol=1e-12)


# ---- decisions -------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_the_gradient_against_differences() -> None:
    """Along random directions of every parameter."""
    rng = np.random.default_rng(4)
    policy = moved(TreePolicy(SMALL, 3, rng))
    steps = Steps.joined([policy.sample(rng)[1] for _ in range(20)])
    weights = rng.normal(size=len(steps.rows))

    def value() -> float:
        return float(weights @ policy.log_chances(steps) + 0.3 * policy.entropies(steps).sum())

    for parameter, gradient in zip(policy.parameters, policy.gradient(steps, weights, 0.3), strict=True):
        assert gradient.shape == parameter.shape
        assert np.abs(gradient).max() > 1e-4  # every part of it was needed for these draws
        way, before = rng.normal(size=parameter.shape), parameter.copy()
        found = []
        for step in (1e-5, -1e-5):
            parameter[...] = before + step * way
            found.append(value())
        parameter[...] = before
        assert (gradient * way).sum() == pytest.approx((found[0] - found[1]) / 2e-5, rel=1e-6, abs=1e-9)


def test_chances_are_those_of_the_draws() -> None:
    """The product of the decisions' probabilities is how often a cell is drawn."""
    space = Space(tree_choices("1", [ALL], (IDENTITY,), 3))
    policy, rng = moved(TreePolicy(space, 3, np.random.default_rng(0))), np.random.default_rng(1)
    seen: dict[tuple[int, ...], int] = {}
    chances: dict[tuple[int, ...], float] = {}
    for _ in range(400):
        row, steps = policy.sample(rng)
        seen[tuple(row)] = seen.get(tuple(row), 0) + 1
        chances[tuple(row)] = float(np.exp(policy.log_chances(steps).sum()))
    assert sorted(seen) == [(0, 0), (1, 0), (1, 1), (2, 0)]  # one; means of two and three; parts
    assert sum(chances.values()) == pytest.approx(1)
    for cell, count in seen.items():
        assert abs(count / 400 - chances[cell]) < 4 * np.sqrt(chances[cell] * (1 - chances[cell]) / 400)


def test_decisions_are_taken_on_what_is_there_and_allowed() -> None:
    policy, rng = moved(TreePolicy(SMALL, 3, np.random.default_rng(0)), 1.0), np.random.default_rng(1)
    active = forms(SMALL).active
    assert active is not None
    for _ in range(60):
        row, steps = policy.sample(rng)
        decided = (steps.made >= 0).sum(axis=0)
        assert decided.tolist() == active(row[None])[0].astype(int).tolist()  # each that matters, once
        assert SMALL.feasible(SMALL.configs(row[None])[0])


# ---- what is learnt --------------------------------------------------------------------------------------------------
def error(config: Config) -> float:
    """Good and different operations pay, and depth; branches cost."""

    def of(node: Node) -> float:
        slots = node.slots[: node.branches(config)]
        kinds = [str(config[f"{slot.name}.operation"]) for slot in slots if slot.operation is not None]
        total = sum(WORTH[kind] for kind in kinds) / len(slots) - 0.05 * len(kinds) - 0.12 * (len(slots) - 1)
        total += 0.4 * (len(set(kinds) - {IDENTITY}) - 1) if kinds else 0.2 * (len(slots) - 1)
        for slot in slots:
            if slot.then is not None and config[f"{slot.name}.grow"]:
                total += of(slot.then) / len(slots)
        return total + 0.15 * (config[f"{node.name}.merge"] == PARTS)

    [root] = trees(CELL.choices)
    return float(np.exp(-of(root)))


def measure(configs: Sequence[Config]) -> np.ndarray:
    return np.array([[error(config)] for config in configs])


@pytest.mark.slow
def test_the_controller_beats_random_decisions() -> None:
    """At 60 evaluations each, over 3 seeds: the best that was found, and the mean of the last thirty."""
    best: dict[float, list[float]] = {0.05: [], 0.0: []}
    late: dict[float, list[float]] = {0.05: [], 0.0: []}
    for rate, seed in itertools.product(best, range(3)):
        proposer = PathLevel(rate=rate, hidden=8).start(Problem(CELL, 1, seed, forms=forms(CELL)))
        values = measure(drive(proposer, 60, measure))[:, 0]
        best[rate].append(values.min())
        late[rate].append(values[30:].mean())
    assert np.mean(best[0.05]) < np.mean(best[0.0]), best
    assert np.max(late[0.05]) < np.min(late[0.0]), late


@pytest.mark.slow
def test_the_same_seed_gives_the_same_configs_and_a_told_study_goes_on() -> None:
    def start(seed: int) -> Problem:
        return Problem(CELL, 1, seed, forms=forms(CELL))

    made = PathLevel(batch=3, hidden=8)
    first = drive(made.start(start(0)), 15, measure)
    again = made.start(start(0))
    assert drive(again, 9, measure) == first[:9]
    assert drive(again, 6, measure) == first[9:]
    assert drive(made.start(start(1)), 15, measure) != first


def test_bad_settings() -> None:
    with pytest.raises(WrongShapeError, match="at least 1"):
        PathLevel(batch=0)
    with pytest.raises(WrongShapeError, match="at least 0"):
        PathLevel(entropy=-1)
    with pytest.raises(WrongShapeError, match="memory"):
        PathLevel(memory=1.0)
