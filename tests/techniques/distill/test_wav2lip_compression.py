"""Compression of generators: what is left out, quantisation against torch's, the scan, and that distilling helps."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.checks import NoEffectWarning, UnknownNameError, WrongShapeError
from pliant.family import Family, View
from pliant.techniques.distill.wav2lip_compression import (
    Wav2LipCompression,
    choose,
    protected,
    quantizable,
    quantized,
    sensitivity,
)
from pliant.training import train
from tests.techniques.distill.digits import Residual, Taught, check_kill, digits, images


class Generator(nn.Module):
    """``(B, 1, 8, 8) -> (B, 1, 8, 8)``: an encoder and a decoder, with residual blocks, as Wav2Lip's."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, width, 3, 2, 1)
        self.inner = nn.Sequential(Residual(width), Residual(width))
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.up = nn.ConvTranspose2d(width, width, 2, 2)
        self.outer = nn.Sequential(Residual(width))
        self.out = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(torch.relu(self.down(x)))
        x = self.outer(torch.relu(self.up(torch.relu(self.mix(x)))))
        return self.out(x)


def size(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_blocks_go_and_the_rest_computes_as_before() -> None:
    whole: Any = Generator()
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    small = Wav2LipCompression(width=1.0).compact(whole, (images(),))
    assert not [name for name, _ in small.named_parameters() if "inner" in name or "outer" in name]
    x = torch.relu(whole.up(torch.relu(whole.mix(torch.relu(whole.down(images()))))))
    assert torch.allclose(small(images()), whole.out(x), atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in whole.state_dict().items())


def test_channels_are_left_out_the_least_important_first() -> None:
    whole: Any = Generator()
    with torch.no_grad():
        for dead in (2, 3, 5, 7, 11, 13):
            whole.mix.weight[dead] = 0.0
            whole.mix.bias[dead] = 0.0
            whole.up.weight[dead] = 0.0
    small: Any = Wav2LipCompression(width=10 / 16, drop=False).compact(whole, (images(),))
    assert small.mix.weight.shape[0] == small.up.weight.shape[0] == 10
    kept = [k for k in range(16) if k not in (2, 3, 5, 7, 11, 13)]
    assert set(small.mix.bias.tolist()) == {whole.mix.bias.tolist()[k] for k in kept}


def test_parameters_fall_by_the_square_of_the_width() -> None:
    whole = Generator(32)
    small = Wav2LipCompression(width=0.25, multiple=4).compact(whole, (images(),))
    assert small(images()).shape == (6, 1, 8, 8)
    assert size(whole) > 28 * size(small)
    with pytest.warns(NoEffectWarning, match="found nothing to bend"):
        Wav2LipCompression(width=1.0, drop=False).compact(Generator(), (images(),))


def test_the_loss_is_that_of_outputs_and_features() -> None:
    small, whole, x = Generator(8), Generator(16), images()
    settings = Wav2LipCompression(layers=(("mix", "mix"),), weight=0.25)
    imitation: Any = settings.start(small, whole, (x,), {})
    left, right = torch.randn(6, 8, 4, 4), torch.randn(6, 16, 4, 4)
    found = imitation(View(small(x), {"mix": left}), View(whole(x), {"mix": right}), None, 1.0)
    mapped = torch.einsum("bchw,oc->bohw", left, imitation.maps[0].weight) + imitation.maps[0].bias[:, None, None]
    want = (small(x) - whole(x)).abs().mean() + 0.25 * (mapped - right).square().mean()
    assert float(found.detach()) == pytest.approx(float(want.detach()), rel=1e-5)


def by_torch(net: Any, x: Tensor) -> Tensor:
    """Uniform INT8 by torch's own fake quantisation, layer by layer."""

    def run(layer: Any, value: Tensor) -> Tensor:
        low, high = min(0.0, float(value.min())), max(0.0, float(value.max()))
        step = (high - low) / 255
        value = torch.fake_quantize_per_tensor_affine(value, step, round(-low / step), 0, 255)
        axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
        scale = layer.weight.detach().abs().amax([d for d in range(4) if d != axis]) / 127
        zero = torch.zeros(len(scale), dtype=torch.int32)
        weight = torch.fake_quantize_per_channel_affine(layer.weight.detach(), scale, zero, axis, -127, 127)
        if axis:
            return F.conv_transpose2d(value, weight, layer.bias, layer.stride, layer.padding)
        return F.conv2d(value, weight, layer.bias, layer.stride, layer.padding)

    with torch.no_grad():
        x = torch.relu(run(net.down, x))
        for block in net.inner:
            x = x + torch.relu(run(block.conv, x))
        x = torch.relu(run(net.up, torch.relu(run(net.mix, x))))
        for block in net.outer:
            x = x + torch.relu(run(block.conv, x))
        return run(net.out, x)


def test_all_in_full_precision_is_the_baseline_and_all_in_int8_uniform_quantisation() -> None:
    net, x = Generator(), images(16)
    plain = quantized(net, dict.fromkeys(quantizable(net), "fp32"), [x])
    assert torch.equal(plain(x), net(x))
    half = quantized(net, dict.fromkeys(quantizable(net), "fp16"), [x])
    coarse = quantized(net, dict.fromkeys(quantizable(net), "int8"), [x])
    gaps = [float((each(x) - net(x)).abs().max().detach()) for each in (half, coarse)]
    assert 0 < gaps[0] < 2e-3 < gaps[1] < 0.1
    # The ranges are those of the network in full precision here, and those of the quantised one there.
    assert torch.allclose(coarse(x), by_torch(net, x), atol=5e-3)
    first = quantized(net, {"down": "int8"}, [x])
    only: Any = Generator()
    only.load_state_dict(net.state_dict())
    step = only.down.weight.detach().abs().amax((1, 2, 3)) / 127
    zero = torch.zeros(16, dtype=torch.int32)
    with torch.no_grad():
        only.down.weight.copy_(torch.fake_quantize_per_channel_affine(only.down.weight, step, zero, 0, -127, 127))
    low, high = float(x.min()), float(x.max())
    span = (high - low) / 255
    given = torch.fake_quantize_per_tensor_affine(x, span, round(-low / span), 0, 255)
    assert torch.allclose(first(x), only(given), atol=1e-5)


@pytest.mark.parametrize(
    ("precision", "text"),
    [({"dwn": "int8"}, "'dwn'; did you mean 'down'"), ({"down": "int4"}, "no precision named 'int4'; did you mean")],
)
def test_unknown_layers_and_precisions(precision: dict[str, str], text: str) -> None:
    with pytest.raises(UnknownNameError, match=text):
        quantized(Generator(), precision, [images()])


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(WrongShapeError, match="needs width above 0 and up to 1"):
        Wav2LipCompression(width=0.0)
    with pytest.raises(WrongShapeError, match="0 to 2 layers can be protected; got 3"):
        protected({"a": 1.0, "b": 2.0}, 3)
    assert protected({"a": 1.0, "b": 2.0}, 1) == {"b": "fp16", "a": "int8"}
    net = Generator()
    net.spare = nn.Linear(2, 2)
    with pytest.raises(WrongShapeError, match=r"no input reaches the layers \['spare'\]"):
        quantized(net, {"spare": "int8"}, [images()])
    with pytest.raises(UnknownNameError, match="'mx'; did you mean 'mix'"):
        Wav2LipCompression(layers=(("mx", "mix"),)).start(Generator(), Generator(), (images(),), {})


@pytest.mark.slow
def test_killed_and_resumed_is_uninterrupted(tmp_path: Path) -> None:
    imitation = check_kill(lambda: Generator(8), Generator(16), Wav2LipCompression(layers=(("mix", "mix"),)), tmp_path)
    assert len(list(imitation.parameters())) == 2


def noisy(x: Tensor, seed: int) -> Tensor:
    return x + 0.7 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


def hidden(start: int) -> Iterator[Any]:
    """Digits under noise, and clean ones."""
    x, _ = digits()["train"]
    while True:
        clean = x[torch.randint(0, 1000, (64,), generator=torch.Generator().manual_seed(start))]
        yield noisy(clean, start), clean
        start += 1


def difference(net: nn.Module) -> float:
    """Return the mean absolute error on the test digits."""
    x, _ = digits()["test"]
    with torch.no_grad():
        return float((net.eval()(noisy(x, 0)) - x).abs().mean())


def learn(net: nn.Module, steps: int, **how: Any) -> nn.Module:
    recipe = Taught(0.5)
    train(Family(net, (images(4),)), hidden, F.l1_loss, steps=steps, recipe=recipe,
          optimizer=torch.optim.AdamW(net.parameters(), lr=3e-3, fused=True), **how)  # fmt: skip
    return net.eval()


@pytest.mark.slow
def test_on_digits_a_small_generator_keeps_what_the_whole_one_can_and_the_scan_protects_it() -> None:
    torch.manual_seed(0)
    whole = learn(Generator(16), 200)
    best = difference(whole)
    compression = Wav2LipCompression(width=0.5, layers=(("mix", "mix"), ("up", "up")), weight=0.1)
    small = compression.compact(whole, (images(4),))
    begun = difference(small)
    learn(small, 200, teacher=whole, distiller=compression)
    assert difference(small) < 0.7 * begun
    assert difference(small) < 1.35 * best
    assert size(small) < size(whole) / 4
    x, other = (noisy(digits()["train"][0][start : start + 64], start) for start in (0, 500))
    with torch.no_grad():
        exact = small(other)

    def distortion(net: nn.Module) -> float:
        with torch.no_grad():
            return float((net(other) - exact).square().mean())

    scan = sensitivity(small, [x], distortion)
    errors = [distortion(quantized(small, protected(scan, count, "fp32"), [x])) for count in range(len(scan) + 1)]
    assert list(scan.values()) == sorted(scan.values(), reverse=True)
    assert all(b < a for a, b in pairwise(errors)), errors
    assert errors[-1] == 0.0
    limit = errors[0] / 3
    precision, found = choose(small, [x], distortion, limit)
    assert found <= limit
    count = sum(name == "fp16" for name in precision.values())
    assert 0 < count < len(scan)
    assert distortion(quantized(small, protected(scan, count - 1), [x])) > limit
