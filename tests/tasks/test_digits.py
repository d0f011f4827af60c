"""The digits task: splits, batches that can be skipped ahead, shifts, networks that can be built at any size."""

from __future__ import annotations

import itertools

import pytest
import torch

from pliant.checks import UnknownNameError
from pliant.tasks import digits
from pliant.tasks.digits_convnet import DigitsConvNet
from pliant.tasks.digits_vit import DigitsViT


def test_splits_are_disjoint_complete_and_stratified() -> None:
    splits = digits.data()
    assert [len(splits[name].labels) for name in digits.SPLITS] == [1079, 359, 359]
    for part in splits.values():
        counts = torch.bincount(part.labels, minlength=10).double() / len(part.labels)
        assert counts.min() > 0.09
        assert counts.max() < 0.11
    everything = torch.cat([part.images for part in splits.values()])
    assert len(everything) == 1797
    assert everything.min() == 0.0
    assert everything.max() == 1.0
    from sklearn.datasets import load_digits

    original = sorted(map(tuple, load_digits().images.reshape(-1, 64).astype(int).tolist()))
    assert sorted(map(tuple, (everything.flatten(1) * 16).round().int().tolist())) == original


def test_training_images_are_standardised() -> None:
    scaled = digits.standardise(digits.data()["train"].images)
    assert abs(float(scaled.mean())) < 1e-5
    assert abs(float(scaled.std()) - 1) < 1e-5


def test_kth_batch_depends_on_seed_and_k_only() -> None:
    whole = list(itertools.islice(digits.batches(3), 20))
    for start in (0, 7, 16, 19):  # 16 batches make an epoch
        images, labels = next(digits.batches(3, start=start))
        assert torch.equal(images, whole[start][0])
        assert torch.equal(labels, whole[start][1])
    assert not torch.equal(next(digits.batches(4))[1], whole[0][1])
    torch.manual_seed(123)  # the global generator plays no part
    assert torch.equal(next(digits.batches(3))[0], whole[0][0])


def test_an_epoch_repeats_no_image() -> None:
    labels = torch.cat([batch[1] for batch in itertools.islice(digits.batches(0), 16)])
    images = torch.cat([batch[0] for batch in itertools.islice(digits.batches(0), 16)])
    assert len(labels) == 1024
    assert images.shape == (1024, 1, 8, 8)
    counts = torch.bincount(labels, minlength=10)
    assert (counts <= torch.bincount(digits.data()["train"].labels, minlength=10)).all()


def test_shift_moves_by_one_pixel_at_most() -> None:
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 4, 4] = 1.0
    moved = digits.shift(image.expand(500, 1, 8, 8), torch.Generator().manual_seed(0))
    places = {tuple(place) for place in torch.nonzero(moved[:, 0])[:, 1:].tolist()}
    assert places == set(itertools.product((3, 4, 5), (3, 4, 5)))
    corner = torch.zeros(200, 1, 8, 8)
    corner[:, 0, 0, 0] = 1.0
    assert digits.shift(corner, torch.Generator().manual_seed(0)).flatten(1).sum(1).max() == 1.0  # no wrapping round
    assert digits.shift(corner, torch.Generator().manual_seed(0))[:, 0, 7].sum() == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("variant", digits.VARIANTS)
def test_networks_learn_and_are_evaluated(variant: str) -> None:
    net = digits.model(variant)
    inputs, targets = next(digits.batches(0))
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, fused=True)
    losses = []
    for _ in range(15):
        value = digits.loss(net(inputs), targets)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        losses.append(float(value.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert net.training
    figures = digits.evaluate(net, "test")
    assert net.training
    assert next(iter(figures)) == "error"
    assert 0.0 <= figures["error"] <= 100.0
    assert figures == digits.evaluate(net, "test")


def test_error_is_the_percentage_of_wrong_labels() -> None:
    class Constant(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(torch.zeros(len(images), dtype=torch.long), 10).float()

    labels = digits.data()["validation"].labels
    wrong = 100.0 * float((labels != 0).sum()) / len(labels)
    assert digits.evaluate(Constant())["error"] == pytest.approx(wrong)


def test_smaller_networks_can_be_built_by_hand() -> None:
    images = digits.example_args()[0]
    assert DigitsViT(dim=24, depth=2, heads=3, head_dim=4, mlp_dim=40)(images).shape == (2, 10)
    assert DigitsConvNet(widths=(8, 12, 16), hidden=(4, 6, 8), depths=(1, 2, 1))(images).shape == (2, 10)


def test_attention_reads_its_sizes_from_attributes() -> None:
    """Cutting heads needs smaller weights and one changed integer, nothing else."""
    from pliant.tasks.digits_vit import Attention

    full, half = Attention(16, heads=4, head_dim=4), Attention(16, heads=4, head_dim=4)
    half.num_heads = 2
    with torch.no_grad():
        half.qkv.weight = torch.nn.Parameter(full.qkv.weight.view(3, 4, 4, 16)[:, :2].reshape(24, 16))
        half.qkv.bias = torch.nn.Parameter(full.qkv.bias.view(3, 4, 4)[:, :2].reshape(24))
        half.proj.weight = torch.nn.Parameter(full.proj.weight[:, :8].clone())
        half.proj.bias = torch.nn.Parameter(full.proj.bias.clone())
        full.proj.weight[:, 8:] = 0  # the full one without its last two heads
        x = torch.randn(2, 5, 16)
        assert torch.allclose(full(x), half(x), atol=1e-6)


def test_unknown_names() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'convnet'"):
        digits.model("convnets")
    with pytest.raises(UnknownNameError, match="did you mean 'validation'"):
        digits.evaluate(torch.nn.Identity(), "valid")
