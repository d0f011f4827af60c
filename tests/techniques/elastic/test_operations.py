"""Alternative operations against networks whose modules are replaced, and cut, by hand."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.checks import NoEffectWarning, PliantError, UnknownNameError, WrongShapeError
from pliant.export import export
from pliant.family import Family, at
from pliant.graph.analysis import analyze
from pliant.measure import Latency, Macs, Params
from pliant.study import search
from pliant.study.evaluation import Evaluation
from pliant.study.workers.package import packed, unpacked
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.kernel_size import KernelSize
from pliant.techniques.elastic.operations import Operations
from pliant.techniques.elastic.width import Width
from pliant.techniques.search.random_search import RandomSearch
from pliant.techniques.train.sandwich import Sandwich
from pliant.techniques.train.single_path import SinglePath
from pliant.training import TrainingStep, train
from tests.family.nets import images

X, Y = images(), torch.tensor([0, 1, 2, 3, 4, 0])


class Block(nn.Module):
    """A residual path of two convolutions with one activation that is called twice."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.act = nn.ReLU(inplace)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.c2(self.act(self.c1(self.act(x))))


class Net(nn.Module):
    """``(B, 1, 8, 8) -> (B, 5)``: two blocks, a wider convolution, a place that is kept free, a head."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.blocks = nn.Sequential(Block(inplace), Block(inplace))
        self.mid, self.free = nn.Conv2d(8, 16, 3, padding=1), nn.Identity()
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.free(torch.relu(self.mid(self.blocks(self.stem(x))))).mean((2, 3)))


def point(original: nn.Module) -> nn.Module:
    """A convolution of single points in the place of one of any size."""
    assert isinstance(original, nn.Conv2d)
    return nn.Conv2d(original.in_channels, original.out_channels, 1)


def separable(original: nn.Module) -> nn.Module:
    """A depthwise convolution, a norm and a convolution of single points."""
    assert isinstance(original, nn.Conv2d)
    width = original.in_channels
    first = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
    return nn.Sequential(first, nn.BatchNorm2d(width), point(original))


class Sorted(nn.Module):
    """Sorts within groups of four channels, whose sizes it has by heart."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(-1, 2, 4, 8, 8).sort(2).values.reshape(-1, 8, 8, 8)


CONVS = Operations({"separable": separable, "point": point}, identity=True)
ACTS = Operations({"gelu": nn.GELU()}, kind=nn.ReLU, per="network", name="act")
PLACES = (at("blocks.*.c?", CONVS), at("mid", CONVS), ACTS)


def family(*more: Any, places: Any = PLACES, inplace: bool = False) -> Family:
    torch.manual_seed(0)
    return Family(Net(inplace), (X,), [*places, *more])


def config_of(made: Family, **options: Any) -> Any:
    return made.space.check({**made.space.largest(), **{n.replace("__", "."): o for n, o in options.items()}})


def alternative(made: Family, path: str, name: str, module: nn.Module) -> nn.Module:
    """Return ``module`` with the family's weights of an alternative."""
    prefix = f"{path}.operation.{name}/"
    state = {n.removeprefix(prefix): value for n, value in made.extra.items() if n.startswith(prefix)}
    missing = module.load_state_dict({n: value.detach() for n, value in state.items()}, strict=False).missing_keys
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return module


def test_options_go_by_cost_and_the_largest_is_the_model_itself() -> None:
    made = family()
    own = ("identity", "point", "separable", "original")
    assert {c.name: c.options for c in made.space.choices} == {
        "blocks.0.c1.operation": own, "blocks.0.c2.operation": own, "blocks.1.c1.operation": own,
        "blocks.1.c2.operation": own, "mid.operation": own[1:], "act": ("gelu", "original"),
    }  # fmt: skip
    assert not any(choice.ordered for choice in made.space.choices)
    assert made.member(made.space.largest()) is made.model
    assert made.space.smallest()["blocks.0.c1.operation"] == "identity"
    assert made.extra["mid.operation.point/weight"].shape == (16, 8, 1, 1)
    weights = [p for module in made.model.modules() if isinstance(module, nn.Conv2d) for p in module.parameters()]
    assert not {id(p) for p in made.extra.values()} & {id(p) for p in weights}
    again = family()
    assert all(torch.equal(value, again.extra[name]) for name, value in made.extra.items())  # drawn from own seeds
    first, second = (made.extra[f"blocks.0.c{i}.operation.point/weight"] for i in (1, 2))
    assert not torch.equal(first, second)
    roles = family(places=[at("blocks.*.c?", Operations({"point": point}, per="role"))])
    assert [c.name for c in roles.space.choices] == ["blocks.*.c1.operation", "blocks.*.c2.operation"]


def test_members_are_the_network_with_modules_replaced_by_hand() -> None:
    made = family()
    config = config_of(
        made, blocks__0__c1__operation="separable", blocks__1__c2__operation="identity", mid__operation="point",
        act="gelu",
    )  # fmt: skip
    wanted: Any = copy.deepcopy(made.model).eval()
    wanted.blocks[0].c1 = alternative(made, "blocks.0.c1", "separable", separable(wanted.blocks[0].c1))
    wanted.blocks[1].c2 = nn.Identity()
    wanted.mid = alternative(made, "mid", "point", point(wanted.mid))
    for block in wanted.blocks:
        block.act = nn.GELU()
    wanted.eval()
    member = made.member(config).eval()
    assert torch.equal(member(X), wanted(X))
    net: Any = made.extract(config)
    assert torch.equal(net(X), wanted(X))
    assert str(net) == str(wanted)
    assert net.state_dict().keys() == wanted.state_dict().keys()
    assert not {p.data_ptr() for p in net.parameters()} & {p.data_ptr() for p in made.parameters()}
    assert Params().measure(net).value == sum(p.numel() for p in wanted.parameters())
    assert Macs((X,)).measure(made.ready(config)).value == Macs((X,)).measure(wanted).value


def test_gradients_are_those_of_plain_autograd_and_reach_nothing_else() -> None:
    made = family()
    config = config_of(made, blocks__0__c1__operation="separable", act="gelu")
    twin: Any = copy.deepcopy(made.model).train()
    twin.blocks[0].c1 = alternative(made, "blocks.0.c1", "separable", separable(twin.blocks[0].c1))
    twin.blocks[0].act = twin.blocks[1].act = nn.GELU()
    F.cross_entropy(twin(X), Y).backward()
    TrainingStep(made, (X, Y), F.cross_entropy).learn(config)
    for name, parameter in twin.named_parameters():
        inner = name.removeprefix("blocks.0.c1.")
        own = made.extra[f"blocks.0.c1.operation.separable/{inner}"] if inner != name else None
        found = (made.model.get_parameter(name) if own is None else own).grad
        assert found is not None, name
        assert torch.allclose(found, parameter.grad, atol=1e-6), name
    others = [v.grad for n, v in made.extra.items() if not n.startswith("blocks.0.c1.operation.separable/")]
    assert others == [None] * len(others)
    replaced = made.model.get_parameter("blocks.0.c1.weight").grad
    assert replaced is None or not replaced.any()


@pytest.mark.slow
def test_cut_together_with_the_network_around_it() -> None:
    """Streams, hidden widths and depth; the alternatives' slices are made by hand."""
    made = family(Width(multiple=2, kinds=("width", "stream")), Depth(per_block=True))
    plain = Family(made.model, (X,), [Width(multiple=2, kinds=("width", "stream")), Depth(per_block=True)])
    config = config_of(
        made, stream=6, blocks__0__width=4, mid__width=12, blocks__1__keep=False, act="gelu",
        blocks__0__c1__operation="point", blocks__0__c2__operation="separable", mid__operation="separable",
        blocks__1__c1__operation="point",
    )  # fmt: skip
    wanted: Any = plain.extract({choice.name: config[choice.name] for choice in plain.space.choices})
    for path, name, make, (outputs, inputs) in (
        ("blocks.0.c1", "point", point, (4, 6)),
        ("blocks.0.c2", "separable", separable, (6, 4)),
        ("mid", "separable", separable, (12, 6)),
    ):
        whole = alternative(made, path, name, make(made.model.get_submodule(path)))
        cut: Any = make(nn.Conv2d(inputs, outputs, 3))
        for place, value in cut.state_dict().items():
            value.copy_(whole.state_dict()[place][tuple(slice(0, size) for size in value.shape)])
        parent, _, last = path.rpartition(".")
        setattr(wanted.get_submodule(parent), last, cut)
    wanted.blocks[0].act = nn.GELU()
    wanted.eval()
    member = made.member(config)
    assert torch.allclose(member.eval()(X), wanted(X), atol=1e-6)
    net: Any = made.extract(config)
    assert torch.allclose(net(X), wanted(X), atol=1e-6)
    assert str(net.mid) == str(wanted.mid)
    made.model.train()
    TrainingStep(made, (X, Y), F.cross_entropy).learn(config)
    F.cross_entropy(wanted.train()(X), Y).backward()
    gradient = made.extra["mid.operation.separable/2.weight"].grad
    assert gradient is not None
    assert torch.allclose(gradient[:12, :6], wanted.mid[2].weight.grad, atol=1e-6)
    assert gradient[12:].abs().sum() == gradient[:, 6:].abs().sum() == 0
    rng = random.Random(1)
    for _ in range(6):
        made.extract(made.space.sample(rng))  # which compares it with the member


def test_what_cannot_be_cut_is_kept() -> None:
    def grouped(original: Any) -> nn.Module:
        return nn.Conv2d(8, original.out_channels, 3, padding=1, groups=2)

    def narrow(original: Any) -> nn.Module:
        return nn.Sequential(nn.Conv2d(8, 3, 1), nn.Conv2d(3, 8, 1))

    wide = Width(multiple=2, kinds=("width", "stream"))
    made = family(wide, places=[
        at("mid", Operations({"grouped": grouped})), at("free", Operations({"norm": lambda _: nn.BatchNorm2d(16)})),
        at("blocks.0.c1", Operations({"narrow": narrow, "sorts": Sorted()}, identity=True)),
    ])  # fmt: skip

    def sizes(**options: Any) -> tuple[int, int, int]:
        chosen = dict.fromkeys(("blocks__0__c1__operation", "mid__operation", "free__operation"), "original") | options
        config = made.space.check({**made.space.smallest(), **{n.replace("__", "."): o for n, o in chosen.items()}})
        net: Any = made.extract(config)
        return net.stem.out_channels, net.blocks[0].c2.in_channels, net.head.in_features

    assert sizes() == (2, 2, 4)
    assert sizes(mid__operation="grouped") == (8, 2, 16)  # the network around it has no such groups
    assert sizes(blocks__0__c1__operation="narrow") == (2, 2, 4)  # what is inside of it stays
    assert sizes(blocks__0__c1__operation="sorts") == (8, 8, 4)
    assert sizes(blocks__0__c1__operation="identity", blocks__0__width=4) == (4, 4, 4)  # both ends get the larger width
    assert sizes(free__operation="norm") == (8, 8, 16)  # no operation of the graph: all of it stays


def test_identity_leaves_alone_what_is_written_over_elsewhere() -> None:
    made = family(inplace=True, places=[at("blocks.0.c1", CONVS)])
    wanted: Any = copy.deepcopy(made.model).eval()
    wanted.blocks[0].c1, wanted.blocks[0].act, wanted.blocks[1].act = nn.Identity(), nn.ReLU(), nn.ReLU()
    # The first activation of a block still writes into the block's input, as it does in the network that was given.
    wanted.blocks[0].forward = lambda x, b=wanted.blocks[0]: torch.relu(x) + b.c2(torch.relu(x))
    wanted.blocks[1].forward = lambda x, b=wanted.blocks[1]: torch.relu(x) + b.c2(b.act(b.c1(torch.relu(x))))
    config = {"blocks.0.c1.operation": "identity"}
    assert torch.allclose(made.extract(config)(X), wanted(X), atol=1e-6)
    made.model.train()
    TrainingStep(made, (X, Y), F.cross_entropy).learn(made.space.check(config))  # autograd would complain


def test_statistics_of_alternatives_are_each_members_own() -> None:
    made = family(places=[at("mid", CONVS)])
    assert made.uncalibrated
    batches = [(images(seed=seed), Y) for seed in range(3)]
    made.calibrate_with(batches)
    assert not made.uncalibrated
    net: Any = made.extract({"mid.operation": "separable"})
    whole: Any = made.model
    inner = [net.mid[0](whole.blocks(whole.stem(x))) for x, _ in batches]
    assert torch.allclose(net.mid[1].running_mean, torch.stack([x.mean((0, 2, 3)) for x in inner]).mean(0), atol=1e-5)
    assert torch.equal(made.extra["mid.operation.separable/1.running_mean"], torch.zeros(8))
    assert not made.extra["mid.operation.separable/1.running_mean"].requires_grad


def test_alternatives_of_the_originals_weights_follow_their_order() -> None:
    def centre(original: Any) -> nn.Module:
        made = point(original)
        assert isinstance(made, nn.Conv2d)
        made.load_state_dict({"weight": original.weight[:, :, 1:2, 1:2], "bias": original.bias})
        return made

    made = family(Width(multiple=2), places=[at("blocks.*.c?", Operations({"centre": centre, "point": point}))])
    config = config_of(made, blocks__0__c1__operation="centre", blocks__1__c2__operation="centre")
    before, point_before = made.extract(config)(X), made.extra["blocks.0.c2.operation.point/weight"].clone()
    with torch.no_grad():
        made.extra["blocks.0.c2.operation.centre/weight"].zero_()
    made.prepare()
    assert torch.allclose(made.extract(config)(X), before, atol=1e-6)
    assert torch.equal(made.extra["blocks.0.c2.operation.point/weight"], point_before)
    assert not made.extra["blocks.0.c2.operation.centre/weight"].any()  # was changed by hand
    assert not torch.equal(made.member(config_of(made, blocks__0__width=4))(X), before)


def test_kernels_that_are_cut_in_a_slot_are_replaced_with_it() -> None:
    made = family(places=[KernelSize((1, 3)), at("mid", CONVS)])
    for option in ("original", "point", "separable"):
        net: Any = made.extract(config_of(made, mid__operation=option, mid__kernel=1, blocks__0__c1__kernel=1))
        assert net.blocks[0].c1.kernel_size == (1, 1)
        assert isinstance(net.mid, nn.Conv2d) == (option != "separable")


@pytest.mark.slow
def test_trained_by_single_paths_and_sandwich_stored_and_resumed(tmp_path: Path) -> None:
    data = [(images(seed=k), Y) for k in range(4)]
    places = (at("blocks.0.c1", CONVS), at("mid", CONVS), ACTS)

    def run(recipe: Any) -> Family:
        made = family(Width(multiple=8), places=places)
        train(made, data, F.cross_entropy, steps=4, recipe=recipe, folder=tmp_path / type(recipe).__name__,
              save_every=2)  # fmt: skip
        return made

    fresh = family(places=places)
    for recipe in (SinglePath(), Sandwich(between=1)):
        made, again = run(recipe), run(recipe)  # the second has what it has from the checkpoint
        assert any(not torch.equal(value, fresh.extra[name]) for name, value in made.extra.items())
        assert all(torch.equal(value, again.extra[name]) for name, value in made.extra.items())
    config = config_of(made, blocks__0__c1__operation="separable", mid__operation="point", act="gelu", mid__width=8)
    made.save(tmp_path / "family")
    with pytest.raises(PliantError, match=r"code of yours.*choices="):
        Family.load(tmp_path / "family", Net())
    with pytest.raises(WrongShapeError, match="none of the techniques"):
        Family.load(tmp_path / "family", Net(), choices=[at("mid", Operations({"other": point}))])
    loaded = Family.load(tmp_path / "family", Net(), choices=places)
    for one in (made, loaded):
        one.calibrate_with(data)
    assert torch.equal(loaded.extract(config)(X), made.extract(config)(X))
    sent = unpacked(packed(Evaluation(made, (Params(),))))
    assert torch.equal(sent.family.ready(config)(X), made.ready(config)(X))


@pytest.mark.slow
def test_a_search_finds_the_cheapest_member() -> None:
    made = family(places=[at("mid", CONVS), ACTS])
    study = search(made, [Macs((X,)), Params()], 6, searcher=RandomSearch())
    best = min(study.trials, key=lambda trial: trial.values["macs"])
    assert best.values["macs"] == Macs((X,)).measure(made.ready(best.config)).value
    assert best.config["mid.operation"] == "point"


@pytest.mark.slow
def test_members_are_exported_and_timed(tmp_path: Path) -> None:
    made = family(Width(multiple=4))
    config = config_of(made, blocks__0__c1__operation="separable", blocks__1__c1__operation="identity",
                       mid__operation="point", mid__width=8, act="gelu")  # fmt: skip
    net = made.extract(config)
    export(net, tmp_path / "net.pt2", (X,))
    assert torch.allclose(torch.export.load(tmp_path / "net.pt2").module()(X), net(X), atol=1e-6)
    assert Latency((X,), repeats=20).measure(net).value > 0


def test_in_graphs_of_operations_modules_are_replaced_where_nothing_is_cut() -> None:
    made = family(Width(multiple=4))
    config = config_of(made, mid__operation="point")
    wanted = made.extract(config)(X)
    made.form = "graph"
    made.forget()
    assert torch.equal(made.extract(config)(X), wanted)
    with pytest.raises(PliantError, match="graphs of operations"):
        made.member(config_of(made, mid__operation="point", mid__width=8))
    made.member(config_of(made, mid__width=8))


def test_a_part_of_a_model_and_a_network_without_weights() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.scale = Net(), nn.Parameter(torch.ones(5))

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) * self.scale if float(x.sum()) < 1e9 else x

    torch.manual_seed(0)
    made = Family(Whole(), (X,), [at("*.mid", CONVS), Width(multiple=4)], only="body")
    assert {c.name for c in made.space.choices} >= {"body.mid.operation", "body.width"}
    net: Any = made.extract({**made.space.smallest(), "body.mid.operation": "point"})
    assert net.body.mid.weight.shape == (4, 8, 1, 1)
    with torch.device("meta"):
        empty = Net()
    bare = Family(empty, (X.to("meta"),), [at("mid", CONVS), Width(multiple=4)])
    assert bare.extra["mid.operation.point/weight"].is_meta
    sketch: Any = bare.extract({**bare.space.smallest(), "mid.operation": "point"})
    assert sketch.mid.weight.shape == (4, 8, 1, 1)


def test_what_does_not_fit_is_refused() -> None:
    net = Net()
    analysis = analyze(net, (X,))

    def refused(error: type[Exception], text: str, where: str = "mid", **fields: Any) -> None:
        with pytest.raises(error, match=text):
            Family(net, (X,), [at(where, Operations(**fields))], analysis=analysis)

    refused(WrongShapeError, r"gives float32 \(6, 8, 8, 8\), expected .*16", alternatives={"a": lambda o: nn.ReLU()})
    doubled = type("Doubled", (nn.Module,), {"forward": lambda self, x: x.double()})
    refused(WrongShapeError, "gives float64", alternatives={"a": lambda o: nn.Sequential(o, doubled())})
    refused(WrongShapeError, "cannot be called", alternatives={"a": lambda o: nn.Conv2d(3, 16, 1)})
    refused(WrongShapeError, "lambda original: Conv2d", alternatives={"a": nn.Conv2d(8, 16, 1)})
    refused(WrongShapeError, "gives a int", alternatives={"a": lambda o: 3})
    refused(WrongShapeError, "inplace=False", "mid", alternatives={"a": lambda o: nn.Sequential(nn.ReLU(True), o)})
    refused(PliantError, "blocks", "*", alternatives={"a": nn.GELU()})
    refused(UnknownNameError, "no part named", "nothing", alternatives={"a": nn.GELU()})
    for given in ({"original": nn.ReLU()}, {"": nn.ReLU()}, {"a": nn.ReLU}, {"a": 3}):
        with pytest.raises(WrongShapeError, match="alternative"):
            Operations(given)
    with pytest.raises(WrongShapeError, match="'role'"):
        Operations(per="layer")
    with pytest.warns(NoEffectWarning, match="nothing to bend"):
        Family(net, (X,), [at("mid", Operations({"a": nn.GELU()}, kind="ReLU"))], analysis=analysis)
