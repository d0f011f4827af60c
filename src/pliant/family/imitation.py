"""How a student is compared with a teacher: what both gave, their features, and the loss between.

A network's features are the outputs of its submodules, by their paths. In a family the member's paths are the model's
own. A block that a member leaves out hands on what came in, so that its feature is the state at that depth; what is
inside such a block is simply missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..checks import WrongShapeError, unknown


@dataclass(frozen=True)
class View:
    """What a network gave for one batch: its outputs, and the features that were asked for, by module path."""

    outputs: Any
    features: Mapping[str, Any] = field(default_factory=dict)

    def detached(self) -> View:
        """Return the same without a history."""

        def cut(value: Any) -> Any:
            return value.detach() if isinstance(value, Tensor) else value

        return View(pytree.tree_map(cut, self.outputs), {n: pytree.tree_map(cut, f) for n, f in self.features.items()})


class Imitation(nn.Module):
    """How students imitate a teacher in one training run; its own parameters learn too, and are dropped afterwards.

    Attributes:
        sites: paths of the student's submodules whose outputs are looked at.
        teacher_sites: those of the teacher's.
        done: the share of the run's steps that are done, set before every step.
    """

    sites: Sequence[str] = ()
    teacher_sites: Sequence[str] = ()
    done: float = 0.0

    def forward(self, student: View, teacher: View, targets: Any, temperature: float) -> Tensor:
        """Return the loss, one number: of the outputs alone, unless a subclass looks further."""
        return distillation_loss(student.outputs, teacher.outputs, temperature)


@contextmanager
def features(net: nn.Module, sites: Sequence[str], optional: bool = False) -> Iterator[dict[str, Any]]:
    """Collect the outputs of the submodules ``sites`` while ``net`` runs.

    Args:
        net: any network.
        sites: paths of submodules, as in ``net.named_modules()``.
        optional: leave out what ``net`` does not have, as members of a family may.

    Raises:
        UnknownNameError: no such submodule; the nearest is offered.
    """
    modules = dict(net.named_modules()) if sites else {}
    found: dict[str, Any] = {}
    handles = []
    for site in sites:
        if site in modules:
            handles.append(
                modules[site].register_forward_hook(lambda m, args, out, site=site: found.__setitem__(site, out))
            )
        elif not optional:
            raise unknown("submodule", site, [name for name in modules if name])
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def distillation_loss(outputs: Any, teacher: Any, temperature: float = 1.0) -> Tensor:
    """Return the loss of a student against a teacher's outputs.

    Floating-point outputs of shape ``(..., classes)`` are taken for logits: the Kullback-Leibler divergence from the
    softened teacher, times the temperature squared (Hinton, Vinyals, Dean, 2015, Distilling the Knowledge in a Neural
    Network, arXiv 1503.02531). A single number per example, of shape ``(batch,)`` or with a last dimension of 1, is
    compared by its squared error.

    Raises:
        WrongShapeError: the two do not have the same tensors.
    """
    left = [v for v in pytree.tree_leaves(outputs) if isinstance(v, Tensor) and v.is_floating_point()]
    right = [v for v in pytree.tree_leaves(teacher) if isinstance(v, Tensor) and v.is_floating_point()]
    if len(left) != len(right) or any(a.shape != b.shape for a, b in zip(left, right, strict=True)) or not left:
        raise WrongShapeError(
            f"a student's outputs {[tuple(v.shape) for v in left]} do not match the teacher's "
            f"{[tuple(v.shape) for v in right]}"
        )
    total = left[0].new_zeros(())
    for student, goal in zip(left, right, strict=True):
        if student.dim() < 2 or student.shape[-1] == 1:
            total = total + F.mse_loss(student, goal)
            continue
        log_p = F.log_softmax(student.flatten(0, -2) / temperature, -1)
        log_q = F.log_softmax(goal.flatten(0, -2) / temperature, -1)
        total = total + F.kl_div(log_p, log_q, reduction="batchmean", log_target=True) * temperature**2
    return total
