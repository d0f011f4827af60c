"""What the code around a convolution is, for techniques that change how it is called."""

from __future__ import annotations

from torch.fx import Node


def in_conv2d(node: Node) -> bool:
    """Return whether an operation is all that a module of torch's own class ``Conv2d`` does."""
    stack = list((node.meta.get("nn_module_stack") or {"": ("", "")}).values())
    return "torch.nn.modules.conv.Conv2d" in str(stack[-1][1])
