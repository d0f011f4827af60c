"""Outside of what surrounds a call of a member: what belongs to a family is made of ordinary tensors."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext

import torch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.utils._python_dispatch import _disable_current_modes


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


def apart() -> AbstractContextManager[object]:
    """Return a context as :func:`outside`, without the modes of torch either: those that trace, fake or count.

    What is let go of is let go of at any moment, in the middle of a trace too, of which it shall be no part.
    """
    dispatched, functions = torch._C._len_torch_dispatch_stack(), torch._C._len_torch_function_stack()
    if not (dispatched or functions):
        return outside()
    stack = ExitStack()
    stack.enter_context(_disable_current_modes())
    stack.enter_context(torch._C.DisableTorchFunction())
    stack.enter_context(outside())
    return stack
