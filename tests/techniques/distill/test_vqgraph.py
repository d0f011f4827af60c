"""VQGraph: codes by brute force, the tokenizer's loss by hand, and a perceptron that learns from a graph network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.checks import UnknownNameError, WrongShapeError
from pliant.family import Family, View, distillation_loss
from pliant.techniques.distill.vqgraph import GraphTokenizer, Neighbours, NodeClasses, VQGraph, soft_assignments
from pliant.training import Progress, train
from tests.techniques.distill.digits import Stopped, Taught

NODES, CLASSES, FEATURES = 120, 3, 12


def graph(seed: int = 0, nodes: int = NODES, noise: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    """A stochastic block model: features ``(N, 12)``, edges ``(2, E)`` and classes; features alone say little."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(nodes) % CLASSES
    chance = torch.where(y[:, None] == y[None], 24 / nodes, 3 / nodes)
    upper = (torch.rand(nodes, nodes, generator=draw) < chance).triu(1)
    edges = (upper | upper.T).nonzero().T.contiguous()
    centres = torch.randn(CLASSES, FEATURES, generator=draw)
    return centres[y] + noise * torch.randn(nodes, FEATURES, generator=draw), edges, y


def perceptron(width: int = 16) -> nn.Sequential:
    return nn.Sequential(nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))


def tokenizer(codes: int = 8, width: int = 16, seed: int = 0) -> GraphTokenizer:
    torch.manual_seed(seed)
    return GraphTokenizer(FEATURES, width, CLASSES, graph()[1], codes, NODES)


def test_a_layer_is_its_own_features_and_the_mean_of_its_neighbours() -> None:
    edges = torch.tensor([[1, 2, 0], [0, 0, 2]])  # node 1 has no neighbours
    layer, x = Neighbours(4, 3, edges, 3), torch.randn(3, 4)
    around = torch.stack([(x[1] + x[2]) / 2, torch.zeros(4), x[0]])
    want = x @ layer.own.weight.T + layer.own.bias + around @ layer.around.weight.T
    assert torch.allclose(layer(x), want, atol=1e-6)


def test_soft_assignments_sum_to_one_and_their_largest_is_the_code() -> None:
    hidden, codebook = torch.randn(9, 5), torch.randn(6, 5)
    found = soft_assignments(hidden, codebook, 0.7)
    assert torch.allclose(found.sum(1), torch.ones(9))
    for node in range(9):
        distances = [float((hidden[node] - code).square().sum()) ** 0.5 for code in codebook]
        scores = torch.tensor([-d / 0.7 for d in distances]).exp()
        assert torch.allclose(found[node], scores / scores.sum(), atol=1e-5)
        assert int(found[node].argmax()) == distances.index(min(distances))
    net, (x, _, _) = tokenizer(), graph()
    soft = soft_assignments(net.encoder(x), net.codebook)
    assert torch.equal(soft.argmax(1), net.codes(x))
    assert torch.equal(net(x)["near"], net.codebook[net.codes(x)])
    with pytest.raises(WrongShapeError, match=r"share a width; got \(9, 5\) and \(6, 4\)"):
        soft_assignments(hidden, codebook[:, :4])


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_the_tokenizers_loss_by_hand(power: float) -> None:
    net, (x, edges, y) = tokenizer(), graph()
    labels = torch.where(torch.arange(NODES) < 30, y, -100)
    out = net(x)
    found = net.loss(x, commitment=0.5, power=power)(out, labels)
    cosines = [float(a @ b / (a.norm() * b.norm())) for a, b in zip(out["features"].detach(), x, strict=True)]
    told = sum((1 - c) ** power for c in cosines) / NODES
    adjacency = torch.zeros(NODES, NODES)
    for a, b in edges.T.tolist():
        adjacency[a, b] = 1.0
    ends = out["ends"].detach()
    edge = float((1 / (1 + (-ends @ ends.T).exp()) - adjacency).square().mean())
    gap = float((out["hidden"] - out["near"]).square().mean().detach())
    classes = float(-F.log_softmax(out["logits"][:30], 1)[torch.arange(30), y[:30]].mean().detach())
    assert float(found.detach()) == pytest.approx(told + edge + 1.5 * gap + classes, rel=1e-4)
    part = net.loss(x, sample=20)(out, labels)
    assert torch.isfinite(part)
    assert float(part.detach()) != pytest.approx(float(found.detach()), abs=1e-6)


def test_gradients_pass_the_codebook_as_if_nothing_was_replaced() -> None:
    net: Any = tokenizer()
    x = graph()[0]
    out = net(x)
    direction = torch.randn_like(out["features"])
    (left,) = torch.autograd.grad((out["features"] * direction).sum(), net.encoder[2].own.bias, retain_graph=True)
    want = (direction @ net.to_features.weight).sum(0)  # through the embedding itself
    assert torch.allclose(left, want, atol=1e-4)
    (codes,) = torch.autograd.grad(out["features"].sum(), net.codebook, allow_unused=True)[:1] or (None,)
    assert codes is None or float(codes.abs().sum()) == 0.0  # the codes learn from their distance alone


def test_the_students_loss_is_that_of_classes_and_codes() -> None:
    net, (x, _, _) = NodeClasses(tokenizer()), graph()
    student = perceptron()
    settings = VQGraph(site="2", alpha=0.5, beta=2.0, softness=3.0)
    imitation = settings.start(student, net, (x,), {})
    hidden, goal = student[:3](x), net.tokenizer.encoder(x)
    found = imitation(View(student(x), {"2": hidden}), View(net(x), {"tokenizer.encoder": goal}), None, 1.0)
    want = 0.5 * distillation_loss(student(x), net(x))
    left, right = (soft_assignments(v, net.tokenizer.codebook, 3.0) for v in (hidden, goal))
    want = want + 2.0 * 9.0 * (right * (right / left).log()).sum(1).mean()
    assert float(found.detach()) == pytest.approx(float(want.detach()), rel=1e-4)
    assert not list(imitation.parameters())
    assert len(list(VQGraph("2").start(perceptron(10), net, (x,), {}).parameters())) == 2
    assert VQGraph().start(student, net, (x,), {}).sites == ("2",)


def test_wrong_graphs_teachers_and_layers() -> None:
    x = graph()[0]
    for edges in (torch.zeros(3, 4, dtype=torch.long), torch.zeros(2, 4), torch.tensor([[0], [-1]])):
        with pytest.raises(WrongShapeError, match=r"edges are \(2, E\) whole numbers from 0 to below"):
            GraphTokenizer(4, 8, 3, edges)
    with pytest.raises(WrongShapeError, match="below the 3 nodes; got torch.int64 of shape .* from 0 to 3"):
        GraphTokenizer(4, 8, 3, torch.tensor([[0, 3], [3, 0]]), nodes=3)
    with pytest.raises(WrongShapeError, match="VQGraph needs alpha >= 0"):
        VQGraph(softness=0.0)
    with pytest.raises(WrongShapeError, match="a NodeClasses of a trained GraphTokenizer; got Sequential"):
        VQGraph().start(perceptron(), perceptron(), (x,), {})
    with pytest.raises(UnknownNameError, match="no submodule named '22'"):
        VQGraph(site="22").start(perceptron(), NodeClasses(tokenizer()), (x,), {})


@pytest.mark.slow
@pytest.mark.parametrize("stop", [3, 8])
def test_killed_and_resumed_is_uninterrupted_tokenizer_and_student(tmp_path: Path, stop: int) -> None:
    x, _, y = graph()

    def run(folder: Path, seed: int, stop: int = 0) -> list[Tensor]:
        done: list[int] = []

        def on_step(progress: Progress) -> None:
            done.append(progress.step)
            if len(done) == stop:
                raise Stopped

        made = tokenizer(seed=seed)
        how: dict[str, Any] = {"steps": 5, "recipe": Taught(), "save_every": 2, "on_step": on_step}
        train(Family(made, (x,)), [(x, y)] * 5, made.loss(x), folder=folder / "teacher", **how)
        net = perceptron(10)
        train(Family(net, (x,)), [(x, y)] * 5, F.cross_entropy, teacher=NodeClasses(made), folder=folder / "student",
              distiller=VQGraph("2"), **how)  # fmt: skip
        return [p.detach() for each in (made, net) for p in each.parameters()]

    whole = run(tmp_path / "a", 0)
    with pytest.raises(Stopped):
        run(tmp_path / "b", 0, stop)
    parts = run(tmp_path / "b", 3)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


@pytest.mark.slow
def test_on_a_graph_of_blocks_a_distilled_perceptron_beats_one_that_learns_from_labels() -> None:
    """Five known nodes of each class; what the graph network tells of the others is what helps."""
    errors: dict[str, float] = {"labels": 0.0, "taught": 0.0, "teacher": 0.0}
    for seed in range(3):
        x, edges, y = graph(seed + 1, 300)
        known = torch.arange(300) < 15
        labels = torch.where(known, y, -100)

        def wrong(net: nn.Module, x: Tensor = x, y: Tensor = y, known: Tensor = known) -> float:
            with torch.no_grad():
                return float((net.eval()(x).argmax(1) != y)[~known].float().mean())

        torch.manual_seed(seed)
        made = GraphTokenizer(FEATURES, 16, CLASSES, edges, 24, 300)
        adam = torch.optim.AdamW(made.parameters(), lr=0.01, fused=True)
        train(Family(made, (x,)), [(x, labels)] * 120, made.loss(x), steps=120, recipe=Taught(), optimizer=adam)
        teacher = NodeClasses(made)
        errors["teacher"] += wrong(teacher)
        for name in ("labels", "taught"):
            torch.manual_seed(seed)
            net = perceptron(16)
            how: dict[str, Any] = {"teacher": teacher, "distiller": VQGraph("2")} if name == "taught" else {}
            adam = torch.optim.AdamW(net.parameters(), lr=0.01, fused=True)
            train(Family(net, (x,)), [(x, labels)] * 150, F.cross_entropy, steps=150, recipe=Taught(0.5),
                  optimizer=adam, **how)  # fmt: skip
            errors[name] += wrong(net)
    assert errors["taught"] < 0.7 * errors["labels"], errors
    assert errors["teacher"] < errors["labels"], errors
