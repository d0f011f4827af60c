"""What a run is asked for: wrong arguments end it before anything is changed, each with one clear error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pliant.checks import CorruptFileError, NoEffectWarning, PliantError, WrongShapeError
from pliant.family import Family
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.train.progressive_shrinking import ProgressiveShrinking
from pliant.techniques.train.rotation import Rotation
from pliant.techniques.train.sandwich import Sandwich
from pliant.training import Compute, train
from tests.training.toy import batch, batches, loss, mlp, same, state

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "half a step": ({"steps": 2.5}, "steps is a whole number, got 2.5"),
    "steps as text": ({"steps": "3"}, "steps is a whole number, got '3'"),
    "never saved": ({"save_every": 0}, "save_every is a whole number, 1 or more; got 0"),
    "no seed": ({"seed": None}, "seed is a whole number, got None"),
    "a seed too large": ({"seed": 2**70}, "seed is a whole number"),
    "clip to nothing": ({"clip": 0}, "above 0, or None for no clipping; got 0"),
    "clip to NaN": ({"clip": float("nan")}, "above 0, or None for no clipping; got nan"),
    "warmup NaN": ({"warmup": float("nan")}, "warmup is the share of the steps .* got nan"),
    "a constant schedule": ({"schedule": 0.5}, "schedule is a function .* got 0.5"),
    "no loss": ({"loss": None}, r"loss is a function loss\(outputs, targets\)"),
    "no family": ({"family": nn.Linear(2, 2)}, "what is trained is a family: .* got Linear"),
    "a function as a teacher": ({"teacher": lambda x: x}, "teacher is a network, an nn.Module"),
    "compute as text": ({"compute": "bfloat16"}, r"pliant.Compute\(precision='bfloat16'"),
    "an optimizer's class": ({"optimizer": torch.optim.SGD}, "optimizer is made of the family's parameters"),
    "an optimizer of others": (
        {"optimizer": torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)},
        "this SGD has 2 parameters, none of them the family's, so nothing would be learnt",
    ),
}


LATE: dict[str, tuple[dict[str, Any], str]] = {
    "a schedule of NaN": ({"schedule": lambda done: float("nan")}, "a factor of the learning rate.*it gave nan"),
    "a schedule of nothing": ({"schedule": lambda done: None}, "a factor of the learning rate.*it gave None"),
    "a schedule below 0": ({"schedule": lambda done: -done - 1}, "0 or more; at 0 of the steps it gave -1"),
    "a function without a number": ({"batches": lambda: iter(())}, r"write def batches\(start=0\)"),
    "a function of nothing": ({"batches": lambda start: None}, "got NoneType .is a yield or a return missing"),
    "a number as batches": ({"batches": 3}, "batches is to be an iterable of pairs .* got int"),
}


@pytest.fixture(scope="module")
def family() -> Any:
    return mlp()


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_refused_before_anything_is_changed(name: str, family: Family) -> None:
    settings, text = WRONG[name]
    before = state(family)
    given: Any = {"family": family, "batches": batches, "loss": loss, "steps": 3, **settings}
    with pytest.raises(PliantError, match=text):
        train(**given)
    assert same(state(family), before)


@pytest.mark.parametrize("name", LATE)
def test_functions_that_give_nonsense(name: str, family: Family) -> None:
    settings, text = LATE[name]
    given: Any = {"batches": batches, "steps": 3, "warmup": 0.0, **settings}
    with pytest.raises(WrongShapeError, match=text):
        train(family, loss=loss, **given)
    assert all(value.isfinite().all() for value in state(family).values())


def test_an_optimizer_that_runs_the_network_itself(family: Family) -> None:
    with pytest.raises(PliantError, match=r"LBFGS runs the network again and again .*AdamW or SGD"):
        train(family, batches, loss, steps=1, optimizer=torch.optim.LBFGS(family.parameters()))


def test_short_formats_are_for_weights_in_float32() -> None:
    half = Family(nn.Linear(8, 3).to(torch.bfloat16), (torch.randn(4, 8).to(torch.bfloat16),), [])
    with pytest.raises(PliantError, match=r"precision='float16'\) is for weights in float32, .* torch.bfloat16; make"):
        train(half, batches, loss, steps=1, compute=Compute(precision="float16"))
    double = Family(nn.Linear(8, 3).double(), (torch.randn(4, 8).double(),), [])
    given = [(x.double(), y) for x, y in (batch(0), batch(1))]
    with pytest.warns(NoEffectWarning, match="does nothing for weights in float64"):
        train(double, given, loss, steps=2, compute=Compute(precision="bfloat16"))


def test_numpy_numbers_are_numbers(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    last = train(mlp(), batches, loss, steps=numpy.int64(2), seed=numpy.int64(1), folder=tmp_path, save_every=1)
    assert last.step == 2
    assert train(mlp(), batches, loss, steps=2, seed=1, folder=tmp_path).step == 2


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda o, t: loss(o.detach(), t), "the loss has no gradient"),
        (lambda o, t: (o.argmax(1) != t).sum(), "a floating-point number .* torch.int64"),
    ],
)
def test_a_loss_without_a_gradient(wrong: Any, text: str, family: Family) -> None:
    with pytest.raises(WrongShapeError, match=text):
        train(family, batches, wrong, steps=1)


def test_no_gradients_where_they_are_switched_off(family: Family) -> None:
    for off in (torch.no_grad, torch.inference_mode):
        with off(), pytest.raises(WrongShapeError, match="gradients are switched off here"):
            train(family, batches, loss, steps=1)


class Detached(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


def test_a_network_that_detaches_its_outputs() -> None:
    with pytest.raises(WrongShapeError, match="its forward detaches them"):
        train(Family(Detached(8, 3), (torch.randn(4, 8),), []), batches, loss, steps=1)


class Half(nn.Module):
    """A frozen frame round a residual block that learns, and that a member may leave out."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.block, self.after = nn.Linear(8, 16), Residual(), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.block(self.before(x)))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 8), nn.Linear(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


def test_a_member_without_weights_that_learn_is_passed_over() -> None:
    net = Half()
    net.before.requires_grad_(False)
    net.after.requires_grad_(False)
    family = Family(net, (torch.randn(4, 8),), [Depth(least=0)])
    before = state(family)
    last = train(family, batches, loss, steps=8, recipe=Rotation(period=2))
    assert set(last.losses) == {family.space.smallest()}
    changed = {name for name, value in state(family).items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith("block.")}
    with pytest.raises(WrongShapeError, match="all weights of the family are frozen"):
        net.block.requires_grad_(False)
        train(family, batches, loss, steps=1)


def test_weights_that_the_optimizer_does_not_have_gather_no_gradients() -> None:
    """Those of earlier steps would add up, and a recipe that sorts units anew would take them for waiting ones."""
    family = mlp()
    optimizer = torch.optim.SGD(family.model.out.parameters(), lr=0.1)
    train(family, batches, loss, steps=8, recipe=ProgressiveShrinking(full=0.25), optimizer=optimizer)
    left = family.model.fc2.weight.grad
    fresh = mlp()
    train(fresh, batches, loss, steps=8, recipe=ProgressiveShrinking(full=0.25),
          optimizer=torch.optim.SGD(fresh.parameters(), lr=0.0))  # fmt: skip
    assert left is not None
    assert fresh.model.fc2.weight.grad is not None
    assert left.norm() < 4 * fresh.model.fc2.weight.grad.norm()


# ---- going on with something else -------------------------------------------------------------------------------
CHANGED: dict[str, tuple[dict[str, Any], str]] = {
    "recipe": (
        {"recipe": Sandwich()},
        r"with recipe Rotation\(.*this run has recipe Sandwich\(.*same recipe or another",
    ),
    "its fields": ({"recipe": Rotation(period=4)}, r"recipe Rotation\(period=8.*Rotation\(period=4"),
    "optimizer": ({"optimizer": "SGD"}, "optimizer type AdamW, this run has optimizer type SGD"),
    "choices": ({"choices": True}, "with other choices; use the same choices or another folder"),
    "fewer steps": ({"steps": 1}, "a run that is 2 steps far, and 1 are asked for"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_changed_run_does_not_go_on(name: str, tmp_path: Path) -> None:
    train(mlp(), batches, loss, steps=2, folder=tmp_path)
    settings, text = CHANGED[name]
    family = mlp()
    settings = {"steps": 3, **settings}
    if settings.pop("choices", None):
        family = Family(family.model, (torch.randn(4, 8),), [])
    if settings.get("optimizer"):
        settings["optimizer"] = torch.optim.SGD(family.parameters(), lr=0.1, momentum=0.9)
    before = state(family)
    with pytest.raises(PliantError, match=text):
        train(family, batches, loss, folder=tmp_path, **settings)
    assert same(state(family), before)


def test_another_network_is_told_from_a_damaged_file(tmp_path: Path) -> None:
    def one(width: int) -> Any:
        return Family(nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 3)), (torch.randn(4, 8),), [])

    train(one(16), batches, loss, steps=1, folder=tmp_path)
    with pytest.raises(
        CorruptFileError, match=r"not of this network: 0.weight is of shape \(16, 8\) in it and of shape"
    ):
        train(one(24), batches, loss, steps=2, folder=tmp_path)


def test_a_rate_that_was_too_high_may_be_lowered(tmp_path: Path) -> None:
    """As the error of a diverged run advises: the rate is the caller's, what the optimizer remembers is the file's."""

    def made(family: Family, lr: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(family.parameters(), lr=lr, weight_decay=lr)

    family = mlp()
    train(family, batches, loss, steps=2, optimizer=made(family, 0.1), folder=tmp_path, schedule=lambda done: 1.0)
    family = mlp()
    optimizer = made(family, 0.01)
    last = train(family, batches, loss, steps=3, optimizer=optimizer, folder=tmp_path, schedule=lambda done: 1.0)
    assert last.lr == 0.01
    assert optimizer.param_groups[0]["weight_decay"] == 0.01
    assert next(iter(optimizer.state.values()))["step"] == 3


def test_rates_that_are_tensors_survive_a_checkpoint(tmp_path: Path) -> None:
    whole, parts = mlp(), mlp()

    def made(family: Family) -> torch.optim.Optimizer:
        return torch.optim.AdamW(family.parameters(), lr=torch.tensor(0.01))

    train(whole, batches, loss, steps=4, optimizer=made(whole))
    train(parts, batches, loss, steps=4, optimizer=made(parts), folder=tmp_path, save_every=2)
    (tmp_path / "checkpoint-00000004.safetensors").unlink()
    parts = mlp()
    train(parts, batches, loss, steps=4, optimizer=made(parts), folder=tmp_path)
    assert same(state(parts), state(whole))


# ---- the folder ---------------------------------------------------------------------------------------------------
def test_a_folder_that_cannot_be_written_is_said_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        steps: list[Any] = []
        with pytest.raises(PliantError, match=r"is a file; give a folder|cannot write"):
            train(mlp(), batches, loss, steps=2, folder=folder, on_step=steps.append)
        assert not steps
    assert (tmp_path / "file").read_text() == "precious"


def test_files_that_only_begin_like_checkpoints_are_left_alone(tmp_path: Path) -> None:
    mine = {"checkpoint-best.safetensors", "checkpoint-9.safetensors", "notes.txt"}
    for name in mine:
        (tmp_path / name).write_text("precious")
    train(mlp(), lambda start: iter([batch(k) for k in range(start, 4)]), loss, steps=4, folder=tmp_path, save_every=1)
    assert {path.name for path in tmp_path.iterdir()} == {
        *mine,
        "checkpoint-00000003.safetensors",
        "checkpoint-00000004.safetensors",
    }
