"""What keeps a member and its family in step while the member is used as any module: run, saved, loaded into."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import nn

from ..checks import PliantError
from .aliases import AliasSet
from .copies import Warm


class _Hook:
    """One hook of a member. A copy of the member is nobody's member, so the hook does nothing there."""

    def __init__(self, aliases: AliasSet, warm: Warm) -> None:
        self._aliases: AliasSet | None = aliases
        self._warm = warm

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hook:
        copy = object.__new__(type(self))
        copy._aliases = None
        return copy

    def __reduce__(self) -> NoReturn:
        raise PliantError(
            "a member shares its weights with its family and cannot be pickled: take family.extract(config), or save "
            "member.state_dict()"
        )


class _BeforeForward(_Hook):
    def __call__(self, module: nn.Module, args: Any) -> None:
        if self._aliases is not None:
            self._warm.activate(self._aliases, running=True)


class _AfterForward(_Hook):
    def __call__(self, module: nn.Module, args: Any, outputs: Any) -> None:
        if self._aliases is not None:
            self._warm.finished(self._aliases)
            self._aliases.before_backward(outputs)


class _BeforeState(_Hook):
    """What was gathered may have been given back: a state that is read, or written, needs it again."""

    def __call__(self, module: nn.Module, *_: Any) -> None:
        if self._aliases is not None:
            with torch.inference_mode(False):
                self._warm.activate(self._aliases)


class _AfterLoading(_Hook):
    def __call__(self, module: nn.Module, keys: Any) -> None:
        if self._aliases is not None:
            self._aliases.write_back()


def attach_hooks(net: nn.Module, aliases: AliasSet, warm: Warm) -> None:
    """Let ``net``, a member, bring its ``aliases`` up to date whenever it is used."""
    net.register_forward_pre_hook(_BeforeForward(aliases, warm))
    net.register_forward_hook(_AfterForward(aliases, warm), always_call=True)
    net.register_state_dict_pre_hook(_BeforeState(aliases, warm))
    net.register_load_state_dict_pre_hook(_BeforeState(aliases, warm))
    net.register_load_state_dict_post_hook(_AfterLoading(aliases, warm))
