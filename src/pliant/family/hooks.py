"""What keeps a member and its family in step while the member is used as any module: run, saved, loaded into."""

from __future__ import annotations

from functools import cache
from typing import Any, NoReturn

import torch
from torch import nn

from ..checks import PliantError
from .aliases import AliasSet
from .copies import Upkeep
from .outside import outside


class _Hook:
    """One hook of a member. A copy of the member is nobody's member, so the hook does nothing there."""

    def __init__(self, aliases: AliasSet, upkeep: Upkeep) -> None:
        self._aliases: AliasSet | None = aliases
        self._upkeep = upkeep

    def __call__(self, module: nn.Module, *_: Any) -> None:
        raise NotImplementedError

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
        if self._aliases is not None and not torch.compiler.is_exporting():  # which reads the parameters beforehand
            self._upkeep.activate(self._aliases, running=True)


class _AfterForward(_Hook):
    def __call__(self, module: nn.Module, args: Any, outputs: Any) -> None:
        if self._aliases is not None and not torch.compiler.is_exporting():
            self._upkeep.finished(self._aliases)
            self._aliases.before_backward(outputs)


class _BeforeState(_Hook):
    def __call__(self, module: nn.Module, *_: Any) -> None:
        if self._aliases is not None:
            self._upkeep.activate(self._aliases)


class _BeforeLoading(_BeforeState):
    """What is gathered is there from now on, to be written to."""

    def __call__(self, module: nn.Module, *_: Any) -> None:
        super().__call__(module)
        if self._aliases is not None:
            with outside():
                self._aliases.gather()


class _AfterLoading(_Hook):
    def __call__(self, module: nn.Module, keys: Any) -> None:
        if self._aliases is not None:
            self._aliases.write_back()


@cache
def _uncompiled(kind: type[_Hook]) -> Any:
    """Return a kind of hook that `torch.compile` leaves as it is: what it compiles is the member's own forward."""
    # Not as a decorator above: torch would import its compiler as soon as this module is.
    return type(kind.__name__, (kind,), {"__call__": torch.compiler.disable(kind.__call__), "__doc__": kind.__doc__})


def attach_hooks(net: nn.Module, aliases: AliasSet, upkeep: Upkeep) -> None:
    """Let ``net``, a member, bring its ``aliases`` up to date whenever it is used."""
    net.register_forward_pre_hook(_uncompiled(_BeforeForward)(aliases, upkeep))
    net.register_forward_hook(_uncompiled(_AfterForward)(aliases, upkeep), always_call=True)
    net.register_state_dict_pre_hook(_BeforeState(aliases, upkeep))
    net.register_load_state_dict_pre_hook(_BeforeLoading(aliases, upkeep))
    net.register_load_state_dict_post_hook(_AfterLoading(aliases, upkeep))
