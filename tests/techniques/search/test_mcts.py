"""Monte Carlo tree search: what a node collects, bisection, and against random search on tables."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from pliant.checks import WrongShapeError
from pliant.space import Choice, Config, Forms, Problem, Program, Space, oneof, symbolic
from pliant.technique import Searcher
from pliant.techniques.search.mcts import Mcts, _scores, _Tree
from pliant.techniques.search.random_search import RandomSearch
from tests.techniques.search.table import Table


def drive(searcher: Searcher, problem: Problem, error: object, budget: int) -> list[Config]:
    proposer = searcher.start(problem)
    asked = []
    for _ in range(budget):
        [config] = proposer.ask()
        asked.append(config)
        proposer.tell(config, error(config))  # type: ignore[operator]
    return asked


def test_nodes_collect_what_came_of_the_configs_below_them() -> None:
    space = Space([Choice("a", (1, 2, 3, 4)), Choice("b", ("x", "y"), ordered=False)])
    tree = Mcts().start(Problem(space))
    assert isinstance(tree, _Tree)
    worth = {config: float(at) for at, config in enumerate(space.enumerate())}
    for config, value in worth.items():
        tree.tell(config, [value])
    visits, total = tree._statistics()
    # a is halved twice: (1, 2 | 3, 4), then each; b is split in two
    assert visits[((0, 0),)] == visits[((0, 1),)] == 4
    assert visits[((0, 0), (0, 1))] == 2
    assert visits[((0, 0), (0, 1), (1, 0))] == 1
    scores = {config: 1 - value / 7 for config, value in worth.items()}
    below = [score for config, score in scores.items() if config["a"] in (1, 2)]
    assert total[((0, 0),)] == pytest.approx(sum(below))
    one = scores[Config({"a": 2, "b": "x"})]
    assert total[((0, 0), (0, 1), (1, 0))] == pytest.approx(one)


def test_without_bisection_options_are_siblings() -> None:
    tree = Mcts(bisection=False).start(Problem(Space([Choice("a", (1, 2, 3))])))
    assert isinstance(tree, _Tree)
    assert tree._way([2]) == [((0, 2),)]


def test_scores() -> None:
    assert _scores([[1.0], [3.0], [2.0]], [0.0, 0.0, 0.0]) == [1.0, 0.0, 0.5]
    assert _scores([[1.0], [np.inf], [2.0]], [0.0, np.inf, 0.0]) == [1.0, 0.0, 0.0]
    assert _scores([[1.0, 2.0], [2.0, 1.0], [3.0, 3.0]], [0.0] * 3) == pytest.approx([1 / 3, 1 / 3, 0.0])
    assert _scores([], []) == []


@pytest.mark.slow
def test_better_than_random_on_a_table_and_better_for_bisection() -> None:
    table = Table(choices=8, options=6, seed=1)

    def error(config: Config) -> list[float]:
        row = table.space.indices([config])
        return [float(np.log(table.error(row)[0]) + 0.12 * table.cost(row)[0])]

    def reached(searcher: Searcher) -> list[float]:
        found = [drive(searcher, Problem(table.space, 1, seed), error, 80) for seed in range(4)]
        return [min(error(config)[0] for config in configs) for configs in found]

    assert np.mean(reached(Mcts())) < np.mean(reached(RandomSearch()))
    assert np.mean(reached(Mcts())) < np.mean(reached(Mcts(bisection=False)))


def test_better_than_random_on_a_nested_program() -> None:
    def part(name: str) -> object:
        return symbolic(dict)(name=name, size=oneof([1, 2, 3, 4]), kind=oneof(["p", "q", "r"]))

    program = Program(symbolic(dict)(first=oneof([part("a"), part("b")]), second=oneof([part("c"), "none", part("d")])))
    problem = Problem(program.space, 1, 0, forms=Forms(program.counts.canonical, program.counts.active))

    def error(config: Config) -> list[float]:
        made = program.build(config)
        total = 0.0
        for at, value in enumerate((made["first"], made["second"])):
            if isinstance(value, dict):
                good = value["name"] == "bd"[at]
                total += (3 if good else 1) + (value["size"] if good else -value["size"]) + (value["kind"] == "r")
        return [-total]

    asked = drive(Mcts(), problem, error, 50)
    assert len({program.canonical(config) for config in asked}) == 50
    assert min(error(config)[0] for config in asked) <= -14  # of -16, b and d of size 4 and kind r
    random = drive(RandomSearch(), problem, error, 50)
    assert np.mean([error(config)[0] for config in asked]) < np.mean([error(config)[0] for config in random])


def test_deterministic_and_exhaustive(rng: Random) -> None:
    table = Table(choices=3, options=3)

    def error(config: Config) -> list[float]:
        return table.values([config])[0].tolist()

    asked = drive(Mcts(), table.problem(), error, 27)
    assert asked == drive(Mcts(), table.problem(), error, 27)
    assert set(asked) == set(table.space.enumerate())


def test_bad_settings() -> None:
    with pytest.raises(WrongShapeError, match="at least 0"):
        Mcts(exploration=-1.0)
