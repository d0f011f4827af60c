"""Turbo-VAED: the shuffle is a permutation, what can be exact is, and a rebuilt decoder learns from the old one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.checks import NoEffectWarning, UnknownNameError, WrongShapeError
from pliant.family import Family, View
from pliant.techniques.distill.turbo_vaed import (
    SeparableConv3d,
    ShuffleUpsample3d,
    TurboVaed,
    decoupled_shuffle,
    decoupled_unshuffle,
)
from pliant.training import Progress, train
from tests.techniques.distill.digits import Stopped, Taught


def decoder(width: int = 8, seed: int = 0) -> Any:
    """``(B, 4, T, H, W) -> (B, 3, 2T, 4H, 4W)``."""
    torch.manual_seed(seed)
    net: Any = nn.Sequential(
        nn.Conv3d(4, width, 3, padding=1),
        nn.SiLU(),
        nn.Upsample(scale_factor=(2, 2, 2)),
        nn.Conv3d(width, width, 3, padding=1),
        nn.SiLU(),
        nn.ConvTranspose3d(width, width, (1, 2, 2), (1, 2, 2)),
        nn.SiLU(),
        nn.Conv3d(width, 3, 3, padding=1),
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2.0)  # as initialised, all that it gives is nearly its last bias
        for layer in (net[0], net[3]):  # smooth, as trained ones are
            layer.weight.add_(layer.weight.mean((2, 3, 4), keepdim=True), alpha=6.0)
    return net


def latents(batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(batch, 4, 2, 3, 3, generator=torch.Generator().manual_seed(seed))


def batches(start: int = 0) -> Iterator[Any]:
    while True:
        yield latents(4, start), None
        start += 1


def never(outputs: Any, targets: Any) -> Tensor:
    raise AssertionError("the decoder learns from the old one alone")


@pytest.mark.parametrize(("space", "time"), [(1, 1), (2, 1), (1, 3), (2, 2), (3, 2)])
def test_the_shuffle_is_a_permutation_that_can_be_undone(space: int, time: int) -> None:
    x = torch.arange(2.0 * 2 * time * space**2 * 3 * 4 * 5).reshape(2, -1, 3, 4, 5)
    found = decoupled_shuffle(x, space, time)
    assert found.shape == (2, 2, 3 * time, 4 * space, 5 * space)
    assert torch.equal(found.flatten().sort().values, x.flatten().sort().values)
    assert torch.equal(decoupled_unshuffle(found, space, time), x)
    for b, c, f, h, w in [(0, 0, 0, 0, 0), (1, 1, 3 * time - 1, 4 * space - 1, 5 * space - 2), (0, 1, time, 2, 3)]:
        channel = ((c * time + f % time) * space + h % space) * space + w % space
        assert found[b, c, f, h, w] == x[b, channel, f // time, h // space, w // space]


def test_shapes_that_cannot_be_shuffled() -> None:
    with pytest.raises(WrongShapeError, match=r"C a multiple of 8; got \(1, 12, 1, 1, 1\)"):
        decoupled_shuffle(torch.zeros(1, 12, 1, 1, 1), 2, 2)
    with pytest.raises(WrongShapeError, match=r"frames are a multiple of 2, .* got \(1, 1, 3, 4, 4\)"):
        decoupled_unshuffle(torch.zeros(1, 1, 3, 4, 4), 2, 2)


@pytest.mark.parametrize(("k", "a", "b"), [(3, 4, 6), (5, 2, 3)])
def test_a_separable_convolution_has_few_weights_and_the_same_shapes(k: int, a: int, b: int) -> None:
    conv = nn.Conv3d(a, b, k, stride=(1, 2, 2), padding=1)
    made = SeparableConv3d(conv)
    assert sum(p.numel() for p in made.parameters()) - b == k**3 * a + a * b
    x = torch.randn(2, a, 6, 9, 9)
    assert made(x).shape == conv(x).shape


def test_a_warm_start_is_the_nearest_in_least_squares_and_exact_where_it_can_be() -> None:
    conv, x = nn.Conv3d(3, 5, 3, padding=1), torch.randn(1, 3, 4, 5, 5)
    made = SeparableConv3d(conv)
    product = torch.einsum("ck,oc->ock", made.depthwise.weight.flatten(1), made.pointwise.weight.flatten(1))
    best = (product - conv.weight.flatten(2)).square().sum()
    values = torch.linalg.svdvals(conv.weight.flatten(2).permute(1, 0, 2))
    assert float(best.detach()) == pytest.approx(float(values[:, 1:].square().sum().detach()), rel=1e-4)
    with torch.no_grad():
        conv.weight.copy_(product.view_as(conv.weight))
    assert torch.allclose(SeparableConv3d(conv)(x), conv(x), atol=1e-5)
    cold = SeparableConv3d(conv, warm=False)
    assert not torch.allclose(cold(x), conv(x), atol=1e-2)


@pytest.mark.parametrize("bias", [True, False])
def test_transposed_convolutions_without_overlap_are_rewritten_exactly(bias: bool) -> None:
    conv, x = nn.ConvTranspose3d(3, 5, (2, 3, 3), (2, 3, 3), bias=bias), torch.randn(2, 3, 2, 4, 4)
    assert torch.allclose(ShuffleUpsample3d.like_transposed(conv)(x), conv(x), atol=1e-5)


def test_nearest_neighbour_upsampling_is_where_it_begins() -> None:
    x = torch.randn(2, 3, 2, 4, 4)
    assert torch.allclose(ShuffleUpsample3d.like_nearest(3, 2, 3)(x), F.interpolate(x, scale_factor=(3.0, 2.0, 2.0)))


def test_a_decoder_is_rebuilt_and_the_old_one_left_alone() -> None:
    old = decoder()
    before = {name: value.clone() for name, value in old.state_dict().items()}
    new: Any = TurboVaed(keep=("7",)).rebuild(old, latents())
    kinds = [type(new[k]).__name__ for k in (0, 2, 3, 5, 7)]
    assert kinds == ["SeparableConv3d", "ShuffleUpsample3d", "SeparableConv3d", "ShuffleUpsample3d", "Conv3d"]
    assert new(latents()).shape == old(latents()).shape == (2, 3, 4, 12, 12)
    assert all(torch.equal(value, before[name]) for name, value in old.state_dict().items())
    with torch.no_grad():
        for layer in (old[0], old[3]):  # where every convolution is separable, nothing is lost
            made = SeparableConv3d(layer)
            product = torch.einsum("ck,oc->ock", made.depthwise.weight.flatten(1), made.pointwise.weight.flatten(1))
            layer.weight.copy_(product.view_as(layer.weight))
    assert torch.allclose(TurboVaed(keep=("7",)).rebuild(old, latents())(latents()), old(latents()), atol=1e-5)


def test_what_cannot_be_rebuilt_stays() -> None:
    kept = nn.Sequential(
        nn.Conv3d(4, 4, 1),
        nn.Conv3d(4, 4, 3, padding=1, groups=2),
        nn.ConvTranspose3d(4, 4, 3, 2),
        nn.Upsample(scale_factor=1.5),
        nn.Upsample(size=(4, 4, 4)),
    )
    with pytest.warns(NoEffectWarning, match="no 3D convolution or upsampling to rebuild"):
        new: Any = TurboVaed().rebuild(kept, latents())
    assert [type(layer) for layer in new] == [type(layer) for layer in kept]
    alone = TurboVaed().rebuild(nn.Conv3d(4, 2, 3), latents())
    assert isinstance(alone, SeparableConv3d)
    with pytest.raises(UnknownNameError, match="no submodule named '77'"):
        TurboVaed(keep=("77",)).rebuild(kept, latents())


def test_the_loss_is_that_of_outputs_and_features() -> None:
    new, old, z = decoder(6, 1), decoder(), latents()
    settings = TurboVaed(layers=(("0", "0"), ("5", "5")), weight=0.5)
    imitation: Any = settings.start(new, old, (z,), {})
    ours, theirs = ({str(k): net[: k + 1](z) for k in (0, 5)} for net in (new, old))
    found = imitation(View(new(z), ours), View(old(z), theirs), None, 1.0)
    want = (new(z) - old(z)).abs().mean()
    for map_, site in zip(imitation.maps, ("0", "5"), strict=True):
        left = torch.einsum("bcthw,oc->bothw", ours[site], map_.weight) + map_.bias[:, None, None, None]
        want = want + 0.5 * (left - theirs[site]).square().mean()
    assert float(found.detach()) == pytest.approx(float(want.detach()), rel=1e-5)


def test_wrong_fields_and_decoders_that_do_not_agree() -> None:
    with pytest.raises(WrongShapeError, match="weight >= 0; got -1"):
        TurboVaed(weight=-1.0)
    with pytest.raises(WrongShapeError, match="of one input; they must agree"):
        TurboVaed().start(decoder()[:3], decoder(), (latents(),), {})
    with pytest.raises(UnknownNameError, match="no submodule named 'up'"):
        TurboVaed(layers=(("up", "0"),)).start(decoder(), decoder(), (latents(),), {})


def run(
    folder: Path | None, seed: int = 1, stop: int = 0, steps: int = 6, lr: float = 3e-3, warm: bool = True
) -> tuple[nn.Module, list[float]]:
    old = decoder()
    distiller = TurboVaed(layers=(("3", "3"),), keep=("7",), warm=warm)
    new = distiller.rebuild(old, latents())
    if seed > 1:
        new = distiller.rebuild(decoder(seed=seed), latents())
    losses: list[float] = []

    def on_step(progress: Progress) -> None:
        losses.append(progress.loss)
        if progress.step == stop:
            raise Stopped

    train(Family(new, (latents(),)), batches, never, steps=steps, recipe=Taught(), teacher=old, distiller=distiller,
          optimizer=torch.optim.AdamW(new.parameters(), lr=lr), folder=folder, save_every=2,
          on_step=on_step)  # fmt: skip
    return new, losses


@pytest.mark.slow
def test_a_rebuilt_decoder_learns_the_old_one() -> None:
    """On latents of plain noise, whose decoding has no structure to find, the gap closes slowly; but it does."""
    z, old = latents(16, 999), decoder()

    def gap(net: nn.Module) -> float:
        with torch.no_grad():
            return float((net.eval()(z) - old(z)).abs().mean())

    begun = []
    for warm, steps, left in ((True, 60, 0.97), (False, 200, 0.8)):
        begun.append(gap(TurboVaed(keep=("7",), warm=warm).rebuild(old, z)))
        assert gap(run(None, steps=steps, lr=1e-2, warm=warm)[0]) < left * begun[-1]
    assert begun[0] < 0.8 * begun[1]  # what is taken over from the old decoder is worth something


@pytest.mark.slow
def test_killed_and_resumed_is_uninterrupted(tmp_path: Path) -> None:
    whole, _ = run(tmp_path / "a")
    with pytest.raises(Stopped):
        run(tmp_path / "b", stop=3)
    parts, _ = run(tmp_path / "b", seed=5)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))
