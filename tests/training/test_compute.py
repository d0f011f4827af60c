"""How steps are computed: batches add up, short formats learn, recomputed blocks give the same gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.checks import NoEffectWarning, PliantError, TrainingDivergedError, UnknownNameError, WrongShapeError
from pliant.family import Family, Imitation, View
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.width import Width
from pliant.techniques.train.sandwich import Sandwich
from pliant.training import Compute, Parts, TrainingStep, train
from pliant.training.checkpoint import latest_checkpoint, load_checkpoint
from pliant.training.course import Course
from tests.family.nets import ConvNet, HardCoded, ViT, images, vectors
from tests.training.test_loop import Largest, Stopped, stop_at
from tests.training.toy import Mlp, batch, batches, loss, mlp, pictures, same, state


class Dropping(ViT):
    """A ViT with dropout inside each block, in the path of a fused projection."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.3)
        for layer in self.blocks:
            block: Any = layer
            block.attn.proj = nn.Sequential(nn.Dropout(0.3), block.attn.proj)


def vit(kind: Callable[[], nn.Module] = ViT, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return Family(kind(), (vectors(3, 4, 6),), [Width(multiple=4), Depth()])


def sequences(start: int = 0) -> Iterator[Any]:
    while True:
        yield batch(start, (4, 6), 5)
        start += 1


def joined(data: Callable[[int], Iterator[Any]], size: int) -> Callable[[int], Iterator[Any]]:
    """Return batches that are ``size`` of the others each, the number being theirs."""

    def whole(start: int) -> Iterator[Any]:
        each = data(start * size)
        while True:
            rows = [next(each) for _ in range(size)]
            yield torch.cat([x for x, _ in rows]), torch.cat([y for _, y in rows])

    return whole


def plain(family: Family) -> torch.optim.Optimizer:
    return torch.optim.SGD(family.parameters(), lr=0.1, momentum=0.9)


def close(left: dict[str, Tensor], right: dict[str, Tensor], tolerance: float) -> bool:
    return all(torch.allclose(value, right[name], atol=tolerance, rtol=tolerance) for name, value in left.items())


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("make", "data"), [(lambda: mlp(dropout=0.0), batches), (vit, sequences)])
def test_accumulated_batches_equal_one_of_all_examples(make: Callable[[], Any], data: Any, size: int) -> None:
    one, many = make(), make()
    left = train(one, joined(data, size), loss, steps=4, optimizer=plain(one))
    right = train(many, data, loss, steps=4, optimizer=plain(many), compute=Compute(accumulate=size))
    assert close(state(one), state(many), 2e-6)
    assert not close(state(one), state(make()), 1e-3)
    assert left.learnt == right.learnt
    assert list(right.losses.values()) == pytest.approx(list(left.losses.values()), rel=1e-5)


@pytest.mark.parametrize("kind", ["function", pytest.param("iterable", marks=pytest.mark.slow)])
def test_accumulating_resumes_bit_for_bit(kind: str, tmp_path: Path) -> None:
    asked: list[int] = []

    def told(start: int) -> Iterator[Any]:
        asked.append(start)
        return batches(start)

    def given() -> Any:
        return told if kind == "function" else batches(0)

    compute = Compute(accumulate=3)
    whole, parts = mlp(), mlp()
    train(whole, given(), loss, steps=6, compute=compute)
    with pytest.raises(Stopped):
        train(parts, given(), loss, steps=6, compute=compute, folder=tmp_path, save_every=2, on_step=stop_at(5))
    parts = mlp(seed=4)
    train(parts, given(), loss, steps=6, compute=compute, folder=tmp_path, save_every=2)
    assert same(state(parts), state(whole))
    assert asked == ([0, 0, 12] if kind == "function" else [])


def test_a_run_goes_on_with_other_batches_per_step_where_the_data_stood(tmp_path: Path) -> None:
    asked: list[int] = []

    def told(start: int) -> Iterator[Any]:
        asked.append(start)
        return batches(start)

    for accumulate, stop in ((1, 4), (3, 6), (2, 8)):
        with pytest.raises(Stopped):
            train(mlp(), told, loss, steps=9, folder=tmp_path, save_every=2, on_step=stop_at(stop),
                  compute=Compute(accumulate=accumulate))  # fmt: skip
    train(mlp(), told, loss, steps=9, folder=tmp_path, save_every=2)
    assert asked == [0, 4, 10, 14]


def test_batches_that_end_within_a_step() -> None:
    rows = [batch(k) for k in range(5)]
    with pytest.raises(WrongShapeError, match=r"ended after 2 of 3 steps of 2 batches"):
        train(mlp(), rows, loss, steps=3, compute=Compute(accumulate=2))


def test_wrong_fields() -> None:
    with pytest.raises(UnknownNameError, match="no precision named 'bf16'.*bfloat16"):
        Compute(precision="bf16")
    for wrong in (0, -1, 1.5):
        with pytest.raises(WrongShapeError, match=rf"accumulate is a whole number.*{wrong}"):
            Compute(accumulate=wrong)  # type: ignore[arg-type]


# ---- short formats ---------------------------------------------------------------------------------------------------
def gradients(family: Family, **settings: Any) -> dict[str, Tensor]:
    """The family's gradients after its smallest member and one between have learnt from two batches."""
    course = Course(family, loss, compute=Compute(**settings))
    family.model.train()
    family.model.zero_grad()
    torch.manual_seed(3)
    data = sequences() if isinstance(family.model, ViT) else pictures()
    turn = TrainingStep(family, Parts([next(data), next(data)]), loss, course=course)
    seen = turn.learn(family.space.largest())
    turn.learn(family.space.smallest(), teacher=seen, share=0.5)
    turn.learn(family.space.sample(turn.rng), teacher=seen, share=0.5, regularise=False)
    return {name: p.grad.clone() for name, p in family.model.named_parameters() if p.grad is not None}


def test_gradients_in_bfloat16_reach_the_family() -> None:
    family, formats = vit(), set()
    family.model.blocks[0].fc1.register_forward_hook(lambda m, args, out: formats.add(out.dtype))
    right = gradients(family)
    assert formats == {torch.float32}
    short = gradients(family, precision="bfloat16")
    assert formats == {torch.float32, torch.bfloat16}
    assert short.keys() == right.keys()
    for name, value in short.items():
        assert value.dtype == torch.float32
        assert not torch.equal(value, right[name])
        assert float(F.cosine_similarity(value.flatten(), right[name].flatten(), 0)) > 0.99, name
    course = Course(family, loss, compute=Compute(precision="bfloat16"))
    assert course.watch(family.model, [batch(0, (4, 6), 5)]).outputs.dtype == torch.float32


def learnable(start: int = 0) -> Iterator[Any]:
    teacher = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    while True:
        x, _ = batch(start)
        yield x, (x @ teacher).argmax(1)
        start += 1


def losses_of(family: Family, compute: Compute) -> list[float]:
    """The largest member's loss in each step of a short training."""
    told: list[float] = []
    optimizer = torch.optim.AdamW(family.parameters(), lr=0.02)
    train(family, learnable, loss, steps=50, recipe=Sandwich(), optimizer=optimizer, clip=None, compute=compute,
          on_step=lambda progress: told.append(progress.loss))  # fmt: skip
    return told


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_short_formats_learn_as_well(precision: str) -> None:
    ends = {}
    for name in ("float32", precision):
        family = mlp(dropout=0.0)
        told = losses_of(family, Compute(precision=name))
        assert all(p.dtype == torch.float32 for p in family.parameters())
        ends[name] = sum(told[-10:]) / 10
        assert ends[name] < 0.4 * sum(told[:3]) / 3
    assert ends[precision] == pytest.approx(ends["float32"], abs=0.05)
    assert ends[precision] != ends["float32"]


def steep(at: int, factor: float = 1e36) -> Callable[[int], Iterator[Any]]:
    """Batches whose targets carry a factor of the loss, one of them enormous."""

    def data(start: int) -> Iterator[Any]:
        for k, (x, y) in enumerate(batches(start), start):
            yield x, (y, factor if k == at else 1.0)

    return data


def weighted(outputs: Tensor, targets: Any) -> Tensor:
    return loss(outputs, targets[0]) * targets[1]


def test_a_step_that_overflows_float16_is_left_out(tmp_path: Path) -> None:
    compute, family, norms = Compute(precision="float16"), mlp(), []
    family.prepare()
    weights = [state(family)]

    def note(progress: Any) -> None:
        norms.append(progress.gradient_norm)
        weights.append(state(family))

    run: dict[str, Any] = {"steps": 6, "recipe": Largest(), "compute": compute}
    train(family, steep(2), weighted, on_step=note, folder=tmp_path / "a", save_every=6, **run)
    assert [norm == float("inf") or norm != norm for norm in norms] == [False, False, True, False, False, False]
    assert [same(weights[k], weights[k + 1]) for k in range(6)] == [False, False, True, False, False, False]
    parts = mlp()
    with pytest.raises(Stopped):
        train(parts, steep(2), weighted, on_step=stop_at(4), folder=tmp_path / "b", save_every=3, **run)
    parts = mlp(seed=2)
    train(parts, steep(2), weighted, folder=tmp_path / "b", save_every=3, **run)
    assert same(state(parts), state(family))
    path = latest_checkpoint(tmp_path / "b")
    assert path is not None
    net = Mlp()
    header = load_checkpoint(path, net, torch.optim.AdamW(net.parameters()))
    assert header["held"]["scaler"]["scale"] == 2.0**15  # halved once


def test_float16_that_overflows_whatever_its_scale_diverges() -> None:
    with pytest.raises(TrainingDivergedError, match=r"overflow float16 at step 16.*bfloat16"):
        train(mlp(), ((x, (y, 1e36)) for x, y in batches()), weighted, steps=40, recipe=Largest(),
              compute=Compute(precision="float16"))  # fmt: skip


def test_a_device_without_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(torch.amp, "GradScaler", none)
    with pytest.raises(PliantError, match=r"float16 training does not run on cpu here \(no such kernel\)"):
        train(mlp(), batches, loss, steps=1, compute=Compute(precision="float16"))


# ---- blocks that are computed again ----------------------------------------------------------------------------------
def blocks_of_convnet() -> Any:
    torch.manual_seed(0)
    return Family(ConvNet(), (images(),), [Width(multiple=4), Depth()])


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", [vit, lambda: vit(Dropping), blocks_of_convnet])
def test_recomputed_blocks_give_the_same_gradients(make: Callable[[], Any], precision: str) -> None:
    one, two = make(), make()
    left = gradients(one, precision=precision)
    right = gradients(two, precision=precision, checkpointing=True)
    assert same(left, right)
    assert same(state(one), state(two))  # running statistics included
    assert not any("forward" in module.__dict__ for module in two.model.modules())


class Inside(Imitation):
    """Looks at what two blocks make inside, and at one block's end."""

    sites = teacher_sites = ("blocks.0.fc1", "blocks.1.attn.qkv", "blocks.1")

    def forward(self, student: View, teacher: View, targets: Any, temperature: float) -> Tensor:
        gaps = [F.mse_loss(student.features[site], teacher.features[site]) for site in self.sites]
        return torch.stack(gaps).sum()


@pytest.mark.slow
def test_features_inside_recomputed_blocks_are_learnt_from() -> None:
    found = []
    for checkpointing in (False, True):
        family, teacher = vit(Dropping), vit(Dropping, seed=1).model
        course = Course(family, loss, teacher=teacher, imitation=Inside(), compute=Compute(checkpointing=checkpointing))
        turn = TrainingStep(family, batch(0, (4, 6), 5), loss, course=course)
        torch.manual_seed(5)
        turn.learn(family.space.largest(), teacher=turn.taught(), share=0.9)
        found.append({name: p.grad for name, p in family.model.named_parameters()})
    assert float(found[0]["blocks.0.fc1.weight"].abs().sum()) > 0
    assert same(*found)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "data"), [(lambda: vit(Dropping), sequences), (blocks_of_convnet, pictures)])
def test_training_with_recomputed_blocks_is_the_same(make: Callable[[], Any], data: Any) -> None:
    one, two = make(), make()
    assert train(one, data, loss, steps=3) == train(two, data, loss, steps=3, compute=Compute(checkpointing=True))
    assert same(state(one), state(two))


@pytest.mark.slow
def test_recomputed_blocks_save_memory() -> None:
    torch.manual_seed(0)
    family = Family(ViT(dim=32, depth=6), (vectors(3, 4, 6),), [Width(multiple=4), Depth()])
    x, y = batch(0, (4, 6), 5)

    def kept(config: Any, **settings: Any) -> int:
        course, found = Course(family, loss, compute=Compute(**settings)), {}

        def pack(tensor: Tensor) -> Tensor:
            found[tensor.data_ptr(), tensor.shape] = tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs = course.view(family.member(config), x).outputs
            loss(outputs, y)
        weights = {p.data_ptr() for p in family.member(config).parameters()}  # gathered ones are made in the forward
        return sum(size for (pointer, _), size in found.items() if pointer not in weights)

    for config in (family.space.largest(), {**family.space.smallest(), "blocks.depth": 4}):
        assert kept(config, checkpointing=True) < 0.25 * kept(config)


def test_where_nothing_can_be_computed_again_it_is_said() -> None:
    with pytest.warns(NoEffectWarning, match="saves no memory: the analysis found no blocks"):
        train(mlp(), batches, loss, steps=1, compute=Compute(checkpointing=True))
    family = Family(HardCoded(strict=True), (vectors(3, 4, 16),), [Width(multiple=4)])
    assert family.form == "graph"
    with pytest.warns(NoEffectWarning, match=r"saves no memory: members of this family run as graphs.*4 heads"):
        Course(family, loss, compute=Compute(checkpointing=True))


class Counting(nn.Module):
    """A block that keeps state: a second run of it is not the first."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 8)
        self.register_buffer("level", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.level.mul_(1.5)  # type: ignore[operator]
        return x + self.fc2(torch.relu(self.fc1(x)))


def test_a_block_that_changes_while_it_runs_is_refused() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), Counting(), Counting(), nn.Linear(8, 3)).eval()
    family = Family(net, (torch.randn(4, 8),), [Width(multiple=4)])
    assert family.analysis.blocks
    with pytest.raises(PliantError, match="Counting changes its buffer 'level' while it runs.*without checkpointing"):
        train(family, batches, loss, steps=1, compute=Compute(checkpointing=True))
