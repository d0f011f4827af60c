"""Outside of what surrounds a call of a member: what belongs to a family is made of ordinary tensors."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext

import torch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack


def outside() -> AbstractContextManager[object]:
    """Return a context without inference mode and without the transforms of :mod:`torch.func`.

    A tensor that is made in inference mode cannot learn later; one that is made in a transform is a wrapper that must
    not outlive it.
    """
    inference, transformed = torch.is_inference_mode_enabled(), torch._C._functorch.peek_interpreter_stack() is not None
    if not (inference or transformed):
        return nullcontext()
    stack = ExitStack()
    if transformed:
        stack.enter_context(temporarily_clear_interpreter_stack())
    if inference:
        stack.enter_context(torch.inference_mode(False))
    return stack
