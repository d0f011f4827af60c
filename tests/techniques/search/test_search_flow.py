"""Search flows: what each asks for in which order, that none loses the optimum, and flows written as loops."""

from __future__ import annotations

import itertools
import math
from random import Random
from typing import Any

import numpy as np
import pytest

import pliant
from pliant.checks import UnknownNameError, WrongShapeError
from pliant.space import Choice, Config, Forms, Problem, Program, Space, oneof, symbolic
from pliant.technique import Searcher
from pliant.techniques.search._batches import Measured
from pliant.techniques.search._parts import restricted
from pliant.techniques.search.mcts import Mcts
from pliant.techniques.search.random_search import RandomSearch
from pliant.techniques.search.regularized_evolution import RegularizedEvolution
from pliant.techniques.search.search_flow import SearchFlow, _Flow, _Run
from tests.techniques.search.table import Table


def program() -> Program:
    """33 programs, of 216 configs: a net with sizes of its own, and how it is trained."""
    mlp = symbolic(dict)(width=oneof([8, 16, 32]), act=oneof(["relu", "gelu"]))
    block = oneof([mlp, symbolic(dict)(kernel=oneof([1, 3, 5])), "none", "mean"], hint="net")
    return Program(symbolic(dict)(block=block, rate=oneof([0.1, 0.2, 0.4])))


NET = ("block",)


def error(made: Any) -> float:
    """Something uneven over programs; lowest for a net whose default settings are not the best."""
    uneven = Random(repr(made)).random()
    return 3 - 2 * (made["block"] == {"width": 8, "act": "relu"}) * (made["rate"] == 0.1) + uneven


def problem(made: Program, seed: int = 0) -> Problem:
    return Problem(made.space, 1, seed, forms=Forms(made.counts.canonical, made.counts.active))


def drive(searcher: Searcher, made: Program, budget: int, seed: int = 0) -> list[Config]:
    proposer = searcher.start(problem(made, seed))
    asked = []
    for _ in range(budget):
        [config] = proposer.ask()
        proposer.tell(config, [error(made.build(config))])
        asked.append(made.canonical(config))
    return asked


@pytest.mark.parametrize("flow", ["factorized", "separate", "joint"])
@pytest.mark.parametrize("below", ["mcts", "random_search"])
def test_every_program_once_whatever_the_flow(flow: str, below: str) -> None:
    made = program()
    assert made.size == (6 + 3 + 1 + 1) * 3
    searcher = SearchFlow(flow, NET, above="random_search", below=below, trials=4)
    asked = drive(searcher, made, made.size)
    assert len(set(asked)) == made.size
    lowest = min(error(made.build(config)) for config in made.space.enumerate())
    assert min(error(made.build(config)) for config in asked) == lowest
    assert drive(searcher, made, 20) == asked[:20]


def test_a_factorized_flow_tunes_each_proposal_for_so_many_trials() -> None:
    asked = drive(SearchFlow("factorized", NET, trials=3), program(), 12)
    groups = [[config["block"] for config in asked[at : at + 3]] for at in range(0, 12, 3)]
    assert all(len(set(group)) == 1 for group in groups)
    assert len({group[0] for group in groups}) == 4


def test_the_best_go_on_when_every_proposal_had_its_trials() -> None:
    made = program()
    asked = drive(SearchFlow("factorized", NET, trials=3), made, 15)
    lowest: dict[Any, float] = {}
    for config in asked[:12]:
        lowest[config["block"]] = min(error(made.build(config)), lowest.get(config["block"], math.inf))
    going = {"0:dict", "1:dict"}  # the others have three programs each
    assert {config["block"] for config in asked[12:]} == {min(going, key=lambda each: lowest[each])}


def test_a_separate_flow_decides_first_and_tunes_the_best() -> None:
    made = program()
    asked = drive(SearchFlow("separate", NET, above="random_search", trials=4), made, 4 + 5)
    assert all(config == made.canonical({**made.space.largest(), "block": config["block"]}) for config in asked[:4])
    best = min(asked[:4], key=lambda config: error(made.build(config)))
    own = made.given({"block": best["block"]}).size - 1
    assert {config["block"] for config in asked[4 : 4 + min(own, 5)]} == {best["block"]}


def test_a_joint_flow_is_the_searcher_itself() -> None:
    assert drive(SearchFlow("joint", above="mcts"), program(), 20) == drive(Mcts(), program(), 20)
    sizes = Program(symbolic(dict)(a=oneof([1, 2]), b=oneof([1, 2, 3])))  # nothing in it is categorical
    asked = [searcher.start(Problem(sizes.space, 1, 0)).ask(4) for searcher in (SearchFlow(), Mcts())]
    assert asked[0] == asked[1]


@pytest.mark.parametrize("flow", ["factorized", "separate"])
def test_several_in_flight(flow: str) -> None:
    space = Space([Choice("a", ("x", "y", "z"), ordered=False), Choice("b", (1, 2, 3)), Choice("c", (1, 2, 3))])
    proposer = SearchFlow(flow, trials=4).start(Problem(space, 2, 0))
    seen: list[Config] = []
    flying: list[Config] = []
    while len(seen) < 27:
        asked = proposer.ask(4)
        assert asked or flying
        seen, flying = seen + asked, flying + asked
        for config in flying[::2]:
            proposer.tell(config, [float(config["b"]), -float(config["c"])])  # type: ignore[arg-type]
        flying = flying[1::2]
    assert len(set(seen)) == 27


def test_learns_what_it_never_asked_and_failures() -> None:
    made = program()
    proposer = SearchFlow("factorized", NET, trials=2).start(problem(made))
    known = [made.canonical(config) for config in made.space.enumerate() if config["block"] in ("none", "1:dict")]
    for at, config in enumerate(dict.fromkeys(known)):
        proposer.tell(config, [math.inf if at % 3 == 0 else 1.0], math.inf if at % 3 == 0 else 0.0)
    asked = []
    for _ in range(made.size - len(set(known))):
        [config] = proposer.ask()
        proposer.tell(config, [math.inf], math.inf)
        asked.append(made.canonical(config))
    assert len(set(asked) | set(known)) == made.size


def test_what_a_proposal_is_worth() -> None:
    table = Table(2, 2)

    def worth(best: int, *results: tuple[list[float], float]) -> tuple[list[float], float]:
        made = SearchFlow(outer=("layer.0",), best=best).start(table.problem())
        assert isinstance(made, _Flow)
        run = _Run(Config({"layer.0": 1}))
        for at, (values, violation) in enumerate(results):
            inner = Config({"layer.1": at})
            run.results[inner] = Measured(inner, tuple(values), violation)
        return made._worth(run)

    fine = ([1.0, 5.0], 0.0), ([2.0, 3.0], 0.0), ([4.0, 1.0], 0.0)
    assert worth(1, *fine, ([0.0, 0.0], 1.0), ([math.inf] * 2, math.inf)) == ([1.0, 1.0], 0.0)
    assert worth(2, *fine) == ([1.5, 2.0], 0.0)
    assert worth(9, *fine)[0] == pytest.approx([7 / 3, 3.0])
    assert worth(1, ([3.0, 3.0], 2.0), ([9.0, 9.0], 1.0)) == ([9.0, 9.0], 1.0)


def test_a_part_of_a_problem_computes_what_the_whole_does() -> None:
    table = Table(4, 3)
    whole = table.problem(exact={1: table.cost}, violation=lambda rows: np.maximum(table.cost(rows) - 5, 0))
    row = np.array([[2, 0, 1, 2]])
    part = restricted(whole, [1, 3], row)
    rows = part.space.indices(list(part.space.enumerate()))
    full = np.stack([np.full(9, 2), rows[:, 0], np.full(9, 1), rows[:, 1]], axis=1)
    assert np.array_equal(part.exact[1](rows), table.cost(full))
    assert np.array_equal(part.statistics["macs"](rows), table.cost(full))
    assert part.violation is not None
    assert np.array_equal(part.violation(rows), np.maximum(table.cost(full) - 5, 0))
    vague = restricted(whole, [1, 3], np.array([[2, 0, 1, 2], [0, 0, 0, 0], [2, 1, 1, 1]]))
    assert vague.exact == {}
    lowest = full * [0, 1, 0, 1]
    assert vague.violation is not None
    assert np.array_equal(vague.violation(rows), np.maximum(table.cost(lowest) - 5, 0))


def test_a_choice_inside_the_other_part_may_matter() -> None:
    made = program()
    columns = [at for at, choice in enumerate(made.space.choices) if choice.name != "block"]
    whole = problem(made)
    rows = made.space.indices([{**made.space.largest(), "block": block} for block in ("none", "0:dict", "1:dict")])
    inner = np.zeros((1, len(columns)), dtype=np.int64)
    names = [made.space.choices[at].name for at in columns]
    known = restricted(whole, columns, rows[2:]).active
    vague = restricted(whole, columns, rows).active
    assert known is not None
    assert vague is not None
    assert dict(zip(names, known(inner)[0], strict=True)) == {
        "block.0.width": False,
        "block.0.act": False,
        "block.1.kernel": True,
        "rate": True,
    }
    assert vague(inner).all()


def test_one_durable_study() -> None:
    made = program()
    metric = pliant.Metric("error", error)
    flow = pliant.SearchFlow(outer=NET, trials=4)
    study = pliant.search(made, [metric], 14, searcher=flow)
    values = [trial.measurements["error"].value for trial in study.trials]
    assert values == [error(made.build(config)) for config in drive(flow, made, 14)]


@pytest.mark.parametrize(
    "outer", [RandomSearch(), RegularizedEvolution(population=3, sample=2), SearchFlow()], ids=repr
)
@pytest.mark.parametrize("inner", [RandomSearch(), RegularizedEvolution(population=3, sample=2)], ids=repr)
def test_a_search_inside_the_measurement_of_another(outer: Searcher, inner: Searcher) -> None:
    """The flow as a loop of the user's: each proposal of the part is measured by searching what it leaves."""
    whole = program()
    first = whole.part("net")
    found: dict[float, Config] = {}

    def tuned(left: Any) -> float:
        study = pliant.search(left, [pliant.Metric("error", error)], left.size, searcher=inner)
        lowest = study.front[0]
        found[lowest.measurements["error"].value] = whole.joined(left.fixed, lowest.config)
        return lowest.measurements["error"].value

    study = pliant.search(first, [pliant.Metric("error", tuned)], first.size, searcher=outer)
    joint = min((error(whole.build(config)), whole.canonical(config)) for config in _leaves(whole))
    value = study.front[0].measurements["error"].value
    assert (value, found[value]) == joint


def _leaves(made: Program) -> list[Any]:
    class Ordered(dict[str, Any]):
        def __lt__(self, other: object) -> bool:
            return False

    return [Ordered(config) for config in dict.fromkeys(map(made.canonical, made.space.enumerate()))]


def test_searchers_are_given_by_name_or_as_they_are() -> None:
    made = program()
    by_name = drive(SearchFlow("factorized", NET, "random_search", "mcts", trials=3), made, 12)
    assert drive(SearchFlow("factorized", NET, RandomSearch(), Mcts(), trials=3), made, 12) == by_name
    other = SearchFlow("factorized", NET, RandomSearch(), Mcts(exploration=5.0, bisection=False), trials=3)
    assert drive(other, made, 12) != by_name


def test_bad_flows() -> None:
    space = Space([Choice("block", ("x", "y"), ordered=False), Choice("rate", (1, 2))])
    with pytest.raises(UnknownNameError, match="no search flow named 'factorised'; did you mean 'factorized'"):
        SearchFlow("factorised")
    with pytest.raises(WrongShapeError, match=r"such as \('block',\)"):
        SearchFlow(outer="block")  # type: ignore[arg-type]
    with pytest.raises(WrongShapeError, match="at least 1"):
        SearchFlow(trials=0)
    with pytest.raises(UnknownNameError, match="named 'blok'; did you mean 'block'"):
        SearchFlow(outer=("blok",)).start(Problem(space))
    with pytest.raises(WrongShapeError, match="of kind 'search'"):
        SearchFlow(above="width").start(Problem(space))
    with pytest.raises(UnknownNameError, match="mtcs"):
        SearchFlow(below="mtcs").start(Problem(space))
    with pytest.raises(WrongShapeError, match=r"above is a searcher .*; put \(\) behind it"):
        SearchFlow(above=Mcts).start(Problem(space))  # type: ignore[arg-type]
    assert len(list(itertools.islice(space.enumerate(), 9))) == 4
