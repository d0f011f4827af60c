"""Centred kernel alignment: how alike two representations of the same examples are, whatever their widths.

Source: Kornblith, Norouzi, Lee, Hinton (2019), Similarity of Neural Network Representations Revisited, arXiv
1905.00414; the estimate over batches is that of Nguyen, Raghu, Kornblith (2021), Do Wide and Deep Networks Learn the
Same Things?, arXiv 2010.15327.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...checks import WrongShapeError
from ...family.imitation import features
from ...family.statistics import call, keeping_modes
from ._features import one_tensor

_TINY = 1e-12


def cka(left: Tensor, right: Tensor) -> Tensor:
    """Return the linear alignment of two representations, from 0 (unlike) to 1 (equal but for a rotation and scale).

    Args:
        left: ``(B, ...)``; everything after the batch is one row of numbers per example.
        right: ``(B, ...)`` of the same examples; its width may be another.

    Raises:
        WrongShapeError: the two are not of the same number of examples, or there are fewer than two.
    """
    rows = _checked(left, right, least=2)
    with torch.autocast(left.device.type, enabled=False):  # what is alike in bfloat16 need not be
        k, m = (_gram(_centred(value.float())) for value in rows)
        return (k * m).sum() / (k.norm() * m.norm()).clamp_min(_TINY)


def alignment(
    left: nn.Module,
    right: nn.Module,
    batches: Iterable[Any],
    left_sites: Sequence[str],
    right_sites: Sequence[str],
) -> Tensor:
    """Return the alignment of every layer of one network with every layer of another, ``(left sites, right sites)``.

    A diagnostic of how far the features of two architectures are apart. Each batch gives an unbiased estimate of the
    three covariances, and these are averaged before they are divided, so the size of the batches does not matter.

    Args:
        left: a network; called in evaluation mode, without gradients.
        right: another one, on the same inputs.
        batches: inputs, each a tensor of four examples or more, a tuple of arguments or a dict of keyword arguments.
        left_sites: paths of submodules of ``left``.
        right_sites: paths of submodules of ``right``.

    Raises:
        UnknownNameError: there is no such submodule; the nearest is offered.
        WrongShapeError: a batch has fewer than four examples, or there is no batch.
    """
    cross = torch.zeros(len(left_sites), len(right_sites), dtype=torch.float64)
    own = torch.zeros(len(left_sites), 1, dtype=torch.float64), torch.zeros(1, len(right_sites), dtype=torch.float64)
    count = 0
    with torch.no_grad(), keeping_modes(left), keeping_modes(right):
        left.eval(), right.eval()
        for inputs in batches:
            with features(left, left_sites) as ours, features(right, right_sites) as theirs:
                call(left, inputs), call(right, inputs)
            rows = [_open(one_tensor(ours.get(site), site)) for site in left_sites]
            columns = [_open(one_tensor(theirs.get(site), site)) for site in right_sites]
            cross += torch.stack([torch.stack([_hsic(k, m) for m in columns]) for k in rows]).cpu()
            own[0].add_(torch.stack([_hsic(k, k) for k in rows])[:, None].cpu())
            own[1].add_(torch.stack([_hsic(m, m) for m in columns])[None].cpu())
            count += 1
    if not count:
        raise WrongShapeError("the alignment of two networks needs at least one batch of inputs; got none")
    return (cross / (own[0] * own[1]).clamp_min(_TINY).sqrt()).float()


def _checked(left: Tensor, right: Tensor, least: int) -> tuple[Tensor, Tensor]:
    if left.dim() < 1 or right.dim() < 1 or len(left) != len(right) or len(left) < least:
        raise WrongShapeError(
            f"two representations are compared over the same {least} or more examples, the batch first; got shapes "
            f"{tuple(left.shape)} and {tuple(right.shape)}"
        )
    return left.reshape(len(left), -1), right.reshape(len(right), -1)


def _centred(rows: Tensor) -> Tensor:
    rows = rows - rows.mean(0, keepdim=True)
    return rows / rows.norm().clamp_min(_TINY)  # the alignment ignores the scale, the squares of a Gram matrix do not


def _gram(rows: Tensor) -> Tensor:
    return rows @ rows.T


def _open(value: Tensor) -> Tensor:
    """Return the Gram matrix of centred rows without its diagonal, in double precision: ``(B, B)``."""
    rows, _ = _checked(value, value, least=4)
    gram = _gram(_centred(rows.double()))
    return gram - gram.diagonal().diag()


def _hsic(k: Tensor, m: Tensor) -> Tensor:
    """Return the unbiased estimate of the Hilbert-Schmidt independence criterion of two open Gram matrices."""
    n = len(k)
    trace = (k * m).sum()
    sums = k.sum() * m.sum() / ((n - 1) * (n - 2))
    return (trace + sums - 2 / (n - 2) * (k.sum(0) * m.sum(0)).sum()) / (n * (n - 3))
