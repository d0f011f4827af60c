"""The neural predictor: blind to how nodes are numbered, its gradient against differences, and what it is good for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau

from pliant.checks import UnknownNameError, WrongShapeError
from pliant.space import Config, Problem
from pliant.techniques.search._graph_net import GraphNet, directions
from pliant.techniques.search.neural_predictor import NeuralPredictor, _Rounds, adjacency
from pliant.techniques.search.random_search import RandomSearch
from tests.techniques.search.table import Table, draws, drive

SMALL = NeuralPredictor(first=40, top=10, candidates=2000, hidden=16, epochs=60)


@pytest.fixture
def net(np_rng: np.random.Generator) -> GraphNet:
    return GraphNet(kinds=12, outputs=2, hidden=6, layers=3, rng=np_rng)


@pytest.fixture
def np_rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_blind_to_the_numbering_of_nodes(net: GraphNet, np_rng: np.random.Generator) -> None:
    nodes, edges = np_rng.integers(12, size=(5, 7)), (np_rng.random((7, 7)) < 0.4).astype(float)
    expected = net.predict(nodes, edges)
    for _ in range(10):
        order = np_rng.permutation(7)
        np.testing.assert_allclose(net.predict(nodes[:, order], edges[np.ix_(order, order)]), expected, atol=1e-9)
    assert not np.allclose(net.predict(nodes, edges[::-1, ::-1]), expected, atol=1e-6)  # but not to its edges
    assert not np.allclose(net.predict(nodes, edges.T), expected, atol=1e-6)  # nor to their direction


def test_messages_are_means_over_neighbours_and_oneself() -> None:
    out, back = directions(np.eye(3, k=1))
    np.testing.assert_allclose(out, np.array([[1, 1, 0], [0, 1, 1], [0, 0, 2]]) / 2)
    np.testing.assert_allclose(back, np.array([[2, 0, 0], [1, 1, 0], [0, 1, 1]]) / 2)


def test_the_gradient_against_differences(net: GraphNet, np_rng: np.random.Generator) -> None:
    nodes, edges = np_rng.integers(12, size=(4, 5)), np.eye(5, k=1)
    targets = np_rng.normal(size=(4, 2))
    gradients = net.gradient(nodes, edges, targets)[1]
    assert [each.shape for each in gradients] == [each.shape for each in net.parameters]
    for parameter, gradient in zip(net.parameters, gradients, strict=True):
        for place in np_rng.integers(parameter.size, size=6):
            at = np.unravel_index(place, parameter.shape)
            before = parameter[at]
            losses = []
            for step in (1e-6, -1e-6):
                parameter[at] = before + step
                losses.append(net.gradient(nodes, edges, targets)[0])
            parameter[at] = before
            assert gradient[at] == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-4, abs=1e-8)


def test_ranks_what_it_has_not_seen() -> None:
    table = Table(8, 4)
    rounds = _Rounds(SMALL, table.problem(exact={1: table.cost}))
    known, fresh = (table.space.indices(draws(table.space, count, seed)) for count, seed in ((80, 0), (200, 1)))
    values = np.stack([table.error(known), table.cost(known)], axis=1)
    predicted, _ = rounds.predicted(known, values, np.zeros(80), fresh, np.random.default_rng(0))
    assert kendalltau(predicted[:, 0], table.error(fresh))[0] > 0.5
    np.testing.assert_array_equal(predicted[:, 1], table.cost(fresh))


@pytest.mark.slow
def test_the_best_of_its_top_beats_random_search_at_an_equal_count() -> None:
    table = Table(8, 4)

    def best(asked: list[Config]) -> float:
        return float(table.values(asked)[:, 0].min())

    def measure(configs: object) -> np.ndarray:
        return table.values(configs)[:, :1]  # type: ignore[arg-type]

    found, drawn, gains = [], [], []
    for seed in range(3):
        asked = drive(SMALL.start(Problem(table.space, 1, seed)), 70, measure)
        found.append(best(asked))
        drawn.append(best(drive(RandomSearch().start(Problem(table.space, 1, seed)), 70, measure)))
        errors = table.values(asked)[:, 0]
        gains.append(errors[40:].mean() / errors[:40].mean())
    assert np.mean(found) < np.mean(drawn)
    assert max(gains) < 0.8  # what it picks is better than what it learnt from


def test_edges_are_named() -> None:
    space = Table(4, 2).space
    np.testing.assert_array_equal(adjacency(space, ()), np.eye(4, k=1))
    matrix = adjacency(space, (("layer.0", "layer.2"), ("layer.3", "layer.0")))
    assert np.argwhere(matrix).tolist() == [[0, 2], [3, 0]]
    with pytest.raises(UnknownNameError, match="did you mean 'layer.0'"):
        NeuralPredictor(edges=(("layer.00", "layer.1"),)).start(Problem(space))


def test_bad_settings() -> None:
    with pytest.raises(WrongShapeError, match="at least 2"):
        NeuralPredictor(first=1)
    with pytest.raises(WrongShapeError, match="pair"):
        NeuralPredictor(edges=(("a", "b", "c"),))  # type: ignore[arg-type]
