"""A teacher kept on disk: the same training, one run per example, and folders that were killed, spoilt or shared."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pliant
from pliant.checks import PliantError, UnknownNameError, WrongShapeError
from pliant.family import Family, Imitation, View
from pliant.family.imitation import features
from pliant.technique import Distiller, Recipe
from pliant.training import CachedTeacher, train
from tests.family.nets import Structured, vectors
from tests.training.toy import Mlp, loss, mlp, same, state


class Counting(nn.Module):
    """Counts on how many examples it ran: ``(B, 8) -> (B, 3)``."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(9)
        self.net = net or Mlp(dropout=0.5)
        self.seen: list[int] = []

    def forward(self, x: Tensor, **more: Any) -> Any:
        self.seen.append(len(x))
        return self.net(x, **more)


class FromTeacher(Recipe):
    def step(self, turn: Any) -> None:
        turn.learn(turn.space.largest(), teacher=turn.taught(), share=0.7)


def epochs(shuffled: bool = False) -> Iterator[Any]:
    """Five batches of six examples, again and again; ``shuffled``: the 30 examples in another order each time."""
    x, y = vectors(30, 8), torch.arange(30) % 3
    draw = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(30, generator=draw) if shuffled else torch.arange(30)
        for rows in order.split(6):
            yield x[rows], y[rows]


def run(teacher: nn.Module, family: Family, shuffled: bool = False) -> dict[str, Tensor]:
    train(family, epochs(shuffled), loss, steps=15, recipe=FromTeacher(), teacher=teacher)
    return state(family)


def test_training_is_the_same_and_the_teacher_runs_once_per_example(tmp_path: Path) -> None:
    plain, counted = Counting(), Counting()
    cached = pliant.CachedTeacher(counted, tmp_path, shard=8)
    want = run(plain, mlp())
    assert same(run(cached, mlp()), want)
    assert sum(plain.seen) == 15 * 6
    assert sum(counted.seen) == 30 == cached.computed
    assert cached.served == 60
    again = CachedTeacher(counted, tmp_path)  # another run: what filled a shard is on disk
    assert same(run(again, mlp()), want)
    assert again.computed == 6  # five batches of six, shards after 12 and 24
    again.flush()
    assert same(run(CachedTeacher(counted, tmp_path), mlp()), want)
    assert sum(counted.seen) == 36


def test_examples_in_any_order_are_looked_up(tmp_path: Path) -> None:
    counted = Counting()
    found = run(CachedTeacher(counted, tmp_path), mlp(), shuffled=True)
    want = run(Counting(), mlp(), shuffled=True)
    assert sum(counted.seen) == 30
    assert all(torch.allclose(found[name], value, atol=1e-6) for name, value in want.items())


def test_only_what_is_missing_is_computed(tmp_path: Path) -> None:
    counted, x = Counting(), vectors(9, 8)
    cached = CachedTeacher(counted, tmp_path).eval()
    cached(x[:4])
    mixed = cached(torch.cat([x[6:], x[:3], x[4:6]]))
    assert counted.seen == [4, 5]
    assert torch.allclose(mixed, counted.eval()(torch.cat([x[6:], x[:3], x[4:6]])), atol=1e-6)
    doubled = cached(torch.cat([x[:1], x[:1]]))
    assert torch.equal(doubled[0], doubled[1])
    assert not mixed.requires_grad


def test_every_structure_of_outputs_and_inputs(tmp_path: Path) -> None:
    net = Structured().eval()
    x, shift = vectors(5, 8), vectors(5, 16, seed=4)
    want, other = net(x, shift=shift, scale=2.0), net(x, shift=shift, scale=3.0)
    first = CachedTeacher(net, tmp_path).eval()
    for scale in (2.0, 3.0):
        first(x, shift=shift, scale=scale)
    first.flush()
    cached = CachedTeacher(net, tmp_path).eval()
    found = cached(x, shift=shift, scale=2.0)
    assert type(found) is type(want)
    assert torch.equal(found.logits, want.logits)
    assert torch.equal(found.parts["sum"][1], want.parts["sum"][1])
    assert torch.equal(cached(x, shift=shift, scale=3.0).logits, other.logits)  # a number is part of the name
    assert (cached.computed, cached.served) == (0, 10)
    cached(x, shift=shift + 1, scale=2.0)  # and so is every argument of the example
    cached(x.double().float(), shift=shift, scale=2.0)
    assert cached.computed == 5


class Holds(nn.Module):
    """Returns whatever it is told to."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(x)


def test_outputs_of_any_type_come_back_as_they_were(tmp_path: Path) -> None:
    def make(x: Tensor) -> Any:
        return [x.bfloat16(), None, {"tokens": x.long(), "mask": x > 0, "name": "a", "n": 3}, (x[:, 0],)]

    x = vectors(4, 3)
    CachedTeacher(Holds(make), tmp_path, shard=1).eval()(x)
    cached = CachedTeacher(Holds(make), tmp_path).eval()
    left, right = cached(x), make(x)
    assert cached.computed == 0
    assert torch.equal(left[0], right[0])
    assert left[1] is None
    assert torch.equal(left[2]["tokens"], right[2]["tokens"])
    assert torch.equal(left[2]["mask"], right[2]["mask"])
    assert (left[2]["name"], left[2]["n"]) == ("a", 3)
    assert torch.equal(left[3][0], right[3][0])


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (lambda x: x.sum(), WrongShapeError, r"with the batch, 4, first; got shapes \[\(\)\]"),
        (lambda x: x.T, WrongShapeError, r"got shapes \[\(3, 4\)\]"),
        (lambda x: 3, WrongShapeError, r"got shapes \[\]"),
        (lambda x: {"x": x, "o": object()}, PliantError, "outputs cannot be kept: .*not JSON serializable; let it"),
    ],
)
def test_outputs_that_cannot_be_kept(make: Any, kind: type[Exception], text: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=text):
        CachedTeacher(Holds(make), tmp_path).eval()(vectors(4, 3))


def test_other_weights_structure_or_tag_are_another_teacher(tmp_path: Path) -> None:
    x = vectors(4, 8)
    counted: Any = Counting()
    cached = CachedTeacher(counted, tmp_path, shard=1).eval()
    first = cached(x)
    with torch.no_grad():
        counted.net.out.bias.add_(1.0)
    assert torch.allclose(cached(x), first + 1)
    with torch.no_grad():
        counted.net.out.bias.sub_(1.0)
    cached(x)
    assert sum(counted.seen) in (8, 12)  # adding and taking 1 may leave other last bits
    seen = sum(counted.seen)
    CachedTeacher(counted, tmp_path).eval()(x)
    assert sum(counted.seen) == seen
    CachedTeacher(counted, tmp_path, tag="second").eval()(x)
    counted.net.drop = nn.Dropout(0.1)
    CachedTeacher(counted, tmp_path).eval()(x)
    assert sum(counted.seen) == seen + 8


def test_it_is_as_transparent_as_the_teacher(tmp_path: Path) -> None:
    net = Mlp(dropout=0.5)
    cached = CachedTeacher(net, tmp_path)
    assert [name for name, _ in cached.named_modules()] == [name for name, _ in net.named_modules()]
    assert same(dict(cached.state_dict()), dict(net.state_dict()))
    x = vectors(64, 8)
    torch.manual_seed(0)
    noisy = cached.train()(x)  # in training mode nothing is kept: it draws random numbers
    torch.manual_seed(0)
    assert torch.equal(noisy, net.train()(x))
    assert cached.computed == 0
    cached.eval()(x)
    assert not net.training
    assert not net.drop.training
    with pytest.raises(WrongShapeError, match="needs a tensor with the batch first; got none"):
        cached(3)
    with pytest.raises(WrongShapeError, match="a shard holds 1 example or more; got 0"):
        CachedTeacher(net, tmp_path, shard=0)


class Hidden(Distiller):
    """Looks at a layer inside both networks."""

    def start(self, student: Any, teacher: Any, args: Any, kwargs: Any) -> Any:
        class Made(Imitation):
            sites = teacher_sites = ("fc1",)

            def forward(self, student: View, teacher: View, targets: Any, temperature: float) -> Tensor:
                return (student.features["fc1"] - teacher.features["fc1"]).square().mean()

        return Made()


def test_features_inside_the_teacher_are_kept_too(tmp_path: Path) -> None:
    torch.manual_seed(9)
    teacher, families = Mlp(), [mlp(), mlp(), mlp()]
    cached = CachedTeacher(teacher, tmp_path)
    for family, one in zip(families, (teacher, cached, cached), strict=True):
        train(family, epochs(), loss, steps=12, recipe=FromTeacher(), teacher=one, distiller=Hidden())
    assert cached.computed == 30
    assert same(state(families[0]), state(families[1]))
    assert same(state(families[0]), state(families[2]))
    with features(cached, ("fc1", "fc2")) as found:  # more than was looked at before
        cached.eval()(next(epochs())[0])
    assert cached.computed == 36
    assert set(found) == {"fc1", "fc2"}
    with pytest.raises(UnknownNameError, match="did you mean 'fc1'"), features(cached, ("fcc1",)):
        pass


def test_a_kill_leaves_whole_shards_and_spoilt_ones_are_put_aside(tmp_path: Path) -> None:
    counted, batches = Counting(), [vectors(4, 8, seed=k) for k in range(4)]
    cached = CachedTeacher(counted, tmp_path, shard=4).eval()
    want = [cached(x) for x in batches]
    shards = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert len(shards) == 4
    shards[0].write_bytes(shards[0].read_bytes()[:-7])  # cut off
    shards[1].write_bytes(b"")
    spoilt = bytearray(shards[2].read_bytes())
    at = bytes(spoilt).index(bytes(want[2][0].view(torch.uint8).numpy()))
    spoilt[at] ^= 1  # one bit of the first example
    shards[2].write_bytes(bytes(spoilt))
    (tmp_path / ".teacher-x.1.tmp.safetensors").write_bytes(b"half")  # of a process that was killed while writing
    with pytest.warns(UserWarning, match=r"cannot be read .* put aside as teacher-.*corrupt.* computed again"):
        again = CachedTeacher(counted, tmp_path).eval()
    assert len(list(tmp_path.glob("*.corrupt"))) == 2
    for x, outputs in zip(batches, want, strict=True):
        assert torch.allclose(again(x), outputs, atol=1e-6)
    assert again.computed == 4 + 4 + 1
    again.flush()
    last = CachedTeacher(counted, tmp_path).eval()
    for x in batches:
        last(x)
    assert last.computed == 0


@pytest.mark.slow
def test_what_is_left_is_written_when_the_teacher_is_dropped(tmp_path: Path) -> None:
    x = vectors(4, 8)
    CachedTeacher(Counting(), tmp_path / "kept").eval()(x)
    gc.collect()
    again = CachedTeacher(Counting(), tmp_path / "kept").eval()
    again(x)
    assert again.computed == 0
    from torch._subclasses.fake_tensor import FakeTensorMode

    cached: Any = CachedTeacher(Counting(), tmp_path / "captured").eval()
    cached(x)
    with FakeTensorMode():
        del cached
        gc.collect()
    assert len(list((tmp_path / "captured").iterdir())) == 1
    gone = CachedTeacher(Counting(), tmp_path / "gone").eval()
    gone(x)
    (tmp_path / "gone").rmdir()
    del gone
    gc.collect()
    assert not (tmp_path / "gone").exists()


def test_mixed_precision_is_another_teacher(tmp_path: Path) -> None:
    counted, x = Counting(), vectors(4, 8)
    cached = CachedTeacher(counted, tmp_path).eval()
    plain = cached(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = cached(x)
    assert mixed.dtype == torch.bfloat16
    assert cached(x).dtype == plain.dtype == torch.float32
    assert counted.seen == [4, 4]


def test_two_processes_may_fill_one_folder(tmp_path: Path) -> None:
    counted, x = Counting(), vectors(8, 8)
    left, right = (CachedTeacher(counted, tmp_path, shard=1).eval() for _ in range(2))
    left(x[:5])
    right(x[3:])
    both = CachedTeacher(counted, tmp_path).eval()
    both(x)
    assert both.computed == 0


def test_batches_padded_unlike_are_refused(tmp_path: Path) -> None:
    cached = CachedTeacher(Holds(lambda x: x[:, : 2 + int(len(x) > 1)]), tmp_path).eval()
    x = vectors(3, 4)
    cached(x[:2])
    cached(x[2:])
    with pytest.raises(WrongShapeError, match="differs in structure or shape"):
        cached(x)
