"""Module-to-module distillation: identities of hybrids, independence of modules, resuming, and that it helps."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.checks import CorruptFileError, PliantError, TrainingDivergedError, WrongShapeError
from pliant.family import distillation_loss
from pliant.techniques.distill.module_to_module import Hybrid, ModuleToModule, split
from tests.techniques.distill.digits import batches_of, convnet, error, fit, images, noise, perceptron


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets)


def stages(width: int, seed: int, depth: int = 6) -> list[nn.Sequential]:
    """Three stages of a perceptron; the last one gives logits."""
    torch.manual_seed(seed)
    net = list(perceptron(width, depth))
    return [
        nn.Sequential(*net[: depth - 1]),
        nn.Sequential(*net[depth - 1 : 2 * depth]),
        nn.Sequential(*net[2 * depth :]),
    ]


def state(*nets: nn.Module) -> list[Tensor]:
    return [value.clone() for net in nets for value in net.state_dict().values()]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize(("parts", "lengths"), [(1, [7]), (2, [4, 3]), (3, [2, 3, 2]), (7, [1] * 7)])
def test_a_chain_is_cut_into_stages_that_compute_the_same(parts: int, lengths: list[int]) -> None:
    net: Any = perceptron(16, 3)[:-1]
    found = split(net, parts)
    assert [len(stage) for stage in found] == lengths
    assert torch.equal(nn.Sequential(*found)(images()), net(images()))
    assert found[0][0] is net[0]


@pytest.mark.parametrize("parts", [0, 8])
def test_too_many_stages_are_refused(parts: int) -> None:
    with pytest.raises(WrongShapeError, match=f"a chain of 7 layers is cut into 1 to 7 stages; got {parts}"):
        split(list(perceptron(16, 3))[:-1], parts)


def test_a_copy_of_the_teacher_has_nothing_to_learn() -> None:
    """In a meta network of another width, too: the stitch layers start as the teacher's."""
    method = ModuleToModule(steps=0, incubation=3, share=1.0)
    for index in range(3):
        meta, teachers, students = stages(16, 0), stages(24, 1), stages(24, 1)
        hybrid = method.module(index, students, teachers, meta, noise, loss)
        with torch.random.fork_rng([]):
            torch.manual_seed(index)
            teacher: Any = method._teacher(index, teachers, meta, images(), noise, loss)
        hybrid.module.load_state_dict(teacher.module.state_dict())
        x, y = next(noise(7))
        assert torch.equal(hybrid(x), teacher(x))
        found = method.loss_of(hybrid(x), teacher(x).detach(), y, loss)
        found.backward()
        assert float(found.detach()) == pytest.approx(0.0, abs=1e-6)
        assert all(p.grad is None or float(p.grad.abs().max()) < 1e-6 for p in hybrid.parameters())


def test_a_hybrid_of_the_meta_networks_own_layer_is_the_meta_network() -> None:
    meta = stages(16, 0)
    for index in range(3):
        hybrid = Hybrid(meta, index, meta[index], nn.Identity(), nn.Identity())
        assert torch.equal(hybrid(images()), nn.Sequential(*meta)(images()))


def test_stitch_layers_bridge_widths_and_nothing_else_learns() -> None:
    meta, teachers, students = stages(16, 0), stages(24, 1), stages(20, 2)
    before = state(*meta, *teachers)
    method = ModuleToModule(steps=3, incubation=2)
    hybrids = [method.module(index, students, teachers, meta, noise, loss) for index in range(3)]
    ends: list[Any] = [(hybrid.enter, hybrid.leave) for hybrid in hybrids]
    assert [type(layer).__name__ for pair in ends for layer in pair] == ["Identity", *["Linear"] * 4, "Identity"]
    assert (ends[1][0].in_features, ends[1][0].out_features) == (16, 20)
    assert (ends[1][1].in_features, ends[1][1].out_features) == (20, 16)
    assert same(before, state(*meta, *teachers))
    assert all(p.requires_grad for net in meta for p in net.parameters())
    assert nn.Sequential(*students)(images()).shape == (6, 10)
    convs = [split(convnet(width), 3) for width in (4, 8, 6)]
    hybrid: Any = method.module(1, convs[2], convs[1], convs[0], noise, loss)
    assert isinstance(hybrid.enter, nn.Conv2d)


def test_the_loss_is_shared_between_teacher_and_labels() -> None:
    student, teacher, y = torch.randn(4, 5), torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    found = ModuleToModule(share=0.3, temperature=2.0).loss_of(student, teacher, y, loss)
    want = 0.3 * distillation_loss(student, teacher, 2.0) + 0.7 * F.cross_entropy(student, y)
    assert float(found) == pytest.approx(float(want), rel=1e-6)


def test_what_cannot_be_stitched_is_refused() -> None:
    meta, teachers, students = stages(16, 0), stages(24, 1), stages(20, 2)
    with pytest.raises(WrongShapeError, match=r"stage 1 of the teacher is not .* give ModuleToModule an incubation"):
        ModuleToModule().module(1, students, teachers, meta, noise, loss)
    with pytest.raises(WrongShapeError, match="2 modules, 3 stages of the teacher and 3 layers"):
        ModuleToModule().run(students[:2], teachers, meta, noise, loss)
    with pytest.raises(WrongShapeError, match="module 3 was asked for"):
        ModuleToModule().module(3, students, teachers, meta, noise, loss)
    with pytest.raises(WrongShapeError, match=r"at module 0 a feature of shape \(6, 8, 4, 4\) meets one of \(6, 16\)"):
        ModuleToModule(incubation=1).module(0, split(convnet(), 3), stages(16, 0), stages(16, 1), noise, loss)
    with pytest.raises(WrongShapeError, match="ModuleToModule needs steps >= 0"):
        ModuleToModule(share=2.0)

    def poisoned(start: int) -> Iterator[Any]:
        for x, y in noise(start):
            yield x / 0.0, y

    with pytest.raises(TrainingDivergedError, match="loss is nan at step 0"):
        ModuleToModule().module(1, stages(16, 2), stages(16, 1), meta, poisoned, loss)


class Stopped(Exception):  # noqa: N818
    """Stands for a kill."""


def test_killed_and_resumed_is_uninterrupted(tmp_path: Path) -> None:
    method = ModuleToModule(steps=4, incubation=2)
    meta, teachers = stages(16, 0), stages(24, 1)
    whole = stages(20, 2)
    method.run(whole, teachers, meta, noise, loss)
    count = 0

    def interrupted(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal count
        count += 1
        if count > 14:  # in the middle of the third module
            raise Stopped
        return loss(outputs, targets)

    parts = stages(20, 2)
    with pytest.raises(Stopped):
        method.run(parts, teachers, meta, noise, interrupted, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["module-0.safetensors", "module-1.safetensors"]
    parts = stages(20, 2)
    net = method.run(parts, teachers, meta, noise, loss, tmp_path)
    assert same(state(*parts), state(*whole))
    again = stages(20, 9)

    def never(outputs: Tensor, targets: Tensor) -> Tensor:
        raise AssertionError("it was trained already")

    assert torch.equal(method.run(again, teachers, meta, noise, never, tmp_path)(images()), net(images()))
    with pytest.raises(PliantError, match="trained with other settings, from another teacher or in another meta"):
        method.run(again, stages(24, 3), meta, noise, loss, tmp_path)
    (tmp_path / "module-0.safetensors").write_bytes(b"no")
    with pytest.raises(CorruptFileError, match=r"module-0.safetensors cannot be read; remove it"):
        method.run(again, teachers, meta, noise, loss, tmp_path)


SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from pliant.techniques.distill.module_to_module import ModuleToModule
from tests.techniques.distill.digits import noise
from tests.techniques.distill.test_module_to_module import loss, stages
method = ModuleToModule(steps=4, incubation=2)
method.module(int(sys.argv[1]), stages(20, 2), stages(24, 1), stages(16, 0), noise, loss, Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_modules_trained_in_separate_processes_are_those_trained_together(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", SCRIPT, "1", str(tmp_path)], check=True, cwd=root, timeout=300)
    method = ModuleToModule(steps=4, incubation=2)
    apart, joint = stages(20, 2), stages(20, 2)
    meta, teachers = stages(16, 0), stages(24, 1)
    for index in (2, 1, 0):  # in any order; the second one is there already
        method.module(index, apart, teachers, meta, noise, loss, tmp_path)
    method.run(joint, teachers, meta, noise, loss)
    assert same(state(*apart), state(*joint))


@pytest.mark.slow
def test_on_digits_modules_learn_more_apart_than_the_whole_from_scratch() -> None:
    """A plain network of 18 layers, cut into three: 100 steps per module and 40 together against 140 together."""

    def deep(width: int, depth: int) -> nn.Sequential:
        layers: list[nn.Module] = [nn.Flatten(), nn.Linear(64, width), nn.LayerNorm(width), nn.ReLU()]
        for _ in range(depth - 1):
            layers += [nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU())]
        return nn.Sequential(*layers, nn.Linear(width, 10))

    def cut(net: Any) -> list[nn.Sequential]:
        third = len(net) // 3
        return [net[:third], net[third : 2 * third], net[2 * third :]]

    torch.manual_seed(100)
    teacher, meta = fit(deep(48, 6), 120), fit(deep(32, 3), 120)
    errors: dict[str, list[float]] = {"scratch": [], "modules": []}
    for seed in range(3):
        torch.manual_seed(seed)
        errors["scratch"].append(error(fit(deep(32, 18), 140, lr=1e-3, seed=seed)))
        torch.manual_seed(seed)
        method = ModuleToModule(steps=100, incubation=50, lr=3e-3, seed=seed)
        net = method.run(cut(deep(32, 18)), cut(teacher), cut(meta), batches_of(), loss)
        errors["modules"].append(error(fit(net, 40, lr=1e-3, seed=seed)))
    assert sum(errors["modules"]) < 0.7 * sum(errors["scratch"]), errors
